"""One hospital's CSV: checked, and split into training and held-out patients once."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.data_check import check_data
from federated_health.data.tasks import Task

DEFAULT_SPLIT_SEED = 42
TEST_FRACTION = 0.25

Positions = npt.NDArray[np.intp]


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

    @classmethod
    def together(cls, parts: Iterable["Patients"]) -> "Patients":
        """All patients of some, one part after the other."""
        parts = list(parts)
        return cls(np.concatenate([one.values for one in parts]), np.concatenate([one.labels for one in parts]))

    def take(self, rows: npt.NDArray[Any]) -> "Patients":
        """Those patients, by position or by mask."""
        return Patients(self.values[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Hospital:
    """A hospital as its own process sees it: its patients never leave this object's process.

    Attributes:
        warnings: what its data team should look at; see `quality`.
    """

    name: str
    task: Task
    train: Patients
    test: Patients
    warnings: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """What its data team may read when it joins."""
        rows = f"{self.name}: {len(self.train)} patients to train on, {len(self.test)} held out"
        return [rows, *(f"look at this: {warning}" for warning in self.warnings)]


def split_rows(numbers: pd.DataFrame, label: str, seed: int) -> tuple[Positions, Positions]:
    """Positions of training and of held-out rows, each ascending.

    A quarter is held out, of each class where it has more than one patient. Which ones is a matter of a keyed hash of
    each row's own content: the order of the file moves no patient from one side to the other, and a patient who is
    added moves at most one. Rows that are equal but for the label land on the same side, so that a patient who was
    recorded twice is never trained on and tested with.

    Args:
        numbers: all rows of one hospital, label included.
        seed: the hospital's own split seed.
    """
    members, positives, negatives = _draw_patients(numbers, label, seed)
    held_out = np.zeros(len(positives) + len(negatives), dtype=bool)
    for of_class in (positives, negatives):
        held_out[of_class[: int(len(of_class) * TEST_FRACTION + 0.5)]] = True  # none of one, one of two to five
    in_test = held_out[members]
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def deal_folds(numbers: pd.DataFrame, label: str, folds: int, seed: int) -> npt.NDArray[np.intp]:
    """The fold, from 0, of each row of one hospital, for stratified cross-validation.

    The patients of either class are dealt out to the folds one by one, in the order that `split_rows` would take them
    in; the second class goes on where the first one stopped, so that folds are of the same size. Equal rows share one.
    """
    members, positives, negatives = _draw_patients(numbers, label, seed)
    fold_of = np.zeros(len(positives) + len(negatives), dtype=np.intp)
    fold_of[np.concatenate([positives, negatives])] = np.arange(len(fold_of)) % folds
    return fold_of[members]


def _draw_patients(numbers: pd.DataFrame, label: str, seed: int) -> tuple[Positions, Positions, Positions]:
    """Each row's patient, from 0; and the patients of either class, each in the order of their draws."""
    content = numbers.drop(columns=label).to_numpy(dtype=np.float64) + 0.0  # makes -0.0 the 0.0 that it equals
    key = seed.to_bytes(16, "big", signed=True)
    draws = np.array([blake2b(row.tobytes(), digest_size=8, key=key).hexdigest() for row in content])
    patients, members = np.unique(draws, return_inverse=True)  # sorted by draw
    positive = np.zeros(len(patients), dtype=bool)
    np.logical_or.at(positive, members, numbers[label].to_numpy() == 1)
    return members, np.flatnonzero(positive), np.flatnonzero(~positive)


@lru_cache(maxsize=1024)
def load_hospital(path: Path, task: Task, name: str, split_seed: int) -> Hospital:
    """Read, check and split a hospital's CSV. Repeated calls in one process return the same object.

    Raises:
        DataError: the CSV is not what the task needs, or too small to be split.
    """
    quality = check_data(path, task)
    quality.raise_obstacle()
    everyone = patients_of(quality.numbers, task)
    train, test = split_rows(quality.numbers, task.label.name, split_seed)
    return Hospital(
        name=name, task=task, train=everyone.take(train), test=everyone.take(test), warnings=quality.warnings
    )


def patients_of(numbers: pd.DataFrame, task: Task) -> Patients:
    """All rows of one hospital, in their order."""
    return Patients(
        numbers[list(task.column_names)].to_numpy(dtype=np.float64),
        numbers[task.label.name].to_numpy(dtype=np.float32),
    )
