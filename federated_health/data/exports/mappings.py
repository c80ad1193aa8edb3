"""Applies a mapping file: a hospital's export, under its own headers and codes, becomes a task's columns.

Nothing is applied that the mapping does not state. A cell that it does not cover becomes an invalid cell, and no error
holds a cell of the export.
"""

import re
from collections.abc import Mapping as Table
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.columns import Column, Label, Measurement
from federated_health.data.csv_reading import (
    MISSING_MARKS,
    CheckedCells,
    Dialect,
    Positions,
    check_cells,
    distinct_cells,
)
from federated_health.data.exports.mapping_files import parse_mapping
from federated_health.data.exports.mapping_rules import (
    ColumnMapping,
    DatePair,
    FileFormat,
    HeaderCell,
    MappingFile,
    date_pattern,
    normal_cell,
    normal_header,
)
from federated_health.data.patient_ids import PATIENT_RULE
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import read_content
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN

Days = npt.NDArray[np.datetime64]

INVALID = "not allowed"
"""Cell of a mapped table that stands for a cell which the mapping does not allow."""

OTHER_DECIMAL = "not allowed: its decimal mark"
"""The same for a number with another decimal mark than the mapping's."""


def read_mapping(path: Path, task: Task) -> "Mapping":
    """Read and check a mapping file; a DataError, with its line, if it is not a valid mapping for the task."""
    content = read_content(path)
    return Mapping(path, sha256(content).hexdigest(), task, parse_mapping(content, str(path), task))


def read_cells(path: Path, task: Task, mapping: Path, columns: Sequence[Column]) -> CheckedCells:
    """Cells of an export under the task's column names, checked; see `Mapping.apply` for the errors."""
    applied = read_mapping(mapping, task)
    patient = task.patient if task.label in columns else None  # new patients need none
    return replace(check_cells(applied.read(path, columns), columns, patient=patient), mapping=applied)


def read_export(path: Path, task: Task, mapping: Path) -> tuple[pd.DataFrame, pd.DataFrame, FileFormat]:
    """An export without labels as it is, float64 columns of the task, NaN for missing, and how the export is written.

    Raises:
        DataError: a cell is invalid; see also `Mapping.apply`.
    """
    applied = read_mapping(mapping, task)
    export = applied.read_export(path)
    cells = check_cells(applied.apply(export, path, task.columns), task.columns)
    if error := csv_reading.find_invalid_cell(path, task.columns, replace(cells, mapping=applied)):
        raise error
    return export, cells.numbers, applied.content.format


@dataclass(frozen=True, eq=False)
class Mapping:
    """A checked mapping file, ready to be applied to exports.

    Attributes:
        sha256: hash of the file, in hex.
    """

    path: Path
    sha256: str
    task: Task
    content: MappingFile

    def read(self, path: Path, columns: Sequence[Column] | None = None) -> pd.DataFrame:
        """An export as a text table under the task's own column names; see `apply`."""
        return self.apply(self.read_export(path), path, columns)

    def read_export(self, path: Path) -> pd.DataFrame:
        """An export as it is: a text table under its own headers.

        Raises:
            DataError: the file is not a table of the stated format.
            MissingLibraryError: the library that reads such a file is not installed.
        """
        file = self.content.format
        if csv_reading.is_table_file(path):
            from federated_health.data.exports.table_files import read_table_file  # noqa: PLC0415  # exports in CSV need none

            return read_table_file(path, sheet=file.sheet, decimal=file.decimal)
        dialect = Dialect(separator=file.separator, encoding=file.encoding, quote=file.quote, is_mapped=True)
        return csv_reading.parse_csv(csv_reading.read_bytes(path), str(path), dialect=dialect)

    def apply(self, export: pd.DataFrame, path: Path, columns: Sequence[Column] | None = None) -> pd.DataFrame:
        """The task's columns of an export, and those of patients and hospitals if the mapping states them.

        Args:
            export: text table under the export's headers; a header may occur more than once.
            path: the export, for errors.
            columns: those of the task to make; by default all, and the label, with which those of patients and
                hospitals come.

        Returns:
            A categorical text table: codes and numbers as the task writes them, "" for missing, INVALID for a cell that
            the mapping does not allow.

        Raises:
            DataError: the export lacks a column that the mapping names, or has no rows.
        """
        columns = self.task.labelled_columns if columns is None else columns
        if export.empty:
            raise DataError(f"{path}: has no patients, only a header", reason="its file has no patients")
        made: dict[str, Column | None] = {column.name: column for column in columns}
        if self.task.label in columns:
            made |= {name: None for name in self.content.columns if name in (self.task.patient, HOSPITAL_COLUMN)}
        headers = _Headers(export, path, self)
        return pd.DataFrame(
            {
                name: _Application(self.content.format, self.content.columns[name], headers, name).cells(column)
                for name, column in made.items()
            }
        )

    def title(self, name: str) -> str:
        """A column for messages: its header in the export, and its name in the task."""
        headers = " to ".join(header.name for header in self.content.columns[name].headers)
        return f"{headers} ({name})" if headers not in ("", name) else name

    def rule(self, name: str) -> str:
        """What a cell of the export may hold, for messages."""
        column = next((column for column in self.task.labelled_columns if column.name == name), None)
        if column is None:
            return PATIENT_RULE
        mapping = self.content.columns[name]
        if mapping.codes is not None:
            cells = ", ".join(cell or "empty" for cell in mapping.codes)
            return f"one of {cells}" + ("" if isinstance(column, Label) else ", or a missing-value marker")
        if mapping.dates is not None:
            formats = " and ".join(dict.fromkeys((mapping.dates.start_format, mapping.dates.end_format)))
            return f"dates as {formats}, with {column.rule} between them"
        if mapping.unit:
            return f"{column.rule}, when converted from {mapping.unit}"
        if (mapping.factor, mapping.offset) != (1, 0):
            return f"{column.rule}, when converted (times {mapping.factor:g} plus {mapping.offset:g})"
        return column.rule

    def describe_first_invalid(self, name: str, invalid: "pd.Series[bool]", cells: "pd.Series[str]") -> str:
        """Column and row (1 is the first below the header) of an invalid cell, and its rule, in the export's terms.

        Args:
            cells: the column as `apply` made it.
        """
        position, got = int(invalid.to_numpy().argmax()), ""
        if cells.iloc[position] == OTHER_DECIMAL:
            got = f"; got another decimal mark than {self.content.format.decimal!r}: correct the mapping's decimal"
        return f"column {self.title(name)}, row {position + 1}: expected {self.rule(name)}{got}"

    def describe_columns(self) -> list[str]:
        """What becomes of the export's columns, one line per column of the task."""
        lines = []
        for name, column in self.content.columns.items():
            parts = [f"in {column.dates.unit}"] if column.dates else []
            parts += [f"from {column.unit}"] if column.unit else []
            if not column.unit and (column.factor, column.offset) != (1, 0):
                parts.append(f"times {column.factor:g} plus {column.offset:g}")
            parts += [f"{cell or 'empty'} -> {code or 'missing'}" for cell, code in (column.codes or {}).items()]
            origin = " to ".join(header.name for header in column.headers) or "not in the export"
            lines.append(f"{name}: {origin}" + (f" ({', '.join(parts)})" if parts else ""))
        return lines

    def describe(self) -> str:
        """The file, its hash and what it maps, in one line, for a log or a manifest."""
        absent = [name for name, mapping in self.content.columns.items() if mapping.is_absent]
        number = len(self.content.columns) - len(absent)
        lacking = f"; not in the export: {', '.join(absent)}" if absent else ""
        return f"mapping {self.path.name} (SHA-256 {self.sha256}) applied to {number} columns{lacking}"


class _Headers:
    """The columns of an export by their headers."""

    def __init__(self, export: pd.DataFrame, path: Path, mapping: Mapping) -> None:
        self._export, self._path, self._mapping = export, path, mapping
        self._names = [normal_header(str(name)) for name in export.columns]

    def __len__(self) -> int:
        return len(self._export)

    def cells(self, header: HeaderCell, name: str) -> "pd.Series[str]":
        """The cells below a header, which the mapping names for a column of the task."""
        positions = [position for position, found in enumerate(self._names) if found == header.name]
        number = header.occurrence or 1
        if len(positions) < number:
            raise self._error_about(header, name, len(positions))
        if header.occurrence is None and len(positions) > 1:
            raise DataError(
                f"{self._path}: has the column {header.name} {len(positions)} times; state in {self._mapping.path} "
                f'which of them is {name}: {{ name = "{header.name}", occurrence = 1 }}',
                reason=f"its column {name} is ambiguous",
            )
        return self._export.iloc[:, positions[number - 1]]

    def _error_about(self, header: HeaderCell, name: str, times: int) -> DataError:
        from federated_health.data import reading_errors  # noqa: PLC0415  # a table that can be read does not need it

        known = [header.name for column in self._mapping.content.columns.values() for header in column.headers]
        got = reading_errors.describe_header(self._export.set_axis(self._names, axis="columns"), known)
        hint = reading_errors.case_hint(self._names, [header.name]) if not times else ""
        often = f" {header.occurrence} times" if times else ""
        return DataError(
            f"{self._path}: lacks the column {header.name}{often}, which {self._mapping.path} names for {name}; its "
            f"header is: {got}{hint}",
            reason=f"its file lacks the column {name}",
        )


class _Application:
    """Makes one column of the task from the columns of an export."""

    def __init__(self, file: FileFormat, mapping: ColumnMapping, headers: _Headers, name: str) -> None:
        self._file, self._mapping, self._headers, self._name = file, mapping, headers, name
        # A code table states all words: "none" may be a code rather than a missing-value marker.
        self._marks = file.missing | mapping.missing | (MISSING_MARKS if mapping.codes is None else {""})
        self._mark_numbers = {number for mark in self._marks if (number := file.number(mark)) is not None}

    def cells(self, column: Column | None) -> pd.Categorical:
        """The column's cells as the task writes them; trimmed, as they are, if the task declares no rule for them."""
        mapping = self._mapping
        if mapping.dates is not None:
            return self._durations(mapping.dates)
        if mapping.source is None:
            return _categorical(np.zeros(len(self._headers), dtype=np.intp), [""])
        cells = self._headers.cells(mapping.source, self._name)
        if column is None:
            rows, distinct = pd.factorize(cells)
            names = [str(cell).strip() for cell in distinct]
            return _categorical(rows, ["" if self._is_missing(normal_cell(name)) else name for name in names])
        positions, normal = _distinct_normal(cells)
        if mapping.codes is not None:
            return _categorical(positions, self._recode(normal, mapping.codes))
        numbers = [self._plain_number(cell) for cell in normal]
        zero_stays = isinstance(column, Measurement) and column.zero_is_missing
        return _categorical(positions, self._convert(numbers, zero_stays=zero_stays))

    def _recode(self, cells: list[str], codes: Table[str, str]) -> list[str]:
        """Codes of cells by the code table, which has priority over the file's missing-value markers."""
        by_number = {number: code for cell, code in codes.items() if (number := self._file.number(cell)) is not None}
        recoded = []
        for cell in cells:
            code = codes.get(cell)
            if code is None and (number := self._file.number(cell)) is not None:
                code = by_number.get(number)
            if code is None:
                code = "" if self._is_missing(cell) else INVALID
            recoded.append(code)
        return recoded

    def _plain_number(self, cell: str) -> str:
        """A cell's number with a decimal point, "" for missing, or INVALID or OTHER_DECIMAL."""
        if cell in self._marks:
            return ""
        number = self._file.plain_number(cell)
        if number is None:
            return OTHER_DECIMAL if re.fullmatch(r"[+-]?\d+[.,]\d+", cell) else INVALID
        return "" if self._mark_numbers and float(number) in self._mark_numbers else number

    def _is_missing(self, cell: str) -> bool:
        if cell in self._marks:
            return True
        return bool(self._mark_numbers) and self._file.number(cell) in self._mark_numbers

    def _convert(self, cells: list[str], *, zero_stays: bool = False) -> list[str]:
        """Numbers in the task's unit; with `zero_stays`, a 0 remains one, since the task reads it as missing."""
        factor, offset = self._mapping.factor, self._mapping.offset
        if (factor, offset) == (1, 0):
            return cells

        def convert(cell: str) -> str:
            if cell in ("", INVALID, OTHER_DECIMAL) or (zero_stays and float(cell) == 0):
                return cell
            return repr(float(cell) * factor + offset)

        return [convert(cell) for cell in cells]

    def _durations(self, dates: DatePair) -> pd.Categorical:
        """Time from one date to the other; missing if a date is missing, INVALID if one is not a date in its format."""
        start, start_invalid = self._dates(dates.start, dates.start_format)
        end, end_invalid = self._dates(dates.end, dates.end_format)
        invalid = start_invalid | end_invalid
        count = completed_years if dates.unit == "years" else whole_days
        positions, distinct = pd.factorize(np.where(invalid, np.inf, count(start, end)), use_na_sentinel=False)
        texts = ["" if np.isnan(number) else INVALID if np.isinf(number) else f"{number:.0f}" for number in distinct]
        return _categorical(positions, self._convert(texts))

    def _dates(self, header: HeaderCell, date_format: str) -> tuple[Days, npt.NDArray[np.bool_]]:
        """Day of each row, NaT if it is missing or not a date, and where it is not a date."""
        positions, cells = _distinct_normal(self._headers.cells(header, self._name))
        missing = np.array([cell in self._marks for cell in cells])
        days = parse_dates(cells, date_format)
        days[missing] = np.datetime64("NaT")
        return days[positions], (np.isnat(days) & ~missing)[positions]


def parse_dates(cells: Sequence[str], date_format: str) -> Days:
    """Day of each cell, which is in lower case; NaT if it is not a date in the format. The time of day is dropped."""
    pattern = date_pattern(date_format)
    written = pd.Series([cell if pattern.fullmatch(cell) else None for cell in cells], dtype=object)
    lower = re.sub("%.|.", lambda part: part[0] if part[0][0] == "%" else part[0].lower(), date_format)
    parsed = pd.to_datetime(written, format=lower, errors="coerce")
    return parsed.to_numpy().astype("datetime64[D]")


def completed_years(start: Days, end: Days) -> npt.NDArray[np.float64]:
    """Completed years between days, as an age is counted; NaN where a day is NaT. A birthday on 29 February is reached
    on 1 March in other years.
    """
    years = _number(end, "Y") - _number(start, "Y")
    return years - (_day_of_year(end) < _day_of_year(start))


def whole_days(start: Days, end: Days) -> npt.NDArray[np.float64]:
    """Whole days between days; NaN where a day is NaT."""
    return _number(end, "D") - _number(start, "D")


def _day_of_year(days: Days) -> npt.NDArray[np.float64]:
    """A number that grows with the month and the day: 131 for 31 January, 1231 for 31 December."""
    months = _number(days, "M") - 12 * _number(days, "Y")
    first = days.astype("datetime64[M]").astype("datetime64[D]")
    return 100 * months + _number(days, "D") - _number(first, "D")


def _number(days: Days, unit: str) -> npt.NDArray[np.float64]:
    """Years, months or days since 1970; NaN for NaT."""
    counted = days.astype(f"datetime64[{unit}]")
    return np.where(np.isnat(counted), np.nan, counted.astype(np.int64))


def _distinct_normal(cells: "pd.Series[str]") -> tuple[Positions, list[str]]:
    """Position of each row's cell among the distinct cells, and these as they are compared."""
    positions, distinct = distinct_cells(cells)
    return positions, [cell if cell.isascii() else normal_cell(cell) for cell in distinct]


def _categorical(positions: Positions, cells: list[str]) -> pd.Categorical:
    """A text column from the position of each row's cell among cells, of which some may be equal."""
    codes, categories = pd.factorize(np.array(cells, dtype=object))
    return pd.Categorical.from_codes(codes[positions], pd.Index(categories, dtype=str))
