"""What a saved model predicts for patients: the task and threshold in its file, and the columns of a prediction."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.task_files import find_task, parse_task, read_task_file
from federated_health.data.tasks import Task, find_difference
from federated_health.errors import DataError
from federated_health.ml.keras_models import predict
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.model_files import load_model, read_description
from federated_health.ml.targets import target_of

DECIMALS = 6

TRIAL_ROWS = 2
"""Rows without any value with which a loaded network is tried."""


def read_task(model: Path, task_file: Path | None = None) -> tuple[Task, float]:
    """The task and the threshold of a saved model.

    Args:
        task_file: what the model's task is expected to be.

    Raises:
        DataError: the model's description is not valid, or its task is another one than expected.
    """
    description = read_description(model)
    declared = description.get("task_file")
    if isinstance(declared, str):
        task = parse_task(declared.encode(errors="replace"), f"{model}: task file")
    else:  # models of early releases do not hold their task
        task = find_task(str(description.get("task")), task_file)
    if description.get("schema") != task.schema_hash:
        raise DataError(f"{model}: was trained for another declaration of the task {task.name}")
    if task_file is not None:
        # Subgroups change no prediction, and models of earlier versions declare none.
        own, expected = (replace(of, subgroups={}).agreement for of in (task, read_task_file(task_file)))
        if difference := find_difference(own, expected, whose="model", servers="task file"):
            raise DataError(f"{model}: {difference}")
    threshold = description.get("threshold", DEFAULT_THRESHOLD)  # models of early releases have none
    if not isinstance(threshold, float) or not 0 <= threshold <= 1:
        raise DataError(f"{model}: threshold: expected a number from 0 to 1, got {threshold!r}")
    return task, threshold


def load_task_model(path: Path, task: Task) -> Any:
    """The Keras model in a file; a DataError if it is damaged, or its inputs and outputs are not those of the task."""
    model = load_model(path)
    try:
        inputs = {tensor.name for tensor in model.inputs}
        shape = predict(model, task, np.full((TRIAL_ROWS, len(task.columns)), np.nan)).shape
    except Exception:  # Keras calls a damaged network only now
        inputs, shape = set(), ()
    if inputs != set(task.column_names) or shape != (TRIAL_ROWS, target_of(task).outputs):
        raise DataError(f"{path}: its network has other inputs or outputs than its task {task.name}, or is damaged")
    return model


def predict_columns(
    model: Any, task: Task, threshold: float, values: npt.NDArray[np.float64]
) -> dict[str, npt.NDArray[Any]]:
    """The columns that predictions add to a table, each [rows].

    Args:
        model: a saved model's Keras model.
        values: [rows, columns of the task], NaN for missing.
    """
    predictions = predict(model, task, values).astype(np.float64)
    # From rounded numbers, so that the columns agree.
    return dict(target_of(task).prediction_columns(predictions.round(DECIMALS), threshold))
