"""Shared helpers of the benchmarks: hospitals' CSVs, and runs in process."""

import logging
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

import client
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source, read_uci
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.local_model import LocalModel
from federated_health.ml.metrics import merge_counts
from federated_health.ml.scores import roc_auc
from federated_health.server.plain_run import PlainRun
from federated_health.server.run import FederatedRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport


def quieten() -> None:
    """Show only warnings of Flower and errors of TensorFlow."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # It warns about repeated compilation: here many hospitals of different sizes share one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one run in process on held-out patients.

    Attributes:
        hospitals, federation: figures as in metrics.json.
        roc_auc_all: exact AUC over all patients together, from the hospitals' own scores.
        exact: exact figures of the federation, from the same scores, with `mean_roc_auc` within hospitals.
        log_odds, labels: of all held-out rows, in the hospitals' order.
    """

    hospitals: dict[str, dict[str, Any]]
    federation: dict[str, Any]
    roc_auc_all: float
    exact: dict[str, Any]
    threshold: float
    log_odds: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]

    @property
    def log_loss(self) -> float:
        """Mean cross-entropy of all held-out rows, in nats."""
        log_odds = self.log_odds.astype(np.float64)
        return float(np.mean(np.logaddexp(0.0, log_odds) - self.labels * log_odds))

    @property
    def mean_accuracy(self) -> float:
        """Mean of the hospitals' accuracies."""
        return float(np.mean([figures["accuracy"] for figures in self.hospitals.values()]))


def federate(hospitals: Sequence[Hospital], settings: Settings) -> Outcome:
    """Complete a run in process, with the same apps and strategies as over gRPC."""
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}
    run = PlainRun(InProcessTransport(client.app, contexts), replace(settings, appraisal=False))
    figures = run.run()
    normalisation = run.train_config().normalisation
    scores = [
        LocalModel(hospital, settings.network_declaration, normalisation).score(run.weights) for hospital in hospitals
    ]
    labels = [hospital.test.labels for hospital in hospitals]
    all_scores, all_labels = np.concatenate(scores), np.concatenate(labels)
    exact = roc_auc(all_scores, all_labels)
    counts = [run.target.measure(*pair, run.threshold) for pair in zip(scores, labels, strict=True)]
    within = [auc for pair in zip(scores, labels, strict=True) if (auc := roc_auc(*pair)) is not None]
    return Outcome(
        hospitals=figures["hospitals"],
        federation=figures["federation"],
        roc_auc_all=exact or float("nan"),
        exact={**run.target.figures(merge_counts(counts), 0, exact), "mean_roc_auc": float(np.mean(within))},
        threshold=run.threshold,
        log_odds=all_scores,
        labels=all_labels,
    )


def pool(hospitals: Sequence[Hospital]) -> Hospital:
    """One hospital with the rows of all, on the same side of the split."""
    return Hospital(
        name="pooled",
        task=hospitals[0].task,
        train=Patients.concatenate(hospital.train for hospital in hospitals),
        test=Patients.concatenate(hospital.test for hospital in hospitals),
    )


def time_rounds(run: FederatedRun) -> list[float]:
    """Seconds of each round after the first, in a run that has gathered its hospitals."""
    times = []
    started = time.perf_counter()
    for record in run.rounds():
        if record.number > 1:
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
    return times


def measure(hospitals: dict[str, Path], settings: Settings, split_seed: int) -> dict[str, float]:
    """Held-out figures of one run with hospitals' CSVs.

    `roc_auc_all` is exact, from the hospitals' own scores; `roc_auc_from_cells` is what the server computes.
    """
    task = settings.task_declaration
    outcome = federate([load_hospital(path, task, name, split_seed) for name, path in hospitals.items()], settings)
    return {
        "mean_accuracy": outcome.mean_accuracy,
        "roc_auc_all": outcome.roc_auc_all,
        "roc_auc_from_cells": outcome.federation["roc_auc"],
        "roc_auc_from_cells_minus_all": outcome.federation["roc_auc"] - outcome.roc_auc_all,
        "mean_roc_auc": outcome.federation["mean_roc_auc"],
        "f1": outcome.federation["f1"],
        "threshold": outcome.threshold,
        "brier": outcome.federation["brier"],
        "log_loss": outcome.log_loss,
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
            "mean": round(statistics.mean(run[key] for run in runs), 5),
            "sd": round(statistics.stdev(run[key] for run in runs), 5),
            "min": round(min(run[key] for run in runs), 5),
            "max": round(max(run[key] for run in runs), 5),
        }
        for key in runs[0]
    }
