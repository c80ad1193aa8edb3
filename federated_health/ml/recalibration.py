"""Recalibration of a model's risks for the patients of one hospital.

It is fitted to rows that the model was trained on, to which its risks fit better than to new patients. There a slope is
too large. So a slope below 1 (risks too extreme) is believed where it is clear, and one above 1 never is;
docs/evidence.md has the measurements.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from federated_health.ml.bootstrap import labels_of_patients, rarer_class
from federated_health.ml.calibration import are_separated, calibration, fit_logistic
from federated_health.ml.intervals import NORMAL, sum_by_patient
from federated_health.ml.targets import Array, Floats, PatientIds
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

MIN_SLOPE = 0.01
"""Smallest slope that is applied; with a smaller one, the log-odds do not rank the patients."""

MAX_BOUND = 100.0
"""Largest distance from 0 of a coefficient or an end of its interval; beyond, the patients do not determine it."""

MAX_CONDITION = 1e10
"""Condition number of the information matrix from which its inverse is rounding error."""

FIGURES = ("log_loss", "brier", "calibration_slope", "calibration_intercept")
"""Figures of risks by which a recalibration is measured."""


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

    def apply_to_risks(self, risks: Floats) -> Array:
        """The corrected risks, of the same shape; those of 0 and 1 stay so."""
        known = np.asarray(risks, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return probability(self.apply(np.log(known) - np.log1p(-known)))

    def __str__(self) -> str:
        slope = "" if self.slope is None else f" x {self.slope.value:.3g}"
        return f"log-odds{slope} {self.intercept.value:+.3g}"


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
        if slope.value >= MIN_SLOPE and slope.high < 1:
            return Recalibration(intercept=intercept.interval, slope=slope.interval)
    fitted = _fit(np.ones((len(x), 1)), x, y, patients, np.eye(1))
    return Recalibration(intercept=fitted[0].interval) if fitted else None


@dataclass(frozen=True, kw_only=True)
class MeasuredRecalibration:
    """A hospital's recalibration, and the FIGURES of its held-out patients without it (`before`) and with it (`after`).

    Slope and intercept of calibration are None with too few patients (see `calibration`).
    """

    recalibration: Recalibration
    before: Mapping[str, float | None]
    after: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """The entry `recalibration` of a hospital in metrics.json."""
        return {**asdict(self.recalibration), "before": dict(self.before), "after": dict(self.after)}


def measure_recalibration(recalibration: Recalibration, log_odds: Floats, labels: Floats) -> MeasuredRecalibration:
    """Measure a recalibration on rows to which it was not fitted.

    Args:
        log_odds, labels: [rows].
    """
    return MeasuredRecalibration(
        recalibration=recalibration,
        before=_figures_of(np.asarray(log_odds, dtype=np.float64), labels),
        after=_figures_of(recalibration.apply(log_odds), labels),
    )


def _figures_of(log_odds: Array, labels: Floats) -> dict[str, float | None]:
    sums, fitted = count_outcomes(probability(log_odds), labels), calibration(log_odds, labels)
    return dict(zip(FIGURES, (sums.loss, sums.brier, fitted.slope, fitted.intercept), strict=True))


class _Coefficient(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        return Interval(**self._asdict())


def _fit_line(x: Array, y: Array, patients: PatientIds | None) -> list[_Coefficient]:
    """Intercept and slope; nothing where the log-odds separate the classes."""
    if are_separated(x, y):
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
        scores = sum_by_patient(design * (labels - risk)[:, np.newaxis], patients)
        clusters = len(scores)
        correction = clusters / (clusters - 1) * (rows - 1) / (rows - variables)
        covariance = correction * covariance @ scores.T @ scores @ covariance
    values = transform @ coefficients
    margins = NORMAL * np.sqrt(np.diag(transform @ covariance @ transform.T))
    ends = np.column_stack([values, values - margins, values + margins])
    return [_Coefficient(*row) for row in ends.tolist()] if np.abs(ends).max() <= MAX_BOUND else []
