"""Reads pandas DataFrames by the rules for a hospital's CSV. A frame is never changed, and its index is ignored."""

from typing import Any

import pandas as pd

from federated_health.data.csv_reading import (
    CheckedCells,
    check_cells,
    file_error,
    refuse_empty_rows,
    refuse_repeated_or_empty,
)
from federated_health.data.exports.table_files import text_column
from federated_health.data.tasks import Task
from federated_health.errors import DataError


def read_frame(frame: pd.DataFrame, name: str, task: Task, *, labelled: bool = True) -> CheckedCells:
    """Cells of a frame (see `csv_reading.read_cells`); True and False are read as 1 and 0.

    Args:
        name: what errors call the frame, such as the hospital's name.
        labelled: whether the label and the column that identifies patients are required.

    Raises:
        DataError: it is not a frame with at least one patient and each of the task's columns once.
    """
    text = text_table(frame, name)
    columns = task.labelled_columns if labelled else task.columns
    patient = task.patient if labelled else None
    names = [*(column.name for column in columns), *([patient] if patient else [])]
    if not set(names) <= set(text.columns):
        raise _missing_columns(text, name, names)
    refuse_repeated_or_empty(name, text, names)
    refuse_empty_rows((text.iloc[:, position] for position in range(text.shape[1])), name)
    return check_cells(text, columns, patient=patient)


def text_table(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A frame as `csv_reading.read_table` returns a file: every cell is text, empty where it is missing."""
    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{name}: expected a pandas DataFrame, got {type(frame).__name__}")
    columns = (_as_numbers(frame.iloc[:, position]) for position in range(frame.shape[1]))
    table = pd.DataFrame({number: text_column(cells) for number, cells in enumerate(columns)})
    return table.set_axis(pd.Index([str(header).strip() for header in frame.columns], dtype=str), axis="columns")


def _as_numbers(cells: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column of truth values as 1 and 0; any other column as it is."""
    if cells.dtype == object or isinstance(cells.dtype, pd.CategoricalDtype):
        is_truth = pd.api.types.infer_dtype(cells.astype(object), skipna=True) == "boolean"
    else:
        is_truth = pd.api.types.is_bool_dtype(cells.dtype)
    return cells.astype(object).map({True: 1, False: 0}) if is_truth else cells


def _missing_columns(text: pd.DataFrame, name: str, names: list[str]) -> DataError:
    from federated_health.data.reading_errors import case_hint, describe_header  # noqa: PLC0415  # as in csv_reading

    header = list(text.columns)
    missing = [column for column in names if column not in header]
    problem = f"lacks the {'column' if len(missing) == 1 else 'columns'} {', '.join(missing)}"
    return file_error(name, problem, f"; its columns are: {describe_header(text, names)}{case_hint(header, missing)}")
