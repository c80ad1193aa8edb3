"""Intervals of figures, and paired differences of two models on the same patients.

A figure's variance is that of its patients' influences: how far each patient moves the figure. They are exact, without
draws, and take O(n log n). Of a ROC-AUC they are the placements of DeLong et al. 1988, of a mean loss the losses
themselves. Rows of one patient are not independent, so their influences are added up (Obuchowski 1997).

These methods were chosen by `benchmarks/coverage.py`:

- A figure has an interval on the logit scale, or on the log scale if it has no upper limit, and so keeps its limits.
- A ROC-AUC is drawn in slightly, and varies at least half as much as if scores had exponential distributions. Otherwise
  a perfect ranking would have an interval without width.
- A difference has an interval of Student's t, whose degrees of freedom are those of Satterthwaite 1946 over the classes
  (Brunner and Munzel 2000).
- A ROC-AUC takes the number of patients of each class as given. A mean loss does not: a model that gains in one class
  and loses in the other depends on their shares, which vary from sample to sample.

Intervals show how much a figure depends on which patients were tested, not on which were used for training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.bootstrap import LEVEL, labels_of_patients
from federated_health.ml.metrics import LESS_IS_BETTER
from federated_health.ml.students_t import p_value_of, quantile_of
from federated_health.ml.targets import Array, Floats, Folds, PatientIds
from federated_health.ml.verdicts import Comparison, Difference, Interval

if TYPE_CHECKING:
    from federated_health.ml.targets import Target

MIN_SHARE_OF_MODEL = 0.5
"""Smallest variance of a ROC-AUC, as a share of that of scores with exponential distributions."""

MORE_PAIRS = 0.2
"""Pairs of patients per patient that are added to a ROC-AUC before it is put on the logit scale, half of them in order.
"""

MAX_EXPONENT = 300.0
"""Half width of an interval on the logit scale beyond which it reaches both limits."""

ROUNDING = 1e-12
"""Differences of this size, relative to what is subtracted, are rounding errors."""

NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard deviations on each side of a normal interval."""

Strata = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure of some patients.

    Attributes:
        value: NaN where there is nothing to compute it from.
        influence: [patients], how far each patient moves the figure: the value is nearly the true one plus their sum.
        stratum: [patients], number of each patient's stratum, from 0. The number of patients of a stratum is given.
        middle: value from which the interval extends; of a ROC-AUC slightly inside, since a sample's may be at a limit.
        is_share: whether the figure is between 0 and 1; otherwise it is at least 0.
        min_variance: variance of the figure if its influences have less.
    """

    value: float
    influence: Array
    stratum: Strata
    middle: float
    is_share: bool
    min_variance: float = 0.0

    @cached_property
    def is_defined(self) -> bool:
        """Whether the figure is a number, of which the variance is one, too."""
        with np.errstate(over="ignore"):
            return bool(np.isfinite([self.value, (self.influence**2).sum()]).all())

    @cached_property
    def spread(self) -> tuple[float, float]:
        """Variance of the figure by its influences alone, and degrees of freedom."""
        return _spread(self.influence, self.stratum)

    @property
    def variance(self) -> float:
        return max(self.spread[0], self.min_variance)


def estimate_roc_auc(
    scores: Floats,
    labels: Floats,
    patients: PatientIds | None = None,
    folds: Folds | None = None,
    strata: Floats | None = None,
) -> Estimate:
    """ROC-AUC: the share of pairs of a positive and a negative row of one fold whose positive scores higher.

    Ties count one half (Hanley and McNeil 1982).

    Args:
        scores: [rows], or [repeats, rows] for the mean over repeats.
        labels: [rows], 0 or 1.
        patients: number of each row's patient, [rows]; None if each row is a patient of its own.
        folds: fold of each score, of the shape of `scores`; None if all are of one.
        strata: [rows], classes of which the numbers of patients are given; by default the labels.
    """
    scores = np.atleast_2d(scores)
    folds = np.zeros(scores.shape, dtype=np.intp) if folds is None else np.atleast_2d(folds)
    parts = [_rank(of_repeat, labels, of_fold) for of_repeat, of_fold in zip(scores, folds, strict=True)]
    value, influence = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    classes = labels_of_patients(labels, patients)
    positives = int((classes == 1).sum())
    negatives = len(classes) - positives
    pairs, middle = positives * negatives, middle_of_roc_auc(float(value), positives, negatives)
    share = MIN_SHARE_OF_MODEL if min(positives, negatives) > 1 else 1.0  # one patient has no variance
    return Estimate(
        float(value),
        sum_by_patient(influence, patients),
        _number(labels_of_patients(labels if strata is None else strata, patients)),
        middle,
        is_share=True,
        min_variance=share * _model_variance(middle, positives, negatives) if pairs else np.nan,
    )


def middle_of_roc_auc(value: float, positives: float, negatives: float) -> float:
    """The value from which the interval of a ROC-AUC extends, of so many patients (see MORE_PAIRS)."""
    pairs, more = positives * negatives, (positives + negatives) * MORE_PAIRS
    return (value * pairs + more / 2) / (pairs + more)


def _rank(scores: Floats, labels: Floats, folds: Folds) -> tuple[float, Array]:
    """Share of the pairs within folds that are in order, and each row's influence on it, [rows]."""
    wins, others = np.zeros(len(scores)), np.zeros(len(scores))
    for fold in np.unique(folds):
        positive, negative = (np.flatnonzero((folds == fold) & (labels == value)) for value in (1, 0))
        high, low = np.sort(scores[positive]), np.sort(scores[negative])
        wins[positive] = _mean_place(low, scores[positive])
        wins[negative] = len(high) - _mean_place(high, scores[negative])
        others[positive], others[negative] = len(low), len(high)
    pairs = others.sum() / 2
    if not pairs:
        return np.nan, np.full(len(scores), np.nan)
    value = float(wins.sum() / 2 / pairs)
    return value, (wins - value * others) / pairs


def _mean_place(ordered: Floats, values: Floats) -> Array:
    """How many of the ordered numbers are below each value, counting equal ones one half."""
    below, not_above = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + not_above) / 2


def _model_variance(roc_auc: float, positives: int, negatives: int) -> float:
    """Variance of a ROC-AUC of scores with exponential distributions (Hanley and McNeil 1982, Newcombe 2006)."""
    mean_size = (positives + negatives) / 2
    ratios = (1 - roc_auc) / (2 - roc_auc) + roc_auc / (1 + roc_auc)
    return roc_auc * (1 - roc_auc) * (1 + (mean_size - 1) * ratios) / (positives * negatives)


def estimate_mean(losses: Array, patients: PatientIds | None = None, *, is_share: bool) -> Estimate:
    """Mean loss over rows.

    Args:
        losses: [rows], or [repeats, rows] for the mean over repeats.
        patients: as of `estimate_roc_auc`.
        is_share: whether losses are between 0 and 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of infinite losses, the estimate is not defined
        mean_losses = np.atleast_2d(losses).mean(axis=0)
        value = float(mean_losses.mean())
        influence = sum_by_patient((mean_losses - value) / len(mean_losses), patients)
    return Estimate(value, influence, np.zeros(len(influence), dtype=np.intp), value, is_share)


def mean_of_classes(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of estimates of the same patients."""
    return Estimate(
        float(np.mean([one.value for one in estimates])),
        np.mean([one.influence for one in estimates], axis=0),
        estimates[0].stratum,
        float(np.mean([one.middle for one in estimates])),
        estimates[0].is_share,
        float(np.mean([one.min_variance**0.5 for one in estimates]) ** 2),
    )


def mean_of_hospitals(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of estimates of different patients."""
    number = len(estimates)
    firsts = np.cumsum([0, *(one.stratum.max() + 1 for one in estimates[:-1])])
    return Estimate(
        float(np.mean([one.value for one in estimates])),
        np.concatenate([one.influence for one in estimates]) / number,
        np.concatenate([one.stratum + first for one, first in zip(estimates, firsts, strict=True)]),
        float(np.mean([one.middle for one in estimates])),
        estimates[0].is_share,
        sum(one.min_variance for one in estimates) / number**2,
    )


def sum_by_patient(contributions: Array, patients: PatientIds | None) -> Array:
    """Sums over each patient's rows, [patients, ...], of contributions [rows, ...]."""
    if patients is None:
        return contributions
    different, patient_of_row = np.unique(patients, return_inverse=True)
    sums: Array = np.zeros((len(different), *contributions.shape[1:]))
    np.add.at(sums, patient_of_row, contributions)
    return sums


def interval_of(estimate: Estimate) -> Interval:
    """A figure with its interval."""
    if not estimate.is_defined:
        return Interval()
    # The logit scale alone makes intervals of a ROC-AUC as wide as they should be.
    quantile = NORMAL if estimate.min_variance else quantile_of(LEVEL, estimate.spread[1])
    half = quantile * estimate.variance**0.5
    return interval_around(estimate.value, estimate.middle, half, is_share=estimate.is_share)


def interval_around(value: float, middle: float, half: float, *, is_share: bool) -> Interval:
    """The interval of a figure that extends by `half` from `middle`, on the logit or the log scale (see `Estimate`)."""
    slope = middle * (1 - middle) if is_share else middle
    if not slope > 0:
        return Interval(value=value, low=value, high=value)
    factor = np.exp(min(half / slope, MAX_EXPONENT))
    low, high = middle / factor, middle * factor
    if is_share:
        low, high = (odds / (1 - middle + odds) for odds in (low, high))
    return Interval(value=value, low=float(min(low, value)), high=float(max(high, value)))


def wilson_interval(share: Array, number: Array) -> tuple[Array, Array]:
    """Ends of the intervals of shares of `number` independent patients each (Wilson 1927)."""
    centre = (share + NORMAL**2 / (2 * number)) / (1 + NORMAL**2 / number)
    half = NORMAL / (1 + NORMAL**2 / number) * np.sqrt(share * (1 - share) / number + NORMAL**2 / (4 * number**2))
    # By rounding, an end may miss the share itself if that is 0 or 1.
    return np.clip(centre - half, 0.0, share), np.clip(centre + half, share, 1.0)


def difference_of(first: Estimate, second: Estimate) -> Difference:
    """Difference of one figure of two models on the same patients, first minus second."""
    if not (first.is_defined and second.is_defined):
        return Difference()
    value, influence = first.value - second.value, first.influence - second.influence
    if np.abs(influence).max() <= ROUNDING * np.abs(first.influence).max():
        influence = np.zeros_like(influence)
    if abs(value) <= ROUNDING * abs(first.value):
        value = 0.0
    variance, freedom = _spread(influence, first.stratum)
    varies_less = first.variance > first.spread[0] or second.variance > second.spread[0]
    if varies_less and (variance or not first.spread[0]):  # not of models with the same ranking
        variance = _variance_with_minimum(first, second, variance)
    return t_difference(value, variance**0.5, freedom, limit=1.0 if first.is_share else np.inf)


def t_difference(value: float, deviation: float, freedom: float, *, limit: float = np.inf) -> Difference:
    """A difference of this standard error with the interval and p-value of Student's t, within -limit and limit."""
    half = quantile_of(LEVEL, freedom) * deviation
    return Difference(
        value=value,
        low=max(value - half, -limit),
        high=min(value + half, limit),
        p_value=p_value_of(abs(value) / deviation, freedom) if deviation else float(value == 0),
    )


def _variance_with_minimum(first: Estimate, second: Estimate, variance: float) -> float:
    """Variance of a difference of which a figure has its `min_variance`, from that of the influences.

    The correlation is that of the influences, or 0 if a model ranks perfectly, since nothing is known of it then.
    """
    product = first.spread[0] * second.spread[0]
    correlation = (first.spread[0] + second.spread[0] - variance) / 2 / product**0.5 if product else 0.0
    together = correlation * (first.variance * second.variance) ** 0.5
    return max(float(first.variance + second.variance - 2 * together), variance)


def improvement_of(figure: str, estimate: Estimate, other: Estimate) -> Difference:
    """By how much a model's figure is better than another's on the same patients."""
    return difference_of(other, estimate) if figure in LESS_IS_BETTER else difference_of(estimate, other)


def compare_models(
    target: "Target[Any]", federated: Floats, own: Floats, labels: Floats, patients: PatientIds | None = None
) -> dict[str, Comparison]:
    """Compare two models by each of the target's `comparisons`, on rows of which `Target.can_compare` is true.

    Args:
        federated, own: the networks' outputs for these rows.
        patients: number of each row's patient, [rows]; None if each row is a patient of its own.
    """
    compared = {}
    for figure in target.comparisons:
        of_federated, of_own = (
            target.estimate_figure(figure, outputs, labels, patients) for outputs in (federated, own)
        )
        compared[figure] = Comparison(
            own=interval_of(of_own),
            federated=interval_of(of_federated),
            difference=improvement_of(figure, of_federated, of_own),
        )
    return compared


def _number(strata: Floats) -> Strata:
    return np.unique(strata, return_inverse=True)[1]


def _spread(influence: Array, stratum: Strata) -> tuple[float, float]:
    """Variance of the sum of influences, and degrees of freedom (Satterthwaite 1946)."""
    number = np.bincount(stratum)
    mean = np.where(number > 1, np.bincount(stratum, influence) / number, 0.0)  # one patient has no deviation
    freedoms = np.maximum(number - 1, 1)
    parts = np.bincount(stratum, (influence - mean[stratum]) ** 2) * np.where(number > 1, number / freedoms, 1.0)
    variance = float(parts.sum())
    if not variance > 0:
        return 0.0, float(freedoms.min())
    return variance, float(1 / ((parts / variance) ** 2 / freedoms).sum())
