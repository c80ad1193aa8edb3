"""One hospital's patients, read from its CSV, checked, and split into training and held-out rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.data_check import DataCheck, check_data
from federated_health.data.split import PatientIds, Positions, split_rows
from federated_health.data.tasks import Task


@dataclass(frozen=True, eq=False)
class Patients:
    """Rows of patients.

    Attributes:
        values: float64 [rows, columns of the task], raw units and codes, NaN for missing.
        labels: float32 [rows]; what they mean is the task's label's.
        ids: int64 [rows], equal for the rows of one patient; None if no column identifies patients.
    """

    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float32]
    ids: PatientIds | None = None

    @classmethod
    def from_table(cls, numbers: pd.DataFrame, task: Task, ids: PatientIds | None = None) -> Self:
        """The rows of a table with the task's columns and its label."""
        values = numbers[list(task.column_names)].to_numpy(dtype=np.float64)
        return cls(values, numbers[task.label.name].to_numpy(dtype=np.float32), ids)

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """The rows of several hospitals, in their order.

        Patients are numbered anew: those of different hospitals are different patients, even if their ids are equal.
        """
        parts = list(parts)
        values, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "labels"))
        if all(part.ids is None for part in parts):
            return cls(values, labels)
        numbers = [part.number_patients() for part in parts]
        firsts = np.cumsum([0, *(of_part.max(initial=-1) + 1 for of_part in numbers[:-1])])
        return cls(
            values, labels, np.concatenate([first + of_part for first, of_part in zip(firsts, numbers, strict=True)])
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Patients":
        """Some of the rows, by position or by mask."""
        return Patients(self.values[rows], self.labels[rows], None if self.ids is None else self.ids[rows])

    @property
    def most_rows(self) -> int:
        """Largest number of rows of one patient; 1 if no column identifies patients."""
        return 1 if self.ids is None else int(np.unique(self.ids, return_counts=True)[1].max(initial=1))

    def number_patients(self) -> npt.NDArray[np.intp]:
        """Number of each row's patient, from 0; each row is one of its own if no column identifies patients."""
        return np.arange(len(self)) if self.ids is None else np.unique(self.ids, return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class Hospital:
    """A hospital's patients, and what its data team should review. This never leaves the hospital's process.

    Attributes:
        positions: of the training rows, then of the held-out rows, in the hospital's table; None if they are not known.
    """

    name: str
    task: Task
    train: Patients
    test: Patients
    warnings: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    positions: Positions | None = None

    def remarks(self) -> list[str]:
        """Log lines for the hospital's data team."""
        rows = f"{self.name}: {len(self.train)} training rows, {len(self.test)} held-out rows"
        return [rows, *self.origin, *(f"warning: {warning}" for warning in self.warnings)]


@lru_cache(maxsize=1024)
def load_hospital(path: Path, task: Task, name: str, split_seed: int, mapping: Path | None = None) -> Hospital:
    """Read, check and split a hospital's CSV; a DataError if the hospital cannot join.

    Repeated calls in one process return the same object.

    Args:
        mapping: mapping file of the export; None if the CSV has the task's own columns.
    """
    return split_hospital(check_data(path, task, mapping), name, split_seed)


def split_hospital(check: DataCheck, name: str, split_seed: int) -> Hospital:
    """The hospital of a table that was checked; a DataError if it cannot join."""
    check.raise_obstacle()
    task = check.task
    patients = Patients.from_table(check.numbers, task, check.cells.patients)
    train, test = split_rows(check.numbers, task.label.name, split_seed, check.cells.patients, task.label.classes)
    return Hospital(
        name=name,
        task=task,
        train=patients.take(train),
        test=patients.take(test),
        warnings=check.warnings,
        origin=() if check.cells.mapping is None else (check.cells.mapping.describe(),),
        positions=np.concatenate([train, test]),
    )
