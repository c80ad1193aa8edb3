"""Milliseconds per checkpoint, by completed rounds, hospitals and model size; prints JSON.

Also the milliseconds without waiting for the disk (fsync does nothing), the milliseconds to load it, and sizes in
bytes. Disks differ and are shared with other programs: trust the ratios. Last, the share that a checkpoint adds to a
round over gRPC, whose milliseconds come from `round_rate.py`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import common  # noqa: F401  # finds the project
import numpy as np

from federated_health.messages.content import Registration
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import ColumnSums, Normalisation
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.targets.binary import Counts
from federated_health.server.checkpoint import Checkpoint, CheckpointFolder
from federated_health.settings import Settings


def checkpoint_of(rounds: int, hospitals: int, parameters: int) -> Checkpoint:
    """A checkpoint of fedadam, whose state is twice its weights; 0 parameters for the default model."""
    settings = Settings.from_config({"strategy": "fedadam"})
    task, generator = settings.task_declaration, np.random.default_rng(0)
    weights = initial_weights(task, settings.network_declaration, settings.seed)
    if parameters:
        weights = {"kernel": generator.normal(size=parameters).astype(np.float32)}
    names = [f"hospital-{number:03}" for number in range(hospitals)]
    width = len(task.measurements)
    counts = Counts(true_positives=31, false_positives=9, true_negatives=28, false_negatives=8, loss_sum=100 / 3)
    results = HospitalRound(train_examples=227, train_loss=1 / 3, counts=counts)
    history = tuple(
        Round(number=number, hospitals=dict.fromkeys(names, results), federation=results)
        for number in range(1, rounds + 1)
    )
    return Checkpoint(
        run="0123456789abcdef",
        round_number=rounds,
        settings=settings.to_config(),
        agreement=task.agreement,
        weights=weights,
        strategy_state={f"{kind}/{name}": array for kind in ("m_t", "v_t") for name, array in weights.items()},
        normalisation=Normalisation(mean=(1 / 3,) * width, variance=(1 / 7,) * width),
        registrations=tuple(
            Registration(
                name=name,
                train_examples=227,
                test_examples=76,
                sums=ColumnSums(*(generator.normal(size=width) for _ in range(3))),
            )
            for name in names
        ),
        problems={},
        history=history,
    )


def measure(rounds: int, hospitals: int, parameters: int, saves: int, parent: Path) -> dict[str, float]:
    """Figures of saves that alternate between waiting and not waiting for the disk."""
    last = checkpoint_of(rounds + 2 * saves, hospitals, parameters)
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(dir=parent) as name:
        path = Path(name) / "checkpoints"
        folder = CheckpointFolder(path)
        folder.save(replace(last, round_number=rounds, history=last.history[:rounds]))
        before = (path / "history.jsonl").stat().st_size
        for number in range(rounds + 1, rounds + 2 * saves + 1):
            checkpoint = replace(last, round_number=number, history=last.history[:number])
            waits = number % 2 == 0
            started = time.perf_counter()
            if waits:
                folder.save(checkpoint)
            else:
                with mock.patch.object(os, "fsync", return_value=None):
                    folder.save(checkpoint)
            times[waits].append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        CheckpointFolder(path).load()
        loading = 1000 * (time.perf_counter() - started)
        size = max(file.stat().st_size for file in path.glob("*.checkpoint"))
        grown = (path / "history.jsonl").stat().st_size - before
    ordered = sorted(times[True])
    return {
        "rounds": rounds,
        "hospitals": hospitals,
        "parameters": sum(array.size for array in last.weights.values()),
        "ms": round(statistics.median(ordered), 2),
        "p95_ms": round(ordered[int(0.95 * len(ordered))], 2),
        "ms_without_fsync": round(statistics.median(times[False]), 2),
        "load_ms": round(loading, 1),
        "file_bytes": size,
        "history_bytes_per_round": round(grown / (2 * saves)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="folder on the disk to measure (default: the current one)"
    )
    parser.add_argument(
        "--round-ms", type=float, default=30.0, help="milliseconds of a round over gRPC, see round_rate.py"
    )
    flags = parser.parse_args()
    cases = [(30, 4, 0), (1_000, 4, 0), (10_000, 4, 0), (30, 200, 0), (1_000, 200, 0)]
    cases += [(30, 4, 100_000), (30, 4, 1_000_000), (30, 4, 10_000_000)]
    results = [measure(*case, flags.saves, flags.folder) for case in cases]
    share = {"of_a_round": round(results[0]["ms"] / flags.round_ms, 3), "round_ms": flags.round_ms}
    print(json.dumps({"cases": results, **share}, indent=2))


if __name__ == "__main__":
    main()
