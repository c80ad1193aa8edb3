"""Compares a file's codes and label with UCI's heart disease table, for the patients who are in both.

Patients are matched by their measurements, which no layout recodes, and never by codes or labels: a guess about these
must not select the rows that are to prove it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd

from federated_health.data.columns import Category
from federated_health.data.examples import HEART_DISEASE_TABLE
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task

MIN_MATCHED = 3
"""Smallest number of matched rows that confirm or contradict a layout: one or two may be a coincidence."""

MIN_MATCHED_SHARE = 0.5
"""Smallest share of the rows with enough measurements that must be matched to confirm a layout."""

MIN_AGREEMENT = 0.95
"""Smallest share of matched rows whose code, or label, must be UCI's."""

MIN_AGREEMENT_IF_STATED = 0.5
"""The same for a file in the task's own columns: it states what it means, so that only the opposite counts."""

MAX_MISSING_MEASUREMENTS = 1
"""Largest number of missing measurements of a row that is matched."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How a file agrees with UCI's table.

    Attributes:
        rows: rows with enough measurements to be matched.
        matched: those with the measurements of exactly one of UCI's patients.
        compared: column -> matched rows in which both tables have a code, or a label.
        agreeing: column -> those in which it is the same.
        contradicted: columns whose codes are not UCI's; the label among them if it is not UCI's.
        unseen: column -> codes of the file that no matched row confirms.
    """

    rows: int = 0
    matched: int = 0
    compared: Mapping[str, int] = field(default_factory=dict)
    agreeing: Mapping[str, int] = field(default_factory=dict)
    contradicted: tuple[str, ...] = ()
    unseen: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def is_enough(self) -> bool:
        """Whether enough rows are matched to confirm a layout."""
        return self.matched >= max(MIN_MATCHED, MIN_MATCHED_SHARE * self.rows)

    @property
    def confirms(self) -> bool:
        """Whether codes and label are UCI's in enough rows."""
        return self.is_enough and not self.contradicted

    def describe(self) -> dict[str, Any]:
        """The evidence for the manifest."""
        return {
            "rows": self.rows,
            "in_uci_table": self.matched,
            "compared": dict(self.compared),
            "same_as_uci": dict(self.agreeing),
        }


@lru_cache
def _read_reference() -> pd.DataFrame:
    """UCI's table with the task's label, without patients whose measurements all equal another patient's."""
    table = pd.read_csv(HEART_DISEASE_TABLE)
    table[HEART_DISEASE.label.name] = (table.pop("num") > 0).astype("int64")
    names = _measurements(HEART_DISEASE)
    return table.astype(dict.fromkeys(names, "float64")).drop_duplicates(names, keep=False)


def _measurements(task: Task) -> list[str]:
    return [column.name for column in task.measurements]


def match_rows(table: pd.DataFrame, task: Task) -> tuple[int, pd.DataFrame]:
    """Number of rows with enough measurements, and UCI's rows for those that match, with the table's index."""
    names = _measurements(task)
    is_measured = table[names].isna().sum(axis=1) <= MAX_MISSING_MEASUREMENTS
    measured = table.loc[is_measured, names]
    if task is not HEART_DISEASE:
        return len(measured), measured.iloc[:0]
    both = measured.reset_index(names="row").merge(_read_reference(), on=names)  # pandas matches missing with missing
    return len(measured), both.set_index("row").sort_index()


def compare_with_uci(table: pd.DataFrame, task: Task, min_agreement: float = MIN_AGREEMENT) -> Evidence:
    """Compare a table's codes and labels with UCI's; both tables have the task's codes.

    Args:
        table: the task's columns and label as numbers, NaN for missing; its index is unique.
    """
    rows, reference = match_rows(table, task)
    matched = table.loc[reference.index]
    compared, agreeing, contradicted, unseen = {}, {}, [], {}
    for column in task.labelled_columns:
        if column in task.measurements:
            continue
        name = column.name
        own, theirs = matched[name], reference[name] if name in reference else matched[name] * float("nan")
        is_compared = theirs.notna() & (own.notna() | (column is task.label))  # an invalid label is a wrong one
        is_same = (own == theirs)[is_compared]
        compared[name], agreeing[name] = len(is_same), int(is_same.sum())
        by_code = is_same.groupby(own[is_compared]).agg(["mean", "size"])
        is_swapped = (by_code["mean"] < 0.5) & (by_code["size"] >= MIN_MATCHED)  # a rare code counts little in the mean
        if len(is_same) >= MIN_MATCHED and (is_same.mean() < min_agreement or is_swapped.any()):
            contradicted.append(name)
        if isinstance(column, Category) and (others := sorted(set(table[name].dropna()) - set(by_code.index))):
            unseen[name] = [f"{code:g}" for code in others]
    return Evidence(
        rows=rows,
        matched=len(matched),
        compared=compared,
        agreeing=agreeing,
        contradicted=tuple(contradicted),
        unseen=unseen,
    )
