"""Figures of one round, and their form as a line of JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from federated_health.ml.metrics import Counts

_COUNT_NAMES = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, kw_only=True, slots=True)
class HospitalRound:
    """Figures of one hospital, or of all together, in one round.

    Attributes:
        train_loss: mean over the training rows, in nats; None where no update arrived, or its loss is withheld.
        counts: outcome counts of the held-out rows under the round's new weights; None where no evaluation arrived.
    """

    train_examples: int
    train_loss: float | None
    counts: Counts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Figures of one round: of each hospital, ordered by name, and of the federation, merged from the same counts."""

    number: int
    hospitals: Mapping[str, HospitalRound]
    federation: HospitalRound


def write_round(completed: Round) -> bytes:
    """A line of JSON: the number, then rows, loss and counts of each hospital and of the federation."""
    hospitals = {name: _write_figures(figures) for name, figures in completed.hospitals.items()}
    line = [completed.number, hospitals, _write_figures(completed.federation)]
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_round(line: bytes) -> Round:
    """The inverse of `write_round`."""
    number, hospitals, federation = json.loads(line)
    return Round(
        number=number,
        hospitals={name: _read_figures(content) for name, content in hospitals.items()},
        federation=_read_figures(federation),
    )


def _write_figures(figures: HospitalRound) -> list[Any]:
    counts = None if figures.counts is None else [getattr(figures.counts, name) for name in _COUNT_NAMES]
    return [figures.train_examples, figures.train_loss, counts]


def _read_figures(content: list[Any]) -> HospitalRound:
    train_examples, train_loss, counts = content
    return HospitalRound(
        train_examples=train_examples,
        train_loss=train_loss,
        counts=None if counts is None else Counts(**dict(zip(_COUNT_NAMES, counts, strict=True))),
    )
