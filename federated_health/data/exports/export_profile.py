"""What a hospital's export looks like: how the file is written, and what its columns hold.

For drafts only. A profile stays in the process: `mapping_draft` and `task_draft` decide what of it is shown.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.csv_reading import MISSING_MARKS, Dialect, distinct_cells
from federated_health.data.exports.mapping_rules import FileFormat, date_pattern, normal_cell, normal_header
from federated_health.data.exports.mappings import parse_dates
from federated_health.errors import DataError

SEPARATORS = ("\t", ";", "|", ",")
"""Separators; if two give the same number of columns, the first one, which is least likely within a cell, is taken."""

MISSING_WORDS = frozenset(
    {
        *("k.a.", "k. a.", "ka", "keine angabe", "nicht bekannt", "unbekannt", "unbek.", "fehlt", "fehlend", "leer"),
        *("nd", "n.d.", "n/d", "nr", "n.r.", "inconnu", "inconnue", "non renseigné", "non renseigne", "manquant"),
        *("desconocido", "sconosciuto", "unknown", "unk", "missing", "not known", "not recorded", "not available"),
        *("#n/a", "#nv", "#null!", ".", "-", "--", "---"),
    }
)
"""Cells that mean "missing" in hospitals' exports, besides MISSING_MARKS."""

MISSING_NUMBERS = (-1, -9, -99, -999, -9999, 99, 999, 9999, 99999)
"""Numbers that often mean "missing"."""

DAY_FORMATS = ("%d.%m.%Y", "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d")
DATE_FORMATS = tuple(f"{day}{time}" for time in ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S") for day in DAY_FORMATS)

MAX_EXAMINED = 20_000
"""Largest number of distinct cells of a column that are looked at."""

SNIFFED_ROWS = 200
"""Rows that decide about the separator."""


@dataclass(frozen=True, eq=False)
class ExportColumn:
    """A column of an export.

    Attributes:
        header: its header, as headers are compared.
        occurrence: which of the columns with this header it is, from 1; None if there is only one.
        cells: its distinct cells, as cells are compared, without those that usually mean missing.
        counts: rows with each of these cells.
        missing: the distinct cells that usually mean missing, which may be "".
        format: how the file writes numbers.
    """

    header: str
    occurrence: int | None
    cells: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    missing: tuple[str, ...]
    format: FileFormat

    @property
    def missing_words(self) -> tuple[str, ...]:
        """The cells of `missing` that are read as missing only if a mapping file states it."""
        return tuple(cell for cell in self.missing if cell not in MISSING_MARKS)

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """Number of each distinct cell, NaN if it is not one."""
        numbers = [self.format.number(cell) for cell in self.cells]
        return np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)

    def share(self, selected: npt.NDArray[np.bool_]) -> float:
        """Share of the rows, of those that are not missing, with the selected distinct cells."""
        return float(self.counts[selected].sum() / self.counts.sum()) if len(self.counts) else 0.0

    @property
    def numeric_share(self) -> float:
        return self.share(~np.isnan(self.numbers))

    def median(self, selected: npt.NDArray[np.bool_] | None = None) -> float:
        """Median over the rows with a number; NaN if there is none."""
        chosen = ~np.isnan(self.numbers) if selected is None else selected
        order = np.argsort(self.numbers[chosen])
        counts = self.counts[chosen][order].cumsum()
        if not len(counts):
            return float("nan")
        return float(self.numbers[chosen][order][np.searchsorted(counts, counts[-1] / 2)])

    def rows_with(self, number: float) -> int:
        return int(self.counts[self.numbers == number].sum())

    @cached_property
    def date_formats(self) -> tuple[str, ...]:
        """Formats in which at least 95 % of the cells are dates, as many as in any other format."""
        cells = self.cells[:MAX_EXAMINED]
        counts = self.counts[: len(cells)]
        shares = {}
        for date_format in DATE_FORMATS:
            pattern = date_pattern(date_format)
            first = cells[:50]
            if 2 * sum(pattern.fullmatch(cell) is not None for cell in first) > len(first):
                is_date = ~np.isnat(parse_dates(cells, date_format))
                shares[date_format] = float(counts[is_date].sum() / counts.sum())
        best = max(shares.values(), default=0)
        return tuple(found for found, share in shares.items() if share == best >= 0.95)


@dataclass(frozen=True, eq=False)
class Export:
    """An export's columns, and how the file is written.

    Attributes:
        table: the export as a text table, with its columns in the same order.
        sheets: names of a workbook's sheets; the first one was read.
        decimal_is_certain: whether the cells determine the decimal mark.
    """

    table: pd.DataFrame
    columns: Sequence[ExportColumn]
    format: FileFormat
    sheets: tuple[str, ...]
    decimal_is_certain: bool


def profile_export(path: Path) -> Export:
    """Find out how an export is written and what its columns hold.

    Raises:
        DataError: the file is not a table with a header. The text quotes no cell.
        MissingLibraryError: the library that reads such a file is not installed.
    """
    file_format = FileFormat()
    sheets: tuple[str, ...] = ()
    if not csv_reading.is_table_file(path):
        content = csv_reading.read_bytes(path)
        encoding = find_encoding(content)
        separator = find_separator(content.decode(encoding), str(path))
        file_format = replace(file_format, encoding=encoding, separator=separator)
        table = csv_reading.parse_csv(content, str(path), dialect=Dialect(separator=separator, encoding=encoding))
    else:
        from federated_health.data.exports.table_files import read_table_file, sheet_names  # noqa: PLC0415  # CSVs need none

        table, sheets = read_table_file(path), sheet_names(path)
    headers = [normal_header(str(name)) for name in table.columns]
    cells = [_count_cells(table.iloc[:, position]) for position in range(len(headers))]
    _refuse_patients_as_header(headers, [distinct for distinct, _ in cells], str(path))
    decimal, thousands, is_sure = find_decimal_mark(cell for distinct, _ in cells for cell in distinct[:MAX_EXAMINED])
    file_format = replace(file_format, decimal=decimal, thousands=thousands)
    return Export(table, _profile_columns(headers, cells, file_format), file_format, sheets, is_sure)


def profile_table(table: pd.DataFrame) -> Export:
    """What the columns of a text table hold whose numbers are written with a decimal point."""
    headers = [normal_header(name) for name in table.columns]
    cells = [_count_cells(table.iloc[:, position]) for position in range(len(headers))]
    file_format = FileFormat()
    return Export(table, _profile_columns(headers, cells, file_format), file_format, (), True)


def _profile_columns(
    headers: Sequence[str], cells: Iterable[tuple[tuple[str, ...], npt.NDArray[np.int64]]], file_format: FileFormat
) -> list[ExportColumn]:
    columns = []
    for position, (header, (distinct, counts)) in enumerate(zip(headers, cells, strict=True)):
        occurrence = headers[: position + 1].count(header) if headers.count(header) > 1 else None
        is_missing = np.array([cell in MISSING_MARKS or cell in MISSING_WORDS for cell in distinct], dtype=bool)
        kept = tuple(cell for cell, is_mark in zip(distinct, is_missing, strict=True) if not is_mark)
        missing = tuple(cell for cell, is_mark in zip(distinct, is_missing, strict=True) if is_mark)
        columns.append(ExportColumn(header, occurrence, kept, counts[~is_missing], missing, file_format))
    return columns


def find_encoding(content: bytes) -> str:
    """The encoding of a text file: UTF-16 by its byte-order mark, UTF-8 if it can be decoded so, else Windows-1252."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def find_separator(text: str, name: str) -> str:
    """The character that divides the first rows into the most columns, the same number in each; DataError if none."""
    widths = {}
    for separator in SEPARATORS:
        lines = io.StringIO(text, newline="")
        try:
            reader = csv.reader(lines, strict=True, delimiter=separator)
            lengths = {len(row) for row, _ in zip((row for row in reader if row), range(SNIFFED_ROWS), strict=False)}
        except csv.Error:
            continue
        if len(lengths) == 1 and (width := lengths.pop()) > 1:
            widths[separator] = width
    if not widths:
        raise DataError(
            f"{name}: no separator gives each row the same number of cells: expected a comma, semicolon, tab or |"
        )
    return max(widths, key=lambda separator: widths[separator])


def find_decimal_mark(cells: Iterable[str]) -> tuple[str, str, bool]:
    """Decimal mark, thousands separator, and whether the decimal mark is certain."""
    patterns = {
        ("pair", ".", ","): re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d+"),
        ("pair", ",", "."): re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d+"),
        ("three", ".", ""): re.compile(r"[+-]?\d{1,3}\.\d{3}"),
        ("three", ",", ""): re.compile(r"[+-]?\d{1,3},\d{3}"),
        ("mark", ".", ""): re.compile(r"[+-]?\d*\.\d+"),
        ("mark", ",", ""): re.compile(r"[+-]?\d*,\d+"),
    }
    found = set()
    for cell in cells:
        found.update([next((kind for kind, pattern in patterns.items() if pattern.fullmatch(cell)), None)])
    marks = {kind[1] for kind in found if kind is not None and kind[0] != "three"}
    three = {kind[1] for kind in found if kind is not None and kind[0] == "three"}
    thousands = {kind[1]: kind[2] for kind in found if kind is not None and kind[0] == "pair"}
    if len(marks) == 1:
        (mark,) = marks
        other = {",": ".", ".": ","}[mark]
        return mark, thousands.get(mark, ""), other not in three or mark in thousands
    if not marks and not three:
        return ".", "", True
    return ("," if marks == set() and three == {","} else "."), "", not marks and three == {"."}


def _count_cells(cells: "pd.Series[str]") -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Distinct cells, as cells are compared, and the rows with each."""
    positions, distinct = distinct_cells(cells)
    codes, unique = pd.factorize(np.array([normal_cell(cell) for cell in distinct], dtype=object))
    counts = np.bincount(codes, weights=np.bincount(positions, minlength=len(distinct)), minlength=len(unique))
    return tuple(unique), counts.astype(np.int64)


def _refuse_patients_as_header(headers: Sequence[str], cells: Sequence[Collection[str]], name: str) -> None:
    """Raise a DataError if the first line is a patient: a number, a date, or a cell that its column has, too."""
    for header, distinct in zip(headers, cells, strict=True):
        is_number = any(FileFormat(decimal=mark).number(header) is not None for mark in ".,")
        is_date = any(date_pattern(date_format).fullmatch(header.lower()) for date_format in DATE_FORMATS)
        if is_number or is_date or (header and normal_cell(header) in distinct):
            raise DataError(
                f"{name}: has no header: its first line looks like a patient; add a first line with column names"
            )
