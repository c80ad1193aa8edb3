"""A trained model of the Python API: it scores DataFrames, and is saved as a run saves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from federated_health.data.csv_reading import find_invalid_cell
from federated_health.data.data_frames import read_frame
from federated_health.data.tasks import Task
from federated_health.errors import StorageError
from federated_health.ml import model_files
from federated_health.ml.predictions import find_site, load_task_model, predict_columns, read_sites, read_task

MODEL, PATIENTS = "model", "patients"
"""What errors call a model, and a DataFrame of patients to score."""


class Model:
    """A model that takes raw values of a task's columns; made by `federate` or `load_model`.

    Attributes:
        task: its columns and label.
        threshold: risk from which a patient is predicted positive.
        keras_model: the Keras model, with one input per column, NaN for missing.
    """

    def __init__(self, keras_model: Any, task: Task, threshold: float, description: Mapping[str, Any]) -> None:
        self.keras_model, self.task, self.threshold = keras_model, task, threshold
        self._description = description

    @property
    def sites(self) -> list[str]:
        """Hospitals for whose patients risks can be recalibrated; DataError if the model's file is not valid."""
        return sorted(read_sites(self._description, MODEL))

    def predict(self, patients: pd.DataFrame, *, site: str | None = None) -> pd.DataFrame:
        """The columns that `predict.py` adds to a table, such as `risk` and `prediction`, with the patients' index.

        Args:
            patients: has the task's columns; cells may be missing, and other columns are ignored.
            site: one of `sites`: the column `risk` is recalibrated for that hospital's patients. The column
                `prediction` stays the same, since the threshold belongs to the risks before.

        Raises:
            DataError: a column is missing, or holds a value that the task does not allow; or the site is unknown.
        """
        recalibration = None if site is None else find_site(read_sites(self._description, MODEL), site, MODEL)
        cells = read_frame(patients, PATIENTS, self.task, labelled=False)
        if error := find_invalid_cell(PATIENTS, self.task.columns, cells):
            raise error
        values = cells.numbers.to_numpy(dtype=np.float64)
        columns = predict_columns(self.keras_model, self.task, self.threshold, values, recalibration)
        return pd.DataFrame(columns, index=patients.index)

    def save(self, path: str | Path) -> None:
        """Write a .keras file for `predict.py`, `load_model` and plain Keras; StorageError if it cannot be written."""
        if Path(path).suffix != ".keras":
            raise StorageError(f"{path}: expected a name that ends in .keras")
        try:
            model_files.save_model(Path(path), self.keras_model, self._description)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from None

    def __repr__(self) -> str:
        return f"<Model of the task {self.task.name}: {len(self.task.columns)} columns, threshold {self.threshold:.4g}>"


def load_model(path: str | Path) -> Model:
    """The model in a file that a run or `Model.save` wrote; DataError if it is not such a file."""
    task, threshold = read_task(Path(path))
    keras_model = load_task_model(Path(path), task)
    return Model(keras_model, task, threshold, model_files.read_description(Path(path)))
