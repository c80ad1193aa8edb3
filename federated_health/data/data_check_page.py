"""A data check as a page: a hospital's counts, its verdict, and what its data team should correct or review."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from federated_health.data.data_check import DataCheck
from federated_health.data.data_review import review
from federated_health.data.patient_ids import PATIENT_RULE
from federated_health.data.reading_errors import looks_like_name

MAX_LISTED_ROWS = 5
"""Largest number of invalid rows that are listed per column."""


@dataclass(frozen=True)
class DataCheckPage:
    """The page of a data check, without values."""

    check: DataCheck

    @property
    def title(self) -> str:
        """The file, the task, and numbers of rows and labels."""
        label, rows = self.check.task.label.name, len(self.check.numbers)
        classes = (1, 0) if self.check.task.label.kind == "binary" else self.check.task.label.classes
        labels = {value: int((self.check.numbers[label] == value).sum()) for value in classes}
        counts = [f"{count} with {label} = {value}" for value, count in labels.items()]
        if unlabelled := int(self.check.cells.invalid[label].sum()):
            counts.append(f"{unlabelled} without a valid label")
        ids = self.check.cells.patients
        patients = f"{rows} patients" if ids is None else f"{rows} rows of {len(np.unique(ids))} patients"
        return f"{self.check.path}, for the task {self.check.task.name}: {', '.join([patients, *counts])}"

    @property
    def verdict(self) -> str:
        """Whether the hospital can join."""
        if self.check.obstacle is not None:
            return f"Data check failed: {self.check.obstacle.reason}."
        return "Data check passed: this hospital can join."

    def table(self) -> dict[str, dict[str, object]]:
        """Counts of rows for the console, one entry per column of the CSV."""
        numbers, cells = self.check.numbers, self.check.cells
        missing = (numbers.isna() & ~cells.invalid[numbers.columns]).sum()
        invalid = cells.invalid.sum()
        return {
            name: {
                "missing": int(missing[name]),
                "missing %": _percent(int(missing[name]), len(numbers)),
                "recorded as 0": zeros or "",
                "invalid": int(invalid[name]) or "",
            }
            for name, zeros in cells.zeros.items()
        }

    def findings(self) -> list[str]:
        """Invalid columns, warnings, what a review finds suspicious, and ignored columns, one line each."""
        task, cells = self.check.task, self.check.cells
        rules = {column.name: column.rule for column in task.labelled_columns}
        titles, mapped = {str(name): str(name) for name in cells.invalid}, []
        if (mapping := cells.mapping) is not None:
            rules = {name: mapping.rule(name) for name in titles}
            titles, mapped = {name: mapping.title(name) for name in titles}, [mapping.describe()]
        invalid = [
            f"{titles[str(name)]} must be {rules.get(str(name), PATIENT_RULE)}; see {_list_rows(rows)}"
            for name, rows in cells.invalid.items()
            if rows.any()
        ]
        names = [name for name in cells.text.columns if looks_like_name(name) and name not in cells.invalid]
        ignored = [f"ignored columns: {', '.join(names)}"] if names else []
        warnings = [f"warning: {warning}" for warning in self.check.warnings]
        return [*mapped, *invalid, *warnings, *review(task, cells), *ignored]


def _percent(part: int, whole: int) -> str:
    """Whole percentage; "<1" and ">99" keep rare cells apart from none and all."""
    if 0 < part < whole and not 0.5 <= 100 * part / whole < 99.5:
        return "<1" if 2 * part < whole else ">99"
    return f"{100 * part / whole:.0f}"


def _list_rows(invalid: "pd.Series[bool]") -> str:
    rows = np.flatnonzero(invalid) + 1
    listed = ", ".join(str(row) for row in rows[:MAX_LISTED_ROWS])
    more = f" and {len(rows) - MAX_LISTED_ROWS} more" if len(rows) > MAX_LISTED_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more} (1 is the first below the header)"
