"""The declarations of a mapping: the export's file format, and how it writes each column of a task.

Also how cells and headers are compared. `mapping_files` parses the declarations, `mappings` applies them.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

MISSING = "missing"
"""What a code table writes for a cell that means missing."""

DATE_UNITS = ("years", "days")
"""What the time between two dates is counted in: completed years, or whole days."""

THOUSANDS = (".", ",", "'", "\u2019", " ")
"""Characters that may stand between groups of three digits."""

_SPACES = "\u00a0\u202f"
"""No-break spaces, which exports write between thousands; a mapping's " " stands for them, too."""

_NAME = r"[^\W\d_]+"
_DATE_PARTS = {"Y": r"\d{4}", "b": _NAME, "B": _NAME, "p": "[ap]m", "f": r"\d{1,6}"}
_DATE_PARTS |= dict.fromkeys("mdHIMS", r"\d\d?")
"""Directives of a date format -> the text that they stand for; years have four digits."""


@dataclass(frozen=True)
class HeaderCell:
    """A column of an export by its header, and which one if several have that header, counted from 1."""

    name: str
    occurrence: int | None = None


@dataclass(frozen=True)
class FileFormat:
    """How an export is written. Separator, quote and encoding are those of a CSV; `sheet` is that of a workbook.

    Attributes:
        encoding: name of a codec of Python's.
        thousands: character between groups of three digits; empty for none.
        missing: missing-value markers besides the usual ones, as `normal_cell` writes them.
        date_format: how dates are written, in the directives of strptime; empty if not stated.
        sheet: name of the sheet; empty for the first.
    """

    separator: str = ","
    quote: str = '"'
    encoding: str = "utf-8-sig"
    decimal: str = "."
    thousands: str = ""
    missing: frozenset[str] = frozenset()
    date_format: str = ""
    sheet: str = ""

    @cached_property
    def _number(self) -> re.Pattern[str]:
        digits, point = r"\d+", re.escape(self.decimal)
        if self.thousands:
            digits = rf"(?:\d{{1,3}}(?:{re.escape(self.thousands)}\d{{3}})+|\d+)"
        return re.compile(rf"[+-]?(?:{digits}(?:{point}\d*)?|{point}\d+)(?:e[+-]?\d+)?")

    @property
    def has_plain_numbers(self) -> bool:
        """Whether numbers are written with a decimal point and nothing between thousands."""
        return self.decimal == "." and not self.thousands

    def plain_number(self, cell: str) -> str | None:
        """A number's text with a decimal point and nothing between thousands; None if the cell is not a number."""
        if self.thousands == " ":
            cell = cell.translate(dict.fromkeys(map(ord, _SPACES), " "))
        if self._number.fullmatch(cell) is None:
            return None
        return cell.replace(self.thousands, "").replace(self.decimal, ".")

    def number(self, cell: str) -> float | None:
        """A cell's number; None if it is not one."""
        text = self.plain_number(cell)
        return None if text is None else float(text)


@dataclass(frozen=True)
class DatePair:
    """Two columns of dates, and their formats, whose difference in `unit` is a measurement."""

    start: HeaderCell
    end: HeaderCell
    start_format: str
    end_format: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """How an export writes one column of a task.

    Attributes:
        source: the export's column; None for a pair of dates, and for a column that the export does not have.
        dates: the pair of dates from which the column is computed.
        codes: cell, as `normal_cell` writes it -> the task's code as text, "" for missing; None if cells are not coded.
        missing: missing-value markers, as `normal_cell` writes them, besides the file's.
        unit: the export's unit, for messages; empty if it is the task's.
        factor, offset: number * factor + offset is in the task's unit.
    """

    source: HeaderCell | None = None
    dates: DatePair | None = None
    codes: Mapping[str, str] | None = None
    missing: frozenset[str] = frozenset()
    unit: str = ""
    factor: float = 1
    offset: float = 0

    @property
    def is_absent(self) -> bool:
        return self.source is None and self.dates is None

    @property
    def headers(self) -> tuple[HeaderCell, ...]:
        """The export's columns that are read."""
        if self.dates is not None:
            return (self.dates.start, self.dates.end)
        return () if self.source is None else (self.source,)


@dataclass(frozen=True)
class MappingFile:
    """What a mapping file states: the format of the file, and each column of the task."""

    format: FileFormat
    columns: Mapping[str, ColumnMapping] = field(default_factory=dict)


def normal_cell(text: str) -> str:
    """A cell as cells are compared: trimmed, in lower case, accents composed."""
    return unicodedata.normalize("NFC", text.strip().lower())


def normal_header(text: str) -> str:
    """A header cell as headers are compared: accents composed, and one space for spaces and line breaks."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def date_pattern(date_format: str) -> re.Pattern[str]:
    """What a date in a format looks like. Numbers that follow each other without a separator have all their digits."""
    pattern = ""
    parts = re.findall(r"%.|[^%]+", date_format)
    for position, part in enumerate(parts):
        if part[0] != "%":
            pattern += re.escape(part.lower())
            continue
        neighbours = (parts[position - 1] if position else "", parts[position + 1] if position + 1 < len(parts) else "")
        is_joined = any(neighbour.startswith("%") for neighbour in neighbours)
        text = _DATE_PARTS[part[1]]
        pattern += text.replace("?", "") if is_joined else text
    return re.compile(pattern)


def is_date_format(value: object) -> bool:
    """Whether a value is a date format that this project reads: a year of four digits, a month and a day."""
    if not (isinstance(value, str) and value.isprintable()):
        return False
    directives = re.findall("%(.)", value)
    months = [directive for directive in directives if directive in "mbB"]
    is_known = all(directive in _DATE_PARTS for directive in directives) and value[-1:] != "%"
    is_once = len(set(directives)) == len(directives)
    return is_known and is_once and len(months) == 1 and "Y" in directives and "d" in directives
