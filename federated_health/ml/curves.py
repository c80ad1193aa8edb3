"""ROC curves with bands, and calibration: whether a predicted risk of 30 % means that 30 of 100 have the disease."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.bootstrap import LEVEL, Draws, Resampled, rarer_class
from federated_health.ml.metrics import probability

GRID_POINTS = 101
CURVE_DRAWS = 500
"""Bootstrap draws that a curve's band is made of: more would not be seen."""

MAX_BINS = 10
MIN_BIN = 20
"""Fewer patients in a bin of a calibration curve say too little."""

MIN_PATIENTS_PER_CLASS = 5
"""Slope and intercept of calibration need as many of either."""

STEEPEST = 100.0
"""A calibration slope beyond this stands for classes that scores separate entirely: it is not defined."""

CLOSE_ENOUGH = 1e-9
"""Largest gradient, in nats a patient, at which a calibration slope counts as found."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """A curve with a pointwise band, each [points]; `low` and `high` are None where there is no band.

    Raises:
        ValueError: the shapes differ.
    """

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None

    def __post_init__(self) -> None:
        _check_shapes(self.x, self.y, *(end for end in (self.low, self.high) if end is not None))


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationCurve:
    """Bins of patients of rising risk, each [bins].

    Attributes:
        predicted: mean predicted risk.
        observed: share of positives; `low` and `high` its Wilson interval (Wilson 1927).
        patients: number of them; not whole where several scores of a patient share one.

    Raises:
        ValueError: the shapes differ.
    """

    predicted: Array
    observed: Array
    low: Array
    high: Array
    patients: Array

    def __post_init__(self) -> None:
        _check_shapes(self.predicted, self.observed, self.low, self.high, self.patients)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Agreement of predicted with observed risk (Cox 1958, Van Calster et al. 2016); ideal are slope 1, intercept 0.

    Attributes:
        slope: of a logistic regression of the outcome on the log-odds; below 1 where risks are too extreme.
        intercept: what must be added to all log-odds so that the mean risk is the share of positives (slope held at
            1); above 0 where risks are too low.
    """

    slope: float | None = None
    intercept: float | None = None


def roc_curve(log_odds: Floats, resampled: Resampled) -> Curve:
    """True-positive rate over false-positive rate, on an even grid, with a pointwise bootstrap band.

    Args:
        log_odds: [patients], or [repeats, patients] for the mean over repeats at each false-positive rate.
        resampled: of the same patients, both classes present.
    """
    grid = np.linspace(0.0, 1.0, GRID_POINTS)
    # The first column is the patients as they are.
    times = np.column_stack([np.ones(len(resampled.labels)), resampled.times[:, :CURVE_DRAWS]])
    rates = [_rates(one, resampled.labels, times, grid) for one in np.atleast_2d(log_odds)]
    mean, *draws = np.mean(rates, axis=0)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return Curve(x=grid, y=mean, low=low, high=high)


def calibration_curve(risk: Floats, positive: Floats, weights: Floats | None = None) -> CalibrationCurve:
    """Bins of about equal numbers of patients.

    Args:
        risk: [patients], predicted probabilities.
        positive: [patients], 0 or 1.
        weights: [patients], how many each stands for; 1 if left out.
    """
    weights = np.ones(len(risk)) if weights is None else np.asarray(weights, dtype=np.float64)
    risks, level = np.unique(np.asarray(risk, dtype=np.float64), return_inverse=True)
    bins = int(np.clip(weights.sum() // MIN_BIN, 1, MAX_BINS))
    # Patients of equal risk share a bin: what order they come in says nothing.
    of_level = np.bincount(level, weights)
    middle = (np.cumsum(of_level) - of_level / 2) / weights.sum()
    place = np.minimum(middle * bins, bins - 1).astype(np.intp)[level]
    patients = np.bincount(place, weights, minlength=bins).astype(np.float64)
    held = patients > 0
    patients = patients[held]
    predicted = np.bincount(place, weights * risks[level], minlength=bins)[held] / patients
    observed = np.bincount(place, weights * positive, minlength=bins)[held] / patients
    low, high = _wilson(observed, patients)
    return CalibrationCurve(predicted=predicted, observed=observed, low=low, high=high, patients=patients)


def calibration(log_odds: Floats, labels: Floats) -> Calibration:
    """Slope and intercept; None where a class has fewer than MIN_PATIENTS_PER_CLASS, and of scores that separate.

    Args:
        log_odds, labels: [patients].
    """
    from scipy.optimize import brentq  # takes a while to import, and most runs do not need it

    if rarer_class(labels) < MIN_PATIENTS_PER_CLASS:
        return Calibration()
    x = np.asarray(log_odds, dtype=np.float64)
    furthest = float(np.abs(x).max()) + 50.0
    intercept = float(brentq(lambda shift: float((probability(x + shift) - labels).mean()), -furthest, furthest))
    if _separates(x, labels):
        return Calibration(intercept=intercept)
    slope = _fit_slope(x, labels)
    return Calibration(slope=slope if abs(slope) < STEEPEST else None, intercept=intercept)


def _fit_slope(x: Array, labels: Floats) -> float:
    """Logistic regression on one variable, without penalty.

    By a trust region: scikit-learn's solvers take ten times as long, or give up where scores hardly differ.
    """
    from scipy.optimize import minimize

    design = np.column_stack([np.ones_like(x), (x - x.mean()) / x.std()])

    def loss(coefficients: Array) -> float:
        log_odds = design @ coefficients
        return float((np.logaddexp(0.0, log_odds) - labels * log_odds).mean())

    def gradient(coefficients: Array) -> Array:
        return design.T @ (probability(design @ coefficients) - labels) / len(x)

    def hessian(coefficients: Array) -> Array:
        risk = probability(design @ coefficients)
        return design.T @ (design * (risk * (1.0 - risk))[:, None]) / len(x)

    fitted = minimize(
        loss, np.zeros(2), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": CLOSE_ENOUGH}
    )
    return float(fitted.x[1] / x.std())


def _check_shapes(*arrays: Array) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"expected one-dimensional arrays of one shape, got {sorted(shapes)}")


def _separates(x: Array, labels: Floats) -> bool:
    """Also where all scores are equal."""
    high, low = x[labels == 1], x[labels == 0]
    return bool(high.min() >= low.max() or high.max() <= low.min())


def _rates(scores: Floats, labels: Floats, times: Draws, grid: Array) -> Array:
    """[draws, grid]: true-positive rates, linear between the curve's corners."""
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order] == 1
    ends = np.flatnonzero(np.concatenate([ordered[1:] != ordered[:-1], [True]]))  # of patients of equal score

    def share(of_class: npt.NDArray[np.bool_]) -> Array:
        """[draws, corners]: of the patients of a class, how many score at least as much."""
        number = np.cumsum(times[order] * of_class[:, None], axis=0)[ends].T
        return np.column_stack([np.zeros(len(number)), number / number[:, -1:]])

    # Where the curve rises straight up, `interp` takes the greatest of its heights for that rate.
    corners = zip(share(~positive), share(positive), strict=True)
    return np.array([np.interp(grid, alarms, hits) for alarms, hits in corners])


def _wilson(share: Array, number: Array) -> tuple[Array, Array]:
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    # In floating point either end may miss the share itself where that is 0 or 1.
    return np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0)
