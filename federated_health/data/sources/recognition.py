"""Opens the files of a source and recognises their layout.

A source is one CSV, a zip with one CSV, or a folder or zip with UCI's files. The header decides the layout; the codes
confirm it where two layouts are easily confused.
"""

import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from federated_health.data import csv_reading, reading_errors
from federated_health.data.columns import Category
from federated_health.data.sources import layouts
from federated_health.data.sources.layouts import LAYOUTS, UCI, UCI_FILES, Layout
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DataError

MAX_MEMBER_BYTES = 512 * 1024 * 1024
"""Largest size of a file in a zip, unpacked."""

_ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""Errors of zipfile for archives that are damaged, truncated, encrypted or of an unknown compression."""


@dataclass(frozen=True, eq=False)
class RecognisedFile:
    """A file, under its name in messages, as text."""

    name: str
    text: pd.DataFrame
    layout: Layout


def read_contents(path: Path) -> dict[str, bytes]:
    """File name -> bytes of one CSV, or of UCI's files in UCI's order; a DataError if there is neither."""
    if path.is_dir():
        files = [path / name for name in UCI_FILES if (path / name).is_file()]
        if not files:
            hint = "; name one of its CSVs itself" if any(path.glob("*.csv")) else ""
            raise DataError(f"{path}: expected {', '.join(UCI_FILES)} in this folder; got none of them{hint}")
        return {file.name: csv_reading.read_bytes(file) for file in files}
    content = csv_reading.read_bytes(path)
    return _read_zip(path) if content[:4] == b"PK\x03\x04" else {path.name.removesuffix(".gz"): content}


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            if "xl/workbook.xml" in archive.namelist():
                raise DataError(f"{path}: is an Excel file; save it as CSV UTF-8 (comma separated)")
            members = [(Path(member.filename).name, member) for member in archive.infolist() if not member.is_dir()]
            uci = [(name, member) for name in UCI_FILES for found, member in members if found == name]
            csvs = [(name, member) for name, member in members if name.lower().endswith(".csv") and name[0] not in "._"]
            if (not uci and len(csvs) != 1) or len(dict(uci)) != len(uci):
                raise DataError(
                    f"{path}: expected one CSV, or {', '.join(UCI_FILES)} once each, in this zip; got {len(csvs)} CSVs "
                    f"and {len(uci)} of UCI's files"
                )
            if any(member.file_size > MAX_MEMBER_BYTES for _, member in uci or csvs):
                raise DataError(f"{path}: holds a file of more than {MAX_MEMBER_BYTES // 2**20} MiB")
            return {name: archive.read(member) for name, member in uci or csvs}
    except _ZIP_ERRORS:
        raise DataError(f"{path}: is not a readable zip: damaged, encrypted or of an unknown compression") from None


def recognise_file(name: str, content: bytes, source: Path) -> RecognisedFile:
    """Recognise a file of a source by its name or header; a DataError, which quotes no patient, if no layout fits."""
    label = str(source if source.name == name else source / name)
    if name in UCI_FILES:
        text = csv_reading.parse_csv(content, label, UCI.header)
        return RecognisedFile(label, text.assign(**{layouts.HOSPITAL_COLUMN: UCI_FILES[name]}), UCI)
    text = csv_reading.parse_csv(content, label)
    layout = next((layout for layout in LAYOUTS if set(layout.header) <= set(text.columns)), None)
    if layout is None:
        raise DataError(f"{label}: has no known layout. {_describe_closest_layout(text)}")
    csv_reading.refuse_repeated_or_empty(label, text, (*layout.header, layout.hospital))
    _refuse_other_codes(label, text, layout)
    return RecognisedFile(label, text, layout)


def _describe_closest_layout(text: pd.DataFrame) -> str:
    header = list(text.columns)
    closest = max(LAYOUTS, key=lambda layout: len(set(layout.header) & set(header)))
    missing = [name for name in closest.header if name not in header]
    named = f"; missing: {', '.join(missing)}" if len(missing) < len(closest.header) else ""
    got = reading_errors.describe_header(text, closest.header)
    hint = reading_errors.case_hint(header, missing)
    return f"The closest is {closest.title}: expected {', '.join(closest.header)}; got {got}{named}{hint}"


def _refuse_other_codes(label: str, text: pd.DataFrame, layout: Layout) -> None:
    """Refuse a file with one layout's header and another one's codes: its label may be inverted."""
    if layout.task is not HEART_DISEASE or layout is layouts.KAGGLE_UCI:  # whose codes are words
        return
    other = UCI if layout is layouts.KAGGLE_HEART else layouts.KAGGLE_HEART
    if _count_codes(text, layout, other) > _count_codes(text, layout, layout) + len(text) // 10:
        raise DataError(
            f"{label}: has the header of {layout.title}, but the codes of {other.title}, so the meaning of its "
            f"{layout.name_in_file(layout.task.label)} is unknown: with Kaggle's codes it must be called target, and "
            "with UCI's codes disease or num"
        )


def _count_codes(text: pd.DataFrame, layout: Layout, codes_of: Layout) -> int:
    """Number of cells in the file's categories that hold codes of a layout."""
    total = 0
    for column in layout.task.columns:
        if isinstance(column, Category):
            codes = codes_of.codes.get(column.name, [str(code) for code in column.codes])
            total += int(shorten(text[layout.name_in_file(column)]).isin(list(codes)).sum())
    return total


def shorten(cells: "pd.Series[str]") -> "pd.Series[str]":
    """Cells trimmed, in lower case, and numbers in their shortest form: 63.0 and 063 become 63."""
    positions, distinct = csv_reading.distinct_cells(cells)
    numbers = pd.to_numeric(distinct, errors="coerce") + 0.0  # -0.0 becomes 0.0
    shortest = distinct.where(numbers.isna(), numbers.map("{:.15g}".format))
    return pd.Series(shortest.to_numpy()[positions], index=cells.index, dtype=str)
