"""Reads or generates a data set as one canonical table: a `hospital` column, the task's columns, the label.

A file is recognised by its header and its codes. The result states what was recognised, mapped and dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health.data.csv_reading import MISSING_MARKS, check_cells, describe_first_invalid
from federated_health.data.examples import HEART_DISEASE_TABLE
from federated_health.data.sources.generated_patients import expected_roc_auc, generate_patients
from federated_health.data.sources.layouts import HOSPITAL_COLUMN, UCI_FILES, Layout
from federated_health.data.sources.recognition import RecognisedFile, read_contents, recognise_file, shorten
from federated_health.data.task_files import READMISSION
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.files import hash_file
from federated_health.names import hospital_name_from

DEFAULT_PATIENTS = 4000
PATIENTS_RANGE = (2, 10_000_000)
"""Number of generated patients: default and bounds."""

MAX_DROPPED = 0.2
"""Largest share of invalid rows at which an error suggests --drop-invalid; above it, something else is wrong."""

MIN_AGREEMENT = 0.95
"""Smallest share of the patients who are also in UCI's table that must have the diagnosis given there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A canonical table and its origin.

    Attributes:
        name: `uci`, `readmission` or `file`.
        title: kind of file, for people.
        path: file or folder that was read.
        files: name -> SHA-256, in hex, of each file that was read; includes an archive itself.
        mapped: names and codes that were translated, and the evidence for it, one line each.
        dropped: reason -> rows that are not in the table.
        facts: further entries of the manifest.
        table: one row per patient; `hospital` if the data has it, then the task's columns as numbers (NaN for missing),
            then the label, 0 or 1.
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
        return HOSPITAL_COLUMN in self.table.columns

    def remarks(self) -> list[str]:
        """What was mapped and dropped, for the console."""
        return [*self.mapped, *(f"{reason}: {rows} dropped" for reason, rows in self.dropped.items() if rows)]

    def describe(self) -> dict[str, Any]:
        """Everything but the table, for the manifest."""
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
    return read_source(HEART_DISEASE_TABLE, name="uci")


def generate_readmission(patients: int, seed: int) -> Source:
    """Generate diabetes patients of two virtual hospitals: at least 2, for an AUC, and no more than fit into memory."""
    low, high = PATIENTS_RANGE
    if not low <= patients <= high:
        raise SettingsError(f"--patients: expected {low} to {high}, got {patients}")
    generated = generate_patients(patients, seed)
    best = round(expected_roc_auc(generated.probability), 4)
    return Source(
        name=READMISSION.name,
        task=READMISSION,
        title="generated records of diabetes patients",
        mapped=[f"Bayes-optimal ROC-AUC, expected over the labels of all these patients: {best}"],
        facts={"generated_patients": patients, "generator_seed": seed, "expected_bayes_optimal_roc_auc": best},
        table=generated.table,
    )


def read_source(path: Path, *, name: str = "file", drop_invalid: bool = False) -> Source:
    """Read a CSV, a zip with one CSV, or a folder or zip with UCI's `processed.*.data`.

    With `drop_invalid`, rows with an invalid cell are dropped and counted.

    Raises:
        DataError: the layout is unknown or a cell is invalid. The text never quotes a value.
    """
    contents = read_contents(path)
    files = [recognise_file(file, content, path) for file, content in contents.items()]
    layout = files[0].layout
    tables, zero_counts = zip(*(_read_file(file, drop_invalid=drop_invalid) for file in files), strict=True)
    table = pd.concat(tables, ignore_index=True)
    rows_read = sum(len(file.text) for file in files)
    rows_valid = len(table)
    if layout.repeats_are_copies:
        table = table.drop_duplicates(ignore_index=True)
    if table.empty:
        raise DataError(f"{path}: no patients are left; expected at least one valid row")
    mapped = layout.describe_mappings()
    if absent := [file for file in UCI_FILES if file not in contents and UCI_FILES.keys() & contents.keys()]:
        mapped.append(f"missing files of UCI's four: {', '.join(absent)}")
    for column in layout.task.columns:
        if zeros := sum(counts[column.name] for counts in zero_counts):
            mapped.append(f"{layout.name_in_file(column)}: 0 -> missing, in {zeros} of {rows_read} rows")
    if layout.label_is_inverted:
        mapped.append(_confirm_label(path, table, layout))
    return Source(
        name=name,
        task=layout.task,
        title=layout.title,
        path=path,
        files={
            **({} if path.is_dir() or path.name in contents else {path.name: hash_file(path)}),  # an archive
            **{file: sha256(content).hexdigest() for file, content in contents.items()},
        },
        mapped=mapped,
        dropped={"exact repeats": rows_valid - len(table), "rows that break a rule": rows_read - rows_valid},
        table=table,
    )


def _read_file(file: RecognisedFile, *, drop_invalid: bool) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Canonical rows of a file, and for each column the rows with a 0 that means missing, of all its rows."""
    layout, task = file.layout, file.layout.task
    canonical = pd.DataFrame({column.name: file.text[layout.name_in_file(column)] for column in task.labelled_columns})
    missing = dict.fromkeys(MISSING_MARKS | layout.missing_marks, "")
    for name, codes in layout.codes.items():
        canonical[name] = shorten(canonical[name]).map({**codes, **missing}).fillna("not allowed")
    cells = check_cells(canonical, task.labelled_columns, layout.missing_marks)
    table, invalid = cells.numbers, cells.invalid
    if layout.hospital in file.text.columns:
        table.insert(0, HOSPITAL_COLUMN, _read_hospitals(file))
        invalid = invalid.assign(**{HOSPITAL_COLUMN: table[HOSPITAL_COLUMN] == ""})
    is_valid = ~invalid.any(axis=1)
    if not (is_valid.all() or drop_invalid):
        raise _describe_first_invalid(file, invalid)
    return table[is_valid].astype({task.label.name: "int64"}), cells.zeros


def _read_hospitals(file: RecognisedFile) -> "pd.Series[str]":
    """Hospital name of each row; empty where the row has none."""
    column = file.layout.hospital
    names = {cell: hospital_name_from(cell) for cell in file.text[column].unique()}
    present = [name for name in names.values() if name]
    if repeated := sorted({name for name in present if present.count(name) > 1}):
        raise DataError(f"{file.name}: column {column}: two hospitals would both be called {repeated[0]}")
    return file.text[column].astype(str).map(names)


def _describe_first_invalid(file: RecognisedFile, invalid: pd.DataFrame) -> DataError:
    layout = file.layout
    rules = {column.name: (layout.name_in_file(column), layout.rule(column)) for column in layout.task.labelled_columns}
    rules[HOSPITAL_COLUMN] = (layout.hospital, "a hospital's name, with letters or digits")
    name = next(str(name) for name in invalid if invalid[name].any())
    column, rule = rules[name]
    rows = int(invalid.any(axis=1).sum())
    more = f"; {rows} of {len(invalid)} rows break a rule" if rows > 1 else ""
    hint = " (--drop-invalid leaves such rows out)" if rows <= max(1, MAX_DROPPED * len(invalid)) else ""
    return DataError(f"{file.name}: {describe_first_invalid(file.text[column], invalid[name], rule)}{more}{hint}")


def _confirm_label(path: Path, table: pd.DataFrame, layout: Layout) -> str:
    """Compare the label with UCI's for the patients who are also in UCI's table; refuse one that is not inverted."""
    columns, label = list(layout.task.column_names), layout.task.label.name
    known = read_uci().table[[*columns, label]].drop_duplicates(columns)
    both = table.merge(known, on=columns, suffixes=("", " of UCI"))
    agreeing = int((both[label] == both[f"{label} of UCI"]).sum())
    if agreeing < MIN_AGREEMENT * len(both):
        raise DataError(
            f"{path}: its target is not inverted as in {layout.title}: {len(both) - agreeing} of {len(both)} patients "
            "who are also in UCI's table have the opposite diagnosis there"
        )
    if both.empty:
        return f"NOT CONFIRMED: no patient is in UCI's table; a target of 1 means no disease, as in {layout.title}"
    return f"confirmed: {len(both)} of {len(table)} patients are in UCI's table, {agreeing} with the same diagnosis"
