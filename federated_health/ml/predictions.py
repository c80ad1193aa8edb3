"""What a saved model predicts for patients: the task and threshold in its file, and the columns of a prediction."""

from collections.abc import Mapping
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
from federated_health.ml.recalibration import MAX_BOUND, MIN_SLOPE, Recalibration
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Interval
from federated_health.names import is_hospital_name, printable

DECIMALS = 6

MAX_SHOWN = 20
"""Largest number of hospitals that an error names."""

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


def read_sites(description: Mapping[str, Any], source: str) -> dict[str, Recalibration]:
    """The recalibrations in a model's description, by hospital; none in models of early releases.

    Raises:
        DataError: they are not valid. `source` names the model.
    """
    declared = description.get("sites", {})
    if not isinstance(declared, dict) or not all(map(is_hospital_name, declared)):
        raise DataError(f"{source}: sites: expected a table with names of hospitals")
    return {str(name): _read_site(site, f"{source}: sites") for name, site in declared.items()}


def _read_site(site: object, source: str) -> Recalibration:
    values = dict(site) if isinstance(site, dict) else {}
    intercept, slope = values.get("intercept"), values.get("slope")
    if not isinstance(intercept, float) or not abs(intercept) <= MAX_BOUND:
        raise DataError(f"{source}: intercept: expected a number from -{MAX_BOUND:g} to {MAX_BOUND:g}")
    if slope is not None and (not isinstance(slope, float) or not MIN_SLOPE <= slope <= MAX_BOUND):
        raise DataError(f"{source}: slope: expected a number from {MIN_SLOPE:g} to {MAX_BOUND:g}, or null")
    of_slope = None if slope is None else Interval(value=slope)
    return Recalibration(intercept=Interval(value=intercept), slope=of_slope)


def find_site(sites: Mapping[str, Recalibration], name: str, source: str) -> Recalibration:
    """The recalibration of a hospital; a DataError that names the hospitals which have one if it has none."""
    if name in sites:
        return sites[name]
    if not sites:
        raise DataError(f"{source}: holds no recalibration of any hospital")
    known, more = ", ".join(sorted(sites)[:MAX_SHOWN]), len(sites) - MAX_SHOWN
    more_known = f" and {more:,} more" if more > 0 else ""
    raise DataError(f"{source}: site: expected one of {known}{more_known}; got {printable(name)}")


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
    model: Any,
    task: Task,
    threshold: float,
    values: npt.NDArray[np.float64],
    site: Recalibration | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """The columns that predictions add to a table, each [rows].

    Args:
        model: a saved model's Keras model.
        values: [rows, columns of the task], NaN for missing.
        site: corrects the risks of a hospital's patients. Decisions stay as they are: the threshold was chosen for the
            risks before, and so were the figures of the decisions at that hospital.

    Raises:
        DataError: the file has a site although its label is not binary.
    """
    predictions = predict(model, task, values).astype(np.float64)
    # From rounded numbers, so that the columns agree.
    columns = dict(target_of(task).prediction_columns(predictions.round(DECIMALS), threshold))
    if site is None:
        return columns
    if task.label.kind != "binary":
        raise DataError(f"sites of the model: expected none, since its label is of the kind {task.label.kind}")
    return {**columns, "risk": site.apply_to_risks(predictions[:, 0])}
