"""ROC and precision-recall curves with bootstrap bands, and calibration curves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from federated_health.ml.bootstrap import ENDS, Resampled, in_steps
from federated_health.ml.intervals import wilson_interval
from federated_health.ml.targets import Array, Floats, Folds

GRID_POINTS = 101
CURVE_DRAWS = 500
"""Bootstrap draws of a curve's band; more would make no visible difference."""

MAX_BINS = 10
MIN_BIN_SIZE = 20
"""Smallest number of patients in a bin of a calibration curve."""


class _Points:
    """One-dimensional arrays of one shape; ValueError if their shapes differ."""

    def __post_init__(self) -> None:
        shapes = {array.shape for array in vars(self).values() if array is not None}
        if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
            raise ValueError(f"expected one-dimensional arrays of one shape, got {sorted(shapes)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve(_Points):
    """A curve with a pointwise band, each [points]; `low` and `high` are None without a band."""

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationCurve(_Points):
    """Bins of patients by rising risk, each [bins].

    Attributes:
        predicted: mean predicted risk.
        observed: share of positives; `low` and `high` are its Wilson interval (Wilson 1927).
        patients: number of patients; not whole if a patient has several weighted scores.
    """

    predicted: Array
    observed: Array
    low: Array
    high: Array
    patients: Array


def roc_curve(log_odds: Floats, resampled: Resampled, folds: Folds | None = None) -> Curve:
    """True-positive rate over false-positive rate, on an even grid, with a pointwise bootstrap band.

    Args:
        log_odds: [patients], or [repeats, patients] for the mean over repeats at each false-positive rate.
        resampled: draws of the same patients, with both classes present.
        folds: fold of each score, of the shape of `log_odds`; the curve is the mean of the folds' curves, weighted by
            pairs, and so the area below it is the ROC-AUC of pairs within folds. None if all are of one.
    """
    if folds is None:
        return _banded(_true_positive_rates, log_odds, resampled)
    # A fold is a repeat's own, so the scores of each repeat bring theirs along.
    return _banded(_rates_within_folds, np.stack([np.atleast_2d(log_odds), np.atleast_2d(folds)], axis=1), resampled)


def precision_recall_curve(log_odds: Floats, resampled: Resampled) -> Curve:
    """Precision over recall, on an even grid, with a pointwise bootstrap band; the arguments are those of `roc_curve`.

    The precision at a recall is that of the highest threshold that reaches it.
    """
    return _banded(_precisions, log_odds, resampled)


def _banded(curves: Callable[..., Array], log_odds: Floats, resampled: Resampled) -> Curve:
    """A curve with its band, from what `curves` gives of the draws: their curves, [draws, grid]."""
    grid = np.linspace(0.0, 1.0, GRID_POINTS)
    # The first column holds every patient once, for the curve itself.
    once = np.ones((len(resampled.labels), 1), dtype=resampled.times.dtype)
    times = np.column_stack([once, resampled.times[:, :CURVE_DRAWS]])
    parts = [
        np.concatenate([curves(scores, resampled.labels, draws, grid) for draws in in_steps(times)])
        for scores in np.atleast_2d(log_odds)
    ]
    mean, *draws = np.mean(parts, axis=0)
    low, high = np.nanquantile(draws, ENDS, axis=0)  # a draw of few patients may have no pair within a fold
    return Curve(x=grid, y=mean, low=low, high=high)


def calibration_curve(risk: Floats, positive: Floats, weights: Floats | None = None) -> CalibrationCurve:
    """A calibration curve in bins of about equal numbers of patients.

    Args:
        risk: [patients], predicted probabilities.
        positive: [patients], 0 or 1.
        weights: [patients], number of patients that each stands for; 1 by default.
    """
    weights = np.ones(len(risk)) if weights is None else np.asarray(weights, dtype=np.float64)
    risks, level = np.unique(np.asarray(risk, dtype=np.float64), return_inverse=True)
    bins = int(np.clip(weights.sum() // MIN_BIN_SIZE, 1, MAX_BINS))
    # Patients of equal risk share a bin, since their order is arbitrary.
    of_level = np.bincount(level, weights)
    middle = (np.cumsum(of_level) - of_level / 2) / weights.sum()
    place = np.minimum(middle * bins, bins - 1).astype(np.intp)[level]
    patients = np.bincount(place, weights).astype(np.float64)
    filled = patients > 0
    patients = patients[filled]
    predicted = np.bincount(place, weights * risks[level])[filled] / patients
    observed = np.bincount(place, weights * positive)[filled] / patients
    low, high = wilson_interval(observed, patients)
    return CalibrationCurve(predicted=predicted, observed=observed, low=low, high=high, patients=patients)


def _true_positive_rates(scores: Floats, labels: Floats, times: Array, grid: Array) -> Array:
    """True-positive rates at the false-positive rates of `grid`, [draws, grid]; linear between the curve's corners."""
    # Where the curve is vertical, `interp` takes its highest point at that rate.
    found, others = _numbers_above(scores, labels, times)
    corners = zip(others / others[:, -1:], found / found[:, -1:], strict=True)
    return np.array([np.interp(grid, false_rates, true_rates) for false_rates, true_rates in corners])


def _rates_within_folds(scores_and_folds: Array, labels: Floats, times: Array, grid: Array) -> Array:
    """Means over folds of the `_true_positive_rates`, weighted by pairs, [draws, grid]; NaN without a pair.

    Args:
        scores_and_folds: [2, patients].
    """
    scores, folds = scores_and_folds
    rates, pairs = np.zeros((times.shape[1], len(grid))), np.zeros((times.shape[1], 1))
    for fold in np.unique(folds):
        rows = folds == fold
        positives, negatives = (times[rows & (labels == value)].sum(axis=0) for value in (1, 0))
        drawn = (weight := positives * negatives) > 0
        if drawn.any():
            of_fold = _true_positive_rates(scores[rows], labels[rows], times[np.ix_(rows, drawn)], grid)
            rates[drawn] += weight[drawn, np.newaxis] * of_fold
            pairs[:, 0] += weight
    return np.divide(rates, pairs, out=np.full_like(rates, np.nan), where=pairs > 0)


def _precisions(scores: Floats, labels: Floats, times: Array, grid: Array) -> Array:
    """Precisions at the recalls of `grid`, [draws, grid]; at 0, where single patients decide, that of the next one."""
    found, others = _numbers_above(scores, labels, times)
    precisions = found / np.maximum(found + others, 1)  # none are above the first corner
    # Without the tolerance, rounding would take the next threshold where a recall is on the grid.
    recalls, reached = found / found[:, -1:], np.maximum(grid, grid[1]) - 1e-12
    rows = zip(precisions, recalls, strict=True)
    return np.array([of_draw[np.searchsorted(of_recall, reached)] for of_draw, of_recall in rows])


def _numbers_above(scores: Floats, labels: Floats, times: Array) -> tuple[Array, Array]:
    """Numbers of positives and of negatives who score at least as high, [draws, corners], from none to all of them."""
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order] == 1
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))  # last of each run of equal scores
    positives, negatives = (
        np.pad(np.cumsum(times[order] * of_class[:, None], axis=0)[ends].T, ((0, 0), (1, 0)))
        for of_class in (positive, ~positive)
    )
    return positives, negatives
