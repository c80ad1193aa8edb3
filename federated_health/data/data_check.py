"""Checks one hospital's CSV: what it holds, whether the hospital can join, and what its data team should review.

The result stays at the hospital. The server learns only whether the hospital can join and, if not, the reason, which
holds no value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.associations import (
    MIN_EVIDENCE_OF_ONE,
    column_positions,
    compare,
    expected_associations,
    measure_associations,
)
from federated_health.data.columns import Category, Measurement
from federated_health.data.csv_reading import CheckedCells
from federated_health.data.tasks import Task
from federated_health.errors import DataError

MIN_PATIENTS = 8
"""Smallest number of different patients: 5 or more are then training rows, below which no sum over them may be sent,
and 1 of each class that has 2 or more is held out."""

FEW_PATIENTS = 50
FEW_OF_A_CLASS = 20
"""Below these numbers a warning says that the hospital's own figures are too noisy: of 20 patients, 5 are held out."""

MAX_LISTED_ROWS = 5
"""Largest number of invalid rows that are listed per column."""

MISSING_CODES = np.array(
    [
        -1,
        -7,
        -8,
        -9,
        9,
        *(sign * digit * ones for ones in (11, 111, 1111, 11111) for digit in (7, 8, 9) for sign in (-1, 1)),
    ]
)
"""Numbers that files use for missing; those of 7 and 8 stand for "refused" and "not applicable"."""

MIN_REPEATS = 5
"""Smallest number of rows of an extreme value, other than MISSING_CODES, that looks like a mark for missing."""

MIN_ROWS_OF_CODES = 30
"""Smallest number of rows with a category in which a code that no row has is worth a line."""

PATIENT_ID = re.compile(r"(patient(en)?|pat|subject|person|pid|mrn)(id|no|nr|nbr|num|number|nummer|key|code)?s?")
"""Names of columns that identify patients, in lower case without punctuation."""

MIN_ADJACENT = 6
"""Smallest number of rows like the one before that look like stays."""

MIN_VALUES = 10
"""Smallest number of different ages, or of another column that tells patients apart."""

PERSON_COLUMNS = frozenset({"age", "sex", "gender", "race", "ethnicity", "birth_year", "height"})
"""Columns of a task that rarely change from one stay of a patient to the next."""

MAX_NUMBER = 1e12
"""Larger numbers, also infinite ones, count as this one in a median, so that the median is always a number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataCheck:
    """Result of checking one hospital's CSV.

    Attributes:
        cells: cells of the task's columns and the label.
        obstacle: why the hospital cannot join; None if it can. Its `reason` is sent to the server.
        warnings: what the data team should review, without values.
    """

    path: Path
    task: Task
    cells: CheckedCells
    obstacle: DataError | None
    warnings: tuple[str, ...]

    @property
    def numbers(self) -> pd.DataFrame:
        """Float64 columns of the task, then the label, NaN for missing."""
        return self.cells.numbers

    @property
    def title(self) -> str:
        label, rows = self.task.label.name, len(self.numbers)
        labels = {value: int((self.numbers[label] == value).sum()) for value in (1, 0)}
        counts = [f"{count} with {label} = {value}" for value, count in labels.items()]
        if unlabelled := rows - sum(labels.values()):
            counts.append(f"{unlabelled} without a valid label")
        return f"{self.path}, for the task {self.task.name}: {rows} patients, {', '.join(counts)}"

    @property
    def verdict(self) -> str:
        """Whether the hospital can join."""
        if self.obstacle is not None:
            return f"Data check failed: {self.obstacle.reason}."
        return "Data check passed: this hospital can join."

    def raise_obstacle(self) -> None:
        """Raise the obstacle, if there is one."""
        if self.obstacle is not None:
            raise self.obstacle

    def table(self) -> dict[str, dict[str, object]]:
        """Counts of rows for the console, one entry per column of the CSV."""
        missing = (self.numbers.isna() & ~self.cells.invalid).sum()
        invalid = self.cells.invalid.sum()
        return {
            name: {
                "missing": int(missing[name]),
                "missing %": _percent(int(missing[name]), len(self.numbers)),
                "recorded as 0": zeros or "",
                "invalid": int(invalid[name]) or "",
            }
            for name, zeros in self.cells.zeros.items()
        }

    def findings(self) -> list[str]:
        """Invalid columns, warnings and ignored columns, one line each."""
        invalid = [
            f"{column.name} must be {column.rule}; see {_list_rows(self.cells.invalid[column.name])}"
            for column in self.task.labelled_columns
            if self.cells.invalid[column.name].any()
        ]
        names = [
            name for name in self.cells.text.columns if csv_reading.looks_like_name(name) and name not in self.numbers
        ]
        ignored = [f"ignored columns: {', '.join(names)}"] if names else []
        unused = ", ".join(_list_unused_codes(self.task, self.cells))
        codes = [f"codes that no row has: {unused}; are the codes those of the task?"] if unused else []
        return [*invalid, *(f"warning: {warning}" for warning in self.warnings), *codes, *ignored]


def check_data(path: Path, task: Task) -> DataCheck:
    """Check a hospital's CSV against the task, and look for data that is valid but suspicious.

    Raises:
        DataError: the file is not a table with the task's columns, so that there is nothing to check.
    """
    cells = csv_reading.read_cells(path, task.labelled_columns)
    obstacle = csv_reading.find_invalid_cell(path, task.labelled_columns, cells)
    content = pd.util.hash_pandas_object(cells.numbers[list(task.column_names)] + 0.0, index=False)  # -0.0 becomes 0.0
    different = content.nunique()
    if obstacle is None and different < MIN_PATIENTS:
        obstacle = DataError(
            f"{path}: expected at least {MIN_PATIENTS} different patients, got {different}",
            reason=f"it has fewer than {MIN_PATIENTS} different patients",
        )
    warnings = (
        *_warn_about_rows(task, cells, content),
        *_warn_about_columns(task, cells),
        *_warn_about_label(task, cells),
        *_warn_about_stays(task, cells),
    )
    return DataCheck(path=path, task=task, cells=cells, obstacle=obstacle, warnings=warnings)


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


def _warn_about_rows(task: Task, cells: CheckedCells, content: "pd.Series[int]") -> Iterator[str]:
    rows, label = len(cells.numbers), task.label.name
    counts = cells.numbers[label][~cells.invalid[label]].value_counts()
    is_readable = ~cells.is_text.any(axis=1)  # whether two texts mean the same is unknown
    repeats = int(pd.DataFrame({"content": content, "label": cells.numbers[label]})[is_readable].duplicated().sum())
    if rows < FEW_PATIENTS:
        yield f"few patients: figures on the held-out quarter of {rows} rows are too noisy to interpret"
    if len(counts) == 1:
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
            yield from _warn_about_marks(column, valid)


def _warn_about_measurement(column: Measurement, numbers: "pd.Series[float]") -> Iterator[str]:
    """Warn of zeros that may mean missing, and of a wrong unit; invalid numbers count, too."""
    if numbers.empty or column.typical_median is None:
        return
    low, high = column.typical_median
    zeros = int((numbers == 0).sum())
    if zeros and low > 0:
        yield f"{column.name} is 0 in {zeros} {'row' if zeros == 1 else 'rows'}: does it mean missing?"
    median = numbers.clip(-MAX_NUMBER, MAX_NUMBER).median()
    units = [unit for unit, (factor, summand) in column.other_units.items() if low <= median * factor + summand <= high]
    if low <= median <= high:
        return
    if units:
        yield f"{column.name} looks like {' or '.join(units)}; the task's unit is {column.unit}"
    else:
        side = "below" if median < low else "above"
        usual = f"{low:g} to {high:g} {column.unit}"
        yield f"the median of {column.name} is {side} what hospitals usually have ({usual}): is it in that unit?"


def _warn_about_marks(column: Measurement, numbers: "pd.Series[float]") -> Iterator[str]:
    """Warn of repeated numbers far from all others. A message names MISSING_CODES alone."""
    counts = numbers.value_counts().sort_index()
    values, rows = counts.index.to_numpy(dtype=np.float64), counts.to_numpy()
    is_code = np.isin(values, MISSING_CODES)
    others, rows_of_others = values[~is_code], rows[~is_code]
    if len(others) < 2:
        return
    for code, times in zip(values[is_code], rows[is_code], strict=True):
        distance, width = max(others[0] - code, code - others[-1]), np.ptp(others)
        is_far = times > 1 and distance >= (width if abs(code) < 10 else width / 2)
        # A tail that ends in a peak: more rows than the five next values together.
        ends_in_peak = code > others[-1] and times >= MIN_REPEATS + rows_of_others[-5:].sum()
        if is_far or ends_in_peak:
            yield f"{column.name} is {code:g} in {times} rows, far from its other values: does it mean missing?"
    for side, end, rest in (("lowest", 0, others[1:]), ("highest", -1, others[:-1])):
        distance = np.abs(others[end] - rest).min()
        is_named = others[end] == 0 and column.typical_median is not None and column.typical_median[0] > 0
        if (
            rows_of_others[end] >= MIN_REPEATS
            and len(rest) >= MIN_REPEATS
            and distance >= np.ptp(rest) / 2
            and not is_named
        ):
            yield (
                f"the {side} value of {column.name}, in {rows_of_others[end]} rows, is far from all others: "
                "does it mean missing?"
            )


def _list_unused_codes(task: Task, cells: CheckedCells) -> Iterator[str]:
    for column in task.columns:
        if isinstance(column, Category) and cells.numbers[column.name].notna().sum() >= MIN_ROWS_OF_CODES:
            used = set(cells.numbers[column.name].unique())
            if unused := [str(code) for code in column.codes if code not in used]:
                yield f"{column.name} {' and '.join(unused)}"


def _warn_about_label(task: Task, cells: CheckedCells) -> Iterator[str]:
    """Warn of a label, or a column, that is associated opposite to what the task declares."""
    label, expected = task.label.name, expected_associations(task)
    numbers = cells.numbers.mask(cells.invalid)[cells.numbers[label].isin((0, 1))]
    values, rows = numbers[list(task.column_names)].to_numpy(dtype=np.float64), len(numbers)
    if not expected.any() or not rows:
        return
    own = measure_associations(values, numbers[label].to_numpy(dtype=np.float64), task)
    found = compare(own, rows, expected, task)
    if found.side < 0:
        yield (
            f"{label} is associated opposite to what the task declares in {found.opposite} of {found.strong} columns: "
            "is it inverted? If so, exchange 0 and 1 in the export, or in the mapping file"
        )
        return
    scores = own * rows**0.5
    for number, column in enumerate(task.columns):
        is_own = column_positions(task) == number
        has_risk = (scores[is_own & (expected > 0)] > 0).any()  # a code, or high values
        if (expected * scores)[is_own].min() <= -MIN_EVIDENCE_OF_ONE and not has_risk:
            yield (
                f"{column.name} is associated with {label} opposite to what the task declares: are its "
                f"{'codes' if isinstance(column, Category) else 'values'} those of the task?"
            )


def _warn_about_stays(task: Task, cells: CheckedCells) -> Iterator[str]:
    """Warn of rows that look like several stays of a patient, unless the task says which column identifies patients."""
    if task.patient is not None:
        return
    for place, name in enumerate(cells.text.columns):
        if name in cells.numbers or not PATIENT_ID.fullmatch(re.sub(r"[\W_]", "", str(name).lower())):
            continue
        positions, distinct = csv_reading.distinct_cells(cells.text.iloc[:, place])
        times = np.bincount(positions, minlength=len(distinct))[~distinct.isin(csv_reading.MISSING_MARKS).to_numpy()]
        repeats = int(times.sum()) - len(times)
        if repeats and len(times) >= max(MIN_PATIENTS, len(cells.numbers) / 50):
            yield (
                f"{name} seems to identify patients, and {repeats} rows repeat an earlier one: one patient could be "
                f'both trained on and held out. Declare in the task file: [patient] column = "{name}"'
            )
            return
    names = [name for name in task.column_names if name in PERSON_COLUMNS]
    yield from _warn_about_adjacent_rows(names, cells.numbers[names].mask(cells.invalid[names]))


def _warn_about_adjacent_rows(names: list[str], numbers: pd.DataFrame) -> Iterator[str]:
    """Warn if adjacent rows agree in all of the columns at least five times as often as by chance.

    In a file that is sorted, or partly, equal rows lie among rows with about the same value. These do not count.
    """
    rows, varied = len(numbers), max(names, key=lambda name: numbers[name].nunique(), default="")
    if not varied or numbers[varied].nunique() < MIN_VALUES:
        return
    people = numbers.groupby(names, dropna=False).ngroup().to_numpy()
    times = np.bincount(people).astype(np.float64)
    chance = float((times * (times - 1)).sum()) / (rows * (rows - 1))
    starts = np.flatnonzero(np.diff(people, prepend=-1))
    lengths, values = np.diff(starts, append=rows), numbers[varied].to_numpy(dtype=np.float64)[starts]
    is_step = np.abs(np.diff(values)) > 0.3 * np.nanstd(values)
    is_apart = np.append(True, is_step) & np.append(is_step, True)
    repeats = int((lengths - 1)[is_apart].sum())
    if repeats >= max(MIN_ADJACENT, 0.05 * rows, 5 * chance * rows):
        yield (
            f"{repeats} rows have the same {' and '.join(names)} as the row before, far more than by chance: are they "
            "stays of the same patients? If so, export a column that identifies patients, and declare it in the task "
            'file: [patient] column = "..."'
        )
