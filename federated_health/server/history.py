"""What one round, and a whole run, gave: each hospital's figures, and the federation's from merged counts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, overload

import numpy as np

from federated_health.data.tasks import Task
from federated_health.hospital.benefit import Benefit
from federated_health.messages.content import Evaluation, Update
from federated_health.ml.bootstrap import SMALL_CLASS
from federated_health.ml.metrics import Counts, figures_of, merge_counts, roc_auc_from_microaggregates

_COUNTS = tuple(field.name for field in fields(Counts))


@dataclass(frozen=True, kw_only=True, slots=True)
class HospitalRound:
    """One hospital in one round.

    Attributes:
        train_loss: mean over its training rows, in nats; None where its update did not arrive, or says none.
        counts: of its held-out rows under the round's new weights; None where its evaluation did not arrive.
    """

    train_examples: int
    train_loss: float | None
    counts: Counts | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round gave. `hospitals` is ordered by name; `federation` is merged from the same counts."""

    number: int
    hospitals: Mapping[str, HospitalRound]
    federation: HospitalRound


class History(Sequence[Round]):
    """Finished rounds, of which there may be many: each is kept as a line of text, which takes less memory."""

    def __init__(self, rounds: Iterable[Round] = ()) -> None:
        self._lines = [write_round(one) for one in rounds]

    def append(self, one: Round) -> None:
        self._lines.append(write_round(one))

    @overload
    def __getitem__(self, index: int) -> Round: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Round]: ...

    def __getitem__(self, index: int | slice) -> Round | Sequence[Round]:
        if isinstance(index, slice):
            return tuple(map(read_round, self._lines[index]))
        return read_round(self._lines[index])

    def __len__(self) -> int:
        return len(self._lines)


def write_round(one: Round) -> bytes:
    """A line of JSON: the number, then of each hospital and of the federation rows, loss and counts in their order."""
    hospitals = {name: _write_hospital(hospital) for name, hospital in one.hospitals.items()}
    line = [one.number, hospitals, _write_hospital(one.federation)]
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_round(line: bytes) -> Round:
    """The inverse of `write_round`."""
    number, hospitals, federation = json.loads(line)
    return Round(
        number=number,
        hospitals={name: _read_hospital(content) for name, content in hospitals.items()},
        federation=_read_hospital(federation),
    )


def _write_hospital(one: HospitalRound) -> list[Any]:
    counts = None if one.counts is None else [getattr(one.counts, name) for name in _COUNTS]
    return [one.train_examples, one.train_loss, counts]


def _read_hospital(content: list[Any]) -> HospitalRound:
    train_examples, train_loss, counts = content
    return HospitalRound(
        train_examples=train_examples,
        train_loss=train_loss,
        counts=None if counts is None else Counts(**dict(zip(_COUNTS, counts, strict=True))),
    )


def summarise_round(number: int, updates: Mapping[str, Update], counts: Mapping[str, Counts]) -> Round:
    """A round of the updates, at least one, and the held-out counts that arrived, each by hospital."""
    hospitals = {
        name: HospitalRound(
            train_examples=updates[name].examples if name in updates else 0,
            train_loss=updates[name].loss if name in updates else None,
            counts=counts.get(name),
        )
        for name in sorted(updates.keys() | counts.keys())
    }
    rows = sum(update.examples for update in updates.values())
    losses = [update.loss * update.examples for update in updates.values() if update.loss is not None]
    federation = HospitalRound(
        train_examples=rows,
        train_loss=sum(losses) / rows if len(losses) == len(updates) else None,
        counts=merge_counts(counts.values()) if counts else None,
    )
    return Round(number=number, hospitals=hospitals, federation=federation)


def summarise_run(evaluations: Mapping[str, Evaluation], train_examples: Mapping[str, int]) -> dict[str, Any]:
    """`hospitals` and `federation` as in metrics.json, of each hospital's evaluation and training rows by name."""
    hospitals = {
        name: figures_of(evaluation.counts, train_examples[name], evaluation.roc_auc)
        for name, evaluation in sorted(evaluations.items())
    }
    if not hospitals:
        return {"hospitals": {}, "federation": None}
    cells = [
        [part for part in parts if part is not None]
        for parts in zip(*((one.positives, one.negatives) for one in evaluations.values()), strict=True)
    ]
    pooled = roc_auc_from_microaggregates(*map(np.concatenate, cells)) if all(cells) else None
    within = [figures["roc_auc"] for figures in hospitals.values() if figures["roc_auc"] is not None]
    federation = figures_of(
        merge_counts(evaluation.counts for evaluation in evaluations.values()),
        sum(figures["train_examples"] for figures in hospitals.values()),
        pooled,
    )
    federation["mean_roc_auc"] = float(np.mean(within)) if within else None
    return {"hospitals": hospitals, "federation": federation}


def summarise_benefits(
    benefits: Mapping[str, Benefit], evaluations: Mapping[str, Evaluation], task: Task
) -> dict[str, Any]:
    """`joining`, `importance` and `observed` as in metrics.json, of hospitals that gave both, by name.

    `importance` is by how much a patient's mean loss rises, in nats, when a column is shuffled within hospitals.
    """
    appraised = {name: one for name, one in sorted(benefits.items()) if name in evaluations}
    if not appraised:
        return {}
    rows = sum(evaluations[name].counts.examples for name in appraised)
    rise = np.sum([one.importance for one in appraised.values()], axis=0) / max(rows, 1)
    return {
        "joining": {
            name: {
                "verdict": one.verdict,
                "own_roc_auc": one.own_roc_auc,
                "roc_auc": asdict(one.roc_auc),
                "difference": asdict(one.difference),
                "small": evaluations[name].counts.rarer_class < SMALL_CLASS,
            }
            for name, one in appraised.items()
        },
        "importance": dict(zip(task.column_names, rise.tolist(), strict=True)),
        "observed": {
            name: dict(zip(task.column_names, map(int, one.observed), strict=True)) for name, one in appraised.items()
        },
    }
