"""Calibration slope and intercept."""

from dataclasses import dataclass

import numpy as np

from federated_health.ml.targets import Array, Floats
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE

MAX_SLOPE = 100.0
"""A steeper calibration slope means that the scores separate the classes entirely: it is not defined."""

MAX_GRADIENT = 1e-12
"""Gradient, in nats per patient, below which a fit has converged."""

MAX_STEPS = 100
"""Largest number of steps of a fit; Newton's method needs about 5 unless the scores nearly separate the classes."""

MIN_STEP = 1e-12
"""Smallest step of a fit, below which rounding errors decide whether the loss falls."""


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted with observed risk (Cox 1958, Van Calster et al. 2016); ideal are slope 1, intercept 0.

    Attributes:
        slope: of a logistic regression of the outcome on the log-odds; below 1 if risks are too extreme.
        intercept: of the same with the slope held at 1; above 0 if risks are too low.
    """

    slope: float | None = None
    intercept: float | None = None


def calibration(log_odds: Floats, labels: Floats, weights: Floats | None = None) -> Calibration:
    """Calibration slope and intercept.

    Both are None with fewer than MIN_CLASS_SIZE patients of a class; the slope also if the scores separate the classes.

    Args:
        log_odds, labels: [patients].
        weights: [patients], number of patients that each stands for; 1 by default.
    """
    x = np.asarray(log_odds, dtype=np.float64)
    numbers: Array = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if min(numbers[labels == 1].sum(), numbers[labels == 0].sum()) < MIN_CLASS_SIZE:
        return Calibration()
    shares = numbers / numbers.sum()
    (intercept,) = fit_logistic(np.ones((len(x), 1)), x, labels, shares)
    slope = np.inf if are_separated(x, labels) else _fit_slope(x, labels, shares)
    return Calibration(slope if abs(slope) < MAX_SLOPE else None, float(intercept))


def are_separated(log_odds: Floats, labels: Floats) -> bool:
    """Whether the scores separate the classes, each of which has some; then no slope is the best. Equal scores do."""
    high, low = log_odds[labels == 1], log_odds[labels == 0]
    return bool(high.min() >= low.max() or high.max() <= low.min())


def _fit_slope(x: Array, labels: Floats, weights: Array) -> float:
    middle = float(weights @ x)
    deviation = float(np.sqrt(weights @ (x - middle) ** 2))
    design = np.column_stack([np.ones_like(x), (x - middle) / deviation])
    return float(fit_logistic(design, np.zeros_like(x), labels, weights)[1] / deviation)


def fit_logistic(design: Array, offset: Array, labels: Floats, weights: Array) -> Array:
    """Coefficients of a logistic regression without penalty, [variables], by Newton's method.

    A step that would make the loss larger is halved, so that the fit converges from anywhere: the loss is convex.

    Args:
        design: [patients, variables].
        offset: [patients], log-odds to which the design's are added.
        weights: [patients], with sum 1.
    """
    # scikit-learn's solvers take ten times as long, or fail if scores hardly differ; SciPy takes 0.2 s to import.
    coefficients = np.zeros(design.shape[1])

    def loss(coefficients: Array) -> float:
        log_odds = offset + design @ coefficients
        return float(weights @ (np.logaddexp(0.0, log_odds) - labels * log_odds))

    before = loss(coefficients)
    for _ in range(MAX_STEPS):
        risk = probability(offset + design @ coefficients)
        gradient = design.T @ (weights * (risk - labels))
        if np.abs(gradient).max() < MAX_GRADIENT:
            break
        hessian = design.T @ (design * (weights * risk * (1.0 - risk))[:, np.newaxis])
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        while (after := loss(coefficients - step)) > before and np.abs(step).max() > MIN_STEP:
            step /= 2.0
        coefficients, before = coefficients - step, after
    return coefficients
