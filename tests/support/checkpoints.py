"""Checkpoints whose content depends only on their round, their comparison, and processes that save them."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from federated_health.errors import CheckpointError
from federated_health.messages.content import Registration
from federated_health.ml.normalisation import ColumnSums, Normalisation
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.targets.binary import Counts
from federated_health.server.checkpoint import Checkpoint, CheckpointFolder

NAMES = ("cleveland", "va-long-beach")


def checkpoint_of(number: int, **changes: Any) -> Checkpoint:
    """A small checkpoint after `number` rounds."""
    generator = np.random.default_rng(number)
    weights = {
        name: generator.normal(size=shape).astype(np.float32) for name, shape in {"a/kernel": (2, 3), "a": (1,)}.items()
    }
    whole = Checkpoint(
        run="0123456789abcdef",
        round_number=number,
        settings={"task": "heart-disease", "rounds": 30, "learning-rate": 0.1, "appraisal": True},
        agreement={"task": "heart-disease", "columns": "age, sex"},
        weights=weights,
        strategy_state={f"v_t/{name}": array.astype(np.float64) ** 2 for name, array in weights.items()},
        normalisation=Normalisation(mean=(1 / 3, -2.0), variance=(0.1, 1e-300)),
        registrations=tuple(
            Registration(
                name=name,
                train_examples=10 * place,
                test_examples=place,
                sums=ColumnSums(*(generator.normal(size=2) for _ in range(3))),
            )
            for place, name in enumerate(NAMES, start=1)
        ),
        problems={"rejected": {"cleveland": number}, "repeated": [[number, "lost"], None, 0.1]},
        history=tuple(round_of(round_number) for round_number in range(1, number + 1)),
    )
    return replace(whole, **changes)


def round_of(number: int) -> Round:
    counts = Counts(true_positives=number, false_negatives=2, loss_sum=number / 3, squared_error_sum=0.1)
    return Round(
        number=number,
        hospitals={
            "cleveland": HospitalRound(train_examples=10, train_loss=1 / number, counts=counts),
            "va-long-beach": HospitalRound(train_examples=0, train_loss=None, counts=None),
        },
        federation=HospitalRound(train_examples=10, train_loss=1 / number, counts=counts),
    )


def parts_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields, comparable with ==: arrays as their types, shapes and bytes, in their order."""
    parts = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    parts["weights"] = [(name, plain(array)) for name, array in checkpoint.weights.items()]
    parts["strategy_state"] = [(name, plain(array)) for name, array in checkpoint.strategy_state.items()]
    parts["registrations"] = [
        (entry.name, entry.train_examples, entry.test_examples, *map(plain, vars(entry.sums).values()))
        for entry in checkpoint.registrations
    ]
    return parts


def plain(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype.str, array.shape, array.tobytes()


def save_without_end(path: Path, saved: Connection) -> None:
    """Resume the run of a folder, or begin one, and send each round number once it is saved; in its own process."""
    folder, number = CheckpointFolder(path), 0
    with suppress(CheckpointError):
        number = folder.load().round_number
    while True:
        number += 1
        folder.save(checkpoint_of(number))
        saved.send(number)


def save_and_die(path: Path, step: int, saved: Connection) -> None:
    """`save_without_end` in a process that dies before call `step` (from 0) of those that change the disk."""
    calls = iter(range(10**6))

    def mortal(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(calls) == step:
                os._exit(9)
            return real(*arguments, **keywords)

        return call

    os.fsync = mortal(os.fsync)
    for name in ("open", "touch", "replace", "unlink", "mkdir", "rmdir"):
        setattr(Path, name, mortal(getattr(Path, name)))
    save_without_end(path, saved)
