"""The rows of all hospitals in one place, and the folds of repeated stratified cross-validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.split import PatientIds, Positions
from federated_health.data.tasks import Task
from federated_health.files import hash_file
from federated_health.studies.benefit.folds import assign_folds
from federated_health.studies.study import check_hospitals, find_hospitals


@dataclass(frozen=True)
class HospitalSplit:
    """Positions of one hospital's training rows and held-out rows (`test`)."""

    train: Positions
    test: Positions


Split = Mapping[str, HospitalSplit]


@dataclass(frozen=True, eq=False)
class Cohort:
    """The rows of all hospitals.

    Attributes:
        tables: hospital -> float64 columns of the task, then the label; NaN for missing.
        hashes: hospital -> SHA-256 of its CSV, in hex.
        task_file: file that declares the task; None for a task that comes with the package.
        ids: hospital -> number of each row's patient, [rows]; empty if no column identifies patients.
        left_out: hospital that is in no table -> why.
    """

    task: Task
    tables: Mapping[str, pd.DataFrame]
    hashes: Mapping[str, str]
    task_file: Path | None = None
    ids: Mapping[str, PatientIds] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def labels(self, hospital: str) -> npt.NDArray[np.float32]:
        """Labels of one hospital, [rows]."""
        return Patients.from_table(self.tables[hospital], self.task).labels

    def hospital(self, name: str, split: HospitalSplit) -> Hospital:
        """A hospital with these training and held-out rows."""
        patients = Patients.from_table(self.tables[name], self.task, self.ids.get(name))
        return Hospital(name=name, task=self.task, train=patients.take(split.train), test=patients.take(split.test))

    def fold_of_rows(self, folds: int, seed: int) -> dict[str, npt.NDArray[np.intp]]:
        """Fold of each row, from 0: hospital -> [rows]. The folds of one seed partition the rows."""
        return {
            name: self._assign_folds(name, np.arange(len(table)), folds, seed) for name, table in self.tables.items()
        }

    def split(self, *, folds: int, fold: int, seed: int, within: Split | None = None) -> Split:
        """One fold of every hospital's rows, or of its training rows in `within`.

        The folds of one seed partition the rows; all rows of a patient are in one fold.
        """
        splits = {}
        for name, table in self.tables.items():
            rows = within[name].train if within else np.arange(len(table))
            is_held_out = self._assign_folds(name, rows, folds, seed) == fold
            splits[name] = HospitalSplit(train=rows[~is_held_out], test=rows[is_held_out])
        return splits

    def _assign_folds(self, name: str, rows: Positions, folds: int, seed: int) -> npt.NDArray[np.intp]:
        """Fold of each of these rows of a hospital."""
        label = self.task.label
        ids = self.ids[name][rows] if name in self.ids else None
        return assign_folds(self.tables[name].iloc[rows], label.name, folds, seed, ids, label.classes)


def read_cohort(folder: Path, task_file: Path | None = None, folds: int = 0) -> Cohort:
    """The hospitals that create_dataset.py wrote into a folder; for the task file, see `find_hospitals`.

    Hospitals with too few patients for a run, or for so many folds, are left out (see `check_hospitals`).

    Raises:
        DataError: a hospital's data are not valid, or fewer than two hospitals have enough patients.
        SettingsError: only with fewer folds, two hospitals have enough patients.
    """
    task, own_file, files = find_hospitals(folder, task_file)
    checks, left_out = check_hospitals(files, task, folds)
    return Cohort(
        task,
        {name: check.numbers for name, check in checks.items()},
        {name: hash_file(files[name]) for name in checks},
        own_file,
        {name: check.cells.patients for name, check in checks.items() if check.cells.patients is not None},
        left_out,
    )
