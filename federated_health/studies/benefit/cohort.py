"""The rows of all hospitals in one place, and the folds of repeated stratified cross-validation."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.data_check import check_data
from federated_health.data.dataset_folder import find_hospital, read_manifest
from federated_health.data.hospital import Hospital, Positions, deal_folds, patients_of
from federated_health.data.tasks import Task, get_task
from federated_health.errors import DataError
from federated_health.files import hash_file


@dataclass(frozen=True)
class Side:
    """Which rows of one hospital a model is fitted on, and which ones it is tested on; positions."""

    train: Positions
    test: Positions


Split = Mapping[str, Side]


@dataclass(frozen=True, eq=False)
class Cohort:
    """All hospitals' rows.

    Attributes:
        numbers: hospital -> float64 columns of the task, then the label, NaN for missing.
        hashes: hospital -> SHA-256 of its CSV, in hex.
    """

    task: Task
    numbers: Mapping[str, pd.DataFrame]
    hashes: Mapping[str, str]

    def labels(self, hospital: str) -> npt.NDArray[np.float32]:
        """[rows] of one hospital, 0 or 1."""
        return patients_of(self.numbers[hospital], self.task).labels

    def hospital(self, name: str, side: Side) -> Hospital:
        """A hospital that trains on one side and holds out the other."""
        everyone = patients_of(self.numbers[name], self.task)
        return Hospital(name=name, task=self.task, train=everyone.take(side.train), test=everyone.take(side.test))

    def split(self, *, folds: int, fold: int, seed: int) -> Split:
        """One fold of every hospital; the folds of a seed are a partition of the rows."""
        return {name: self._side(name, np.arange(len(rows)), folds, fold, seed) for name, rows in self.numbers.items()}

    def split_again(self, split: Split, *, folds: int, fold: int, seed: int) -> Split:
        """One inner fold of every hospital: its training rows alone, split again."""
        return {name: self._side(name, side.train, folds, fold, seed) for name, side in split.items()}

    def _side(self, name: str, rows: Positions, folds: int, fold: int, seed: int) -> Side:
        fold_of = deal_folds(self.numbers[name].iloc[rows], self.task.label.name, folds, seed)
        return Side(train=rows[fold_of != fold], test=rows[fold_of == fold])


def read_cohort(folder: Path) -> Cohort:
    """The hospitals that create_dataset.py wrote into a folder.

    Raises:
        DataError: there are none, one of them may not join, or there is only one.
    """
    manifest = read_manifest(folder)
    task = get_task(manifest["task"])
    numbers, hashes = {}, {}
    for number in range(1, len(manifest["hospitals"]) + 1):
        path, name = find_hospital(folder, number)
        quality = check_data(path, task)
        quality.raise_obstacle()
        numbers[name], hashes[name] = quality.numbers, hash_file(path)
    if len(numbers) < 2:
        raise DataError(f"{folder}: holds one hospital; whether joining is worth it takes at least two")
    return Cohort(task, numbers, hashes)
