"""Recalibration of a model's risks for the patients of one hospital."""

from dataclasses import dataclass

import numpy as np

from federated_health.data.split import PatientIds
from federated_health.ml.bootstrap import Array, Floats, labels_of_patients, rarer_class
from federated_health.ml.calibration import fit_logistic
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

MIN_CLASS_SIZE_OF_SLOPE = 50
"""Smallest class of patients for which a slope is fitted; with fewer, only the intercept is."""

MIN_SLOPE, MAX_SLOPE = 0.1, 10.0
"""Slopes beyond these say that the log-odds hardly rank, or nearly separate, the patients: no slope is fitted."""

MAX_BOUND = 100.0
"""Largest distance from 0 of a coefficient or an end of its interval; beyond, the patients do not determine it."""

MAX_CONDITION = 1e10
"""Condition number of the information matrix from which its inverse is rounding error."""

QUANTILE = 1.959963984540054
"""Quantile of the standard normal distribution at the upper end of a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Recalibration:
    """Line by which a hospital's log-odds are corrected (logistic recalibration, Cox 1958, Steyerberg et al. 2004).

    Attributes:
        intercept: what is added to the log-odds.
        slope: factor of the log-odds, before the intercept is added; None for 1.
    """

    intercept: Interval
    slope: Interval | None = None

    def apply(self, log_odds: Floats) -> Array:
        """The corrected log-odds, of the same shape."""
        slope = 1.0 if self.slope is None or self.slope.value is None else self.slope.value
        return slope * np.asarray(log_odds, dtype=np.float64) + (self.intercept.value or 0.0)


def fit_recalibration(log_odds: Floats, labels: Floats, patients: PatientIds | None = None) -> Recalibration | None:
    """Fit intercept and slope by logistic regression of the outcome on the log-odds, with 95 % Wald intervals.

    Only the intercept is fitted, with the slope held at 1, where the smaller class has fewer than
    MIN_CLASS_SIZE_OF_SLOPE patients, where the log-odds separate the classes, or where the slope is not between
    MIN_SLOPE and MAX_SLOPE. None with fewer than MIN_CLASS_SIZE patients of a class, or if the log-odds are so extreme
    that they do not determine an intercept.

    Args:
        log_odds, labels: [rows].
        patients: number of each row's patient, [rows], for cluster-robust standard errors (Liang and Zeger 1986); None
            if each row is a patient of its own.
    """
    x, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    smaller = rarer_class(labels_of_patients(y, patients))
    if smaller < MIN_CLASS_SIZE or not np.isfinite(x).all():
        return None
    if smaller >= MIN_CLASS_SIZE_OF_SLOPE and (with_slope := _fit_line(x, y, patients)) is not None:
        return with_slope
    fitted = _fit_intervals(np.ones((len(x), 1)), x, y, patients, np.eye(1))
    return Recalibration(intercept=fitted[0]) if fitted else None


def _fit_line(x: Array, y: Array, patients: PatientIds | None) -> Recalibration | None:
    """Intercept and slope; None where the slope is not defined, or out of range."""
    middle, deviation = float(x.mean()), float(x.std())
    positive, negative = x[y == 1], x[y == 0]
    if positive.min() >= negative.max() or positive.max() <= negative.min():  # as of equal scores
        return None
    design = np.column_stack([np.ones_like(x), (x - middle) / deviation])
    original = np.array([[1.0, -middle / deviation], [0.0, 1.0 / deviation]])
    fitted = _fit_intervals(design, np.zeros_like(x), y, patients, original)
    if not fitted or not MIN_SLOPE <= (fitted[1].value or 0.0) <= MAX_SLOPE:
        return None
    return Recalibration(intercept=fitted[0], slope=fitted[1])


def _fit_intervals(
    design: Array, offset: Array, labels: Array, patients: PatientIds | None, transform: Array
) -> list[Interval]:
    """Coefficients of a logistic regression with their intervals, after a linear transform, [coefficients, variables].

    Nothing if they are not determined (see MAX_BOUND).

    Args:
        design: [rows, variables].
        offset: [rows], log-odds to which the design's are added.
    """
    rows, variables = design.shape
    coefficients = fit_logistic(design, offset, labels, np.full(rows, 1.0 / rows))
    risk = probability(offset + design @ coefficients)
    information = design.T @ (design * (risk * (1.0 - risk))[:, np.newaxis])
    if not np.linalg.cond(information) < MAX_CONDITION:
        return []
    covariance = np.linalg.inv(information)
    if patients is not None:
        _, number = np.unique(patients, return_inverse=True)
        clusters = int(number.max()) + 1
        scores = np.zeros((clusters, variables))
        np.add.at(scores, number, design * (labels - risk)[:, np.newaxis])
        correction = clusters / (clusters - 1) * (rows - 1) / (rows - variables)
        covariance = correction * covariance @ scores.T @ scores @ covariance
    values = transform @ coefficients
    margins = QUANTILE * np.sqrt(np.diag(transform @ covariance @ transform.T))
    if (np.abs(values) + margins > MAX_BOUND).any():
        return []
    return [
        Interval(value=float(value), low=float(value - margin), high=float(value + margin))
        for value, margin in zip(values, margins, strict=True)
    ]
