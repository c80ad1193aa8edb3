"""Data sets as people have them -> one canonical table: a `hospital` column, the task's columns, the label.

A file is recognised by its header and its values. What was recognised, mapped and dropped is part of the result.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health.columns import Category
from federated_health.errors import DataError
from federated_health.layouts import HOSPITAL_COLUMN, KAGGLE_HEART, LAYOUTS, UCI, UCI_FILES, UCI_HEADER, Layout
from federated_health.names import hospital_name_from
from federated_health.patients import MISSING_MARKS, distinct_cells, name_columns, read_cells
from federated_health.readmission import expected_roc_auc, generate_patients
from federated_health.tables import parse_table, read_bytes
from federated_health.tasks import READMISSION, Task

UCI_TABLE = Path(__file__).resolve().parent.parent / "data" / "full_dataset.csv"
"""The 920 patients that come with the project."""

DEFAULT_PATIENTS = 4000
"""Of the generated ones."""

LARGEST_MEMBER = 512 * 1024 * 1024
"""Bytes of a file in a zip, unpacked."""

_NOT_ALLOWED = "not allowed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A canonical table and where it comes from.

    Attributes:
        name: `uci`, `readmission` or `file`.
        title: what it was recognised as.
        files: name -> SHA-256, in hex, of each file that was read.
        mapped: what was read as something else, in words.
        dropped: why -> rows that are not in the table.
        facts: what else is known, for the manifest.
        table: a row a patient; `hospital` where the data has it, then the task's columns as numbers (NaN for missing),
            then the label 0 or 1.
    """

    name: str
    task: Task
    title: str
    files: Mapping[str, str] = field(default_factory=dict)
    mapped: Sequence[str] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    table: pd.DataFrame

    @property
    def has_hospitals(self) -> bool:
        """Whether the data says which hospital a patient is from."""
        return HOSPITAL_COLUMN in self.table.columns

    def remarks(self) -> list[str]:
        """What was mapped and dropped and what is known, for a person."""
        dropped = [f"dropped: {rows} {why}" for why, rows in self.dropped.items() if rows]
        return [*self.mapped, *dropped, *(f"{name.replace('_', ' ')}: {fact}" for name, fact in self.facts.items())]

    def describe(self) -> dict[str, Any]:
        """All but the table, for the manifest."""
        return {
            "name": self.name,
            "title": self.title,
            "files": dict(self.files),
            "mapped": list(self.mapped),
            "dropped": dict(self.dropped),
            **self.facts,
        }


@dataclass(frozen=True, eq=False)
class _File:
    """One file as text, and the layout that it was recognised as."""

    name: str
    text: pd.DataFrame
    layout: Layout


def read_uci() -> Source:
    """The UCI heart disease table that comes with the project."""
    return read_source(UCI_TABLE, name="uci")


def read_source(path: Path, *, name: str = "file", drop_invalid: bool = False) -> Source:
    """Read a CSV, a zip with one, or a folder or zip of UCI's `processed.*.data`.

    Args:
        drop_invalid: leave out rows with a cell that is not allowed, and count them, instead of refusing the file.

    Raises:
        DataError: nothing that is known, or a cell is not allowed; names file, column, row and rule, never a value.
    """
    contents = _read_contents(path)
    files = [_recognise(file, content, path) for file, content in contents.items()]
    layout = files[0].layout
    tables, broken = zip(*(_read_file(file, drop_invalid=drop_invalid) for file in files), strict=True)
    table = pd.concat(tables, ignore_index=True)
    read = len(table)
    if layout.repeats_are_copies:
        table = table.drop_duplicates(ignore_index=True)
    if table.empty:
        raise DataError(f"{path}: no patient is left")
    return Source(
        name=name,
        task=layout.task,
        title=layout.title,
        files={file: sha256(content).hexdigest() for file, content in contents.items()},
        mapped=[
            *layout.mappings(),
            *_zeros(layout, pd.concat([file.text for file in files])),
            *(_confirm_label(path, table, layout) if layout.label_is_turned else ()),
        ],
        dropped={"exact repeats": read - len(table), "rows that break a rule": sum(broken)},
        table=table,
    )


def generate_readmission(patients: int, seed: int) -> Source:
    """Generated records of diabetes patients at two virtual hospitals; see `readmission`."""
    records = generate_patients(patients, seed)
    return Source(
        name=READMISSION.name,
        task=READMISSION,
        title="generated records of diabetes patients",
        facts={
            "generated_patients": patients,
            "generator_seed": seed,
            "bayes_optimal_roc_auc": round(expected_roc_auc(records.probability), 4) if patients > 1 else None,
        },
        table=records.table,
    )


def _read_contents(path: Path) -> dict[str, bytes]:
    """File name -> bytes of each file of a source."""
    if path.is_dir():
        present = [path / file for file in UCI_FILES if (path / file).is_file()]
        if not present:
            raise DataError(f"{path}: expected {', '.join(UCI_FILES)} in this folder; got none of them")
        return {file.name: read_bytes(file) for file in present}
    content = read_bytes(path)
    if content[:4] == b"PK\x03\x04":
        return _read_zip(path)
    return {path.name: content}


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(member.filename).name: member for member in archive.infolist() if not member.is_dir()}
            wanted = [name for name in UCI_FILES if name in members]
            wanted = wanted or [name for name in members if name.lower().endswith(".csv") and name[0] not in "._"]
            if not wanted or (len(wanted) > 1 and wanted[0] not in UCI_FILES):
                raise DataError(
                    f"{path}: expected one CSV, or {', '.join(UCI_FILES)}, in this zip; got {len(wanted)} CSVs"
                )
            if any(members[name].file_size > LARGEST_MEMBER for name in wanted):
                raise DataError(f"{path}: holds a file of more than {LARGEST_MEMBER // 2**20} MiB")
            return {name: archive.read(members[name]) for name in wanted}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError):
        # What zipfile raises for archives that are cut off, encrypted or packed in a way that it does not know.
        raise DataError(f"{path}: is not a zip that can be read") from None


def _recognise(name: str, content: bytes, path: Path) -> _File:
    """The layout whose columns the file's header has; its codes decide where two kinds of file have one header."""
    label = str(path if path.name == name else path / name)
    if name in UCI_FILES:
        text = parse_table(content, label, UCI_HEADER)
        return _File(label, text.assign(**{HOSPITAL_COLUMN: UCI_FILES[name]}), UCI)
    text = parse_table(content, label)
    header = list(text.columns)
    layout = next((layout for layout in LAYOUTS if set(layout.header) <= set(header)), None)
    if layout is None:
        closest = max(LAYOUTS, key=lambda layout: len(set(layout.header) & set(header)))
        raise DataError(
            f"{label}: is no source that is known. The closest is {closest.title}: expected "
            f"{', '.join(closest.header)}; got {name_columns(header)}"
        )
    if repeated := [column for column in (*layout.header, layout.hospital) if header.count(column) > 1]:
        raise DataError(f"{label}: has the column {', '.join(repeated)} more than once")
    if text.empty:
        raise DataError(f"{label}: has a header and no patients")
    if layout is KAGGLE_HEART and _count_codes(text, layout) < _count_codes(text, UCI):
        raise DataError(
            f"{label}: has the header of {layout.title} but UCI's codes, so it cannot be known whether a target of 1 "
            f"is disease; name the column {layout.task.label.name} where it is"
        )
    return _File(label, text, layout)


def _count_codes(text: pd.DataFrame, layout: Layout) -> int:
    """Cells of the task's categories that hold one of the layout's codes."""
    total = 0
    for column in layout.task.columns:
        if isinstance(column, Category):
            codes = layout.codes.get(column.name, [str(code) for code in column.codes])
            total += int(_shorten(text[layout.written(column)]).isin(list(codes)).sum())
    return total


def _read_file(file: _File, *, drop_invalid: bool) -> tuple[pd.DataFrame, int]:
    """A file's canonical rows, and the number of its rows that broke a rule and were left out."""
    layout = file.layout
    canonical = pd.DataFrame({column.name: file.text[layout.written(column)] for column in layout.columns})
    for name, codes in layout.codes.items():
        cells = _shorten(canonical[name])
        is_missing = cells.isin(MISSING_MARKS | layout.missing)
        canonical[name] = cells.map(codes).where(~is_missing, "").fillna(_NOT_ALLOWED)
    reading = read_cells(canonical, layout.columns, layout.missing)
    invalid = reading.invalid
    hospitals = _read_hospitals(file)
    if hospitals is not None:
        invalid[HOSPITAL_COLUMN] = hospitals == ""
    broken = invalid.any(axis=1)
    if broken.any() and not drop_invalid:
        _raise_first(file, invalid)
    table = reading.numbers[~broken]
    table = table.assign(**{layout.task.label.name: table[layout.task.label.name].astype("int64")})
    if hospitals is not None:
        table.insert(0, HOSPITAL_COLUMN, hospitals[~broken])
    return table, int(broken.sum())


def _read_hospitals(file: _File) -> "pd.Series[str] | None":
    """Hospitals' names of the rows, "" where there is none; None where the file does not say."""
    column = file.layout.hospital
    if column not in file.text.columns:
        return None
    written = {words: hospital_name_from(words) for words in file.text[column].unique()}
    names = [name for name in written.values() if name]
    if alike := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file.name}: column {column}: two hospitals would both be called {alike[0]}")
    return file.text[column].map(written)


def _raise_first(file: _File, invalid: pd.DataFrame) -> None:
    rules = {column.name: (file.layout.written(column), file.layout.rule(column)) for column in file.layout.columns}
    rules[HOSPITAL_COLUMN] = (file.layout.hospital, "a hospital's name, with letters or digits")
    first = next(name for name in invalid if invalid[name].any())
    column, rule = rules[str(first)]
    row, rows = int(invalid[first].to_numpy().argmax()) + 1, int(invalid.any(axis=1).sum())
    more = f"; {rows} rows break a rule" if rows > 1 else ""
    raise DataError(
        f"{file.name}: column {column}, row {row}: expected {rule}{more} (--drop-invalid leaves such rows out)"
    )


def _zeros(layout: Layout, text: pd.DataFrame) -> Iterator[str]:
    """Where a 0 stands for missing, in words."""
    for column in layout.task.measurements:
        zeros = int((_shorten(text[layout.written(column)]) == "0").sum())
        if column.zero_is_missing and zeros:
            yield f"{layout.written(column)}: 0 -> missing, {zeros} times"


def _confirm_label(path: Path, table: pd.DataFrame, layout: Layout) -> list[str]:
    """Compare the label with UCI's for those patients who are in UCI's table, too.

    Raises:
        DataError: it says the opposite, so the file's label was not turned round, or was turned back.
    """
    columns, label = list(layout.task.column_names), layout.task.label.name
    known = read_uci().table
    both = table.merge(known[[*columns, label]].drop_duplicates(columns), on=columns, suffixes=("", " of UCI"))
    agreeing = int((both[label] == both[f"{label} of UCI"]).sum())
    if 2 * agreeing < len(both):
        raise DataError(
            f"{path}: its target is not turned round as it is in {layout.title}: {len(both) - agreeing} of {len(both)} "
            f"patients who are in UCI's table have the other diagnosis there; name the column {label} if 1 is disease"
        )
    return [f"{len(both)} of {len(table)} patients are in UCI's table, {agreeing} of them with the same diagnosis"]


def _shorten(cells: "pd.Series[str]") -> "pd.Series[str]":
    """Cells without surrounding space, in lower case, numbers in their shortest form: 63.0 and 063 are 63."""
    places, distinct = distinct_cells(cells)
    return pd.Series(distinct.map(_shortest).to_numpy()[places], index=cells.index, dtype=str)


def _shortest(cell: str) -> str:
    try:
        return f"{float(cell) + 0.0:.15g}"
    except ValueError:
        return cell
