"""Made-up hospitals for tests of studies: heart patients whose age and cholesterol predict the disease, or do not."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.targets.binary import probability
from federated_health.settings import Settings
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.training_setups import EvaluationProtocol

Array = npt.NDArray[np.float64]
Mechanism = Callable[[Array, Array], Array]
"""Age and cholesterol, in standard deviations from their means -> log-odds of the disease."""


def clear(age: Array, chol: Array) -> Array:
    """Both columns predict the disease."""
    return 2.0 * age + 1.0 * chol


def nothing(age: Array, _: Array) -> Array:
    """No column predicts the disease."""
    return np.zeros_like(age)


def patients(number: int, seed: int, mechanism: Mechanism = clear) -> pd.DataFrame:
    """Patients with these two columns; half of them are positive."""
    generator = np.random.default_rng(seed)
    age, chol = generator.normal(size=(2, number))
    table = pd.DataFrame({name: np.full(number, np.nan) for name in HEART_DISEASE.column_names})
    table["age"], table["chol"] = np.clip(55 + 9 * age, 1, 119), np.clip(240 + 50 * chol, 60, 900)
    risk = probability(mechanism(age, chol))
    # The positive half are those whose risk lies furthest above a random number.
    excess = risk - generator.random(number)
    table["disease"] = (excess >= np.median(excess)).astype(np.float64)
    return table


def cohort_of(hospitals: Mapping[str, pd.DataFrame]) -> Cohort:
    return Cohort(HEART_DISEASE, dict(hospitals), {name: f"hash of {name}" for name in hospitals})


def write_tables(folder: Path, hospitals: Mapping[str, pd.DataFrame]) -> Path:
    """A folder as create_dataset.py writes it, with the CSVs client_1.csv, client_2.csv, ... of these hospitals."""
    folder.mkdir()
    for number, table in enumerate(hospitals.values(), 1):
        table.to_csv(folder / f"client_{number}.csv", index=False)
    entries = [{"name": name, "file": f"client_{number}.csv", "sha256": ""} for number, name in enumerate(hospitals, 1)]
    manifest = {"task": HEART_DISEASE.name, "source": {"name": "made up"}, "hospitals": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def protocol_of(*, folds: int = 3, repeats: int = 1, tune: bool = False, **settings: Any) -> EvaluationProtocol:
    """Logistic regression with a few steps."""
    quick: dict[str, Any] = {
        "rounds": 3,
        "local_epochs": 2,
        "learning_rate": 0.2,
        "model": "logistic",
        "appraisal": False,
    }
    return EvaluationProtocol(
        settings=replace(Settings(), **(quick | settings)),
        folds=folds,
        repeats=repeats,
        strategies=("fedavg",),
        tune=tune,
    )
