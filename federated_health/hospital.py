"""One hospital's CSV: read, validated against the task, and split into training and held-out patients once."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from federated_health.columns import Category, Label, Measurement
from federated_health.errors import DataError
from federated_health.tables import read_table
from federated_health.tasks import Task

DEFAULT_SPLIT_SEED = 42
TEST_FRACTION = 0.25
MINIMUM_PATIENTS = 8
"""So that at least five are trained on, below which no sum over them may leave, and one of each class is held out."""

MISSING_MARKS = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True, eq=False)
class Patients:
    """Rows of one side of a split.

    Attributes:
        values: float64 [rows, columns of the task], raw units and codes, NaN for missing.
        labels: float32 [rows], 0 or 1.
    """

    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Hospital:
    """A hospital as its own process sees it: its patients never leave this object's process."""

    name: str
    task: Task
    train: Patients
    test: Patients


def read_patients(path: Path, task: Task, *, labelled: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A CSV of patients, as written and as numbers.

    Missing cells may be empty or one of ?, NA, N/A, NaN, null, None; a 0 that stands for "not measured" is read as
    missing. Columns that the task does not know are left alone.

    Args:
        path: UTF-8 CSV with a header.
        labelled: whether the label column is needed, too.

    Returns:
        The table as text, and float64 columns of the task (then the label) under the same index, NaN for missing.

    Raises:
        DataError: names the file and, where there is one, the column, the row (1 is the first below the header) and
            the rule; never a value.
    """
    text = read_table(path)
    declared: list[Measurement | Category | Label] = [*task.columns, *([task.label] if labelled else [])]
    header = list(text.columns)
    if lacking := [column.name for column in declared if column.name not in header]:
        # Names only: what looks otherwise may be a patient's cell, where a file has no header.
        names = (
            ", ".join(name for name in header if re.fullmatch(r"[A-Za-z_][\w .-]{0,40}", name)) or "nothing like names"
        )
        noun = "column" if len(lacking) == 1 else "columns"
        raise DataError(f"{path}: lacks the {noun} {', '.join(lacking)}; its header is: {names}")
    if repeated := [column.name for column in declared if header.count(column.name) > 1]:
        raise DataError(f"{path}: has the column {', '.join(repeated)} more than once")
    if text.empty:
        raise DataError(f"{path}: has a header and no patients")

    numbers = pd.DataFrame({column.name: _to_numbers(text[column.name], column, path) for column in declared})
    try:
        _schema(task, labelled=labelled).validate(numbers, lazy=True)
    except pa.errors.SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        column = next(column for column in declared if column.name == first["column"])
        others = len(error.failure_cases) - 1
        raise DataError(
            f"{path}: column {column.name}, row {int(first['index']) + 1}: expected {describe_rule(column)}"
            + (f" (and {others} more cells like it)" if others else "")
        ) from None
    return text, numbers


def describe_rule(column: Measurement | Category | Label) -> str:
    """What a cell of the column may hold, in words."""
    match column:
        case Measurement():
            return f"a number from {column.low:g} to {column.high:g} ({column.unit}), or empty"
        case Category():
            return f"one of {', '.join(f'{code} ({word})' for code, word in column.codes.items())}, or empty"
        case Label():
            return "0 or 1"


def split_rows(numbers: pd.DataFrame, label: str, seed: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Positions of training and of held-out rows, each ascending.

    A quarter is held out, of each class where it has more than one patient. Which ones is a matter of a keyed hash of
    each row's own content: the order of the file moves no patient from one side to the other, and a patient who is
    added moves at most one. Rows that are equal but for the label land on the same side, so that a patient who was
    recorded twice is never trained on and tested with.

    Args:
        numbers: all rows of one hospital, label included.
        seed: the hospital's own split seed.
    """
    content = numbers.drop(columns=label).to_numpy(dtype=np.float64) + 0.0  # makes -0.0 the 0.0 that it equals
    key = seed.to_bytes(16, "big", signed=True)
    draws = np.array([blake2b(row.tobytes(), digest_size=8, key=key).hexdigest() for row in content])
    patients, members = np.unique(draws, return_inverse=True)  # sorted by draw
    positive = np.zeros(len(patients), dtype=bool)
    np.logical_or.at(positive, members, numbers[label].to_numpy() == 1)
    held_out = np.zeros(len(patients), dtype=bool)
    for of_class in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        held_out[of_class[: int(len(of_class) * TEST_FRACTION + 0.5)]] = True  # none of one, one of two to five
    in_test = held_out[members]
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


@lru_cache(maxsize=1024)
def load_hospital(path: Path, task: Task, name: str, split_seed: int) -> Hospital:
    """Read, validate and split a hospital's CSV. Repeated calls in one process return the same object.

    Raises:
        DataError: the CSV is not what the task needs, or too small to be split.
    """
    _, numbers = read_patients(path, task, labelled=True)
    different = len(numbers.drop_duplicates(list(task.column_names)))
    if different < MINIMUM_PATIENTS:
        raise DataError(f"{path}: has {different} different patients; at least {MINIMUM_PATIENTS} are needed")
    values = numbers[list(task.column_names)].to_numpy(dtype=np.float64)
    labels = numbers[task.label.name].to_numpy(dtype=np.float32)
    train, test = split_rows(numbers, task.label.name, split_seed)
    return Hospital(
        name=name,
        task=task,
        train=Patients(values[train], labels[train]),
        test=Patients(values[test], labels[test]),
    )


def _to_numbers(cells: "pd.Series[str]", column: Measurement | Category | Label, path: Path) -> "pd.Series[float]":
    trimmed = cells.str.strip()
    numbers = pd.to_numeric(trimmed, errors="coerce").astype(np.float64)
    text = numbers.isna() & ~trimmed.str.lower().isin(MISSING_MARKS)
    if text.any():
        raise DataError(f"{path}: column {column.name}, row {_row(text)}: expected {describe_rule(column)}; got text")
    if isinstance(column, Measurement) and column.zero_is_missing:
        numbers = numbers.mask(numbers == 0)
    return numbers


def _row(mask: "pd.Series[bool]") -> int:
    return int(mask.to_numpy().argmax()) + 1


def _schema(task: Task, *, labelled: bool) -> pa.DataFrameSchema:
    columns: dict[Hashable, pa.Column] = {}
    for column in task.columns:
        check = (
            pa.Check.in_range(column.low, column.high)
            if isinstance(column, Measurement)
            else pa.Check.isin([float(code) for code in column.codes])
        )
        columns[column.name] = pa.Column(float, check, nullable=True)
    if labelled:
        columns[task.label.name] = pa.Column(float, pa.Check.isin([0.0, 1.0]), nullable=False)
    return pa.DataFrameSchema(columns)
