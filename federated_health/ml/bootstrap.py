"""Bootstrap intervals of ROC-AUCs and of mean losses, and paired comparisons of two models.

All intervals are percentile intervals of a bootstrap over patients, stratified by class if there are classes (Efron and
Tibshirani 1993): every draw holds as many patients of each class as the sample. They show how much a figure depends on
which patients were tested, not on which patients were used for training.

Rows of one patient are not independent. Where patients have several rows, the bootstrap draws patients, each with all
rows (cluster bootstrap, Davison and Hinkley 1997, section 3.8).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import LESS_IS_BETTER
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Comparison, Difference, Interval

if TYPE_CHECKING:
    from federated_health.ml.targets import Target

LEVEL = 0.95
ENDS = (1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2
"""Quantiles of the draws at the ends of an interval."""

DRAWS = 2000
PERMUTATIONS = 10
"""Shuffles per column of which a permutation importance is the mean."""

MIN_DRAWS = 200
# Patients times draws, in all and per step: 40 MB, and about 50 MB.
MAX_CELLS = 20_000_000
MAX_CELLS_PER_STEP = 1_000_000

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Folds = npt.NDArray[np.integer[Any]]
PatientIds = npt.NDArray[np.integer[Any]]
Times = npt.NDArray[Any]
"""How often each patient is in each draw, [patients, draws]; uint16 as from `resample`, or float64."""

Drawn = tuple[float, Array]
"""A figure and its bootstrap draws, [draws]."""


def labels_of_patients(labels: Floats, patients: PatientIds | None) -> Floats:
    """One label per patient, [patients]: the largest of the patient's rows, as in `split.order_patients`.

    Args:
        labels: [rows].
        patients: number of each row's patient, [rows]; None if each row is a patient of its own.
    """
    return labels if patients is None else _largest_by_patient(labels, patients)[0]


def _largest_by_patient(values: Floats, patients: PatientIds) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The largest value of each patient, [patients], and the position of each row's patient there, [rows]."""
    different, patient_of_row = np.unique(patients, return_inverse=True)
    largest = np.full(len(different), -np.inf, dtype=values.dtype)
    np.maximum.at(largest, patient_of_row, values)
    return largest, patient_of_row


def can_judge(labels: Floats) -> bool:
    """Whether both classes have at least MIN_CLASS_SIZE patients."""
    return rarer_class(labels) >= MIN_CLASS_SIZE


def rarer_class(labels: Floats) -> int:
    """Number of patients of the smaller class."""
    positives = int((labels == 1).sum())
    return min(positives, len(labels) - positives)


def affordable_draws(patients: int, draws: int = DRAWS) -> int:
    """Number of draws of at most MAX_CELLS cells: at most `draws`, at least MIN_DRAWS."""
    return min(draws, max(MIN_DRAWS, MAX_CELLS // max(1, patients)))


def resample(labels: Floats, draws: int, seed: int | list[int]) -> Times:
    """How often each patient is in each draw with replacement, [patients, draws], as many of each class as in `labels`.

    Args:
        labels: [patients].
        seed: for `numpy.random.default_rng`.
    """
    generator = np.random.default_rng(seed)
    times = np.zeros((len(labels), draws), dtype=np.uint16)
    every_draw = np.arange(draws)
    for value in np.unique(labels):
        members = np.flatnonzero(labels == value)
        for _ in members:  # one patient per draw at a time: a table of all indices would need 8 bytes per cell
            times[members[generator.integers(len(members), size=draws)], every_draw] += 1
    return times


def resample_patients(strata: Floats, draws: int, seed: int | list[int], patients: PatientIds | None) -> Times:
    """How often each row is in each draw of patients with replacement, [rows, draws]; see `resample`.

    All rows of a patient are drawn together. A patient belongs to the largest stratum of the patient's rows, and every
    draw holds as many patients of each stratum as the sample.

    Args:
        strata: [rows].
        patients: number of each row's patient, [rows]; None if each row is a patient of its own.
    """
    if patients is None:
        return resample(strata, draws, seed)
    stratum_of_patient, patient_of_row = _largest_by_patient(strata, patients)
    return resample(stratum_of_patient, draws, seed)[patient_of_row]


def roc_auc_draws(scores: Floats, labels: Floats, times: Times, folds: Folds | None = None) -> Array:
    """ROC-AUC of each draw, [draws]: the share of pairs of a positive and a negative whose positive scores higher.

    Ties count one half (Hanley and McNeil 1982). NaN in a draw of one class, which a draw of patients may be.

    Args:
        scores: [patients], or [repeats, patients] for the mean over repeats.
        labels: [patients], 0 or 1, with both classes present.
        times: as from `resample`; a column of ones gives the plain AUC.
        folds: fold of each score, of the shape of `scores`; pairs are of one fold. None if all are of one.
    """
    scores = np.atleast_2d(scores)
    folds = np.zeros(scores.shape, dtype=np.intp) if folds is None else np.atleast_2d(folds)
    parts = []
    for draws in in_steps(times):
        of_repeat = [_auc_within_folds(*of, labels, draws) for of in zip(scores, folds, strict=True)]
        parts.append(np.mean(of_repeat, axis=0))
    return np.concatenate(parts)


def _auc_within_folds(scores: Floats, folds: Folds, labels: Floats, draws: Array) -> Array:
    """Share of the pairs within folds that are in order, [draws]; see `roc_auc_draws`."""
    wins, pairs = np.zeros(draws.shape[1]), np.zeros(draws.shape[1])
    for fold in np.unique(folds):
        positive, negative = (np.flatnonzero((folds == fold) & (labels == value)) for value in (1, 0))
        high, low = draws[positive], draws[negative]
        wins += _wins(scores[positive], scores[negative], high, low)
        pairs += high.sum(axis=0) * low.sum(axis=0)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)


def mean_draws(losses: Array, times: Times) -> Array:
    """Mean loss of each draw, [draws].

    Args:
        losses: [rows], or [repeats, rows] for the mean over repeats.
        times: as from `resample`.
    """
    mean_losses = np.atleast_2d(losses).mean(axis=0)
    return np.concatenate([mean_losses @ draws / draws.sum(axis=0) for draws in in_steps(times)])


def in_steps(times: Times) -> Iterator[Array]:
    """The draws as float64, [patients, some draws], at most MAX_CELLS_PER_STEP cells at a time."""
    step = max(1, MAX_CELLS_PER_STEP // len(times))
    for first in range(0, times.shape[1], step):
        yield times[:, first : first + step].astype(np.float64)


def interval_of(value: float, draws: Array) -> Interval:
    """A figure with the percentile interval of its draws, [draws], in which it is defined."""
    low, high = np.quantile(draws[~np.isnan(draws)], ENDS)
    return Interval(value=value, low=float(low), high=float(high))


def difference_of(first: Drawn, second: Drawn) -> Difference:
    """The paired difference of two figures, first minus second, on the same draws of the same patients."""
    draws = first[1] - second[1]
    interval = interval_of(first[0] - second[0], draws)
    defined = draws[~np.isnan(draws)]
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    return Difference(**vars(interval), p_value=min(1.0, 2 * (tail + 1) / (len(defined) + 1)))


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap draws of one set of patients (see `resample`), the same for every model that is compared on them."""

    labels: Floats
    times: Times

    @classmethod
    def of(
        cls, labels: Floats, seed: int | list[int], draws: int = DRAWS, patients: PatientIds | None = None
    ) -> "Resampled":
        return cls(labels, resample_patients(labels, affordable_draws(len(labels), draws), seed, patients))


def compare_models(
    target: "Target[Any]",
    federated: Floats,
    own: Floats,
    labels: Floats,
    seed: list[int],
    patients: PatientIds | None = None,
) -> dict[str, Comparison]:
    """Compare two models by each of the target's `comparisons`, on patients of whom `Target.can_compare` is true.

    Args:
        federated, own: the networks' outputs.
        patients: see `resample_patients`.
    """
    times = resample_patients(target.strata(labels), affordable_draws(len(labels)), seed, patients)
    compared = {}
    for figure in target.comparisons:
        value, other = (drawn_figure(target, figure, outputs, labels, times) for outputs in (federated, own))
        compared[figure] = Comparison(
            own=interval_of(*other), federated=interval_of(*value), difference=improvement_of(figure, value, other)
        )
    return compared


def improvement_of(figure: str, value: Drawn, other: Drawn) -> Difference:
    """By how much a model's figure is better than another's, on the same draws of the same patients."""
    return difference_of(other, value) if figure in LESS_IS_BETTER else difference_of(value, other)


def drawn_figure(
    target: "Target[Any]", figure: str, outputs: Floats, labels: Floats, times: Times, folds: Folds | None = None
) -> Drawn:
    """One of the `comparisons`, of the rows themselves and of each draw (see `Target.figure_draws`)."""
    once = np.ones((len(labels), 1))
    value = target.figure_draws(figure, outputs, labels, once, folds)
    return float(value[0]), target.figure_draws(figure, outputs, labels, times, folds)


def _wins(positives: Floats, negatives: Floats, high: Array, low: Array) -> Array:
    """Number of pairs in which the positive scores higher, plus half of the ties, [draws].

    Args:
        positives, negatives: scores of each class; `high` and `low` are its draws.
    """
    order = np.argsort(negatives)
    below = np.zeros((len(negatives) + 1, low.shape[1]))
    np.cumsum(low[order], axis=0, out=below[1:])  # [i]: drawn negatives among the i lowest
    beaten = below[np.searchsorted(negatives[order], positives, side="left")]
    beaten += below[np.searchsorted(negatives[order], positives, side="right")]
    wins: Array = 0.5 * np.einsum("pd,pd->d", high, beaten)
    return wins
