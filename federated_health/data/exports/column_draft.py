"""Drafts the lines of one column of a task file: unit and ranges of a measurement, codes of a category."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import write_number
from federated_health.data.exports.drafts import MIN_ROWS
from federated_health.data.exports.export_profile import MISSING_NUMBERS, ExportColumn
from federated_health.data.exports.header_words import CODE_WORDS, concepts_of, fold, split_unit
from federated_health.data.exports.plausible_ranges import find_missing_marks, propose_ranges
from federated_health.data.task_writing import write_value
from federated_health.data.toml_reading import MAX_NUMBER, PLACEHOLDER

AGES = (0, 120)
"""Plausible range of ages in years."""

MAX_CODE_CHARACTERS = 40
"""Longest text that is shown as a code; longer ones are probably no code."""

CODE_MARKS = (9, *MISSING_NUMBERS)
"""Codes that often mean "missing"."""

_UNITS = {
    fold(unit.replace("%", "percent").replace("µ", "u")).replace(" ", ""): unit
    for unit in (
        *("mg/dl", "g/dl", "g/l", "mg/l", "ug/l", "ng/ml", "ng/l", "mmol/l", "umol/l", "nmol/l", "pmol/l", "mmol/mol"),
        *(
            "U/l",
            "IU/l",
            "mm Hg",
            "kPa",
            "kg",
            "cm",
            "mm",
            "kg/m2",
            "ml/min",
            "beats/min",
            "bpm",
            "%",
            "percent",
            "pct",
        ),
        *("years", "months", "weeks", "days", "hours", "minutes", "seconds", "points"),
    )
}
"""Units that are recognised at the end of a header, by their letters and digits."""

_SHORT_UNITS = frozenset({"g", "m", "l", "ml", "h", "min", "s", "d", "a", "y", "j", "ug", "mg", "degc", "c"})
"""Further units that are recognised in brackets only."""


_CODE = re.compile(r"-?\d{1,6}")
"""A number that a task file allows as a code."""

MAX_FILLED = 12
"""Largest distance between the lowest and the highest code shown up to which the codes between them are filled in."""


def count_values(column: ExportColumn) -> dict[str, int]:
    """Different values of a column, numbers in their shortest form, and the rows with each."""
    counted: dict[str, int] = {}
    for cell, rows in zip(column.cells, column.counts, strict=True):
        value = shorten(column, cell)
        counted[value] = counted.get(value, 0) + int(rows)
    return counted


def shorten(column: ExportColumn, cell: str) -> str:
    """A cell as a value: 1.0 is the same as 1."""
    number = column.format.number(cell)
    return cell if number is None else write_number(number)


def write_category(column: ExportColumn, *, with_missing: bool = True) -> Iterator[str]:
    """Lines of a category in a task file, after its meaning; `with_missing` asks about words that mean missing."""
    counted = count_values(column)
    shown = [value for value, rows in counted.items() if may_be_shown(value, rows)]
    numbers = sorted(int(value) for value in shown if _CODE.fullmatch(value))
    words = sorted((value for value in shown if not _CODE.fullmatch(value)), key=_no_first)
    if len(shown) < len(counted):
        yield f"# check: values in fewer than {MIN_ROWS} rows are not shown; add their codes"
        if numbers and numbers[-1] - numbers[0] <= MAX_FILLED:
            numbers = list(range(numbers[0], numbers[-1] + 1))
    if words:
        yield "# check: the export has words; a mapping file turns them into these new codes"
    yield from _note_code_marks(numbers)
    if with_missing:
        yield from _note_missing_words(column)
    first = numbers[-1] + 1 if numbers else 0
    codes = {str(code): PLACEHOLDER for code in numbers} | {str(first + i): word for i, word in enumerate(words)}
    yield f"codes = {write_value(codes if len(codes) > 1 else PLACEHOLDER)}"


def write_measurement(column: ExportColumn) -> Iterator[str]:
    """Lines of a measurement in a task file, after its meaning."""
    values, marks = find_usual_values(column)
    ranges = propose_ranges(values)
    unit = find_unit(column.header)
    yield f"unit = {write_value(unit)}  # check: from the header" if unit else f'unit = "{PLACEHOLDER}"'
    if ranges is None:
        yield f'range = "{PLACEHOLDER}"  # too few different values to propose one'
    else:
        outside = "" if ranges.covers_all else ": some values are outside; are they errors?"
        is_age = "age" in concepts_of(column.header) and AGES[0] <= values.min() and values.max() <= AGES[1]
        yield f"range = {write_range(AGES if is_age else ranges.plausible)}  # check{outside}"
        if ranges.typical:
            yield f"typical_median = {write_range(ranges.typical)}  # check"
    if 0 in marks:
        yield "zero_is_missing = true  # check: 0 is far from all other values"
    yield from note_marks([mark for mark in marks if mark != 0])
    yield from _note_missing_words(column)
    if np.isnan(column.numbers).any():
        yield "# check: some cells are neither a number nor a common missing-value marker"


def find_usual_values(column: ExportColumn) -> tuple[npt.NDArray[np.float64], list[int]]:
    """Numbers of a column, [rows], without those that probably mean missing, and these."""
    values = np.repeat(column.numbers, column.counts)
    values = values[np.abs(values) <= MAX_NUMBER / 1000]  # ranges are wider than their values
    marks = find_missing_marks(values, MIN_ROWS)
    return values[~np.isin(values, marks)], marks


def find_unit(header: str) -> str:
    """The unit that a header names in brackets or at its end; empty if it names none."""
    in_brackets = split_unit(header)[1]
    if in_brackets is not None:
        plain = _plain_unit(in_brackets)
        return in_brackets if plain in _UNITS or plain in _SHORT_UNITS else ""
    words = fold(header).split()
    for length in (2, 1):
        if len(words) > length and (unit := _UNITS.get("".join(words[-length:]))):
            return unit
    return ""


def _plain_unit(unit: str) -> str:
    return fold(unit.replace("%", "percent").replace("µ", "u").replace("\u03bc", "u")).replace(" ", "")


def may_be_shown(value: str, rows: int) -> bool:
    """Whether a value may be in a draft, as a code that several patients share."""
    return rows >= MIN_ROWS and len(value) <= MAX_CODE_CHARACTERS and value.isprintable()


def _no_first(word: str) -> tuple[bool, str]:
    """Sorts words, with those for no before those for yes."""
    return fold(word) not in CODE_WORDS["no"], word


def _note_code_marks(codes: Sequence[int]) -> Iterator[str]:
    """A comment on codes that often mean missing and stand apart from the others."""
    neighbours = {code: [abs(code - other) for other in codes if other != code] for code in codes}
    marks = [code for code in codes if code in CODE_MARKS and len(codes) > 2 and min(neighbours[code]) > 1]
    yield from note_marks(marks)


def note_marks(marks: Sequence[int]) -> Iterator[str]:
    """A comment on numbers that often mean missing."""
    if marks:
        yield f"# check: does {' or '.join(map(str, marks))} mean missing?"


def _note_missing_words(column: ExportColumn) -> Iterator[str]:
    if column.missing_words:
        yield f"# check: does {' or '.join(map(write_value, sorted(column.missing_words)))} mean missing?"


def write_range(bounds: tuple[float, float]) -> str:
    """A range in TOML."""
    return f"[{', '.join(write_number(bound) for bound in bounds)}]"
