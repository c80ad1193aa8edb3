"""Guesses what a column of an export can be in a task: a measurement, a category, the patient's identifier, or nothing.

For the draft of a task file only, from the header and the cells.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.csv_reading import distinct_cells
from federated_health.data.exports.drafts import MAX_WORDS, MIN_ROWS
from federated_health.data.exports.export_profile import ExportColumn
from federated_health.data.exports.header_words import concepts_of, fold, split_unit
from federated_health.data.exports.mapping_rules import normal_cell

MAX_CODES = 6
"""Largest number of different whole numbers that are taken for codes; more are taken for a count."""

MIN_NUMERIC = 0.9
"""Smallest share of numbers among the cells of a measurement."""

MAX_MISSING = 0.95
"""Largest share of missing cells in a column that is proposed."""

MIN_ID_ROWS = 20
"""Smallest number of different whole numbers that are taken for a running number."""

LONG_NUMBER = 1e6
"""Whole numbers from this one on are taken for identifiers if each is in one row only."""

MAX_CODE = 999_999
"""Largest number that a task file allows as a code."""

MIN_CLASS_ROWS, LEAK = 10, 0.98
"""A column that predicts at least this share of a class and of all other rows, each of so many rows, is taken for the
outcome itself; and one with at least this correlation with a label that is a quantity, over twice as many rows."""

_ID_WORDS = frozenset({"id", "nr", "no", "num", "number", "nummer", "n", "key"})
_CASE_WORDS = frozenset({"case", "fall", "encounter", "visit", "hadm", "stay", "sejour", "episode", "aufnahme"})
_PERSON_WORDS = frozenset({"subject", "person", "participant", "pseudonym", "mrn", "pid", "patid", "patnr", "ipp"})
_COUNT_WORDS = frozenset({"visits", "stays", "days", "tage", "jours", "count", "number", "anzahl", "nombre", "score"})
_TIME = re.compile(r"\d{1,2}:\d\d(:\d\d)?")

Role = Literal["measurement", "category", "patient", "unused"]


@dataclass(frozen=True)
class Kind:
    """What a column of an export can be in a task; the reason why it is unused, if it is."""

    role: Role
    reason: str = ""


def find_kind(column: ExportColumn, rows: int) -> Kind:
    """What a column can be, by its header and cells; `predicts` also needs the label."""
    different, filled = len(column.cells), int(column.counts.sum())
    if reason := _find_emptiness(different, filled, rows):
        return Kind("unused", reason)
    if column.date_formats or all(_TIME.match(cell) for cell in column.cells[:50]):
        hint = "a mapping file can turn two dates into an age or a duration"
        return Kind("unused", f"dates or times; {hint}")
    if identifier := _find_identifier(column):
        return identifier
    if column.numeric_share >= MIN_NUMERIC:
        return Kind("category" if holds_codes(column) else "measurement")
    if different <= MAX_WORDS and (column.counts >= MIN_ROWS).any():
        return Kind("category")
    if different > filled / 2:
        return Kind("unused", "free text or identifiers: a different text in most rows")
    return Kind("unused", f"more than {MAX_WORDS} different texts; group them in the export if they matter")


def _find_emptiness(different: int, filled: int, rows: int) -> str:
    """Why a column holds too little to be used; empty if it does not."""
    if not filled:
        return "missing in every row"
    if filled < (1 - MAX_MISSING) * rows:
        return "missing in nearly all rows"
    if different == 1 and filled == rows:
        return "the same in every row"
    if different == 1:
        return 'the same in every row that is not empty; if empty means "no", write "no" into these cells'
    return ""


def _find_identifier(column: ExportColumn) -> Kind | None:
    """The role of a column of identifiers; None if it holds something else."""
    words = set(fold(split_unit(column.header)[0]).split())
    is_repeated = bool((column.counts > 1).any())
    if len(column.cells) > MAX_WORDS and _looks_like_identifiers(column):
        if concepts_of(column.header) == {"patient"} or words & _PERSON_WORDS:
            return Kind("patient" if is_repeated else "unused", "an identifier, different in every row")
        if words & _CASE_WORDS and (words & _ID_WORDS or len(words) == 1):
            return Kind("unused", "an identifier of a case; declare it as [patient] only if it identifies the patient")
        if words & _ID_WORDS and not is_repeated:
            return Kind("unused", "an identifier, different in every row")
    numbers = column.numbers
    if is_repeated or len(numbers) < MIN_ID_ROWS or not are_whole(numbers):
        return None
    is_running = numbers.max() - numbers.min() < 1.1 * len(numbers)
    return Kind("unused", "a number that is different in every row") if is_running or _are_long(numbers) else None


def _looks_like_identifiers(column: ExportColumn) -> bool:
    """Whether cells are whole numbers, or texts with a digit and without a space."""
    cells = column.cells[:1000]
    if not np.isnan(column.numbers).any():
        return are_whole(column.numbers)
    return all(" " not in cell and any(character.isdigit() for character in cell) for cell in cells)


def are_whole(numbers: npt.NDArray[np.float64]) -> bool:
    """Whether all numbers are finite and whole."""
    return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def _are_long(numbers: npt.NDArray[np.float64]) -> bool:
    return bool(np.abs(numbers).min() >= LONG_NUMBER)


def holds_codes(column: ExportColumn) -> bool:
    """Whether the numbers of a column are few different whole numbers, and its header does not call them a count."""
    if _COUNT_WORDS.intersection(fold(column.header).split()):
        return False
    numbers = np.unique(column.numbers[~np.isnan(column.numbers)])
    return len(numbers) <= MAX_CODES and are_whole(numbers) and bool(np.abs(numbers).max() <= MAX_CODE)


def predicts(cells: "pd.Series[str]", column: ExportColumn, label: npt.NDArray[np.intp]) -> bool:
    """Whether a column alone predicts the label of nearly every row, like one that was recorded with the outcome.

    Args:
        cells: the column as text, [rows].
        label: 0 or 1 per row, or -1 where it is missing; which is the outcome does not matter.
    """
    sizes = [int((label == value).sum()) for value in (0, 1)]
    if min(sizes) < MIN_CLASS_ROWS:
        return False
    positions, distinct = distinct_cells(cells)
    words, normal = pd.factorize(np.array([normal_cell(cell) for cell in distinct], dtype=object))
    positions = words[positions]
    counts = np.array([np.bincount(positions[label == value], minlength=len(normal)) for value in (0, 1)])
    if len(normal) > MAX_WORDS:
        numbers = np.array([np.nan if (n := column.format.number(cell)) is None else n for cell in normal])
        counts = _count_on_sides(numbers, counts)
    shares = counts / np.array(sizes)[:, None]
    is_one = shares[1] > shares[0]
    return bool(min(shares[0][~is_one].sum(), shares[1][is_one].sum()) >= LEAK)


def follows(cells: "pd.Series[str]", column: ExportColumn, label: npt.NDArray[np.float64]) -> bool:
    """Whether a column of numbers is nearly the same as the label, but for unit and zero.

    Args:
        cells: the column as text, [rows].
        label: number per row, NaN where it is missing.
    """
    positions, distinct = distinct_cells(cells)
    parsed = [column.format.number(normal_cell(cell)) for cell in distinct]
    numbers = np.array([np.nan if number is None else number for number in parsed], dtype=np.float64)[positions]
    both = np.isfinite(numbers) & np.isfinite(label)
    if both.sum() < 2 * MIN_CLASS_ROWS or np.ptp(numbers[both]) == 0 or np.ptp(label[both]) == 0:
        return False
    return bool(np.abs(np.corrcoef(numbers[both], label[both])[0, 1]) >= LEAK)


def _count_on_sides(numbers: npt.NDArray[np.float64], counts: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Rows of each class on both sides of the threshold that divides the classes best, and without a number."""
    order = np.argsort(numbers)  # NaN last
    is_number = ~np.isnan(numbers[order])
    ordered = counts[:, order]
    below = np.cumsum(ordered * is_number, axis=1)
    total, rest = below[:, -1:], (ordered * ~is_number).sum(axis=1)
    shares = below / np.maximum(total, 1)
    best = int(np.argmax(np.abs(shares[1] - shares[0])))
    return np.column_stack([below[:, best], total[:, 0] - below[:, best], rest])
