"""Threshold and figures of a federation from microaggregated scores (see `scores.microaggregate`).

Each cell's patients are taken as evenly spread around its mean, with its deviation and that of what rounding removed.
The threshold alone is chosen without the latter: on other patients its F1 is then 0.001 higher (readmission, 20 draws).
"""

import numpy as np

from federated_health.ml.metrics import Scores
from federated_health.ml.scores import CELL_STEP, rounding_step
from federated_health.ml.targets.binary import probability
from federated_health.ml.targets.binary_figures import score_figures

ROOT_3 = np.sqrt(3.0)
"""Largest distance from the mean of an even spread, in its deviations."""

MIN_DEVIATION = CELL_STEP / 2
"""Smallest standard deviation of all scores, in log-odds, with which they can be ranked from cells.

Means are rounded by as much as this, of one class perhaps otherwise than of the other. Of 12,000 rows with a deviation
of 0.02 the ROC-AUC was off by up to 0.2, with 0.05 by 0.04, with 0.5 by 0.001.
"""

POINTS_PER_CELL = 15
"""Points that stand for the patients of a cell of microaggregated scores."""


def roc_auc_from_microaggregates(positives: Scores, negatives: Scores) -> float | None:
    """Area under the ROC curve from microaggregated scores; None where a class has no cell, or scores hardly differ.

    On held-out patients of the heart data (60 splits) this is within 0.005 of the exact figure over the same patients.
    It is within 0.02 of the exact figure over all patients, of whom some are in no cell since their hospital has too
    few of a class.

    Args:
        positives, negatives: [cells, 3] as from `microaggregate`, of all hospitals together.
    """
    if not len(positives) or not len(negatives) or _hardly_differ(positives, negatives):
        return None
    (high, high_weight), (low, low_weight) = (_spread(cells, _reach(cells)) for cells in (positives, negatives))
    order = np.argsort(low)
    below = np.concatenate([[0.0], np.cumsum(low_weight[order])])
    less, at_most = (below[np.searchsorted(low[order], high, side=side)] for side in ("left", "right"))
    return float((high_weight * 0.5 * (less + at_most)).sum() / (high_weight.sum() * low_weight.sum()))


def figures_of_cells(
    positives: Scores, negatives: Scores, rows: tuple[int, int] | None = None
) -> dict[str, float | None]:
    """Average precision, calibration slope and intercept; None where a class has no cell.

    Where scores hardly differ, there is an intercept alone.

    Args:
        positives, negatives: [cells, 3] as from `microaggregate`, of one hospital or of all together.
        rows: numbers of positives and of negatives, if some of them are in no cell; those in cells stand for them.
            Without them the share of positives would be wrong: on readmission data by specialty (30 draws) the error
            of the intercept would be up to 0.035 instead of 0.002.
    """
    (high, high_weight), (low, low_weight) = (_spread(cells, _reach(cells)) for cells in (positives, negatives))
    if rows is not None and len(high) and len(low):
        high_weight, low_weight = (
            of / of.sum() * all_rows for of, all_rows in zip((high_weight, low_weight), rows, strict=True)
        )
    log_odds, weights = np.concatenate([high, low]), np.concatenate([high_weight, low_weight])
    labels = np.repeat([1.0, 0.0], [len(high), len(low)])
    figures = score_figures(log_odds, labels, weights)
    if _hardly_differ(positives, negatives):
        figures |= {"average_precision": None, "calibration_slope": None}
    return figures


def choose_threshold(positives: Scores, negatives: Scores) -> float | None:
    """The decision threshold with the greatest F1 of all rows together, with four decimals.

    Between two scores it is their middle; of equally good thresholds it is the lowest. None where a class has no cell.

    Args:
        positives, negatives: [cells, 3] as from `microaggregate`, of all hospitals' training rows together.
    """
    if not len(positives) or not len(negatives):
        return None
    (high, high_weight), (low, low_weight) = (_spread(cells, ROOT_3 * cells[:, 2]) for cells in (positives, negatives))
    points = np.unique(np.concatenate([high, low]))
    middles = np.concatenate([points[:1] - CELL_STEP, (points[1:] + points[:-1]) / 2])
    # F1 is that of the rounded thresholds: near 0 and 1, rounding may move one past a score.
    thresholds = np.unique(probability(middles).round(4))
    true_positives = _weight_above(thresholds, probability(high), high_weight)
    predicted = true_positives + _weight_above(thresholds, probability(low), low_weight)
    f1 = 2 * true_positives / (predicted + high_weight.sum())
    return float(thresholds[f1.argmax()])


def _hardly_differ(positives: Scores, negatives: Scores) -> bool:
    """Whether the rows' scores have a deviation below MIN_DEVIATION; no if there are none."""
    rows, means, deviations = np.concatenate([positives, negatives]).T
    if not len(rows):
        return False
    variance = np.average((means - np.average(means, weights=rows)) ** 2 + deviations**2, weights=rows)
    return bool(variance < MIN_DEVIATION**2)


def _weight_above(thresholds: Scores, points: Scores, weights: Scores) -> Scores:
    order = np.argsort(points)
    above: Scores = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    return above[np.searchsorted(points[order], thresholds)]


def _spread(cells: Scores, reach: Scores) -> tuple[Scores, Scores]:
    """Points and weights, evenly spread in each cell around its mean, up to `reach`, [cells], from it."""
    points = cells[:, 1:2] + reach[:, np.newaxis] * _even(POINTS_PER_CELL)
    return points.ravel(), np.repeat(cells[:, 0] / POINTS_PER_CELL, POINTS_PER_CELL)


def spread_patients(cells: Scores) -> Scores:
    """Log-odds, [patients], evenly spread within each cell of microaggregated scores, [cells, 3]."""
    numbers = cells[:, 0].astype(int)
    parts = [
        mean + reach * _even(number) for number, mean, reach in zip(numbers, cells[:, 1], _reach(cells), strict=True)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _reach(cells: Scores) -> Scores:
    """Largest distance of evenly spread patients from a cell's mean, which rounding moved by at most half a step."""
    reach: Scores = np.hypot(ROOT_3 * cells[:, 2], rounding_step(cells[:, 0]) / 2)
    return reach


def _even(number: int) -> Scores:
    """Evenly spaced points between -1 and 1, with mean 0."""
    return (np.arange(number) + 0.5) * 2.0 / number - 1.0
