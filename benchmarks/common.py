"""What the benchmarks share: the four hospitals' CSVs, and one federation in process."""

import logging
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

import client
from federated_health.dataset_folder import find_hospital, write_hospitals
from federated_health.federation import Federation
from federated_health.hospital import load_hospital
from federated_health.metrics import roc_auc
from federated_health.partitions import Partition, divide
from federated_health.settings import Settings
from federated_health.sources import Source, read_uci
from federated_health.streaming import InProcessGrid, hospital_context
from federated_health.training import LocalModel


def quieten() -> None:
    """Keep Flower to warnings and TensorFlow to errors."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # It warns of compiling anew for many shapes: here many hospitals, of different sizes, share one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def measure(hospitals: dict[str, Path], settings: Settings, split_seed: int) -> dict[str, float]:
    """Held-out figures of one federation.

    `roc_auc_all` is exact, from the hospitals' own scores; `roc_auc_from_cells` is what the server can know.
    """
    contexts = {
        name: hospital_context(name, {"data": str(path), "split-seed": split_seed}) for name, path in hospitals.items()
    }
    federation = Federation(InProcessGrid(client.app, contexts), settings)
    figures = federation.run()
    scores, labels = [], []
    for name, path in hospitals.items():
        hospital = load_hospital(path, settings.task_declaration, name, split_seed)
        local = LocalModel(hospital, settings.model, federation.instructions().normalisation)
        scores.append(local.score(federation.weights))
        labels.append(hospital.test.labels)
    exact = roc_auc(np.concatenate(scores), np.concatenate(labels)) or float("nan")
    return {
        "mean_accuracy": statistics.mean(one["accuracy"] for one in figures["hospitals"].values()),
        "roc_auc_all": exact,
        "roc_auc_from_cells": figures["federation"]["roc_auc"],
        "roc_auc_from_cells_minus_all": figures["federation"]["roc_auc"] - exact,
        "mean_roc_auc": figures["federation"]["mean_roc_auc"],
        "f1": figures["federation"]["f1"],
        "threshold": federation.threshold,
        "brier": figures["federation"]["brier"],
    }


def write_uci(folder: Path) -> dict[str, Path]:
    """The four hospitals' CSVs, by name."""
    return write_source(folder, read_uci(), Partition(by="hospital", seed=0))


def write_source(folder: Path, source: Source, partition: Partition) -> dict[str, Path]:
    """A source's hospitals as CSVs, by name."""
    manifest = write_hospitals(folder, source, divide(source, partition), partition=partition.describe())
    paths = (find_hospital(folder, number + 1) for number in range(len(manifest["hospitals"])))
    return {name: path for path, name in paths}


def summarise(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and range of each figure."""
    return {
        key: {
            "mean": round(statistics.mean(run[key] for run in runs), 4),
            "sd": round(statistics.stdev(run[key] for run in runs), 4),
            "min": round(min(run[key] for run in runs), 4),
            "max": round(max(run[key] for run in runs), 4),
        }
        for key in runs[0]
    }
