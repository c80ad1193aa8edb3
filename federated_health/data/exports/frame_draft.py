"""Drafts a complete task from a DataFrame, for exploring it: what a person would be asked is guessed.

The guesses are those of `task_draft`, with these differences:

- a meaning is the column's name, or "code 1"; the unit is "unit not stated" unless the name ends with one;
- a range is wider, so that other hospitals' values are likely inside: it ends at the next power of ten above the
  proposed range, or above all values where none can be proposed, and begins at 0 or at the negative of its end;
- a column of codes of which one is in fewer than MIN_ROWS rows, and not between the others, is a measurement;
- a column that holds text or has no valid name is left out.
"""

import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from math import floor, log10
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data import label_kinds
from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.data_frames import text_table
from federated_health.data.exports.column_draft import AGES, MAX_FILLED, find_unit
from federated_health.data.exports.column_kinds import find_kind, follows, predicts
from federated_health.data.exports.drafts import MIN_ROWS
from federated_health.data.exports.export_profile import Export, ExportColumn, profile_table
from federated_health.data.exports.header_words import concepts_of
from federated_health.data.exports.label_draft import find_label_kind
from federated_health.data.exports.plausible_ranges import Ranges, find_missing_marks, propose_ranges
from federated_health.data.exports.task_draft import make_column_name
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_files import MAX_CODES, RESERVED, parse_task
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import MAX_NUMBER, PLACEHOLDER
from federated_health.errors import DataError, SettingsError
from federated_health.names import HOSPITAL_COLUMN, hospital_name_from, is_hospital_name

LabelKind = Literal["binary", "classes", "number", "count"]

TABLE = "table"
"""What errors call the DataFrame."""

NO_UNIT = "unit not stated"

MAX_LISTED = 10
"""Largest number of columns that one part of the warning lists."""


def draft_task(
    table: pd.DataFrame,
    target: str,
    *,
    name: str | None = None,
    meaning: str | None = None,
    kind: LabelKind | None = None,
) -> Task:
    """A task that predicts one column of a table from the others, with a warning of what a person should check.

    Ranges are wide and rounded, and a code is declared only if it is in 5 rows or between two such codes, so that the
    task shows no single patient's value. If hospitals have different codes, draft from all of their rows.

    Args:
        table: one row per patient, or per stay if a column identifies the patient.
        target: name of the column to predict, which holds numbers.
        name: name of the task; by default made from the target's.
        meaning: what is true of a patient with the label 1, or what the label holds; by default the target's name.
        kind: "binary", "classes", "number" or "count"; by default guessed, unless it may be a number or a count.

    Raises:
        DataError: the target cannot be a label, or a column holds a number that probably means missing.
        SettingsError: the target is no text, the name is not valid, or there is no such kind.
    """
    if not isinstance(target, str):
        raise SettingsError(f"target: expected the name of a column, got {type(target).__name__}")
    if name is not None and not is_hospital_name(name):
        raise SettingsError(f"name: expected lower-case letters, digits and hyphens, got {name!r}")
    if kind is not None and kind not in get_args(LabelKind):
        raise SettingsError(f"kind: expected one of {', '.join(get_args(LabelKind))}, got {kind!r}")
    export = profile_table(text_table(table, TABLE))
    names = [str(header) for header in export.table.columns]
    position = _find_target(names, target)
    label = _guess_label(export.columns[position], target, meaning or target, kind)
    guesses = _Guesses(export, names, position, label)
    task = Task(
        name=name or hospital_name_from(target) or "my-task",
        columns=tuple(guesses.columns()),
        label=label,
        patient=guesses.patient,
    )
    if not task.columns:
        raise DataError(f"{TABLE}: expected a column that can be an input; {guesses.describe()}")
    warnings.warn(f"task {task.name}: {guesses.describe()}", stacklevel=2)
    return parse_task(write_task(task).encode(), f"task {task.name}")


def _find_target(names: list[str], target: str) -> int:
    """Position of the column to predict."""
    if names.count(target) == 1 and make_column_name(target) == target and not RESERVED.fullmatch(target):
        return names.index(target)
    if target in names:
        problem = "a name of letters, digits and _ that is not reserved" if names.count(target) == 1 else "one column"
        raise DataError(f"{TABLE}: target {target}: expected {problem}; rename it")
    near = get_close_matches(target, names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise DataError(f"{TABLE}: lacks the target {target}{hint}")


def _guess_label(column: ExportColumn, name: str, meaning: str, kind: str | None) -> Label:
    """The label of a kind, by default of the one that the column's numbers suggest."""

    def error(expected: str, hint: str = "") -> DataError:
        return DataError(f"{TABLE}: target {name}: expected {expected}{hint and '; '}{hint}")

    counted = _count_numbers(column)
    if counted is None:
        raise error("numbers, got text", f"for a binary label, write (table[{name!r}] == ...).astype(int)")
    if len(counted) < 2:
        raise error(f"different values, got {len(counted)}")
    kind = kind or find_label_kind(column)
    if kind == PLACEHOLDER:
        raise error('a stated kind of label, as it may be either: kind="number" or kind="count"')
    values = np.array(list(counted))
    if kind == Label.kind:
        if sorted(counted) != [0, 1]:
            raise error(f"0 and 1, got {len(counted)} different values")
        return Label(name, meaning)
    if kind == ClassLabel.kind:
        codes = _declared_codes(counted)
        if not label_kinds.MIN_CLASSES <= len(codes) <= MAX_CODES:
            classes = f"{label_kinds.MIN_CLASSES} to {MAX_CODES} classes as whole numbers"
            raise error(f"{classes}, each in {MIN_ROWS} rows or between two that are", "join rare ones")
        return ClassLabel(name, meaning, codes)
    _refuse_missing_marks(name, counted)
    (low, high), ranges = _guess_range(counted)
    if kind == CountLabel.kind:
        if values.min() < 0 or values.max() > label_kinds.MAX_COUNT or (values % 1).any():
            raise error(f"whole numbers from 0 to {label_kinds.MAX_COUNT:,} for a count")
        return CountLabel(name, meaning, high=min(int(high), label_kinds.MAX_COUNT))
    if ranges and ranges.covers_all:
        low, high = ranges.plausible  # by which the network's output is scaled
    return NumberLabel(name, meaning, find_unit(name) or NO_UNIT, low=low, high=high)


class _Guesses:
    """Guesses what the columns of a table are, and notes what a person should check.

    Attributes:
        patient: the column that identifies patients, if one was found.
    """

    def __init__(self, export: Export, names: list[str], target: int, label: Label) -> None:
        self._export, self._names, self._target, self._label = export, names, target, label
        numbers = pd.to_numeric(export.table.iloc[:, target].astype(str), errors="coerce")
        self._label_rows = numbers.to_numpy(dtype=np.float64)
        self.patient: str | None = None
        self._left_out: list[str] = []
        self._notes: dict[str, list[str]] = {}

    def columns(self) -> list[Measurement | Category]:
        """The columns that can be inputs."""
        guessed = []
        for position, (name, column) in enumerate(zip(self._names, self._export.columns, strict=True)):
            if position == self._target:
                continue
            if reason := self._find_reason(position, name, column):
                self._left_out.append(f"{name or 'a column without a name'} ({reason})")
            elif name != self.patient:
                guessed.append(self._guess(name, column))
        return guessed

    def describe(self) -> str:
        """What a person should check, in one line."""
        parts = [f"{note}: {_list_some(names)}" for note, names in self._notes.items()]
        if self.patient:
            parts.append(f"rows with the same {self.patient} count as one patient")
        parts += [f"left out: {_list_some(self._left_out)}"] if self._left_out else []
        kind = "" if self._label.kind == Label.kind else f" of the label of the kind {self._label.kind} and"
        return "; ".join([f"check the ranges and codes{kind} of the columns, which were guessed", *parts])

    def _find_reason(self, position: int, name: str, column: ExportColumn) -> str:
        """Why a column is left out; empty if it is not. Notes the column that identifies patients."""
        if column.occurrence is not None:
            return "several columns have this name"
        if name == HOSPITAL_COLUMN:
            return "not an input"
        is_binary = self._label.kind == Label.kind
        is_reserved = RESERVED.fullmatch(name) or (not is_binary and label_kinds.RESERVED.fullmatch(name))
        if make_column_name(name) != name or is_reserved:
            return "its name must consist of letters, digits and _, and not be reserved"
        kind = find_kind(column, len(self._export.table))
        if kind.role == "unused":
            return kind.reason.partition(";")[0]
        if kind.role == "patient":
            if self.patient is None:
                self.patient = name
                return ""
            return "identifies patients, too"
        if _count_numbers(column) is None:
            return "text, dates or too large numbers"
        if self._gives_label_away(self._export.table.iloc[:, position], column):
            return "gives the label of nearly every row"
        return ""

    def _gives_label_away(self, cells: "pd.Series[str]", column: ExportColumn) -> bool:
        label = self._label_rows
        if not isinstance(self._label, ClassLabel) and self._label.kind != Label.kind:
            return follows(cells, column, label)
        codes = self._label.codes if isinstance(self._label, ClassLabel) else (1,)
        return any(predicts(cells, column, np.where(np.isnan(label), -1, label == code)) for code in codes)

    def _guess(self, name: str, column: ExportColumn) -> Measurement | Category:
        counted = _count_numbers(column) or {}  # not empty: such columns are left out
        if find_kind(column, len(self._export.table)).role == "category" and (codes := _declared_codes(counted)):
            self._note("meaning of codes not stated", name)
            return Category(name, name, codes)
        if zero_is_missing := _refuse_missing_marks(name, counted):
            self._note("0 is read as missing", name)
            counted = {number: rows for number, rows in counted.items() if number != 0}
        (low, high), ranges = _guess_range(counted)
        if "age" in concepts_of(name) and AGES[0] <= min(counted) and max(counted) <= AGES[1]:
            low, high = AGES
        unit = find_unit(name)
        if not unit:
            self._note("unit not stated", name)
        return Measurement(
            name,
            name,
            unit or NO_UNIT,
            low=low,
            high=high,
            zero_is_missing=zero_is_missing,
            typical_median=ranges.typical if ranges else None,
        )

    def _note(self, text: str, name: str) -> None:
        self._notes.setdefault(text, []).append(name)


def _count_numbers(column: ExportColumn) -> dict[float, int] | None:
    """Rows with each number of a column; None if a cell is text, infinite or too large for a range."""
    numbers = column.numbers
    if column.missing_words or not (np.abs(numbers) <= MAX_NUMBER / 1000).all():  # NaN is text
        return None
    counted: dict[float, int] = {}
    for number, rows in zip(numbers.tolist(), column.counts.tolist(), strict=True):
        counted[number] = counted.get(number, 0) + rows
    return counted


def _declared_codes(counted: Mapping[float, int]) -> dict[int, str]:
    """Codes and their meanings, each in MIN_ROWS rows or between two such codes; empty if these are not all."""
    if any(number % 1 for number in counted):
        return {}
    codes = sorted(int(number) for number, rows in counted.items() if rows >= MIN_ROWS)
    if codes and len(codes) < len(counted) and codes[-1] - codes[0] <= MAX_FILLED:
        codes = list(range(codes[0], codes[-1] + 1))
    return {code: f"code {code}" for code in codes} if len(codes) > 1 and set(counted) <= set(codes) else {}


def _refuse_missing_marks(name: str, counted: Mapping[float, int]) -> bool:
    """Whether 0 probably means missing; a DataError if another number does."""
    marks = find_missing_marks(_repeat(counted), MIN_ROWS)
    if missing := [mark for mark in marks if mark != 0]:
        listed = " or ".join(map(str, missing))
        fix = f"table[{name!r}].replace({missing}, float('nan'))"
        raise DataError(f"{TABLE}: column {name}: {listed} seems to mean missing; empty these cells: {fix}")
    return 0 in marks


def _guess_range(counted: Mapping[float, int]) -> tuple[tuple[float, float], Ranges | None]:
    """A range that holds all numbers, and the ranges that the draft of a file would propose."""
    ranges = propose_ranges(_repeat(counted))
    bounds = ranges.plausible if ranges and ranges.covers_all else (min(counted), max(counted))
    end = 10.0 ** (floor(log10(max(1.0, *np.abs(bounds)))) + 1)
    return (0.0 if bounds[0] >= 0 else -end, end), ranges


def _repeat(counted: Mapping[float, int]) -> npt.NDArray[np.float64]:
    """The number of each row."""
    return np.repeat(np.array(list(counted)), list(counted.values()))


def _list_some(names: list[str]) -> str:
    more = [f"and {len(names) - MAX_LISTED} more"] if len(names) > MAX_LISTED else []
    return ", ".join([*names[:MAX_LISTED], *more])
