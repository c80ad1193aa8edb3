"""Recalibration of a model's risks for the patients of one hospital.

It is fitted to rows that the model was trained on, to which its risks fit better than to new patients. There a slope is
too large. So a slope below 1 (risks too extreme) is believed where it is clear, and one above 1 never is;
docs/evidence.md has the measurements.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from federated_health.data.split import PatientIds
from federated_health.ml.bootstrap import Array, Floats, labels_of_patients, rarer_class
from federated_health.ml.calibration import fit_logistic
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

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
    """Fit a hospital's recalibration by logistic regression of the outcome on the log-odds, with 95 % Wald intervals.

    The slope is held at 1 unless its interval lies below 1. None with fewer than MIN_CLASS_SIZE patients of a class, or
    if the log-odds are so extreme that they do not determine an intercept.

    Args:
        log_odds, labels: [rows].
        patients: number of each row's patient, [rows], for cluster-robust standard errors (Liang and Zeger 1986); None
            if each row is a patient of its own.
    """
    x, y = np.asarray(log_odds, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if rarer_class(labels_of_patients(y, patients)) < MIN_CLASS_SIZE or not np.isfinite(x).all():
        return None
    if line := _fit_line(x, y, patients):
        intercept, slope = line
        if slope.value > 0 and slope.high < 1:
            return Recalibration(intercept=intercept.interval, slope=slope.interval)
    fitted = _fit(np.ones((len(x), 1)), x, y, patients, np.eye(1))
    return Recalibration(intercept=fitted[0].interval) if fitted else None


class _Coefficient(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        return Interval(**self._asdict())


def _fit_line(x: Array, y: Array, patients: PatientIds | None) -> list[_Coefficient]:
    """Intercept and slope; nothing where the log-odds separate the classes."""
    positive, negative = x[y == 1], x[y == 0]
    if positive.min() >= negative.max() or positive.max() <= negative.min():  # as of equal scores
        return []
    middle, deviation = float(x.mean()), float(x.std())
    design = np.column_stack([np.ones_like(x), (x - middle) / deviation])
    original = np.array([[1.0, -middle / deviation], [0.0, 1.0 / deviation]])
    return _fit(design, np.zeros_like(x), y, patients, original)


def _fit(
    design: Array, offset: Array, labels: Array, patients: PatientIds | None, transform: Array
) -> list[_Coefficient]:
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
    ends = np.column_stack([values, values - margins, values + margins])
    return [_Coefficient(*row) for row in ends.tolist()] if np.abs(ends).max() <= MAX_BOUND else []
