"""One hospital's CSV: checked, and split into training and held-out patients once."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.quality import check_hospital
from federated_health.tasks import Task

DEFAULT_SPLIT_SEED = 42
TEST_FRACTION = 0.25


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
    """Read, check and split a hospital's CSV. Repeated calls in one process return the same object.

    Raises:
        DataError: the CSV is not what the task needs, or too small to be split.
    """
    quality = check_hospital(path, task)
    quality.raise_obstacle()
    numbers = quality.numbers
    values = numbers[list(task.column_names)].to_numpy(dtype=np.float64)
    labels = numbers[task.label.name].to_numpy(dtype=np.float32)
    train, test = split_rows(numbers, task.label.name, split_seed)
    return Hospital(
        name=name,
        task=task,
        train=Patients(values[train], labels[train]),
        test=Patients(values[test], labels[test]),
        warnings=quality.warnings,
    )
