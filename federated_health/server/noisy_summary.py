"""Figures of a run with differential privacy, as in metrics.json."""

import math
from typing import Any

import numpy as np

from federated_health.messages.content import Evaluation
from federated_health.messages.noisy_evaluation import make_evaluation, noisy_figures
from federated_health.ml.noisy_evaluation import Table, largest_change, table_shape
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import FEDERATION
from federated_health.server.plain_run import PlainRun


def summarise_noisy_run(run: PlainRun, plan: PrivacyPlan) -> dict[str, Any]:
    """`hospitals` and `federation` of the final evaluations; no mean of ROC-AUCs, most of which would be noise."""
    evaluations, rows = dict(sorted(run.evaluations.items())), run.train_examples
    if not evaluations:
        return {"hospitals": {}, "federation": None}
    noise = largest_change(run.settings.task_declaration) * plan.evaluation_noise
    counts = np.sum([part.noisy_counts for part in evaluations.values()], axis=0)
    return {
        "hospitals": {
            name: noisy_figures([evaluation], run.target, noise, rows[name]) for name, evaluation in evaluations.items()
        },
        "federation": summarise_sum(
            run, counts, noise * math.sqrt(len(evaluations)), sum(rows[name] for name in evaluations)
        ),
    }


def summarise_sum(run: PlainRun, counts: Table, noise: float, rows: int) -> dict[str, Any]:
    """Figures of the sum of hospitals' tables; none of a label without classes.

    Afterwards the run's evaluations are of the federation alone: counts that noise made negative do not add up.

    Args:
        counts: of the sum, flat.
        noise: standard deviation of the noise in each of them.
        rows: number of training rows.
    """
    run.evaluations, evaluation = {}, Evaluation(counts=run.target.no_sums)
    if (shape := table_shape(run.target)) is not None:
        evaluation = make_evaluation(run.target, counts.reshape(shape))
        run.evaluations = {FEDERATION: evaluation}
    return noisy_figures([evaluation], run.target, noise, rows)
