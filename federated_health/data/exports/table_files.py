"""Reads Excel workbooks and Parquet files as text tables, as `csv_reading` reads CSVs.

Loaded for such files only; each kind needs an optional library.
"""

import datetime
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from federated_health.errors import DataError, check_installed
from federated_health.file_access import open_file

UNCOMPUTED = re.compile(rb"<f(?: [^>]*)?(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v></v>)?\s*</c>")
"""A cell with a formula and without a value in the XML of a sheet."""

CHUNK_BYTES, MAX_CELL_BYTES = 2**20, 2**16
"""Part of a sheet that is searched at a time, and the largest size of a cell at the border of two parts."""

MAX_UNPACKED_BYTES = 2**30
"""Largest size of a workbook's content, unpacked."""

MAX_CELLS = 200_000_000
"""Largest number of cells of a Parquet file."""

Table = tuple[list[str], Iterator["list[Any] | pd.Series[Any]"]]
"""A header, and the cells of each column."""


def read_table_file(path: Path, *, sheet: str = "", decimal: str = ".") -> pd.DataFrame:
    """A workbook's sheet or a Parquet file as a categorical text table. Dates are written as 2024-05-31.

    Args:
        path: a file whose name ends in .xlsx or .parquet.
        sheet: name of the sheet; empty for the first.
        decimal: decimal mark with which numbers are written.

    Raises:
        DataError: the file is not such a table. The text quotes no cell.
        MissingLibraryError: the library that reads it is not installed.
    """
    try:
        open_file(path).close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    is_workbook = path.suffix.lower() == ".xlsx"
    header, columns = _read_workbook(path, sheet) if is_workbook else _read_parquet(path)
    table = pd.DataFrame({number: text_column(cells, decimal) for number, cells in enumerate(columns)})
    return table.set_axis(pd.Index(header, dtype=str), axis="columns")


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into a DataError: errors of zip, of XML, or its own."""
    try:
        yield
    except DataError:
        raise
    except Exception:
        raise DataError(f"{path}: is not a readable {kind}", reason="its file is not readable") from None


def _check_size(path: Path, size: int, limit: int, unit: str) -> None:
    """Raise a DataError if a file, which may be packed well, is too large once it is unpacked."""
    if size > limit:
        raise DataError(f"{path}: expected at most {limit:,} {unit}, got {size:,}", reason="its file is too large")


def sheet_names(path: Path) -> tuple[str, ...]:
    """Names of the sheets of a workbook that can be read; empty for a Parquet file."""
    if path.suffix.lower() != ".xlsx":
        return ()
    import openpyxl  # noqa: PLC0415  # an optional library

    with _readable(path, "Excel workbook"):
        book = openpyxl.load_workbook(path, read_only=True)
        book.close()
        return tuple(book.sheetnames)


def _read_workbook(path: Path, sheet: str) -> Table:
    """Header, and cells of each column, of a sheet; rows and columns without any cell are left out at the end."""
    check_installed("openpyxl")
    import openpyxl  # noqa: PLC0415  # an optional library

    with _readable(path, "Excel workbook"):
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(member.file_size for member in archive.infolist()), MAX_UNPACKED_BYTES, "bytes")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = book.sheetnames
        if not sheet or sheet in sheets:
            rows = [row for row in book[sheet or sheets[0]].iter_rows(values_only=True) if _has_cell(row)]
        book.close()
        has_formulas = _has_formulas_without_values(path)
    if sheet and sheet not in sheets:
        raise DataError(f"{path}: expected the sheet {sheet}, got {', '.join(sheets)}", reason="its file lacks a sheet")
    if has_formulas:
        raise DataError(
            f"{path}: has formulas without stored values; open it in Excel or LibreOffice and save it again",
            reason="its file has formulas without values",
        )
    if not rows:
        raise DataError(f"{path}: is empty", reason="its file is empty")
    width = max(position for row in rows for position, cell in enumerate(row, start=1) if cell is not None)
    header, *rows = [[*row[:width], *[None] * (width - len(row))] for row in rows]
    return [_write_cell(cell, ".", with_time=True) for cell in header], ([row[i] for row in rows] for i in range(width))


def _has_formulas_without_values(path: Path) -> bool:
    """Whether a cell of the workbook has a formula, but no value: it would be read as missing."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.startswith("xl/worksheets/"):
                continue
            with archive.open(name) as file:
                rest = b""
                while chunk := file.read(CHUNK_BYTES):
                    if UNCOMPUTED.search(rest + chunk):
                        return True
                    rest = (rest + chunk)[-MAX_CELL_BYTES:]
    return False


def _has_cell(row: Iterable[Any]) -> bool:
    return any(cell is not None for cell in row)


def _read_parquet(path: Path) -> Table:
    check_installed("pyarrow")
    from pyarrow.parquet import read_metadata  # noqa: PLC0415  # an optional library

    with _readable(path, "Parquet file"):
        metadata = read_metadata(path)
        _check_size(path, metadata.num_rows * metadata.num_columns, MAX_CELLS, "cells")
        table = pd.read_parquet(path, engine="pyarrow")
    if not isinstance(table.index, pd.RangeIndex):  # pandas stores an index as a column of the file
        table = table.reset_index()
    return [str(name).strip() for name in table.columns], (table.iloc[:, i] for i in range(table.shape[1]))


def text_column(cells: "list[Any] | pd.Series[Any]", decimal: str = ".") -> pd.Categorical:
    """The cells of a column as text, empty where one is missing."""
    if isinstance(cells, list):  # of mixed types, where 1 and True would count as equal
        positions, distinct = np.arange(len(cells)), cells
    else:
        try:
            positions, uniques = pd.factorize(cells)  # -1 for missing: the last one of `texts`
        except TypeError:  # a cell holds a table or a list
            positions, uniques = pd.factorize(cells.astype(str))
        distinct = [*(uniques.to_numpy() if cells.dtype == np.float32 else uniques), None]  # with its own precision
    with_time = any(isinstance(cell, datetime.datetime) and cell.time() != datetime.time() for cell in distinct)
    texts = [_write_cell(cell, decimal, with_time=with_time) for cell in distinct]
    codes, categories = pd.factorize(np.array(texts, dtype=object))
    return pd.Categorical.from_codes(codes[positions], pd.Index(categories, dtype=str))


def _write_cell(cell: Any, decimal: str, *, with_time: bool) -> str:
    """A cell's content as text, with the fewest digits that state a number exactly."""
    match cell:
        case None:
            return ""
        case bool() | np.bool_():
            return "true" if cell else "false"
        case float() | np.floating():
            return "" if np.isnan(cell) else str(cell).removesuffix(".0").replace(".", decimal)
        case datetime.datetime():
            return "" if pd.isna(cell) else cell.strftime("%Y-%m-%d %H:%M:%S" if with_time else "%Y-%m-%d")
        case _:
            return str(cell).strip()  # datetime.date writes itself as 2024-05-31
