"""Figures of a round and of a run, merged from what hospitals sent."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from federated_health.data.tasks import Task
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import Evaluation, Update
from federated_health.ml.metrics import SMALL_CLASS, Counts, figures_of, merge_counts, roc_auc_from_microaggregates
from federated_health.ml.rounds import HospitalRound, Round


def summarise_round(number: int, updates: Mapping[str, Update], counts: Mapping[str, Counts]) -> Round:
    """Figures of a round from its updates, at least one, and the held-out counts that arrived, each by hospital."""
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
    """`hospitals` and `federation` as in metrics.json.

    Args:
        evaluations: by hospital.
        train_examples: number of training rows by hospital.
    """
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
    """`joining`, `importance` and `observed` as in metrics.json, of hospitals that sent both, by name.

    `importance` is the rise of the mean loss per patient, in nats, when a column is shuffled within hospitals.
    """
    reported = {name: benefit for name, benefit in sorted(benefits.items()) if name in evaluations}
    if not reported:
        return {}
    rows = sum(evaluations[name].counts.examples for name in reported)
    rise = np.sum([benefit.importance for benefit in reported.values()], axis=0) / max(rows, 1)
    return {
        "joining": {
            name: {
                "verdict": benefit.verdict,
                "own_roc_auc": benefit.own_roc_auc,
                "roc_auc": asdict(benefit.roc_auc),
                "difference": asdict(benefit.difference),
                "small": evaluations[name].counts.rarer_class < SMALL_CLASS,
            }
            for name, benefit in reported.items()
        },
        "importance": dict(zip(task.column_names, rise.tolist(), strict=True)),
        "observed": {
            name: dict(zip(task.column_names, map(int, benefit.observed), strict=True))
            for name, benefit in reported.items()
        },
    }
