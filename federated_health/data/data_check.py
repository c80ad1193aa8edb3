"""Checks one hospital's CSV: whether the hospital can join, and what its data team should review.

`data_check_page` shows the result, which stays at the hospital. The server learns only whether the hospital can join
and, if not, the reason, which holds no value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.columns import Label, Measurement
from federated_health.data.csv_reading import CheckedCells
from federated_health.data.tasks import Task
from federated_health.errors import DataError

MIN_PATIENTS = 8
"""Smallest number of different patients: 5 or more are then training rows, below which no sum over them may be sent,
and 1 of each class that has 2 or more is held out. For a label of more classes, see `min_patients`."""

FEW_PATIENTS = 50
FEW_OF_A_CLASS = 20
"""Below these numbers a warning says that the hospital's own figures are too noisy: of 20 patients, 5 are held out."""

MIN_DISTANCE = 0.25
"""Share of a column's median below which other values make a 0 plausible, as in a score that begins with 0."""

MAX_NUMBER = 1e12
"""Larger numbers, also infinite ones, count as this one in a median, so that the median is always a number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataCheck:
    """Result of checking one hospital's CSV.

    Attributes:
        path: the CSV, or the name of the hospital whose table is in memory.
        cells: cells of the task's columns and the label.
        obstacle: why the hospital cannot join; None if it can. Its `reason` is sent to the server.
        warnings: what the data team should review, without values.
    """

    path: Path | str
    task: Task
    cells: CheckedCells
    obstacle: DataError | None
    warnings: tuple[str, ...]

    @property
    def numbers(self) -> pd.DataFrame:
        """Float64 columns of the task, then the label, NaN for missing."""
        return self.cells.numbers

    def raise_obstacle(self) -> None:
        """Raise the obstacle, if there is one."""
        if self.obstacle is not None:
            raise self.obstacle


def min_patients(label: Label) -> int:
    """Smallest number of different patients with which a hospital can join.

    With several classes of 2 patients each, half of the patients are held out. With more patients than classes, a class
    has 2 or more.
    """
    return MIN_PATIENTS if len(label.classes) <= 2 else max(MIN_PATIENTS + 1, len(label.classes) + 1)


def check_data(path: Path, task: Task, mapping: Path | None = None) -> DataCheck:
    """Check a hospital's CSV against the task, and look for data that is valid but suspicious.

    Raises:
        DataError: the file is not a table with the task's columns, so that there is nothing to check.
    """
    return check_table(path, task, csv_reading.read_cells(path, task, mapping=mapping))


def check_table(path: Path | str, task: Task, cells: CheckedCells) -> DataCheck:
    """Check the cells of a hospital's table (see `check_data`)."""
    obstacle = csv_reading.find_invalid_cell(path, task.labelled_columns, cells)
    content = pd.util.hash_pandas_object(cells.numbers[list(task.column_names)] + 0.0, index=False)  # -0.0 becomes 0.0
    different = content.nunique() if cells.patients is None else len(np.unique(cells.patients))
    if obstacle is None and different < (minimum := min_patients(task.label)):
        obstacle = DataError(
            f"{path}: expected at least {minimum} different patients, got {different}",
            reason=f"it has fewer than {minimum} different patients",
        )
    warnings = (*_warn_about_rows(task, cells, content), *_warn_about_columns(task, cells))
    return DataCheck(path=path, task=task, cells=cells, obstacle=obstacle, warnings=warnings)


def _warn_about_rows(task: Task, cells: CheckedCells, content: "pd.Series[int]") -> Iterator[str]:
    rows, label = len(cells.numbers), task.label.name
    labels = cells.numbers[label][~cells.invalid[label]]
    counts = labels.value_counts()
    is_readable = ~cells.is_text.any(axis=1)  # whether two texts mean the same is unknown
    repeats = int(pd.DataFrame({"content": content, "label": cells.numbers[label]})[is_readable].duplicated().sum())
    if rows < FEW_PATIENTS:
        yield f"few patients: figures on the held-out quarter of {rows} rows are too noisy to interpret"
    if task.label.kind != "binary":
        from federated_health.data import label_review  # noqa: PLC0415  # most labels are binary

        yield from label_review.warn_about_labels(task.label, labels)
    elif len(counts) == 1:
        yield f"{label} is {counts.index[0]:g} in every row: the AUC is undefined, and there is only one class to learn"
    elif len(counts) and counts.min() < FEW_OF_A_CLASS:
        yield f"one class of {label} is rare: this hospital's own AUC is too noisy to interpret"
    if repeats:
        equal = "row is equal to an earlier one" if repeats == 1 else "rows are equal to earlier ones"
        yield f"{repeats} {equal} in every column that is read: is a patient in the file twice?"


def _warn_about_columns(task: Task, cells: CheckedCells) -> Iterator[str]:
    for column in task.columns:
        numbers = cells.numbers[column.name]
        valid = numbers[~cells.invalid[column.name]].dropna()
        if numbers.isna().all() and not cells.is_text[column.name].any():
            yield f"{column.name} is missing in every row"
        elif len(valid) > 1 and valid.nunique() == 1:
            yield f"{column.name} has one value in all rows where it is not missing"
        if isinstance(column, Measurement):
            yield from _warn_about_measurement(column, numbers.dropna())


def _warn_about_measurement(column: Measurement, numbers: "pd.Series[float]") -> Iterator[str]:
    """Warn of zeros that may mean missing, and of a wrong unit; invalid numbers count, too."""
    if numbers.empty or column.typical_median is None:
        return
    low, high = column.typical_median
    zeros = int((numbers == 0).sum())
    others = numbers[numbers > 0]
    if zeros and low > 0 and len(others) and others.min() > MIN_DISTANCE * others.median():
        yield f"{column.name} is 0 in {zeros} {'row' if zeros == 1 else 'rows'}: does it mean missing?"
    median = numbers.clip(-MAX_NUMBER, MAX_NUMBER).median()
    units = [unit for unit, (factor, offset) in column.other_units.items() if low <= median * factor + offset <= high]
    if low <= median <= high:
        return
    if units:
        yield f"{column.name} looks like {' or '.join(units)}; the task's unit is {column.unit}"
    else:
        side = "below" if median < low else "above"
        usual = f"{low:g} to {high:g} {column.unit}"
        yield f"the median of {column.name} is {side} what hospitals usually have ({usual}): is it in that unit?"
