"""Bootstrap intervals of ROC-AUC.

All intervals are percentile intervals of a bootstrap over patients, stratified by class (Efron and Tibshirani 1993):
every draw holds as many patients of each class as there are. They are conditional on the fitted models: they say how
much the figure depends on which patients were tested, not on which patients were trained on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import MIN_CLASS_SIZE, SMALL_CLASS, Interval

LEVEL = 0.95
DRAWS = 2000
PERMUTATIONS = 10
"""Shuffles per column of which a permutation importance is the mean."""

MIN_DRAWS = 200
_MAX_CELLS = 20_000_000
_CELLS_AT_ONCE = 4_000_000  # of patients times draws: keeps the memory of a step below some 100 MB

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.floating[Any]]
Draws = npt.NDArray[np.float64]
"""How often each patient is in each bootstrap draw, [patients, draws]: whole numbers."""

Drawn = tuple[float, Array]
"""A ROC-AUC, and its bootstrap draws, [draws]."""


def can_judge(labels: Labels) -> bool:
    """Whether either class has MIN_CLASS_SIZE patients."""
    return rarer_class(labels) >= MIN_CLASS_SIZE


def is_small(labels: Labels) -> bool:
    """Whether either class has fewer than SMALL_CLASS patients."""
    return rarer_class(labels) < SMALL_CLASS


def rarer_class(labels: Labels) -> int:
    """Patients of the class that has fewer."""
    positives = int((labels == 1).sum())
    return min(positives, len(labels) - positives)


def affordable_draws(patients: int, draws: int = DRAWS) -> int:
    """Fewer draws of very many patients, so that they fit into some hundred megabytes; never fewer than MIN_DRAWS."""
    return min(draws, max(MIN_DRAWS, _MAX_CELLS // max(1, patients)))


def resample(labels: Labels, draws: int, seed: int | list[int]) -> Draws:
    """Draw patients with replacement, as many of either class as there are.

    Args:
        labels: [patients], 0 or 1.
        seed: as `numpy.random.default_rng` takes it.
    """
    generator = np.random.default_rng(seed)
    times = np.zeros((len(labels), draws))
    for value in (0, 1):
        if len(members := np.flatnonzero(labels == value)):
            drawn = generator.integers(len(members), size=(len(members), draws))
            cells = (drawn * draws + np.arange(draws)).ravel()
            times[members] = np.bincount(cells, minlength=drawn.size).reshape(drawn.shape)
    return times


def roc_auc_draws(scores: npt.NDArray[np.floating[Any]], labels: Labels, times: Draws) -> Array:
    """ROC-AUC of each draw: the share of pairs of a positive and a negative in which the positive scores higher.

    Ties count one half (Hanley and McNeil 1982).

    Args:
        scores: [patients], or [repeats, patients] for the mean over repeats of the same patients' scores.
        labels: [patients], 0 or 1, both of them present.
        times: a column of ones gives the plain AUC.

    Returns:
        [draws].
    """
    positive, negative = labels == 1, labels == 0
    chunk = max(1, _CELLS_AT_ONCE // len(labels))
    parts = []
    for first in range(0, times.shape[1], chunk):
        some = times[:, first : first + chunk]
        high, low = some[positive], some[negative]
        wins = np.mean([_wins(one[positive], one[negative], high, low) for one in np.atleast_2d(scores)], axis=0)
        parts.append(wins / (high.sum(axis=0) * low.sum(axis=0)))
    return np.concatenate(parts)


def interval_of(value: float, draws: Array) -> Interval:
    """A figure with the percentile interval of its draws, [draws]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def difference_of(one: Drawn, other: Drawn) -> Interval:
    """One ROC-AUC minus another of the same draws of the same patients: paired."""
    return interval_of(one[0] - other[0], one[1] - other[1])


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap draws of one set of patients, the same for every model that is compared on them.

    Attributes:
        labels: [patients], 0 or 1.
        times: as from `resample`.
    """

    labels: Labels
    times: Draws

    @classmethod
    def of(cls, labels: Labels, seed: int | list[int], draws: int = DRAWS) -> "Resampled":
        return cls(labels, resample(labels, affordable_draws(len(labels), draws), seed))

    @property
    def is_defined(self) -> bool:
        """Whether both classes are present."""
        return rarer_class(self.labels) > 0

    def roc_auc(self, scores: npt.NDArray[np.floating[Any]]) -> Drawn:
        """ROC-AUC as it is, and of each draw; see `roc_auc_draws`.

        Raises:
            ValueError: a class has no patient.
        """
        if not self.is_defined:
            raise ValueError("ROC-AUC is not defined for one class")
        as_is = np.ones((len(self.labels), 1))
        return float(roc_auc_draws(scores, self.labels, as_is)[0]), roc_auc_draws(scores, self.labels, self.times)

    def interval(self, scores: npt.NDArray[np.floating[Any]]) -> Interval:
        """ROC-AUC with its interval."""
        return interval_of(*self.roc_auc(scores)) if self.is_defined else Interval()

    def difference(self, scores: npt.NDArray[np.floating[Any]], others: npt.NDArray[np.floating[Any]]) -> Interval:
        """ROC-AUC of one model minus another's on the same patients and the same draws of them."""
        return difference_of(self.roc_auc(scores), self.roc_auc(others)) if self.is_defined else Interval()


def _wins(positives: npt.NDArray[Any], negatives: npt.NDArray[Any], high: Draws, low: Draws) -> Array:
    """[draws]: pairs in which the positive scores higher, and half of those in which both score the same.

    Args:
        positives, negatives: [patients of that class], scores.
        high, low: [patients of that class, draws], how often each of them was drawn.
    """
    order = np.argsort(negatives)
    below = np.zeros((len(negatives) + 1, low.shape[1]))
    np.cumsum(low[order], axis=0, out=below[1:])  # [i]: drawn negatives among the i lowest
    beaten = below[np.searchsorted(negatives[order], positives, side="left")]
    beaten += below[np.searchsorted(negatives[order], positives, side="right")]
    wins: Array = 0.5 * np.einsum("pd,pd->d", high, beaten)
    return wins
