"""Reads CSV files strictly, turns their cells into numbers and checks these against the rules of the columns.

No error message holds a value of a patient.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Column, Mask, Measurement
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from federated_health.file_access import read_file

if TYPE_CHECKING:
    from federated_health.data.exports import mappings

Positions = npt.NDArray[np.integer[Any]]

MISSING_MARKS = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
"""Cells that mean "missing", in lower case."""

CHUNK_ROWS = 500
"""Rows that are held as lists of text at a time; few, for the processor's cache."""

MAX_FILE_BYTES = 2 * 2**30
"""Largest size of a text table."""

MAX_LINE_CHARACTERS = 2**20
"""Largest length of a line of a text table."""

MIN_DIFFERENT = 50_000
"""Smallest number of distinct cells from which a column of mostly different cells is held as plain text."""


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        separator: the character between cells.
        encoding: a codec of Python's; utf-8-sig is UTF-8 with or without a byte-order mark.
        quote: the character around cells that hold a separator; empty if there is none.
        is_mapped: whether a mapping file states it, which is then what to correct.
    """

    separator: str = ","
    encoding: str = "utf-8-sig"
    quote: str = '"'
    is_mapped: bool = False


COMMAS = Dialect()


@dataclass(frozen=True, eq=False)
class CheckedCells:
    """Cells of a table as numbers, and which of them break the rules of their columns.

    Attributes:
        text: the whole table.
        numbers: float64, one column each; NaN where a cell is missing or not a number.
        is_text: where a cell is neither a number nor a mark for missing.
        invalid: where a cell breaks the rule of its column; includes `is_text`.
        zeros: column -> rows with a 0 that means missing.
        patients: int64 [rows], equal for the rows of one patient; None if no column identifies patients. `invalid` has
            that column, too.
        mapping: the mapping that made the table, under whose names messages describe columns and cells.
    """

    text: pd.DataFrame
    numbers: pd.DataFrame
    is_text: pd.DataFrame
    invalid: pd.DataFrame
    zeros: Mapping[str, int]
    patients: npt.NDArray[np.int64] | None = None
    mapping: "mappings.Mapping | None" = None


def read_cells(path: Path, task: Task, *, labelled: bool = True, mapping: Path | None = None) -> CheckedCells:
    """Cells of a file; a DataError unless it has at least one patient and each of the task's columns once.

    The column that identifies patients is required where the label is.

    Args:
        labelled: whether the label is required; if so, it is the last of the columns.
        mapping: file that says how the table's columns and codes become the task's.
    """
    columns = task.labelled_columns if labelled else task.columns
    if mapping is not None:
        from federated_health.data.exports import mappings  # noqa: PLC0415  # most files need none

        return mappings.read_cells(path, task, mapping, columns)
    patient = task.patient if labelled else None
    names = [*(column.name for column in columns), *([patient] if patient else [])]
    text = read_table(path, task)
    if not set(names) <= set(text.columns):
        from federated_health.data import reading_errors  # noqa: PLC0415  # a table that can be read does not need it

        raise reading_errors.missing_columns(path, text, names, task)
    refuse_repeated_or_empty(str(path), text, names)
    return check_cells(text, columns, patient=patient)


def is_table_file(path: Path) -> bool:
    """Whether a file's name says that it is an Excel workbook or a Parquet file, rather than a text table."""
    return path.suffix.lower() in (".xlsx", ".parquet")


def read_table(path: Path, task: Task | None = None, dialect: Dialect = COMMAS) -> pd.DataFrame:
    """The table in a text file, which may be packed with gzip (see `parse_csv`), in a workbook or a Parquet file."""
    if is_table_file(path):
        from federated_health.data.exports.table_files import read_table_file  # noqa: PLC0415  # text tables need none

        return read_table_file(path)
    return parse_csv(read_bytes(path), str(path), dialect=dialect, task=task)


def read_bytes(path: Path) -> bytes:
    """Bytes of a file, unpacked if they are gzip; a DataError if it cannot be read."""
    try:
        content = read_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if content.startswith(b"\x1f\x8b"):
        from federated_health.data.gzip_files import unpack  # noqa: PLC0415  # most files are not packed

        return unpack(content, str(path))
    return content


def parse_csv(
    content: bytes,
    name: str,
    header: Sequence[str] | None = None,
    *,
    dialect: Dialect = COMMAS,
    task: Task | None = None,
) -> pd.DataFrame:
    """Parse a text table; every cell stays text.

    Columns are categorical, which takes little memory, or plain text where most cells are different.

    Blank lines, a byte-order mark and Excel's line `sep=,` are skipped.

    Args:
        name: name of the file in a DataError, which never quotes a row.
        header: column names, for a file without a header.
        task: the task that the table is for: a first line with one of its columns is a header, even if it also has
            numbers.
    """
    try:
        return _parse(content, name, header, dialect, task)
    except (DataError, UnicodeError, csv.Error) as error:
        from federated_health.data import reading_errors  # noqa: PLC0415  # a table that can be read does not need it

        raise reading_errors.explain(content, name, dialect, error, task) from None


def _parse(
    content: bytes, name: str, header: Sequence[str] | None, dialect: Dialect, task: Task | None
) -> pd.DataFrame:
    rows = _split_cells(content, name, dialect)
    is_first = header is None
    header = [column.strip() for column in (next(rows, []) if header is None else header)]
    if not header:
        raise file_error(name, "is empty")
    if len(header) == 1 and re.search("[,;\t|]", header[0]):
        raise file_error(name, "has one column only", f": it is not separated by {dialect.separator!r}")
    columns = _read_columns(rows, len(header), name)
    table = pd.DataFrame(dict(enumerate(columns)))
    table.columns = pd.Index(header, dtype=str)
    known = [column.name for column in task.labelled_columns] if task else []
    if is_first and any(map(is_number, header)) and set(known).isdisjoint(header):
        from federated_health.data.reading_errors import looks_like_patient  # noqa: PLC0415  # see `parse_csv`

        if looks_like_patient(table):
            problem = ": its first line holds numbers, not column names; add a first line with the column names"
            raise file_error(name, "has no header", problem)
    refuse_empty_rows(columns, name)
    return table


def _split_cells(content: bytes, name: str, dialect: Dialect) -> Iterator[list[str]]:
    """The rows of a text table, the header included."""
    lines = _split_lines(io.TextIOWrapper(io.BytesIO(content), dialect.encoding, newline=""), name)
    first = next(lines, "").removeprefix("\ufeff")
    if first.strip('"\r\n') != f"sep={dialect.separator}":
        lines = chain([first], lines)
    return filter(None, csv.reader(lines, delimiter=dialect.separator, quotechar=dialect.quote or None, strict=True))


def _split_lines(text: io.TextIOBase, name: str) -> Iterator[str]:
    while line := text.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise file_error(name, f"has a line of {MAX_LINE_CHARACTERS:,} characters or more")
        yield line


class _ColumnBuilder:
    """Collects the cells of a column; holds each distinct cell once, or every cell where most are different."""

    def __init__(self) -> None:
        self._numbers: defaultdict[str, int] = defaultdict(count().__next__)  # distinct cell -> its number
        self._codes = [np.empty(0, np.int32)]
        self._cells: list[str] | None = None

    def add(self, cells: Sequence[str], rows: int) -> None:
        """Append cells; `rows` is the number of rows with them."""
        if self._cells is not None:
            self._cells.extend(cells)
            return
        self._codes.append(np.fromiter(map(self._numbers.__getitem__, cells), np.int32, len(cells)))
        if len(self._numbers) > max(MIN_DIFFERENT, rows / 2):
            distinct = list(self._numbers)
            self._cells = [distinct[code] for code in np.concatenate(self._codes).tolist()]
            self._numbers.clear()
            self._codes.clear()

    def build(self) -> "pd.Series[Any]":
        """The column of all cells."""
        if self._cells is not None:
            return pd.Series(self._cells, dtype=str)
        distinct = pd.Index(list(self._numbers), dtype=str)
        return pd.Series(pd.Categorical.from_codes(np.concatenate(self._codes), distinct))


def _read_columns(rows: Iterator[list[str]], width: int, name: str) -> list["pd.Series[Any]"]:
    """The columns of a table whose rows have this width."""
    builders = [_ColumnBuilder() for _ in range(width)]
    total = 0
    while chunk := list(islice(rows, CHUNK_ROWS)):
        if set(map(len, chunk)) != {width}:
            row, got = next((row, len(cells)) for row, cells in enumerate(chunk, total + 1) if len(cells) != width)
            detail = f": in row {row}, expected {width} cells, got {got}"
            raise file_error(name, "has a row of the wrong length", detail)
        total += len(chunk)
        for builder, cells in zip(builders, zip(*chunk, strict=True), strict=True):
            builder.add(cells, total)
    return [builders.pop(0).build() for _ in range(width)]  # each builder's memory is freed before the next column


def refuse_empty_rows(columns: Iterable["pd.Series[Any]"], name: str) -> None:
    """Raise a DataError if all cells of a row are blank: it holds no patient."""
    parts = sorted((positions_and_cells(column) for column in columns), key=lambda part: len(part[1]))
    is_empty: Mask = np.ones(len(parts[0][0]), dtype=bool)
    for positions, cells in parts:
        is_empty &= np.array([not cell.strip() for cell in cells], dtype=bool)[positions]
        if not is_empty.any():
            return
    rows = np.flatnonzero(is_empty) + 1
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    raise file_error(name, "has rows of empty cells only", f": row {rows[0]}{more}; delete these rows")


def check_cells(
    text: pd.DataFrame, columns: Sequence[Column], missing_marks: Collection[str] = (), patient: str | None = None
) -> CheckedCells:
    """Read the cells of the columns as numbers. Invalid cells are recorded, not refused.

    Args:
        text: table with each of the columns once; every cell is text.
        missing_marks: marks for missing besides MISSING_MARKS, in lower case.
        patient: name of the column that identifies patients, if there is one.
    """
    marks = MISSING_MARKS | set(missing_marks)
    numbers, is_text, invalid, zeros = {}, {}, {}, {}
    for column in columns:
        positions, cells = positions_and_cells(text[column.name])
        distinct = _simplify(cells)
        is_missing = distinct.isin(marks)
        parsed = pd.to_numeric(distinct.mask(is_missing), errors="coerce").to_numpy(dtype=np.float64)
        not_number = np.isnan(parsed) & ~is_missing.to_numpy()
        zeros[column.name] = 0
        if isinstance(column, Measurement) and column.zero_is_missing:
            zeros[column.name] = int((parsed == 0)[positions].sum())
            parsed = np.where(parsed == 0, np.nan, parsed)
        numbers[column.name] = parsed[positions]
        is_text[column.name] = not_number[positions]
        invalid[column.name] = (not_number | ~column.allows(parsed))[positions]
    patients = None
    if patient is not None:
        from federated_health.data import patient_ids  # noqa: PLC0415  # most tasks have no such column

        patients = patient_ids.hash_ids(text[patient])
        invalid[patient] = patients == patient_ids.MISSING
    return CheckedCells(
        text=text,
        numbers=pd.DataFrame(numbers, index=text.index),
        is_text=pd.DataFrame(is_text, index=text.index),
        invalid=pd.DataFrame(invalid, index=text.index),
        zeros=zeros,
        patients=patients,
    )


def distinct_cells(cells: "pd.Series[Any]") -> tuple[Positions, "pd.Series[str]"]:
    """Position of each row's cell among the distinct cells, and these, trimmed and in lower case.

    A column has few distinct cells: parsing each once is much faster.

    Args:
        cells: a categorical column, as `parse_csv` makes them, or one of plain text.
    """
    if not isinstance(cells.dtype, pd.CategoricalDtype):
        codes, unique = pd.factorize(cells)  # unlike categories, these need not be sorted, which takes seconds
        return codes, _simplify(unique.tolist())
    positions, distinct = positions_and_cells(cells)
    return positions, _simplify(distinct)


def positions_and_cells(column: "pd.Series[Any]") -> tuple[Positions, list[str]]:
    """Position of each row's cell among others: the distinct ones, or in a column of plain text all of them."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), column.cat.categories.tolist()
    return np.arange(len(column)), column.tolist()


def _simplify(cells: Iterable[str]) -> "pd.Series[str]":
    return pd.Series([cell.strip().lower() for cell in cells], dtype=str)


def find_invalid_cell(path: Path | str, columns: Sequence[Column], cells: CheckedCells) -> DataError | None:
    """An error that names the first invalid cell; None if every cell is valid."""
    if not cells.invalid.to_numpy().any():
        return None
    from federated_health.data import reading_errors  # noqa: PLC0415  # a table that can be read does not need it

    return reading_errors.invalid_cell(path, columns, cells)


def refuse_repeated_or_empty(name: str, text: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise a DataError, with the file's name, for a table with one of the columns twice, or without rows."""
    header = list(text.columns)
    if repeated := [column for column in columns if header.count(column) > 1]:
        raise file_error(name, f"has the column {', '.join(repeated)} more than once")
    if text.empty:
        raise file_error(name, "has no patients", ", only a header")


def file_error(name: str, problem: str, detail: str = "") -> DataError:
    """Error about a whole file; the server learns the problem, not the detail."""
    return DataError(f"{name}: {problem}{detail}", reason=f"its file {problem}")


def is_number(text: str) -> bool:
    """Whether text in a header is a number, as in a file without a header."""
    try:
        float(text)
    except ValueError:
        return False
    return True
