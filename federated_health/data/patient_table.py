"""Reads a table of patients that must be valid as a whole, such as new patients to score."""

from pathlib import Path

import pandas as pd

from federated_health.data.csv_reading import find_invalid_cell, read_cells
from federated_health.data.tasks import Task


def read_patients(
    path: Path, task: Task, *, labelled: bool, mapping: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of a file as text, and float64 columns of the task, NaN for missing, with the same index.

    Columns that the task does not know are ignored.

    Args:
        labelled: whether the label is required; if so, it is the last of the columns.
        mapping: file that says how the table's columns and codes become the task's.

    Raises:
        DataError: names the file and, where possible, the column, the row and the rule; never a value.
    """
    cells = read_cells(path, task, labelled=labelled, mapping=mapping)
    if error := find_invalid_cell(path, task.labelled_columns, cells):
        raise error
    return cells.text, cells.numbers
