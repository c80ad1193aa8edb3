"""Reads or generates a data set as one canonical table: a `hospital` column, the task's columns, the label.

The result states what was recognised, confirmed, mapped and dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from federated_health.data.csv_reading import read_table
from federated_health.data.examples import DIABETES_STAYS, HEART_DISEASE_TABLE
from federated_health.data.sources import diabetes_stays
from federated_health.data.sources.generated_patients import expected_roc_auc, generate_patients
from federated_health.data.sources.label_meaning import FLAG, LabelMeaning
from federated_health.data.sources.layout_confirmation import confirm_layout
from federated_health.data.sources.layouts import LAYOUTS, UCI_FILES, layouts_of
from federated_health.data.sources.reading import (
    Reading,
    drop_invalid_rows,
    read_files,
    refuse_invalid_cells,
    refuse_invalid_labels,
)
from federated_health.data.sources.recognition import RecognisedFile, read_contents, recognise_file
from federated_health.data.task_files import HEART_DISEASE, READMISSION, READMISSION_30D
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.files import hash_file
from federated_health.names import HOSPITAL_COLUMN

DEFAULT_PATIENTS = 4000
PATIENTS_RANGE = (2, 10_000_000)
"""Number of generated patients: default and bounds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A canonical table and its origin.

    Attributes:
        name: `uci`, `diabetes`, `readmission` or `file`.
        title: kind of file, for people.
        path: file or folder that was read.
        files: name -> SHA-256, in hex, of each file that was read; includes an archive itself.
        mapped: names and codes that were translated, and the evidence for it, one line each.
        dropped: reason -> rows that are not in the table.
        facts: further entries of the manifest.
        table: `hospital` if the data has it, then the task's columns as numbers (NaN for missing), then the label, then
            a number of the patient if the task has a column for it; else one row per patient.
        is_public: whether everyone may see the rows: those of the package's own tables, and generated ones.
        columns: the data's own columns as text, with the index of `table`; none of generated patients. A name may occur
            more than once.
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
    is_public: bool = False
    columns: pd.DataFrame = field(default_factory=pd.DataFrame)

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


def read_uci(task: Task = HEART_DISEASE) -> Source:
    """The UCI heart disease table that comes with the project.

    Args:
        task: the task that it is read for, which predicts one of the table's columns from others.
    """
    return read_source(HEART_DISEASE_TABLE, name="uci", task=task)


def read_diabetes() -> Source:
    """The stays of diabetes patients that come with the project."""
    stays = read_table(DIABETES_STAYS)
    files = {DIABETES_STAYS.name: hash_file(DIABETES_STAYS)}
    return replace(_stays_source("diabetes", stays), path=DIABETES_STAYS, files=files, is_public=True)


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
        is_public=True,
    )


def read_source(
    path: Path,
    *,
    name: str = "file",
    task: Task | None = None,
    drop_invalid: bool = False,
    label_meaning: LabelMeaning | None = None,
) -> Source:
    """Read a CSV, a zip with one CSV, or a folder or zip with UCI's `processed.*.data` or `diabetic_data.csv`.

    A layout that is guessed from the header must be confirmed by patients who are also in UCI's table (see
    `confirm_layout`).

    Args:
        task: the task whose data the file holds; by default, the file's header decides between the shipped tasks.
        drop_invalid: whether rows with an invalid cell are dropped and counted; a label is never a reason to drop one.
        label_meaning: what the label's cells mean, as the user states it.

    Raises:
        DataError: the layout is unknown or not confirmed, or a cell is invalid. The text never quotes a patient's cell.
    """
    contents = read_contents(path)
    known = LAYOUTS if task is None else layouts_of(task)
    files = [recognise_file(file, content, path, known) for file, content in contents.items()]
    if not files[0].layouts:
        return _read_stays_file(path, contents, files[0], drop_invalid, label_meaning)
    readings = [read_files(files, layout, label_meaning) for layout in files[0].layouts]
    reading = min(readings, key=Reading.mismatch)
    layout, task = reading.layout, reading.layout.task
    if not drop_invalid:
        refuse_invalid_cells(reading, [column.name for column in task.measurements])  # by which patients are matched
    remarks: list[str] = []
    if path == HEART_DISEASE_TABLE:  # whose codes are known
        refuse_invalid_labels(reading)
    else:
        remarks = confirm_layout(reading)
    if not drop_invalid:
        refuse_invalid_cells(reading, reading.invalid.columns)
    table = drop_invalid_rows(reading)
    columns = pd.concat([file.text for file in files], ignore_index=True)[reading.is_valid].reset_index(drop=True)
    rows_valid = len(table)
    if layout.repeats_are_copies:
        is_first = ~table.duplicated()
        table, columns = (rows[is_first].reset_index(drop=True) for rows in (table, columns))
    mapped = [*layout.describe_mappings(), *files[0].remarks]
    if absent := [file for file in UCI_FILES if file not in contents and UCI_FILES.keys() & contents.keys()]:
        mapped.append(f"missing files of UCI's four: {', '.join(absent)}")
    for column in task.columns:
        if zeros := reading.zeros[column.name]:
            mapped.append(f"{layout.name_in_file(column)}: 0 -> missing, in {zeros} of {len(reading.table)} rows")
    return Source(
        name=name,
        task=task,
        title=layout.title,
        path=path,
        files=_hash_contents(path, contents),
        mapped=[*mapped, *reading.remarks, *remarks],
        dropped={"exact repeats": rows_valid - len(table), "rows that break a rule": len(reading.table) - rows_valid},
        facts={"confirmation": reading.evidence.describe()} if remarks else {},
        table=table,
        is_public=name == "uci",
        columns=columns,
    )


def _read_stays_file(
    path: Path, contents: Mapping[str, bytes], file: RecognisedFile, drop_invalid: bool, meaning: LabelMeaning | None
) -> Source:
    """A copy of UCI's diabetes stays; it is public if it gives exactly the rows of the package's own table."""
    if meaning is not None:
        raise DataError(f"{FLAG}: expected none for {diabetes_stays.TITLE}, whose label is <30; got {meaning.text}")
    stays, invalid_rows = diabetes_stays.read_stays(file.text, file.name, drop_invalid=drop_invalid)
    source = _stays_source("file", stays)
    own = read_diabetes()
    is_own = source.table.equals(own.table)
    remark = "these are the rows of the package's own copy (--source diabetes), figure for figure"
    if not is_own:
        remark = f"these are not all of UCI's rows, or they were changed: UCI's table gives {len(own.table)}"
    return replace(
        source,
        path=path,
        files=_hash_contents(path, contents),
        mapped=[*file.remarks, *source.mapped, remark],
        dropped={"rows that break a rule": invalid_rows, **source.dropped},
        is_public=is_own,
    )


def _stays_source(name: str, stays: pd.DataFrame) -> Source:
    """UCI's diabetes stays, in UCI's words."""
    table, stays, dropped = diabetes_stays.to_task(stays)
    return Source(
        name=name,
        task=READMISSION_30D,
        title=diabetes_stays.TITLE,
        mapped=diabetes_stays.MAPPINGS,
        dropped=dropped,
        table=table,
        columns=stays,
    )


def _hash_contents(path: Path, contents: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> SHA-256, in hex, of the files that were read; includes an archive itself."""
    archive = {} if path.is_dir() or path.name in contents else {path.name: hash_file(path)}
    return {**archive, **{file: sha256(content).hexdigest() for file, content in contents.items()}}
