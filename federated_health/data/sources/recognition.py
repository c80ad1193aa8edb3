"""Opens the files of a source, and finds the layouts that their header fits.

A source is one CSV, a zip with one CSV, or a folder or zip with UCI's files: of the heart disease tables, or of the
diabetes stays, which no layout describes (see `diabetes_stays`). A header alone proves nothing about codes
and labels: `layout_confirmation` checks them on patients who are also in UCI's table.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from federated_health.data import csv_reading, reading_errors
from federated_health.data.csv_reading import COMMAS, Dialect
from federated_health.data.manifest import MANIFEST
from federated_health.data.sources.diabetes_stays import STAYS_FILE, TITLE, looks_like_stays
from federated_health.data.sources.layouts import LAYOUTS, UCI, UCI_FILES, WITHOUT_HEADER, Layout, uci_layout
from federated_health.data.task_files import READMISSION_30D
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN

MAX_MEMBER_BYTES = 512 * 1024 * 1024
"""Largest size of a file in a zip, unpacked."""

OWN_COLUMNS_HINT = (
    "state its columns and codes in a mapping file (--mapping), or convert it to the task's (docs/own-data.md)"
)
"""What to do with a file whose layout is unknown or cannot be confirmed."""


@dataclass(frozen=True, eq=False)
class RecognisedFile:
    """A file, under its name in messages, as text.

    Attributes:
        layouts: those that its header fits, in the order in which they are tried; none for UCI's diabetes stays.
        is_guess: whether the layout is a guess: neither the task's own columns nor one of UCI's own files.
        has_header: whether the file names its columns.
        remarks: what users should know about its form.
    """

    name: str
    text: pd.DataFrame
    layouts: tuple[Layout, ...]
    is_guess: bool
    has_header: bool = True
    remarks: tuple[str, ...] = ()


def read_contents(path: Path) -> dict[str, bytes]:
    """File name -> bytes of one CSV, or of UCI's files in UCI's order; a DataError if there is neither."""
    if path.is_dir():
        files = [path / name for name in UCI_FILES if (path / name).is_file()] or _find_stays(path)
        if not files:
            raise _describe_folder(path)
        return {str(file.relative_to(path)).removesuffix(".gz"): csv_reading.read_bytes(file) for file in files}
    content = csv_reading.read_bytes(path)
    return _read_zip(path, content) if content[:4] == b"PK\x03\x04" else {path.name.removesuffix(".gz"): content}


def _find_stays(folder: Path) -> list[Path]:
    """UCI's table of diabetes stays in a folder or one folder below it; a DataError if it is there more than once."""
    found = sorted(
        file
        for pattern in ("*", "*/*")
        for file in folder.glob(pattern)
        if file.name.lower() in (STAYS_FILE, f"{STAYS_FILE}.gz") and file.is_file()
    )
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found)
        raise DataError(f"{folder}: expected {STAYS_FILE} once in this folder, got {names}; name one as --source")
    return found


def _describe_folder(path: Path) -> DataError:
    files = sorted(file for file in path.iterdir() if file.is_file())
    csvs, zips = ([file.name for file in files if file.suffix.lower() == end] for end in (".csv", ".zip"))
    if (path / MANIFEST).is_file():
        got = "a folder that create_dataset.py wrote"
    elif csvs:
        got = f"{len(csvs)} CSV{'s' if len(csvs) > 1 else ''}"
    else:
        got = "none of them"
    hint = f"; name one file, such as --source {path / (csvs or zips)[0]}" if csvs or zips else ""
    return DataError(f"{path}: expected {', '.join(UCI_FILES)}, or {STAYS_FILE}, in this folder; got {got}{hint}")


def _read_zip(path: Path, content: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if "xl/workbook.xml" in archive.namelist():
                raise DataError(f"{path}: is an Excel file; save it as CSV UTF-8 (comma separated)")
            members = [(Path(member.filename).name, member) for member in archive.infolist() if not member.is_dir()]
            uci = [(name, member) for name in UCI_FILES for found, member in members if found == name]
            uci = uci or [(name, member) for name, member in members if name.lower() == STAYS_FILE]
            csvs = [(name, member) for name, member in members if name.lower().endswith(".csv") and name[0] not in "._"]
            if (not uci and len(csvs) != 1) or len({name.lower() for name, _ in uci}) != len(uci):
                raise DataError(
                    f"{path}: expected one CSV, or {', '.join(UCI_FILES)}, or {STAYS_FILE}, once each, in this zip; "
                    f"got {len(csvs)} CSVs and {len(uci)} of UCI's files"
                )
            if any(member.file_size > MAX_MEMBER_BYTES for _, member in uci or csvs):
                raise DataError(f"{path}: holds a file of more than {MAX_MEMBER_BYTES // 2**20} MiB")
            return {name: archive.read(member) for name, member in uci or csvs}
    except DataError:
        raise
    except Exception:  # it is damaged, encrypted or of an unknown compression; `zipfile` raises many types
        raise DataError(f"{path}: is not a readable zip: damaged, encrypted or of an unknown compression") from None


def recognise_file(name: str, content: bytes, source: Path, known: Sequence[Layout] = LAYOUTS) -> RecognisedFile:
    """Find a file's layouts by its name or header; a DataError, which quotes no patient, if none fits."""
    label = str(source if source.name == name else source / name)
    if name in UCI_FILES and (uci := uci_layout(known)):
        text = csv_reading.parse_csv(content, label, UCI.header)
        csv_reading.refuse_repeated_or_empty(label, text, ())
        return RecognisedFile(
            label, text.assign(**{HOSPITAL_COLUMN: UCI_FILES[name]}), (uci,), is_guess=False, has_header=False
        )
    content, dialect, remarks = _find_dialect(content)
    if UCI in known and _is_uci_row(content, dialect):
        text = csv_reading.parse_csv(content, label, UCI.header, dialect=dialect)
        return RecognisedFile(label, text, WITHOUT_HEADER, is_guess=True, has_header=False, remarks=remarks)
    text = csv_reading.parse_csv(content, label, dialect=dialect)
    fitting = tuple(layout for layout in known if set(layout.header) <= set(text.columns))
    if not fitting and looks_like_stays(text.columns):
        if not any(layout.task is READMISSION_30D for layout in known):
            raise DataError(
                f"{label}: looks like {TITLE}: expected the task {READMISSION_30D.name}, got {known[0].task.name}; for "
                f"another task, {OWN_COLUMNS_HINT}"
            )
        return RecognisedFile(label, text, (), is_guess=False, remarks=remarks)
    if not fitting:
        cause = reading_errors.find_cause(content, label, dialect, None)
        raise cause or DataError(f"{label}: has no known layout: {_describe_closest_layout(text, known)}")
    if fitting[0].is_task_s_own:  # a table that has the task's own label, too, is its own
        fitting = fitting[:1]
    csv_reading.refuse_repeated_or_empty(label, text, {name: 0 for layout in fitting for name in layout.header})
    return RecognisedFile(label, text, fitting, is_guess=not fitting[0].is_task_s_own, remarks=remarks)


def _find_dialect(content: bytes) -> tuple[bytes, Dialect, tuple[str, ...]]:
    """How a table is written, by its first line; several spaces between cells become one comma. Also a remark on it."""
    header = _first_line(content)
    separator = max(";\t|", key=header.count)
    if header.count(separator) > header.count(","):
        dialect = Dialect(separator=separator)
    elif (
        len(header.split()) > 2 * len(header.split(","))
        and len({len(line.split()) for line in content.splitlines()} - {0}) == 1
    ):
        content, dialect, separator = b"\n".join(b",".join(line.split()) for line in content.splitlines()), COMMAS, " "
    else:
        return content, COMMAS, ()
    return content, dialect, (f"cells are separated by {reading_errors.separator_name(separator)}",)


def _first_line(content: bytes) -> str:
    """The first line that is not blank."""
    line = next((line for line in io.BytesIO(content) if line.strip()), b"")
    return line.decode("utf-8-sig", errors="replace")


def _is_uci_row(content: bytes, dialect: Dialect) -> bool:
    """Whether the first line holds as many numbers, or missing-value markers, as UCI's table has columns."""
    cells = pd.Series([cell.strip().lower() for cell in _first_line(content).split(dialect.separator)], dtype=str)
    is_number = pd.to_numeric(cells, errors="coerce").notna()
    return len(cells) == len(UCI.header) and bool((is_number | cells.isin(csv_reading.MISSING_MARKS)).all())


def _describe_closest_layout(text: pd.DataFrame, known: Sequence[Layout]) -> str:
    """What a header lacks to be that of a known layout, or what a known one has if none is close."""
    header = list(text.columns)
    closest = max(known, key=lambda layout: len(set(layout.header) & set(header)) / len(layout.header))
    got = reading_errors.describe_header(text, closest.header)
    missing = [name for name in closest.header if name not in header]
    if len(missing) > len(closest.header) / 2:
        own = next(layout for layout in known if layout.is_task_s_own)
        return f"expected such columns as {', '.join(own.header)}; got {got}; {OWN_COLUMNS_HINT}"
    hint = reading_errors.case_hint(header, missing)
    noun = "the columns" if len(missing) > 1 else "the column"
    return (
        f"the closest is {closest.title}, but {noun} {', '.join(missing)} {_be(missing)} missing{hint}; got {got}; if "
        f"another column holds the same, rename it; otherwise, {OWN_COLUMNS_HINT}"
    )


def _be(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
