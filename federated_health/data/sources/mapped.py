"""Reads a hospital's own export through a mapping file, as a canonical table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from federated_health.data import csv_reading
from federated_health.data.exports.mappings import Mapping
from federated_health.data.patient_ids import number_patients
from federated_health.data.sources.reading import read_hospitals, with_whole_labels
from federated_health.data.sources.source import Source
from federated_health.errors import DataError
from federated_health.files import hash_file
from federated_health.names import HOSPITAL_COLUMN


def read_mapped(path: Path, mapping: Mapping, *, drop_invalid: bool = False) -> Source:
    """Read an export as its mapping states.

    Args:
        drop_invalid: whether rows with an invalid cell are dropped and counted; an invalid label never is.

    Raises:
        DataError: the export does not have the form that the mapping states, or a cell is invalid. The text quotes no
            cell.
    """
    task = mapping.task
    export = mapping.read_export(path)
    text = mapping.apply(export, path)
    cells = replace(csv_reading.check_cells(text, task.labelled_columns, patient=task.patient), mapping=mapping)
    invalid_rows = cells.invalid.any(axis=1)
    if invalid_rows.any() and (not drop_invalid or cells.invalid[task.label.name].any()):
        refused = cells.invalid[[task.label.name]] if drop_invalid else cells.invalid
        error = csv_reading.find_invalid_cell(path, task.labelled_columns, replace(cells, invalid=refused))
        assert error is not None
        raise error
    table = cells.numbers
    if task.patient is not None and cells.patients is not None:
        table[task.patient] = number_patients(cells.patients)
    if HOSPITAL_COLUMN in text.columns:
        table.insert(0, HOSPITAL_COLUMN, _read_hospitals(path, text[HOSPITAL_COLUMN], mapping.title(HOSPITAL_COLUMN)))
    table = with_whole_labels(table[~invalid_rows].reset_index(drop=True), task.label)
    if table.empty:
        raise DataError(f"{path}: no patients are left; expected at least one valid row")
    zeros = [f"{mapping.title(name)}: 0 -> missing, in {rows} rows" for name, rows in cells.zeros.items() if rows]
    return Source(
        name="file",
        task=task,
        title="an export, read through a mapping",
        path=path,
        files={path.name: hash_file(path), mapping.path.name: mapping.sha256},
        mapped=[mapping.describe(), *mapping.describe_columns(), *zeros],
        dropped={"rows that break a rule": int(invalid_rows.sum())},
        facts={"mapping": {"file": mapping.path.name, "sha256": mapping.sha256}},
        table=table,
        columns=export[~invalid_rows].reset_index(drop=True),
    )


def _read_hospitals(path: Path, cells: "pd.Series[str]", title: str) -> "pd.Series[str]":
    """Hospital name of each row; a DataError if a row has none."""
    names = read_hospitals(cells, f"{path}: column {title}")
    if (names == "").any():
        row = int(np.flatnonzero(names == "")[0]) + 1
        raise DataError(f"{path}: column {title}, row {row}: expected a hospital's name, with letters or digits")
    return names
