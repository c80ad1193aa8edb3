"""Made-up patients of a linear truth, for every kind of label, in memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Label, Measurement
from federated_health.data.hospital import Hospital, Patients
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_writing import write_task
from federated_health.data.tasks import Task

Array = npt.NDArray[np.float64]

LABELS: dict[str, Label] = {
    "binary": Label("ill", "is ill"),
    "classes": ClassLabel("stage", "stage of the disease", {0: "none", 1: "mild", 3: "severe"}),
    "number": NumberLabel("stay", "length of stay", "days", low=-100, high=160, scale=(30.0, 10.0)),
    "count": CountLabel("visits", "visits per year", high=1000),
}

COLUMNS = (
    Measurement("age", "age", "years", low=0, high=120),
    Measurement("weight", "weight", "kg", low=20, high=200),
)

SLOPES = {"binary": (1.0, -0.5), "number": (0.8, -0.4), "count": (0.5, -0.3)}
"""Slope of each column, per standard deviation, in the network's outputs."""

INTERCEPTS = {"binary": 0.2, "number": 0.3, "count": 0.7}
CLASS_SLOPES = np.array([[1.0, -0.5], [0.0, 0.8], [-1.0, 0.0]])


def task_of(kind: str) -> Task:
    return Task(name=f"{kind}-task", columns=COLUMNS, label=LABELS[kind])


def outputs_of(kind: str, scaled: Array) -> Array:
    """The true outputs for columns in standard deviations, [rows, 2]: [rows], or [rows, 3] for classes."""
    if kind == "classes":
        logits: Array = scaled @ CLASS_SLOPES.T
        return logits
    outputs: Array = INTERCEPTS[kind] + scaled @ np.array(SLOPES[kind])
    return outputs


def patients_of(kind: str, rows: int, seed: int = 1) -> Patients:
    """Patients whose age has mean 50 and deviation 10, weight mean 80 and deviation 15."""
    generator = np.random.default_rng([seed, len(kind)])
    scaled = np.clip(generator.normal(size=(rows, 2)), -3.5, 3.5)
    outputs = outputs_of(kind, scaled)
    labels: Any
    if kind == "binary":
        labels = generator.random(rows) < 1 / (1 + np.exp(-outputs))
    elif kind == "classes":
        gumbel = generator.gumbel(size=outputs.shape)  # the largest sum has the softmax's probabilities
        labels = np.array([0, 1, 3])[(outputs + gumbel).argmax(axis=1)]
    elif kind == "number":
        labels = 30 + 10 * (outputs + 0.2 * generator.normal(size=rows))
    else:
        labels = generator.poisson(np.exp(outputs))
    return Patients(scaled * [10, 15] + [50, 80], np.asarray(labels, dtype=np.float32))


def hospitals_of(kind: str, sizes: Sequence[int] = (120, 80, 60), held_out: int = 40) -> list[Hospital]:
    """Hospitals north, south, ... with these numbers of training rows."""
    names = ("north", "south", "east", "west")
    return [
        Hospital(name, task_of(kind), patients_of(kind, rows, 2 * i), patients_of(kind, held_out, 2 * i + 1))
        for i, (name, rows) in enumerate(zip(names, sizes, strict=False))
    ]


def write_dataset(folder: Path, kind: str, sizes: Sequence[int] = (60, 40, 30)) -> Path:
    """A folder as create_dataset.py writes it, of hospitals north, south, ... with these numbers of rows."""
    folder.mkdir()
    hospitals = hospitals_of(kind, sizes)
    entries = []
    for number, hospital in enumerate(hospitals, 1):
        table = pd.DataFrame(hospital.train.values.round(1), columns=list(hospital.task.column_names))
        table[hospital.task.label.name] = [f"{label:.6g}" for label in hospital.train.labels]
        table.to_csv(folder / f"client_{number}.csv", index=False)
        entries.append({"name": hospital.name, "file": f"client_{number}.csv", "sha256": ""})
    (folder / "task.toml").write_text(write_task(hospitals[0].task))
    manifest = {
        "task": hospitals[0].task.name,
        "source": {"name": "made-up"},
        "hospitals": entries,
        "task_file": {"file": "task.toml", "sha256": ""},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
