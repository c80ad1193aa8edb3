"""Reading and validation of the figures of subgroups in a final evaluation."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
from flwr.app import MetricRecord

from federated_health.data.subgroups import subgroups_of
from federated_health.data.tasks import Task
from federated_health.messages.content import SUBGROUPS
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.validation import MAX_LOG_ODDS, read_floats
from federated_health.ml.calibration import MAX_SLOPE
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.subgroups import MAX_VARIANCE, MIN_VARIANCE, NAMES, GroupFigures

SLACK = 1 + 1e-2
"""Room for rounding of what hospitals send with three significant digits."""

MAX_AUC_VARIANCE = 0.5
"""Twice the variance of a figure that is 0 or 1: it is an estimate, of few patients."""


def read_subgroups(
    metrics: MetricRecord, task: Task, counts: EvaluationSums | None, declared: int
) -> list[GroupFigures]:
    """The figures of the task's subgroups, in their order.

    Args:
        counts: outcome counts of all held-out rows; None if they are suppressed.
        declared: number of held-out rows with which the hospital registered.

    Raises:
        MalformedMessageError: no held-out rows can have these figures.
    """
    groups = subgroups_of(task)
    table = read_floats(metrics, SUBGROUPS, len(NAMES) * len(groups)).reshape(len(groups), len(NAMES))
    figures = [GroupFigures(*row) for row in table.tolist()]
    if not all(map(_is_possible, figures)):
        raise MalformedMessageError(f"its figures of {SUBGROUPS} are impossible")
    most = np.full(4, declared)
    if counts is not None:
        tn, fp, fn, tp = getattr(counts, "matrix")  # noqa: B009  # of a binary label
        most = np.array([tp, fp, tn, fn])
    pairs = zip(groups, figures, strict=True)
    for _, of_column in groupby(pairs, key=lambda pair: pair[0].column):
        cells = np.sum([of.cells for _, of in of_column], axis=0)
        if (cells > most).any() or cells.sum() > declared:
            raise MalformedMessageError(f"its figures of {SUBGROUPS} are of more than its held-out rows")
    return figures


def _is_possible(of: GroupFigures) -> bool:
    rows, smallest = sum(of.cells), min(of.positives, of.negatives)
    bounds: Mapping[str, tuple[float, float]] = {
        **dict.fromkeys(NAMES[:4], (0, rows)),
        "expected": (0, rows * SLACK),
        "excess_variance": (0, 8 * rows**2 * SLACK),
        "sensitivity_number": (0, of.positives * SLACK),
        "specificity_number": (0, of.negatives * SLACK),
        "roc_auc": (0, 1),
        "auc_variance": (0, MAX_AUC_VARIANCE),
        "intercept": (-MAX_LOG_ODDS, MAX_LOG_ODDS),
        "slope": (-MAX_SLOPE, MAX_SLOPE),
        "intercept_variance": (0, MAX_VARIANCE),
        "slope_variance": (0, MAX_VARIANCE),
    }
    values: dict[str, Any] = vars(of)
    is_within = all(low <= values[name] <= high for name, (low, high) in bounds.items())
    if not is_within or any(cell % 1 for cell in of.cells):
        return False
    estimates = {"roc_auc": of.auc_variance, "intercept": of.intercept_variance, "slope": of.slope_variance}
    is_known = all(
        variance * SLACK >= MIN_VARIANCE or (variance == 0 and values[name] == 0)
        for name, variance in estimates.items()
    )
    # The rows of one patient count as one at least.
    is_known &= all(number == 0 or number * SLACK >= 1 for number in (of.sensitivity_number, of.specificity_number))
    return is_known and (smallest > 0 or not any(estimates.values()))
