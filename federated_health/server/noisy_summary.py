"""Figures of a run with differential privacy, as in metrics.json."""

from typing import Any

import numpy as np

from federated_health.messages.noisy_evaluation import make_evaluation, noisy_figures
from federated_health.ml.noisy_evaluation import table_shape
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.names import FEDERATION
from federated_health.server.plain_run import PlainRun


def summarise_noisy_run(run: PlainRun, plan: PrivacyPlan) -> dict[str, Any]:
    """`hospitals` and `federation` of the final evaluations; no mean of ROC-AUCs, most of which would be noise.

    Afterwards the run's evaluations are of the federation alone: counts that noise made negative do not add up.
    """
    evaluations, rows = dict(sorted(run.evaluations.items())), run.train_examples
    if not evaluations:
        return {"hospitals": {}, "federation": None}
    noise, parts = plan.evaluation_noise, list(evaluations.values())
    shape = table_shape(run.target)
    run.evaluations = {}
    if shape is not None:
        table = np.sum([part.noisy_counts for part in parts], axis=0).reshape(shape)
        run.evaluations = {FEDERATION: make_evaluation(run.target, table)}
    return {
        "hospitals": {
            name: noisy_figures([evaluation], run.target, noise, rows[name]) for name, evaluation in evaluations.items()
        },
        "federation": noisy_figures(parts, run.target, noise, sum(rows[name] for name in evaluations)),
    }
