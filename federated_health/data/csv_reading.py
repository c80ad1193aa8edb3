"""Reads CSV files strictly, turns their cells into numbers and checks these against the rules of the columns.

No error message holds a value of a patient.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Column, Label, Measurement
from federated_health.data.tasks import Task
from federated_health.errors import DataError

if TYPE_CHECKING:
    from federated_health.data import mappings

MISSING_MARKS = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
"""Cells that mean "missing", in lower case."""


@dataclass(frozen=True)
class Dialect:
    """How a CSV is written: one character between cells, the encoding, and one character around cells."""

    separator: str = ","
    encoding: str = "utf-8-sig"
    quote: str = '"'


@dataclass(frozen=True, eq=False)
class CheckedCells:
    """Cells of a table as numbers, and which of them break the rules of their columns.

    Attributes:
        text: the whole table.
        numbers: float64, one column each; NaN where a cell is missing or not a number.
        is_text: where a cell is neither a number nor a mark for missing.
        invalid: where a cell breaks the rule of its column; includes `is_text`.
        zeros: column -> rows with a 0 that means missing.
        mapping: the mapping that made the table, under whose names messages describe cells.
    """

    text: pd.DataFrame
    numbers: pd.DataFrame
    is_text: pd.DataFrame
    invalid: pd.DataFrame
    zeros: Mapping[str, int]
    mapping: "mappings.Mapping | None" = None


def read_patients(
    path: Path, task: Task, *, labelled: bool, mapping: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of a CSV as text, and float64 columns of the task, NaN for missing, with the same index.

    Columns that the task does not know are ignored.

    Args:
        labelled: whether the label is required; if so, it is the last of the columns.

    Raises:
        DataError: names the file and, where possible, the column, the row and the rule; never a value.
    """
    columns = task.labelled_columns if labelled else task.columns
    cells = read_cells(path, task, labelled=labelled, mapping=mapping)
    if error := find_invalid_cell(path, columns, cells):
        raise error
    return cells.text, cells.numbers


def read_cells(path: Path, task: Task, *, labelled: bool = True, mapping: Path | None = None) -> CheckedCells:
    """Cells of a CSV; a DataError unless it has at least one patient and each of the columns once."""
    columns = task.labelled_columns if labelled else task.columns
    if mapping is not None:
        from federated_health.data import mappings  # noqa: PLC0415  # most files need none

        return mappings.read_cells(path, task, mapping, columns)
    text = parse_csv(read_bytes(path), str(path))
    header, names = list(text.columns), [column.name for column in columns]
    if missing := [name for name in names if name not in header]:
        hint = case_hint(header, missing)
        if isinstance(columns[-1], Label) and columns[-1].name in missing:
            hint += "; create_dataset.py --source reads other layouts, such as Kaggle's, too"
        problem = f"lacks the {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}"
        raise _file_error(str(path), problem, f"; its header is: {describe_header(text, names)}{hint}")
    refuse_repeated_or_empty(str(path), text, names)
    return check_cells(text, columns)


def read_bytes(path: Path) -> bytes:
    """Bytes of a file; a DataError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_csv(
    content: bytes,
    name: str,
    header: Sequence[str] | None = None,
    *,
    dialect: Dialect = Dialect(),
) -> pd.DataFrame:
    """Parse a UTF-8 CSV; every cell stays text. Blank lines and a byte-order mark are skipped.

    Args:
        name: name of the file in a DataError, which never quotes a row.
        header: column names, for a file without a header.
    """
    try:
        lines = io.StringIO(content.decode(dialect.encoding), newline="")
        reader = csv.reader(lines, strict=True, delimiter=dialect.separator, quotechar=dialect.quote)
        rows = [row for row in reader if row]
    except UnicodeDecodeError:
        raise _file_error(name, "is not UTF-8 text", "; save it as CSV UTF-8") from None
    except csv.Error:
        raise _file_error(name, "is not a well-formed CSV") from None
    if not rows:
        raise _file_error(name, "is empty")
    if header is None:
        header, *rows = rows
        if len(header) == 1 and dialect.separator == "," and re.search("[;\t|]", header[0]):
            raise _file_error(name, "is not separated by commas")
        if any(_is_number(column) for column in header):  # probably a patient, whom no message may quote
            raise _file_error(name, "has no header", ": its first line holds numbers, not column names")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            detail = f": in row {number}, expected {len(header)} cells, got {len(row)}"
            raise _file_error(name, "has a row of the wrong length", detail)
    return pd.DataFrame(rows, columns=[column.strip() for column in header], dtype=str)


def check_cells(text: pd.DataFrame, columns: Sequence[Column], missing_marks: Collection[str] = ()) -> CheckedCells:
    """Read the cells of the columns as numbers. Invalid cells are recorded, not refused.

    Args:
        text: table with each of the columns once; every cell is text.
        missing_marks: marks for missing besides MISSING_MARKS, in lower case.
    """
    marks = MISSING_MARKS | set(missing_marks)
    numbers, is_text, invalid, zeros = {}, {}, {}, {}
    for column in columns:
        positions, distinct = distinct_cells(text[column.name])
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
    return CheckedCells(
        text=text,
        numbers=pd.DataFrame(numbers, index=text.index),
        is_text=pd.DataFrame(is_text, index=text.index),
        invalid=pd.DataFrame(invalid, index=text.index),
        zeros=zeros,
    )


def distinct_cells(cells: "pd.Series[str]") -> tuple[npt.NDArray[np.intp], "pd.Series[str]"]:
    """Position of each row's cell among the distinct cells, and these, trimmed and in lower case.

    A column has few distinct cells: parsing each once is much faster.
    """
    positions, distinct = pd.factorize(cells)
    return positions, pd.Series(distinct, dtype=str).str.strip().str.lower()


def find_invalid_cell(path: Path, columns: Sequence[Column], cells: CheckedCells) -> DataError | None:
    """An error that names the first invalid cell; None if every cell is valid."""
    invalid = [column for column in columns if cells.invalid[column.name].any()]
    if not invalid:
        return None
    name, rule = invalid[0].name, invalid[0].rule
    others = int(cells.invalid.to_numpy().sum()) - 1
    more = f" (and {others} more invalid {'cell' if others == 1 else 'cells'})" if others else ""
    if cells.mapping is None:
        first = describe_first_invalid(cells.text[name], cells.invalid[name], rule)
    else:
        first = cells.mapping.describe_first_invalid(name, cells.invalid[name])
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


def refuse_repeated_or_empty(name: str, text: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise a DataError, with the file's name, for a table with one of the columns twice, or without rows."""
    header = list(text.columns)
    if repeated := [column for column in columns if header.count(column) > 1]:
        raise _file_error(name, f"has the column {', '.join(repeated)} more than once")
    if text.empty:
        raise _file_error(name, "has no patients", ", only a header")


def case_hint(header: Iterable[str], missing: Iterable[str]) -> str:
    """Hint for a header that has a missing column in another case; else empty."""
    in_other_case = {name.lower() for name in header} & {name.lower() for name in missing}
    return " (upper and lower case matter)" if in_other_case else ""


def describe_header(text: pd.DataFrame, known: Collection[str]) -> str:
    """The header for a message, without anything that may be a patient's cell.

    A first line counts as a header if it has one of the known names, or if a name stands above a column of numbers.
    """
    names = [name for name in text.columns if looks_like_name(name)]
    has_known = {name.lower() for name in names} & {name.lower() for name in known}
    is_above_numbers = any(
        looks_like_name(name) and pd.to_numeric(text.iloc[:, position], errors="coerce").notna().any()
        for position, name in enumerate(text.columns)
    )
    return ", ".join(names) if has_known or is_above_numbers else "a first line that does not look like a header"


def looks_like_name(name: str) -> bool:
    """Whether text in a header looks like a column name, rather than a patient's cell in a file without a header."""
    return re.fullmatch(r"[A-Za-z_][\w .-]{0,40}", name) is not None


def _file_error(name: str, problem: str, detail: str = "") -> DataError:
    """Error about a whole file; the server learns the problem, not the detail."""
    return DataError(f"{name}: {problem}{detail}", reason=f"its file {problem}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
