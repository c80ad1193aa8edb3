"""Calibration slope and intercept."""

from dataclasses import dataclass

import numpy as np

from federated_health.ml.bootstrap import Array, Floats, can_judge
from federated_health.ml.targets.binary import probability

MAX_SLOPE = 100.0
"""A steeper calibration slope means that the scores separate the classes entirely: it is not defined."""

MAX_GRADIENT = 1e-9
"""Gradient, in nats per patient, below which the fit of a calibration slope has converged."""


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted with observed risk (Cox 1958, Van Calster et al. 2016); ideal are slope 1, intercept 0.

    Attributes:
        slope: of a logistic regression of the outcome on the log-odds; below 1 if risks are too extreme.
        intercept: of the same with the slope held at 1; above 0 if risks are too low.
    """

    slope: float | None = None
    intercept: float | None = None


def calibration(log_odds: Floats, labels: Floats) -> Calibration:
    """Calibration slope and intercept, of log-odds and labels, each [patients].

    Both are None with fewer than MIN_CLASS_SIZE of a class; the slope also if the scores separate the classes.
    """
    from scipy.optimize import brentq  # noqa: PLC0415  # slow to import, and needed by studies only

    if not can_judge(labels):
        return Calibration()
    x = np.asarray(log_odds, dtype=np.float64)
    bound = float(np.abs(x).max()) + 50.0
    intercept = float(brentq(lambda shift: float((probability(x + shift) - labels).mean()), -bound, bound))
    high, low = x[labels == 1], x[labels == 0]
    is_separated = high.min() >= low.max() or high.max() <= low.min()
    slope = np.inf if is_separated else _fit_slope(x, labels)
    return Calibration(slope if abs(slope) < MAX_SLOPE else None, intercept)


def _fit_slope(x: Array, labels: Floats) -> float:
    """Logistic regression on one variable, without penalty.

    A trust-region method: scikit-learn's solvers take ten times as long, or fail if scores hardly differ.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  # slow to import

    design = np.column_stack([np.ones_like(x), (x - x.mean()) / x.std()])

    def loss_and_gradient(coefficients: Array) -> tuple[float, Array]:
        log_odds = design @ coefficients
        loss = (np.logaddexp(0.0, log_odds) - labels * log_odds).mean()
        return float(loss), design.T @ (probability(log_odds) - labels) / len(x)

    def hessian(coefficients: Array) -> Array:
        risk = probability(design @ coefficients)
        return design.T @ (design * (risk * (1.0 - risk))[:, None]) / len(x)

    options = {"gtol": MAX_GRADIENT}
    fitted = minimize(loss_and_gradient, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options=options)
    return float(fitted.x[1] / x.std())
