"""Data sets as people have them -> one canonical table: a `hospital` column, the task's columns, the label.

A file is recognised by its header and its values. What was recognised, mapped and dropped is part of the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health.data.patients import MISSING_MARKS, count_zeros, describe_cell, read_cells
from federated_health.data.sources.archives import read_contents
from federated_health.data.sources.layouts import HOSPITAL_COLUMN, UCI_FILES, Layout
from federated_health.data.sources.readmission import expected_roc_auc, generate_patients
from federated_health.data.sources.recognition import RecognisedFile, recognise, shorten
from federated_health.data.tasks import READMISSION, Task
from federated_health.errors import DataError, SettingsError
from federated_health.files import hash_file
from federated_health.names import hospital_name_from

UCI_TABLE = Path(__file__).resolve().parents[3] / "data" / "full_dataset.csv"
"""The 920 patients that come with the project."""

DEFAULT_PATIENTS = 4000
"""Of the generated ones."""

PATIENTS_RANGE = (2, 10_000_000)

MAX_DROPPED = 0.2
"""Share of rows up to which leaving rows out is suggested; of more, something else is wrong with the file."""

MIN_AGREEMENT = 0.95
"""Share of known patients whose diagnosis must be UCI's."""

_NOT_ALLOWED = "not allowed"


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A canonical table and where it comes from.

    Attributes:
        name: `uci`, `readmission` or `file`.
        title: what it was recognised as.
        path: where it was read from; None where it was generated.
        files: name -> SHA-256, in hex, of each file that was read, an archive itself among them.
        mapped: what was read as something else, and what speaks for it, in words.
        dropped: why -> rows that are not in the table.
        facts: what else is known, for the manifest.
        table: a row a patient; `hospital` where the data has it, then the task's columns as numbers (NaN for missing),
            then the label 0 or 1.
    """

    name: str
    task: Task
    title: str
    path: Path | None = None
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
        """What was mapped and dropped, for a person."""
        dropped = [f"{why}: {rows} dropped" for why, rows in self.dropped.items() if rows]
        return [*self.mapped, *dropped]

    def describe(self) -> dict[str, Any]:
        """All but the table, for the manifest."""
        return {
            "name": self.name,
            "title": self.title,
            "files": dict(self.files),
            "mapped": list(self.mapped),
            "rows": {"read": len(self.table) + sum(self.dropped.values()), "kept": len(self.table)},
            "dropped": dict(self.dropped),
            **self.facts,
        }


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
    contents = read_contents(path)
    files = [recognise(file, content, path) for file, content in contents.items()]
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
        path=path,
        files={
            **({} if path.is_dir() or path.name in contents else {path.name: hash_file(path)}),  # an archive
            **{file: sha256(content).hexdigest() for file, content in contents.items()},
        },
        mapped=[
            *layout.mappings(),
            *_lacking(contents),
            *_zeros(layout, pd.concat([file.text for file in files])),
            *(_confirm_label(path, table, layout) if layout.label_is_turned else ()),
        ],
        dropped={"exact repeats": read - len(table), "rows that break a rule": sum(broken)},
        table=table,
    )


def generate_readmission(patients: int, seed: int) -> Source:
    """Generated records of diabetes patients at two virtual hospitals; see `readmission`.

    Raises:
        SettingsError: too few patients for an AUC, or too many for the memory.
    """
    low, high = PATIENTS_RANGE
    if not low <= patients <= high:
        raise SettingsError(f"--patients: expected {low} to {high}, got {patients}")
    records = generate_patients(patients, seed)
    best = round(expected_roc_auc(records.probability), 4)
    return Source(
        name=READMISSION.name,
        task=READMISSION,
        title="generated records of diabetes patients",
        mapped=[f"Bayes-optimal ROC-AUC, expected over the labels of all these patients: {best}"],
        facts={"generated_patients": patients, "generator_seed": seed, "expected_bayes_optimal_roc_auc": best},
        table=records.table,
    )


def _lacking(contents: Mapping[str, bytes]) -> Iterator[str]:
    if lacking := [name for name in UCI_FILES if name not in contents and UCI_FILES.keys() & contents.keys()]:
        yield f"of UCI's four files these were not there: {', '.join(lacking)}"


def _read_file(file: RecognisedFile, *, drop_invalid: bool) -> tuple[pd.DataFrame, int]:
    """A file's canonical rows, and the number of its rows that broke a rule and were left out."""
    layout = file.layout
    canonical = pd.DataFrame({column.name: file.text[layout.written(column)] for column in layout.columns})
    for name, codes in layout.codes.items():
        cells = shorten(canonical[name])
        is_missing = cells.isin(MISSING_MARKS | layout.missing)
        canonical[name] = cells.map(codes).where(~is_missing, "").fillna(_NOT_ALLOWED)
    reading = read_cells(canonical, layout.columns, layout.missing)
    invalid = reading.invalid
    hospitals = _read_hospitals(file)
    if hospitals is not None:
        invalid = invalid.assign(**{HOSPITAL_COLUMN: hospitals == ""})
    broken = invalid.any(axis=1)
    if broken.any() and not drop_invalid:
        _raise_first(file, invalid)
    table = reading.numbers[~broken]
    table = table.assign(**{layout.task.label.name: table[layout.task.label.name].astype("int64")})
    if hospitals is not None:
        table.insert(0, HOSPITAL_COLUMN, hospitals[~broken])
    return table, int(broken.sum())


def _read_hospitals(file: RecognisedFile) -> "pd.Series[str] | None":
    """Hospitals' names of the rows, "" where there is none; None where the file does not say."""
    column = file.layout.hospital
    if column not in file.text.columns:
        return None
    written = {words: hospital_name_from(words) for words in file.text[column].unique()}
    names = [name for name in written.values() if name]
    if alike := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file.name}: column {column}: two hospitals would both be called {alike[0]}")
    return file.text[column].map(written)


def _raise_first(file: RecognisedFile, invalid: pd.DataFrame) -> None:
    rules = {column.name: (file.layout.written(column), file.layout.rule(column)) for column in file.layout.columns}
    rules[HOSPITAL_COLUMN] = (file.layout.hospital, "a hospital's name, with letters or digits")
    first = next(str(name) for name in invalid if invalid[name].any())
    column, rule = rules[first]
    row, rows = int(invalid[first].to_numpy().argmax()), int(invalid.any(axis=1).sum())
    more = f"; {rows} of {len(invalid)} rows break a rule" if rows > 1 else ""
    few = rows <= MAX_DROPPED * len(invalid)
    hint = " (--drop-invalid leaves such rows out)" if few or rows == 1 else ""
    raise DataError(f"{file.name}: {describe_cell(column, row, rule, file.text[column].iloc[row])}{more}{hint}")


def _zeros(layout: Layout, text: pd.DataFrame) -> Iterator[str]:
    """Where a 0 stands for missing, in words."""
    for column in layout.task.measurements:
        if column.zero_is_missing and (zeros := count_zeros(text[layout.written(column)])):
            yield f"{layout.written(column)}: 0 -> missing, in {zeros} of {len(text)} rows"


def _confirm_label(path: Path, table: pd.DataFrame, layout: Layout) -> list[str]:
    """Compare the label with UCI's for those patients who are in UCI's table, too.

    Raises:
        DataError: it says the opposite, so the file's label was not turned round, or was turned back.
    """
    columns, label = list(layout.task.column_names), layout.task.label.name
    known = read_uci().table
    both = table.merge(known[[*columns, label]].drop_duplicates(columns), on=columns, suffixes=("", " of UCI"))
    agreeing = int((both[label] == both[f"{label} of UCI"]).sum())
    if agreeing < MIN_AGREEMENT * len(both):
        raise DataError(
            f"{path}: its target is not turned round as it is in {layout.title}: {len(both) - agreeing} of {len(both)} "
            f"patients who are in UCI's table have the other diagnosis there"
        )
    if both.empty:
        return [
            f"NOT CONFIRMED: no patient is in UCI's table; a target of 1 was taken for no disease, as in {layout.title}"
        ]
    return [f"confirmed: {len(both)} of {len(table)} patients are in UCI's table, {agreeing} with the same diagnosis"]
