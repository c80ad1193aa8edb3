"""Figures of subgroups of patients, such as women and men, of one hospital and of all together.

A hospital's figures of a group are counts, sums, and estimates with their precision, so that hospitals' figures merge
and no further score leaves a hospital. Rows of one patient are not independent: their contributions to a figure are
added before they are squared (Obuchowski 1997, Biometrics 53:567). Hospitals are strata: merged figures say how much
depends on the patients, not on which hospitals take part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.subgroups import Subgroup
from federated_health.ml.calibration import calibration
from federated_health.ml.intervals import estimate_roc_auc, middle_of_roc_auc, sum_by_patient
from federated_health.ml.metrics import SMALL_CLASS, ratio
from federated_health.ml.targets import Array, Floats, Folds, PatientIds
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import MIN_CLASS_SIZE


@dataclass(frozen=True)
class GroupFigures:
    """What a hospital sends of one subgroup; all 0 if it is suppressed or has no patient.

    An effective number is the number of independent patients whose share would be as precise. An estimate with a
    variance of 0 is not defined, nor is a share of an effective number of 0.

    Attributes:
        true_positives, false_positives, true_negatives, false_negatives: numbers of rows; not whole if they are means
            over repeats.
        expected: sum of the predicted risks.
        excess_variance: variance of the observed minus the expected events, these scaled to the same sum.
        sensitivity_number, specificity_number: effective numbers of positives and of negatives.
        roc_auc, auc_variance: ROC-AUC.
        intercept, intercept_variance: calibration intercept, with the slope at 1.
        slope, slope_variance: calibration slope.
        merged_middle: `auc_middle` of several hospitals together; None of one, which does not send it.
    """

    true_positives: float = 0.0
    false_positives: float = 0.0
    true_negatives: float = 0.0
    false_negatives: float = 0.0
    expected: float = 0.0
    excess_variance: float = 0.0
    sensitivity_number: float = 0.0
    specificity_number: float = 0.0
    roc_auc: float = 0.0
    auc_variance: float = 0.0
    intercept: float = 0.0
    intercept_variance: float = 0.0
    slope: float = 0.0
    slope_variance: float = 0.0
    merged_middle: float | None = None

    @property
    def auc_middle(self) -> float:
        """Value from which the interval of the ROC-AUC extends (see `ml.intervals`)."""
        if self.merged_middle is not None:
            return self.merged_middle
        return middle_of_roc_auc(self.roc_auc, self.positives, self.negatives)

    @property
    def sent(self) -> list[float]:
        """The numbers that leave a hospital, in the order of NAMES."""
        return [float(getattr(self, name)) for name in NAMES]

    @property
    def positives(self) -> float:
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> float:
        return self.true_negatives + self.false_positives

    @property
    def cells(self) -> tuple[float, float, float, float]:
        """True positives, false positives, true negatives, false negatives."""
        return self.true_positives, self.false_positives, self.true_negatives, self.false_negatives


MAX_VARIANCE = 1e6
"""Largest variance of a calibration intercept or slope; above it the scores tell nothing of it."""

MIN_VARIANCE = 1e-20
"""Variance below which an estimate is not sent: a weight by it could overflow."""

NAMES = tuple(field.name for field in fields(GroupFigures))[:-1]
"""Names of what a hospital sends of a group."""


def measure_groups(
    groups: Sequence[Subgroup],
    values: Array,
    log_odds: Floats,
    labels: Floats,
    thresholds: Floats | float,
    patients: PatientIds | None = None,
    folds: Folds | None = None,
) -> list[GroupFigures]:
    """The figures of one hospital's rows in each group.

    Args:
        values: [rows, columns of the task].
        log_odds: [rows], or [repeats, rows] for means over repeats.
        labels: [rows].
        thresholds: smallest risk that is predicted positive, one or of each score.
        patients: number of each row's patient, [rows]; None if each row is a patient of its own.
        folds: fold of each score; pairs of the ROC-AUC are of one fold. None if all scores are of one model.
    """
    scores = np.atleast_2d(np.asarray(log_odds, dtype=np.float64))
    limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), scores.shape)
    of_fold = np.zeros(scores.shape, dtype=np.intp) if folds is None else np.broadcast_to(folds, scores.shape)
    clusters = np.arange(len(labels)) if patients is None else np.asarray(patients)
    masks = [group.mask(values) for group in groups]
    return [
        _measure(scores[:, mask], labels[mask], limits[:, mask], clusters[mask], of_fold[:, mask]) for mask in masks
    ]


def _measure(
    scores: Array, labels: Floats, thresholds: Array, patients: npt.NDArray[Any], folds: npt.NDArray[Any]
) -> GroupFigures:
    if not len(labels):
        return GroupFigures()
    risks = probability(scores)
    predicted, risk = (risks >= thresholds).mean(axis=0), risks.mean(axis=0)
    positive, negative = labels == 1, labels == 0
    smallest = min(len(np.unique(patients[of])) for of in (positive, negative))
    excess = labels - risk * ratio_of(labels.sum(), risk.sum())
    figures = {
        "true_positives": float(predicted[positive].sum()),
        "false_positives": float(predicted[negative].sum()),
        "true_negatives": float((1 - predicted[negative]).sum()),
        "false_negatives": float((1 - predicted[positive]).sum()),
        "expected": float(risk.sum()),
        "excess_variance": cluster_variance(excess, patients),
        "sensitivity_number": _effective_number(predicted[positive], patients[positive]),
        "specificity_number": _effective_number(predicted[negative], patients[negative]),
    }
    if smallest >= MIN_CLASS_SIZE:
        ranked = estimate_roc_auc(scores, labels, patients, folds)
        if ranked.is_defined and ranked.variance > MIN_VARIANCE:
            figures |= {"roc_auc": ranked.value, "auc_variance": ranked.variance}
        figures |= _calibrate(scores, labels, patients, with_slope=smallest >= SMALL_CLASS)
    return GroupFigures(**figures)


def ratio_of(part: float, whole: float) -> float:
    """The quotient; 0 where it is not defined."""
    return ratio(float(part), float(whole)) or 0.0


def cluster_variance(contributions: Array, patients: npt.NDArray[Any]) -> float:
    """Variance of the sum of rows' contributions, whose mean is 0, where those of one patient are not independent."""
    sums = sum_by_patient(contributions, patients)
    return float((sums**2).sum() * len(sums) / max(len(sums) - 1, 1))


def _effective_number(shares: Array, patients: npt.NDArray[Any]) -> float:
    """Effective number of rows of a mean of shares, at most their number; 0 of none."""
    if not len(shares):
        return 0.0
    mean = float(shares.mean())
    if not 0 < mean < 1:  # as if the rows of a patient were equal
        return float(len(shares) ** 2 / (np.unique(patients, return_counts=True)[1] ** 2).sum())
    squares = float((sum_by_patient(shares - mean, patients) ** 2).sum())
    if not squares:  # means over repeats may all be equal
        return float(len(shares))
    return min(float(len(shares)), mean * (1 - mean) * len(shares) ** 2 / squares)


def _calibrate(scores: Array, labels: Floats, patients: npt.NDArray[Any], *, with_slope: bool) -> dict[str, float]:
    """Calibration intercept and slope with variances (sandwich, clustered by patient); all repeats in one fit."""
    repeats = len(scores)
    x, y, of = scores.ravel(), np.tile(labels, repeats).astype(np.float64), np.tile(patients, repeats)
    weights = np.full(len(x), 1 / repeats)
    fitted, figures = calibration(x, y, weights), dict[str, float]()
    if fitted.intercept is not None:
        design = np.ones((len(x), 1))
        variance = _sandwich(design, probability(x + fitted.intercept), y, weights, of)
        figures |= _known("intercept", fitted.intercept, float(variance[0, 0]))
    if with_slope and fitted.slope is not None:
        offset = calibration(fitted.slope * x, y, weights).intercept or 0.0
        design = np.column_stack([np.ones_like(x), x])
        variance = _sandwich(design, probability(offset + fitted.slope * x), y, weights, of)
        figures |= _known("slope", fitted.slope, float(variance[1, 1]))
    return figures


def _known(name: str, value: float, variance: float) -> dict[str, float]:
    """An estimate and its variance; nothing if it is not defined."""
    return {name: value, f"{name}_variance": variance} if MIN_VARIANCE < variance < MAX_VARIANCE else {}


def _sandwich(design: Array, risk: Array, labels: Array, weights: Array, patients: npt.NDArray[Any]) -> Array:
    """Covariance of the coefficients of a logistic regression, robust and clustered by patient."""
    bread = np.linalg.pinv(design.T @ (design * (weights * risk * (1 - risk))[:, np.newaxis]))
    sums = sum_by_patient(design * (weights * (labels - risk))[:, np.newaxis], patients)
    covariance: Array = bread @ (sums.T @ sums) @ bread * len(sums) / max(len(sums) - 1, 1)
    return covariance


def merge_groups(parts: Iterable[GroupFigures]) -> GroupFigures:
    """One subgroup of several hospitals together, of at least one part.

    Counts are added. A ROC-AUC is that over pairs of patients of one hospital; calibration intercepts and slopes are
    weighted by their precision.
    """
    parts = list(parts)
    summed = {name: sum(getattr(part, name) for part in parts) for name in NAMES[:6]}
    sensitivity = [(part.positives, part.sensitivity_number) for part in parts]
    specificity = [(part.negatives, part.specificity_number) for part in parts]
    ranked = [(part, part.positives * part.negatives) for part in parts if part.auc_variance > 0]
    pairs = sum(of_part for _, of_part in ranked)
    intercept, intercept_variance = _merge([(part.intercept, part.intercept_variance) for part in parts])
    slope, slope_variance = _merge([(part.slope, part.slope_variance) for part in parts])
    return GroupFigures(
        **summed,
        sensitivity_number=_merge_numbers(sensitivity),
        specificity_number=_merge_numbers(specificity),
        roc_auc=ratio_of(sum(part.roc_auc * of_part for part, of_part in ranked), pairs),
        merged_middle=ratio_of(sum(part.auc_middle * of_part for part, of_part in ranked), pairs),
        auc_variance=ratio_of(sum(part.auc_variance * of_part**2 for part, of_part in ranked), pairs**2),
        intercept=intercept,
        intercept_variance=intercept_variance,
        slope=slope,
        slope_variance=slope_variance,
    )


def _merge_numbers(parts: Sequence[tuple[float, float]]) -> float:
    """Effective number of a weighted mean of shares, of weights and effective numbers; 0 of none."""
    known = [(weight, number) for weight, number in parts if number > 0]
    spread = sum(weight**2 / number for weight, number in known)
    return sum(weight for weight, _ in known) ** 2 / spread if spread else 0.0


def _merge(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Mean of estimates weighted by precision, and its variance; both 0 of none."""
    known = [(value, 1 / variance) for value, variance in parts if variance > 0]
    if not known:
        return 0.0, 0.0
    precision = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / precision, 1 / precision
