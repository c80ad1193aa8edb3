"""Figures of a round and of a run, merged from what hospitals sent, and the problems of a run by hospital."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from federated_health.data.tasks import Task
from federated_health.messages.content import Evaluation, Update
from federated_health.ml.metrics import EvaluationSums, merge_counts
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.ml.targets import Target, target_of

if TYPE_CHECKING:
    from federated_health.messages.benefit import Benefit


def summarise_round(number: int, updates: Mapping[str, Update], counts: Mapping[str, EvaluationSums]) -> Round:
    """Figures of a round from its updates (at least one) and the held-out sums that arrived, each by hospital."""
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


def summarise_run(
    target: Target[Any], evaluations: Mapping[str, Evaluation], train_examples: Mapping[str, int]
) -> dict[str, Any]:
    """`hospitals` and `federation` as in metrics.json, of evaluations and numbers of training rows by hospital.

    Of a label of classes, `mean_roc_auc` is the mean of the hospitals' own ROC-AUCs, and `small_in_mean` the number of
    hospitals in it whose rows are too few for one (see `EvaluationSums.is_small`).
    """
    hospitals = {
        name: target.figures(evaluation.counts, train_examples[name], evaluation.roc_auc)
        for name, evaluation in sorted(evaluations.items())
    }
    if not hospitals:
        return {"hospitals": {}, "federation": None}
    federation = target.figures(
        merge_counts(evaluation.counts for evaluation in evaluations.values()),
        sum(figures["train_examples"] for figures in hospitals.values()),
        _pooled_roc_auc(target, evaluations.values()),
    )
    if target.has_classes:
        within = {name: part.roc_auc for name, part in sorted(evaluations.items()) if part.roc_auc is not None}
        federation["mean_roc_auc"] = float(np.mean(list(within.values()))) if within else None
        federation["small_in_mean"] = sum(evaluations[name].counts.is_small for name in within)
    return {"hospitals": hospitals, "federation": federation}


def _pooled_roc_auc(target: Target[Any], evaluations: Iterable[Evaluation]) -> float | None:
    """ROC-AUC over all hospitals' groups of scores; None if some kind of group was not sent by any hospital."""
    names = target.rows_of_groups(target.no_sums)
    parts = {name: [part.scores[name] for part in evaluations if name in part.scores] for name in names}
    return (
        target.pooled_roc_auc({name: np.concatenate(p) for name, p in parts.items()}) if all(parts.values()) else None
    )


def summarise_benefits(
    benefits: Mapping[str, "Benefit"],
    evaluations: Mapping[str, Evaluation],
    task: Task,
    data_warnings: Mapping[str, Sequence[str]] = {},
) -> dict[str, Any]:
    """`joining`, `importance` and `observed` as in metrics.json, of hospitals that sent both, by name.

    `data_warnings` is what the problem log says about a hospital's data, which may explain its verdict.
    `importance` is the rise of the mean loss per patient when a column is shuffled within hospitals.
    """
    reported = {name: benefit for name, benefit in sorted(benefits.items()) if name in evaluations}
    if not reported:
        return {}
    compared = target_of(task).compared
    rows = sum(evaluations[name].counts.examples for name in reported)
    rise = np.sum([benefit.importance for benefit in reported.values()], axis=0) / max(rows, 1)
    return {
        "joining": {
            name: {
                "verdict": benefit.verdict,
                f"own_{compared}": benefit.own,
                compared: asdict(benefit.federated),
                "difference": asdict(benefit.difference),
                "small": evaluations[name].counts.is_small,
                **({"data_warnings": list(data_warnings[name])} if name in data_warnings else {}),
            }
            for name, benefit in reported.items()
        },
        "importance": dict(zip(task.column_names, rise.tolist(), strict=True)),
        "observed": {
            name: dict(zip(task.column_names, map(int, benefit.observed), strict=True))
            for name, benefit in reported.items()
        },
    }


MAX_REASONS = 20
"""Largest number of different reasons kept per hospital, since a hospital writes some of them itself."""

OTHER_REASONS = "other reasons"


class ProblemLog:
    """Counts of problems during a run.

    Attributes:
        rejected: number of replies that were rejected, by hospital and reason.
        unanswered: number of messages without a reply, or with an error in its place, by hospital and reason.
        absent: number of rounds that were averaged without the hospital, since it joined.
        repeated_rounds: number of attempts at a round that gave too few updates.
        resumed_after: number of rounds that were completed, for each time that the run was resumed.
        data_warnings: what is suspicious in the data with which a hospital registered, by hospital.
    """

    def __init__(self) -> None:
        self.rejected: dict[str, Counter[str]] = {}
        self.unanswered: dict[str, Counter[str]] = {}
        self.absent: Counter[str] = Counter()
        self.repeated_rounds = 0
        self.resumed_after: list[int] = []
        self.data_warnings: dict[str, list[str]] = {}

    def warn(self, hospital: str, text: str) -> None:
        """Record what is suspicious in a hospital's data, once."""
        texts = self.data_warnings.setdefault(hospital, [])
        if text not in texts:
            texts.append(text)

    def count(self, hospital: str, reason: str, *, has_answered: bool = True) -> None:
        """Count a reply that was rejected, or a message that was not answered."""
        reasons = (self.rejected if has_answered else self.unanswered).setdefault(hospital, Counter())
        reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else OTHER_REASONS] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts as in metrics.json, ordered by name."""
        return {
            "rejected": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.rejected.items())},
            "unanswered": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.unanswered.items())},
            "absent": dict(sorted(self.absent.items())),
            "repeated_rounds": self.repeated_rounds,
            "resumed_after": list(self.resumed_after),
            "data_warnings": {name: list(texts) for name, texts in sorted(self.data_warnings.items())},
        }

    def describe_data_warnings(self) -> list[str]:
        """What is suspicious in hospitals' data, as lines, hospitals by name."""
        return [f"{name}: {text}" for name, texts in sorted(self.data_warnings.items()) for text in texts]

    def describe(self) -> list[str]:
        """The counts as lines, hospitals by name; none where there were no problems."""
        lines = self.describe_data_warnings()
        for name in sorted({*self.rejected, *self.unanswered, *self.absent}):
            parts = [
                _list_reasons(self.rejected.get(name), "reply was rejected", "replies were rejected"),
                _list_reasons(self.unanswered.get(name), "message got no reply", "messages got no reply"),
                f"{_number(rounds, 'round', 'rounds')} without it" if (rounds := self.absent[name]) else "",
            ]
            lines.append(f"{name}: {'; '.join(part for part in parts if part)}")
        if self.repeated_rounds:
            attempts = _number(self.repeated_rounds, "attempt at a round", "attempts at a round")
            lines.append(f"{attempts} had too few updates")
        if self.resumed_after:
            noun = "rounds" if len(self.resumed_after) > 1 else "round"
            completed = ", ".join(map(str, self.resumed_after))
            lines.append(f"the server was interrupted, and the run resumed after {noun} {completed}")
        return lines

    def restore(self, content: Mapping[str, Any]) -> None:
        """Replace the counts by those of `to_json`."""
        self.rejected = {name: Counter(reasons) for name, reasons in content["rejected"].items()}
        self.unanswered = {name: Counter(reasons) for name, reasons in content["unanswered"].items()}
        self.absent = Counter(content["absent"])
        self.repeated_rounds = content["repeated_rounds"]
        self.resumed_after = list(content["resumed_after"])
        self.data_warnings = {name: list(texts) for name, texts in content.get("data_warnings", {}).items()}


def _list_reasons(reasons: Counter[str] | None, singular: str, plural: str) -> str:
    if not reasons:
        return ""
    counted = [f'"{reason}"{f" ({times})" if times > 1 else ""}' for reason, times in sorted(reasons.items())]
    return f"{_number(reasons.total(), singular, plural)}: {', '.join(counted)}"


def _number(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"
