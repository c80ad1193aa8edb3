"""Reviews a hospital's valid data for mistakes that its data team may have missed.

These are missing-value markers inside the range, inverted labels or codes, and several stays of a patient. No line
holds a value of a patient.
"""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.associations import measure_associations
from federated_health.data.columns import Category, Column, Measurement
from federated_health.data.csv_reading import CheckedCells
from federated_health.data.label_direction import (
    MIN_EVIDENCE_OF_ONE,
    column_positions,
    compare,
    expected_associations,
)
from federated_health.data.tasks import Task

_REPEATED_DIGITS = [digit * ones for ones in (11, 111, 1111, 11111) for digit in (7, 8, 9)]
MISSING_CODES = np.array([-1, -7, -8, -9, 9, *_REPEATED_DIGITS, *(-code for code in _REPEATED_DIGITS)])
"""Numbers that files use for missing; those of 7 and 8 stand for "refused" and "not applicable"."""

MIN_REPEATS = 5
"""Smallest number of rows of an extreme value, other than MISSING_CODES, that looks like a missing-value marker."""

MIN_ROWS_OF_CODES = 30
"""Smallest number of rows with a category in which a code that no row has is worth a line."""

PATIENT_ID = re.compile(r"(patient(en)?|pat|subject|person|pid|mrn)(id|no|nr|nbr|num|number|nummer|key|code)?s?")
"""Names of columns that identify patients, in lower case without punctuation."""

MIN_ADJACENT = 6
"""Smallest number of rows equal to the row before that look like stays of one patient."""

MIN_VALUES = 10
"""Smallest number of different ages, or of another column that tells patients apart."""

PERSON_COLUMNS = frozenset({"age", "sex", "gender", "race", "ethnicity", "birth_year", "height"})
"""Columns of a task that rarely change from one stay of a patient to the next."""


def review(task: Task, cells: CheckedCells) -> Iterator[str]:
    """Lines for the data team: warnings, then a note on codes that no row has."""
    label = [] if task.label.classes else [task.label]
    for column in [*task.measurements, *label]:
        numbers = cells.numbers[column.name]
        for warning in _warn_about_marks(column, numbers[~cells.invalid[column.name]].dropna()):
            yield f"warning: {warning}"
    about_rows = (_warn_about_label_values, _warn_about_label, _warn_about_stays)
    for warning in chain.from_iterable(warn(task, cells) for warn in about_rows):
        yield f"warning: {warning}"
    if unused := ", ".join(_list_unused_codes(task, cells)):
        yield f"note: codes that no row has: {unused}; are the file's codes those of the task?"


def _warn_about_marks(column: Column, numbers: "pd.Series[float]") -> Iterator[str]:
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
        is_repeated = rows_of_others[end] >= MIN_REPEATS and len(rest) >= MIN_REPEATS
        typical_median = column.typical_median if isinstance(column, Measurement) else None
        is_reported = others[end] == 0 and typical_median is not None and typical_median[0] > 0
        if is_repeated and distance >= np.ptp(rest) / 2 and not is_reported:
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
    """Warn of a label, or of a column, whose associations are opposite to those that the task declares."""
    label, expected = task.label.name, expected_associations(task)
    numbers = cells.numbers.mask(cells.invalid[cells.numbers.columns])[cells.numbers[label].isin((0, 1))]
    values, rows = numbers[list(task.column_names)].to_numpy(dtype=np.float64), len(numbers)
    if not expected.any() or not rows:
        return
    labels = numbers[label].to_numpy(dtype=np.float64)
    if warning := describe_inverted_label(values, labels, task):
        yield warning
        return
    own = measure_associations(values, labels, task)
    scores = own * rows**0.5
    for number, column in enumerate(task.columns):
        is_own = column_positions(task) == number
        has_risk = (scores[is_own & (expected > 0)] > 0).any()  # a code, or high values
        if (expected * scores)[is_own].min() <= -MIN_EVIDENCE_OF_ONE and not has_risk:
            yield (
                f"{column.name}: its association with {label} is opposite to the task's declaration; are its "
                f"{'codes' if isinstance(column, Category) else 'values'} those of the task?"
            )


def describe_inverted_label(values: npt.NDArray[np.float64], labels: npt.NDArray[np.floating[Any]], task: Task) -> str:
    """A warning if the label's associations are opposite to those that the task declares; else empty.

    Args:
        values: [rows, columns of the task], NaN for missing.
        labels: [rows], 0 or 1.
    """
    found = compare(measure_associations(values, labels, task), len(labels), expected_associations(task), task)
    if found.direction >= 0:
        return ""
    return (
        f"{task.label.name} may be inverted: in {found.opposite} of {found.strong} columns its association is opposite "
        "to the task's declaration; if so, exchange 0 and 1 in the export, or in the mapping file"
    )


def _warn_about_label_values(task: Task, cells: CheckedCells) -> Iterator[str]:
    """Warn of a label with two values that are not 0 and 1, such as 1 and 2, or of classes with other codes."""
    label = task.label.name
    if cells.mapping is not None or not cells.invalid[label].any():
        return
    if task.label.kind == "classes":
        yield f"{label} has cells that are not codes of the task: a mapping file turns words and other codes into these"
    elif task.label.kind == "binary":
        distinct = set(csv_reading.distinct_cells(cells.text[label])[1]) - csv_reading.MISSING_MARKS
        if len(distinct) == 2:
            yield f"{label} has two values, but not 0 and 1: state in a mapping file which of them means 1"


def _warn_about_stays(task: Task, cells: CheckedCells) -> Iterator[str]:
    """Warn of rows that look like several stays of a patient, unless the task says which column identifies patients."""
    if task.patient is not None:
        return
    for place, name in enumerate(cells.text.columns):
        if name in cells.invalid or not PATIENT_ID.fullmatch(re.sub(r"[\W_]", "", str(name).lower())):
            continue
        positions, distinct = csv_reading.distinct_cells(cells.text.iloc[:, place])
        times = np.bincount(positions, minlength=len(distinct))[~distinct.isin(csv_reading.MISSING_MARKS).to_numpy()]
        repeats = int(times.sum()) - len(times)
        if repeats and len(times) >= max(MIN_VALUES, len(cells.numbers) / 50):
            yield (
                f"{name} seems to identify patients, and {repeats} rows have the {name} of an earlier row: a patient "
                f'could be both trained on and held out; declare in the task file: [patient] column = "{name}"'
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
