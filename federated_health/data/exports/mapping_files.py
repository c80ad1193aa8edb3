"""Parses mapping files: TOML files that declare how a hospital's export writes the columns of a task.

`docs/own-data.md` explains every key. An error names the file and the line. `mappings` applies what is declared here.
"""

from collections.abc import Mapping
from typing import Any

from federated_health.data.columns import Category, Column, Label, Measurement
from federated_health.data.exports.mapping_rules import (
    DATE_UNITS,
    MISSING,
    THOUSANDS,
    ColumnMapping,
    DatePair,
    FileFormat,
    HeaderCell,
    MappingFile,
    is_date_format,
    normal_cell,
    normal_header,
)
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_files import normal_unit
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import TomlTable, is_number, is_text, read_toml
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN


def parse_mapping(content: bytes, file: str, task: Task) -> MappingFile:
    """What a mapping file states about the task.

    Args:
        file: name of the file, for errors.

    Raises:
        DataError: the content is not a valid mapping of the task's columns.
    """
    top = read_toml(content, file)
    expected = f'"{task.name}", the task of this command (--task or --task-file names another one)'
    top.take("task", expected, lambda value: value == task.name)
    format_table = top.find_table("file")
    file_format = FileFormat() if format_table is None else _take_format(format_table)
    tables = top.take_table("columns")
    declared: dict[str, Column | None] = {column.name: column for column in task.labelled_columns}
    required = [*declared]
    if task.patient is not None:
        declared[task.patient] = None
        required.append(task.patient)
    declared.setdefault(HOSPITAL_COLUMN, None)
    names = tables.names()
    for name in names:
        if name not in declared:
            raise tables.error(f"is not a column of the task {task.name}: expected one of {', '.join(declared)}", name)
    columns = {name: _ColumnReader(tables, name, declared[name], file_format).read() for name in names}
    if lacking := [name for name in required if name not in names]:
        raise DataError(
            f"{file}, line {_last_line(content)}: ends without {_list_columns(lacking)}: expected a table each, with "
            "the export's column, or absent = true if the export does not have it"
        )
    label_places = _places_of(columns[task.label.name])
    for name in names:
        if name != task.label.name and label_places & _places_of(columns[name]):
            raise tables.error("the export's column is that of the label, which a model must not know", name)
    top.end("task, file, columns")
    return MappingFile(file_format, columns)


def _places_of(column: ColumnMapping) -> set[tuple[str, int]]:
    """The export's columns that become a column of the task: header, and which of the columns with it."""
    return {(header.name, header.occurrence or 1) for header in column.headers}


def _last_line(content: bytes) -> int:
    return max(1, len(content.splitlines()))


def _list_columns(names: list[str]) -> str:
    return ", ".join(f"[columns.{name}]" for name in names)


def _take_format(table: TomlTable) -> FileFormat:
    separator = table.take("separator", 'one character, such as ";" or "\\t"', _is_character, FileFormat.separator)
    quote = table.take(
        "quote",
        "one character, such as '\"', or empty for none",
        lambda v: v == "" or _is_character(v),
        FileFormat.quote,
    )
    if quote == separator:
        raise table.error("expected another character than the separator", "quote")
    encoding = table.take("encoding", 'an encoding such as "utf-8" or "cp1252"', _is_encoding, FileFormat.encoding)
    decimal = table.take("decimal", '"." or ","', lambda value: value in (".", ","), FileFormat.decimal)
    thousands = table.take(
        "thousands",
        f"one of {' '.join(THOUSANDS[:-1])} or a space, and not the decimal mark {decimal}",
        lambda value: value in THOUSANDS and value != decimal,
        FileFormat.thousands,
    )
    missing = _take_marks(table)
    date_format = table.take("date_format", _DATE_FORMAT, is_date_format, "")
    sheet = table.take("sheet", "the name of a sheet", is_text, "")
    table.end("separator, quote, encoding, decimal, thousands, missing, date_format, sheet")
    return FileFormat(
        separator=separator,
        quote=quote,
        encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding,
        decimal=decimal,
        thousands=thousands,
        missing=missing,
        date_format=date_format,
        sheet=sheet,
    )


_MARKS = 'texts in quotes, such as ["k.A.", "-99"]'
_DATE_FORMAT = 'a date format with %Y, a month and %d, such as "%d.%m.%Y"'
_HEADER = 'a header of the export in quotes, or { name = "...", occurrence = 2 } if several columns have it'


class _ColumnReader:
    """Reads the table [columns.NAME] of one column of the task.

    Args:
        column: the task's declaration; None for a column of names, such as the patients'.
    """

    def __init__(self, tables: TomlTable, name: str, column: Column | None, file_format: FileFormat) -> None:
        table = tables.take_table(name)
        self._table, self._column, self._format = table, column, file_format

    def read(self) -> ColumnMapping:
        known = self._known_keys()
        given = self._table.names()
        if unknown := [key for key in given if key not in known]:
            raise self._table.error(f"unknown key; known for this column are: {', '.join(known)}", unknown[0])
        if "absent" in given:
            return self._read_absent(given)
        if "from" in given or "to" in given:
            return self._read_dates()
        source = self._take_header("column")
        missing = self._take_missing()
        if isinstance(self._column, Measurement | NumberLabel):
            unit, factor, offset = self._take_conversion(self._column)
            return ColumnMapping(source=source, missing=missing, unit=unit, factor=factor, offset=offset)
        codes = self._take_codes(missing)
        return ColumnMapping(source=source, missing=missing, codes=codes)

    def _known_keys(self) -> tuple[str, ...]:
        quantity = ("column", "from", "to", "from_format", "to_format", "unit", "factor", "offset")
        match self._column:
            case Measurement():
                return (*quantity, "missing", "absent")
            case Category():
                return ("column", "codes", "missing", "absent")
            case NumberLabel():
                return quantity
            case CountLabel():
                return ("column",)
            case Label():
                return ("column", "codes")
            case _:
                return ("column",)

    def _read_absent(self, given: list[str]) -> ColumnMapping:
        self._table.take("absent", "true, if the export does not have this column", lambda value: value is True)
        if others := [key for key in given if key != "absent"]:
            raise self._table.error("expected no other key beside absent = true", others[0])
        return ColumnMapping()

    def _take_header(self, key: str) -> HeaderCell:
        value = self._table.take(key, _HEADER, _is_header)
        if isinstance(value, str):
            return HeaderCell(normal_header(value))
        return HeaderCell(normal_header(value["name"]), value["occurrence"])

    def _take_missing(self) -> frozenset[str]:
        if isinstance(self._column, Measurement | Category):
            return _take_marks(self._table)
        return frozenset()

    def _take_conversion(self, column: Measurement | NumberLabel) -> tuple[str, float, float]:
        """Unit of the export, factor and offset."""
        given = self._table.names()
        if "unit" in given and ("factor" in given or "offset" in given):
            raise self._table.error("expected either unit, or factor and offset", "unit")
        units = _known_units(column)
        expected = f"a unit of the task: {', '.join(units)}; for another unit, write factor and offset"
        is_known = lambda value: isinstance(value, str) and normal_unit(value) in units  # noqa: E731
        unit = normal_unit(self._table.take("unit", expected, is_known, column.unit))
        factor, offset = self._take_factor(*units[unit])
        return ("" if unit == column.unit else unit), factor, offset

    def _take_factor(self, factor: float, offset: float) -> tuple[float, float]:
        is_factor = lambda value: is_number(value) and value != 0  # noqa: E731
        return (
            self._table.take("factor", "a number other than 0", is_factor, factor),
            self._table.take("offset", "a number", is_number, offset),
        )

    def _read_dates(self) -> ColumnMapping:
        column = self._column
        assert isinstance(column, Measurement | NumberLabel)
        if "column" in self._table.names():
            raise self._table.error("expected either column, or from and to", "column")
        start, end = self._take_header("from"), self._take_header("to")
        formats = []
        for key in ("from_format", "to_format"):
            if key not in self._table.names() and not self._format.date_format:
                raise self._table.error(f"expected {key}, or date_format in [file]: {_DATE_FORMAT}")
            formats.append(self._table.take(key, _DATE_FORMAT, is_date_format, self._format.date_format))
        missing = self._take_missing()
        unit = self._table.take("unit", f"one of {', '.join(DATE_UNITS)}", lambda value: value in DATE_UNITS)
        units = _known_units(column)
        given = self._table.names()
        if unit not in units and "factor" not in given:
            raise self._table.error(f"the task's unit is {column.unit}: expected a factor from {unit}", "unit")
        factor, offset = self._take_factor(*((1.0, 0.0) if "factor" in given else units[unit]))
        return ColumnMapping(
            dates=DatePair(start, end, formats[0], formats[1], unit), missing=missing, factor=factor, offset=offset
        )

    def _take_codes(self, missing: frozenset[str]) -> dict[str, str] | None:
        """Code table; required for a label of classes, of which a binary one must state what means 1 and what 0."""
        column, is_label = self._column, isinstance(self._column, Label)
        if column is None or isinstance(column, CountLabel):
            return None
        declared = column.codes if isinstance(column, Category | ClassLabel) else {}
        if "codes" not in self._table.names():
            if isinstance(column, ClassLabel):
                raise self._table.error(f"lacks codes: expected each cell and its code, such as {_example(column)}")
            if is_label:
                raise self._table.error(
                    'lacks codes: expected the cells that mean 1 and 0, such as { "yes" = 1, "no" = 0 }'
                )
            return None
        table = self._table.take_table("codes")
        allowed = [*declared] or [0, 1]
        meanings = [f"{code} ({text})" for code, text in declared.items()] or "01"
        expected = f"one of {', '.join(meanings)}" + ("" if is_label else f', or "{MISSING}"')
        is_code = lambda value: (type(value) is int and value in allowed) or (value == MISSING and not is_label)  # noqa: E731
        codes: dict[str, str] = {}
        numbers: dict[float, str] = {}
        for key in table.names():
            value = table.take(key, expected, is_code)
            cell, code = normal_cell(key), "" if value == MISSING else str(value)
            number = self._format.number(cell)
            known = codes.get(cell, code) if number is None else numbers.setdefault(number, code)
            if known != code:
                raise table.error("ambiguous: the same cell also has another code (case does not matter)", key)
            if cell in missing and code:
                raise table.error("ambiguous: the cell is also in this column's missing", key)
            codes[cell] = code
        if is_label and not declared and set(codes.values()) != {"0", "1"}:
            raise self._table.error("expected at least one cell that means 1 and one that means 0", "codes")
        if not codes:
            raise self._table.error("expected at least one cell and its code", "codes")
        return codes


def _known_units(column: Measurement | NumberLabel) -> Mapping[str, tuple[float, float]]:
    return column.known_units if isinstance(column, Measurement) else {column.unit: (1.0, 0.0)}


def _example(label: ClassLabel) -> str:
    codes = ", ".join(f'"{text}" = {code}' for code, text in label.codes.items())
    return f"{{ {codes} }}"


def _is_character(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1 and (value.isprintable() or value == "\t") and value != "?"


def _is_encoding(value: object) -> bool:
    try:
        return isinstance(value, str) and "a".encode(value) is not None
    except (LookupError, UnicodeError, ValueError):
        return False


def _take_marks(table: TomlTable) -> frozenset[str]:
    """Missing-value markers, as `normal_cell` writes them; a single one needs no brackets."""
    marks = table.take("missing", _MARKS, _are_marks, [])
    return frozenset(map(normal_cell, [marks] if isinstance(marks, str) else marks))


def _are_marks(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(mark, str) for mark in value))


def _is_header(value: Any) -> bool:
    if isinstance(value, dict):
        return set(value) == {"name", "occurrence"} and is_text(value["name"]) and _is_count(value["occurrence"])
    return is_text(value)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1
