"""Explains why a file is not the table that a task needs, and how to fix it; loaded only if a file is rejected.

No message holds a value of a patient.
"""

import codecs
import csv
import io
import re
import shlex
import zipfile
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from federated_health.data.columns import Column
from federated_health.data.csv_reading import (
    COMMAS,
    MISSING_MARKS,
    CheckedCells,
    Dialect,
    distinct_cells,
    file_error,
    is_number,
    is_table_file,
    read_bytes,
)
from federated_health.data.patient_ids import PATIENT_RULE
from federated_health.data.task_files import READMISSION_30D, TASKS
from federated_health.data.tasks import Task
from federated_health.errors import DataError

SAVE_AS_CSV = "; open it and save it as CSV UTF-8 (comma separated)"
EXPORT_AS_CSV = "; export the table as CSV UTF-8 (comma separated)"
DECOMPRESS, EXTRACT = "; decompress it first", "; extract the file from it first"

SIGNATURES = {
    b"\xd0\xcf\x11\xe0": ("is an Excel workbook (xls)", SAVE_AS_CSV),
    b"%PDF": ("is a PDF document", EXPORT_AS_CSV),
    b"{\\rtf": ("is a text document (RTF)", EXPORT_AS_CSV),
    b"PAR1": ("is a Parquet file", "; rename it to end in .parquet"),
    b"$FL2": ("is an SPSS file", EXPORT_AS_CSV),
    b"$FL3": ("is an SPSS file", EXPORT_AS_CSV),
    b"<stata_dta>": ("is a Stata file", EXPORT_AS_CSV),
    b"HEADER RECORD*": ("is a SAS transport file", EXPORT_AS_CSV),
    b"SQLite format 3": ("is an SQLite database", EXPORT_AS_CSV),
    b"BZh": ("is compressed with bzip2", DECOMPRESS),
    b"\xfd7zXZ": ("is compressed with xz", DECOMPRESS),
    b"\x28\xb5\x2f\xfd": ("is compressed with Zstandard", DECOMPRESS),
    b"7z\xbc\xaf": ("is a 7z archive", EXTRACT),
    b"Rar!": ("is a RAR archive", EXTRACT),
}
"""First bytes of a file that is not a text table -> what it is, and the fix."""

TEXT_KINDS = {
    r"<!doctype html|<html|<head|<body|<table": ("is an HTML page", SAVE_AS_CSV),
    r"<\?xml": ("is an XML file", EXPORT_AS_CSV),
    r'[\[{]\s*["{\[\]}]': ("is a JSON file", EXPORT_AS_CSV),
    r"(%.*\s*)*@relation\b": (
        "is an ARFF file",
        "; replace its lines up to @data by one line with the names of its attributes, separated by commas",
    ),
}
"""Pattern of the beginning of a text that is not a table -> what it is, and the fix."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "spaces"}

SAMPLE_LINES, SAMPLE_CHARACTERS = 50, 2**20
"""Beginning of a file from which its separator and its header are recognised."""

SAMPLE_BYTES = 256
"""Beginning of the member of an OpenDocument file that names its kind."""

WIDE_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def explain(content: bytes, name: str, dialect: Dialect, error: Exception, task: Task | None) -> DataError:
    """The likely cause of an error in parsing a file, for its user; the error itself if there is no better one."""
    if cause := find_cause(content, name, dialect, task):
        return cause
    if isinstance(error, DataError):
        return error
    return file_error(name, "is not a well-formed CSV", ": a quote is not closed or misplaced, or a cell is too long")


def find_cause(content: bytes, name: str, dialect: Dialect, task: Task | None) -> DataError | None:
    """Why a file is not a table in this dialect, as far as its content shows."""
    if kind := _kind_of_bytes(content):
        return file_error(name, *kind)
    is_default = dialect.encoding == COMMAS.encoding
    problem = f"is not {'UTF-8' if is_default else dialect.encoding} text"
    fix = "; correct the mapping's encoding, or use the mapping of this export"
    if not dialect.is_mapped:
        fix = f"; save it as CSV UTF-8, or {_mapping_hint(name, task)}"
    if is_default and (encoding := _wide_encoding(content)):
        return file_error(name, problem, f", but {encoding}{fix}")
    if is_default and b"\0" in content:
        return file_error(name, "is not a text file", EXPORT_AS_CSV)
    try:
        text = content.decode(dialect.encoding).removeprefix("\ufeff")
    except UnicodeError:
        return file_error(
            name, problem, f", but probably Windows-1252, Latin-1 or Mac Roman{fix}" if is_default else fix
        )
    for pattern, kind in TEXT_KINDS.items():
        if re.match(rf"\s*({pattern})", text, re.IGNORECASE):
            return file_error(name, *kind)
    if task and (line := _find_header(text, task.column_names, dialect)) > 1:
        return file_error(name, "does not begin with its header", f": it is in line {line}; delete the lines above it")
    return _cause_in_lines(text, name, dialect, task)


def _kind_of_bytes(content: bytes) -> tuple[str, str] | None:
    """What kind of binary file it is, and the fix; None for a text file."""
    if not content.startswith(b"PK\x03\x04"):
        return next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.namelist()
            kind = archive.open("mimetype").read(SAMPLE_BYTES) if "mimetype" in members else b""
    except Exception:  # `zipfile` raises many types
        return "is a damaged zip archive or workbook", ""
    if any(member.startswith("xl/workbook") for member in members):
        return "is an Excel workbook (xlsx)", "; rename it to end in .xlsx"
    if b"opendocument" in kind:
        return "is an OpenDocument file (ods)", SAVE_AS_CSV
    return "is a zip archive", EXTRACT


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, if a file is encoded so."""
    for mark, encoding in WIDE_ENCODINGS.items():  # the mark of UTF-16 also begins that of UTF-32
        if content.startswith(mark):
            return encoding
    sample = content[:4096]
    return "UTF-16" if len(sample) > 1 and sample.count(0) > len(sample) / 3 else None


def _find_header(text: str, names: Collection[str], dialect: Dialect) -> int:
    """Number of the first line with all of these columns, from 1, if it is among the first lines; else 0."""
    lines = enumerate(islice(io.StringIO(text[:SAMPLE_CHARACTERS]), SAMPLE_LINES), start=1)
    cells = ((number, {cell.strip() for cell in _split(line, dialect.separator)}) for number, line in lines)
    return next((number for number, found in cells if set(names) <= found), 0)


def _cause_in_lines(text: str, name: str, dialect: Dialect, task: Task | None) -> DataError | None:
    """Why a text is not a table in this dialect: another separator, quoted lines, or rows that end with a separator."""
    lines = [
        line.rstrip("\r\n") for line in islice(io.StringIO(text[:SAMPLE_CHARACTERS]), SAMPLE_LINES) if line.strip()
    ]
    expected, mark = separator_name(dialect.separator), ""
    if lines and re.fullmatch(r'"?sep=(.)"?', lines[0]):
        mark, lines = " (its line sep= is Excel's)", lines[1:]
    if not lines:
        return None
    if separator := _other_separator(lines, dialect):
        problem, found = f"is not separated by {expected}", f", but by {separator_name(separator)}{mark}"
        cells = _split(lines[0], separator)
        if 2 * sum(map(is_number, cells)) >= len(cells):
            fix = f"; separate its cells by {expected} and add a first line with the column names"
            return file_error(name, problem, f"{found}, and it has no header{fix}")
        if separator == " ":
            return file_error(name, problem, f"{found}; separate its cells by {expected}")
        fix = f"; save it as CSV UTF-8 (comma separated), or {_mapping_hint(name, task)}"
        if dialect.is_mapped:
            fix = "; correct the mapping's separator, or use the mapping of this export"
        return file_error(name, problem, found + fix)
    rows = _parse_sample(lines, dialect)
    width = len(rows[0])
    if width == 1 and dialect.separator in rows[0][0]:
        if len(rows) > 1 and all(len(row) == 1 for row in rows):
            return file_error(name, "has each line in quotes, as one cell", "; remove the quotes around the lines")
        return file_error(name, "has its header in quotes, as one cell", "; remove the quotes around the first line")
    if len(rows) > 1 and all(len(row) > width and not any(row[width:]) for row in rows[1:]):
        extra = dialect.separator * (len(rows[1]) - width)
        fix = f": expected {width} cells per row, got {len(rows[1])}; also end the first line with {extra!r}"
        return file_error(name, f"has {expected} at the end of its rows, but not of its header", fix)
    return None


def _other_separator(lines: Sequence[str], dialect: Dialect) -> str | None:
    """The character that splits all lines into the same number of cells, more than the dialect's own does.

    A first line of one cell is enough: then the character that splits it into the most cells.
    """
    own = len(_split(lines[0], dialect.separator))
    widths = {
        separator: {len(_split(line, separator)) for line in lines}
        for separator in SEPARATORS
        if separator != dialect.separator and (separator != " " or own == 1)  # names may hold spaces
    }
    found = {separator: min(width) for separator, width in widths.items() if len(width) == 1 and min(width) > own}
    if own == 1 and not found:
        found = {separator: len(_split(lines[0], separator)) for separator in SEPARATORS if separator in lines[0]}
        found = {separator: width for separator, width in found.items() if width > 1 and separator in ";\t|,"}
    return max(found, key=lambda separator: found[separator], default=None)


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return line.split()
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # a cell is too long
        return line.split(separator)


def _parse_sample(lines: Sequence[str], dialect: Dialect) -> list[list[str]]:
    """Rows in the first lines, before the first one that cannot be parsed; at least one."""
    reader = csv.reader(lines, delimiter=dialect.separator, quotechar=dialect.quote or None, strict=True)
    rows = list(_until_error(reader))
    return rows or [["", ""]]


def _until_error(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error:
        return


def missing_columns(path: Path, text: pd.DataFrame, names: Sequence[str], task: Task) -> DataError:
    """The error of a table without some of these columns of a task."""
    name = str(path)
    if not is_table_file(path) and (cause := find_cause(read_bytes(path), name, COMMAS, task)):
        return cause
    header = list(text.columns)
    missing = [column for column in names if column not in header]
    problem = f"lacks the {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}"
    hint = case_hint(header, missing)
    if layout := _layout_title(header, task):
        hint += f"; it looks like {layout}, which create_dataset.py --source reads"
    elif len([column for column in header if column and column not in names]) >= len(missing):
        hint += f"; if it has them under other names, {_mapping_hint(name, task)}"
    return file_error(name, problem, f"; its header is: {describe_header(text, names)}{hint}")


def _layout_title(header: Collection[str], task: Task) -> str | None:
    """Title of the known layout with this header."""
    from federated_health.data.sources.diabetes_stays import TITLE, looks_like_stays  # noqa: PLC0415  # as below
    from federated_health.data.sources.layouts import LAYOUTS  # noqa: PLC0415  # layouts are read with csv_reading

    if task is READMISSION_30D and looks_like_stays(header):
        return TITLE
    return next((layout.title for layout in LAYOUTS if layout.task is task and set(layout.header) <= set(header)), None)


def looks_like_patient(text: pd.DataFrame) -> bool:
    """Whether a first line that holds a number is a patient, rather than a header with a column such as 2024.

    A header has more names than numbers, names that differ, and no name that is also a cell below it.
    """
    header = list(text.columns)
    named = [name for name in header if name]
    if 2 * sum(map(is_number, header)) >= len(header) or len(set(named)) < len(named) or text.empty:
        return True
    return any(
        (distinct_cells(text.iloc[:, position])[1] == name.lower()).any()
        for position, name in enumerate(header)
        if name
    )


def case_hint(header: Collection[str], missing: Collection[str]) -> str:
    """Hint that names missing columns that a header has in another case; else empty."""
    lower = {name.lower(): name for name in header}
    found = [f"{lower[name.lower()]} is not {name}" for name in missing if name.lower() in lower]
    more = f", and {len(found) - 2} more" if len(found) > 2 else ""
    return f" (upper and lower case matter: {', '.join(found[:2])}{more})" if found else ""


def describe_header(text: pd.DataFrame, known: Collection[str]) -> str:
    """The header for a message, without anything that may be a patient's cell.

    A first line counts as a header if it has one of the known names, or if a name stands above a column of numbers.
    """
    names = [name for name in text.columns if looks_like_name(name)]
    has_known = {name.lower() for name in names} & {name.lower() for name in known}
    is_above_numbers = any(
        looks_like_name(name)
        and pd.to_numeric(distinct_cells(text.iloc[:, position])[1], errors="coerce").notna().any()
        for position, name in enumerate(text.columns)
    )
    if not has_known and not is_above_numbers:
        return "a first line that does not look like a header"
    others = len(text.columns) - len(names)
    return ", ".join([*names, *([f"and {others} more"] if others else [])])


def looks_like_name(name: str) -> bool:
    """Whether text in a header looks like a column name, rather than a patient's cell in a file without a header."""
    return re.fullmatch(r"(\d{1,2}[^\W\d]{2}|[^\W\d])[\w .%/-]{0,40}(\([^\d()]{1,20}\))?", name) is not None


def invalid_cell(path: Path | str, columns: Sequence[Column], cells: CheckedCells) -> DataError:
    """The error of a table with invalid cells, which names the first one; a column without a rule is of patients."""
    name = next(str(name) for name in cells.invalid if cells.invalid[name].any())
    rule = {column.name: column.rule for column in columns}.get(name, PATIENT_RULE)
    others = int(cells.invalid.to_numpy().sum()) - 1
    more = f" (and {others} more invalid {'cell' if others == 1 else 'cells'})" if others else ""
    if cells.mapping is None:
        first = describe_first_invalid(cells.text[name], cells.invalid[name], rule)
    else:
        first = cells.mapping.describe_first_invalid(name, cells.invalid[name], cells.text[name])
    return DataError(f"{path}: {first}{more}", reason=f"its column {name} holds a value that is not {rule}")


def describe_first_invalid(text: "pd.Series[str]", invalid: "pd.Series[bool]", rule: str) -> str:
    """Column and row (1 is the first below the header) of an invalid cell, its rule, and the kind of text it holds."""
    row = int(invalid.to_numpy().argmax())
    cell, got = text.iloc[row].strip(), ""
    if re.fullmatch(r"-?\d+,\d+", cell):
        got = "; got a decimal comma: numbers need a point"
    elif cell.lower() not in MISSING_MARKS and pd.isna(pd.to_numeric(cell, errors="coerce")):
        got = "; got text" if re.search(r"\d", rule) else ""  # a rule without digits expects text
    return f"column {text.name}, row {row + 1}: expected {rule}{got}"


def separator_name(separator: str) -> str:
    """A separator in words."""
    return SEPARATORS.get(separator, repr(separator))


def _mapping_hint(name: str, task: Task | None) -> str:
    """How to read a file with a mapping file."""
    flag = "--task TASK" if task is None else f"--task {task.name}" if task.name in TASKS else "--task-file FILE"
    command = f"python -m federated_health mapping draft {shlex.quote(name)} {flag} > mapping.toml"
    return f"draft a mapping file: {command}; complete it, and add --mapping mapping.toml"
