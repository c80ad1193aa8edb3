"""What is in one hospital's CSV, whether it may join with it, and what its data team should look at first.

The page is for the hospital alone. A server learns only whether the hospital may join and, where not, the words of the
first obstacle, which hold no value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from federated_health.data.columns import Measurement
from federated_health.data.csv_reading import (
    Reading,
    count_zeros,
    declared_columns,
    looks_like_name,
    read_cells,
    read_columns,
)
from federated_health.data.tasks import Task
from federated_health.errors import DataError

MIN_PATIENTS = 8
"""So that at least five are trained on, below which no sum over them may leave, and one of each class is held out."""

FEW_PATIENTS = 50
FEW_OF_A_CLASS = 20
"""Below these a hospital is warned that its own figures will say little: of 20, five are held out."""

MAX_ROWS = 5
"""That are named of a column whose cells are not allowed."""

MAX_NUMBER = 1e12
"""Larger ones, infinite ones too, are taken for it where a median is looked at, so that it is always a number."""


@dataclass(frozen=True, kw_only=True)
class ColumnCheck:
    """One column of a hospital's CSV, in numbers of rows.

    Attributes:
        missing: without a value, zeros that are read as missing included.
        zeros: of them, those that are written as 0.
        invalid: which ones hold what the column does not allow, from 1.
    """

    missing: int
    zeros: int
    invalid: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class DataCheck:
    """The check of one hospital's CSV.

    Attributes:
        numbers: float64 columns of the task, then the label, NaN for missing.
        labels: label -> rows.
        columns: column -> what is in it; the label included.
        obstacle: why the hospital may not join, with the words that the server may hear; None where it may.
        warnings: what to look at, in words without values.
        unread: columns that the task does not know, as far as they look like names.
    """

    path: Path
    task: Task
    numbers: pd.DataFrame
    labels: Mapping[int, int]
    columns: Mapping[str, ColumnCheck]
    obstacle: DataError | None
    warnings: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def title(self) -> str:
        """Of the page."""
        label, rows = self.task.label.name, len(self.numbers)
        counts = [f"{self.labels[value]} with {label} = {value}" for value in (1, 0)]
        if unlabelled := rows - sum(self.labels.values()):
            counts.append(f"{unlabelled} without a label that is allowed")
        return f"{self.path}, for the task {self.task.name}: {rows} patients, {', '.join(counts)}"

    @property
    def verdict(self) -> str:
        """Whether the hospital may join."""
        if self.obstacle is None:
            return "This hospital may join."
        return f"This hospital may not join: {self.obstacle.reason}."

    def raise_obstacle(self) -> None:
        """Raise the obstacle, if there is one.

        Raises:
            DataError: the hospital may not join.
        """
        if self.obstacle is not None:
            raise self.obstacle

    def table(self) -> dict[str, dict[str, object]]:
        """The page's table: a row a column of the CSV."""
        return {
            name: {
                "missing": one.missing,
                "missing %": _percent(one.missing, len(self.numbers)),
                "of them 0": one.zeros or "",
                "not allowed": len(one.invalid) or "",
            }
            for name, one in self.columns.items()
        }

    def findings(self) -> list[str]:
        """What is not allowed, and what to look at, a line each."""
        broken = [
            f"{column.name} must be {column.rule}; see {_name_rows(self.columns[column.name].invalid)}"
            for column in declared_columns(self.task, labelled=True)
            if self.columns[column.name].invalid
        ]
        unread = [f"not read: {', '.join(self.unread)}"] if self.unread else []
        return [*broken, *(f"look at this: {warning}" for warning in self.warnings), *unread]


def check_data(path: Path, task: Task) -> DataCheck:
    """Check a hospital's CSV against the task, and look for what is allowed and still suspicious.

    Raises:
        DataError: the file cannot be read as a table of the task's columns at all, so that there is no page to show.
    """
    columns = declared_columns(task, labelled=True)
    text = read_columns(path, columns)
    reading = read_cells(text, columns)
    invalid = reading.invalid
    zeros = {column.name: count_zeros(text[column.name]) for column in task.measurements}
    label = reading.numbers[task.label.name]
    return DataCheck(
        path=path,
        task=task,
        numbers=reading.numbers,
        labels={value: int((label == value).sum()) for value in (1, 0)},
        columns={
            column.name: ColumnCheck(
                missing=int((reading.numbers[column.name].isna() & ~invalid[column.name]).sum()),
                zeros=zeros[column.name] if isinstance(column, Measurement) and column.zero_is_missing else 0,
                invalid=tuple((np.flatnonzero(invalid[column.name]) + 1).tolist()),
            )
            for column in columns
        },
        obstacle=_find_obstacle(path, task, text, reading),
        warnings=(*_warn_of_rows(task, reading), *_warn_of_columns(task, reading, zeros)),
        unread=tuple(name for name in text.columns if looks_like_name(name) and name not in reading.numbers.columns),
    )


def _percent(part: int, whole: int) -> str:
    """A whole number; "<1" and ">99" keep what is rare from looking like none, or all."""
    if 0 < part < whole and not 0.5 <= 100 * part / whole < 99.5:
        return "<1" if 2 * part < whole else ">99"
    return f"{100 * part / whole:.0f}"


def _name_rows(rows: Sequence[int]) -> str:
    """Rows by their numbers, as far as a line can hold them."""
    named = ", ".join(str(row) for row in rows[:MAX_ROWS])
    more = f" and {len(rows) - MAX_ROWS} more" if len(rows) > MAX_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {named}{more} (1 is the first below the header)"


def _find_obstacle(path: Path, task: Task, text: pd.DataFrame, reading: Reading) -> DataError | None:
    try:
        reading.raise_first(path, text)
    except DataError as error:
        return error
    different = len(reading.numbers.drop_duplicates(list(task.column_names)))
    if different < MIN_PATIENTS:
        return DataError(
            f"{path}: has {different} different patients; at least {MIN_PATIENTS} are needed",
            reason=f"it has fewer than {MIN_PATIENTS} different patients",
        )
    return None


def _warn_of_rows(task: Task, reading: Reading) -> Iterator[str]:
    label = task.label.name
    rows, counts = len(reading.numbers), reading.numbers[label][~reading.invalid[label]].value_counts()
    repeats = int(reading.numbers[~reading.is_text.any(axis=1)].duplicated().sum())  # of text it is not known
    if rows < FEW_PATIENTS:
        yield f"few patients: figures on the quarter of {rows} that is held out will say little"
    if len(counts) == 1:
        yield f"{label} is {counts.index[0]:g} in every row: no AUC can be computed, and there is one class to learn"
    elif len(counts) and counts.min() < FEW_OF_A_CLASS:
        yield f"one class of {label} is rare: this hospital's own AUC will say little"
    if repeats:
        equal = "row is equal to an earlier one" if repeats == 1 else "rows are equal to earlier ones"
        yield f"{repeats} {equal} in every column that is read: is a patient in the file twice?"


def _warn_of_columns(task: Task, reading: Reading, zeros: Mapping[str, int]) -> Iterator[str]:
    for column in task.columns:
        cells = reading.numbers[column.name][~reading.invalid[column.name]].dropna()
        if reading.numbers[column.name].isna().all() and not reading.is_text[column.name].any():
            yield f"{column.name} is missing in every row"
        elif len(cells) > 1 and cells.nunique() == 1:
            yield f"{column.name} is the same in every row that has it"
        if isinstance(column, Measurement):
            yield from _warn_of_measurement(column, reading, zeros[column.name])


def _warn_of_measurement(column: Measurement, reading: Reading, zeros: int) -> Iterator[str]:
    numbers = reading.numbers[column.name].dropna()
    if numbers.empty or column.typical_median is None:
        return
    low, high = column.typical_median
    if zeros and low > 0 and not column.zero_is_missing:
        yield f"{column.name} is 0 in {zeros} {'row' if zeros == 1 else 'rows'}: does it stand for missing?"
    median = numbers.clip(-MAX_NUMBER, MAX_NUMBER).median()
    if low <= median <= high:
        return
    units = [unit for unit, (factor, summand) in column.other_units.items() if low <= median * factor + summand <= high]
    if units:
        yield f"{column.name} looks like {' or '.join(units)}; the task's unit is {column.unit}"
        return
    side = "below" if median < low else "above"
    yield (
        f"the median of {column.name} is {side} what hospitals usually have ({low:g} to {high:g} {column.unit}): "
        "is it in that unit?"
    )
