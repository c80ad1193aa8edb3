"""Bootstrap intervals of ROC-AUC, and the verdict that a paired difference gives. Arrays in, figures out.

All intervals are percentile intervals of a bootstrap over patients, stratified by class (Efron and Tibshirani 1993):
every draw holds as many patients of each class as there are. They are conditional on the fitted models: they say how
much the figure depends on which patients were tested, not on which patients were trained on.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
DRAWS = 2000
SMALL_CLASS = 10
"""A set of patients with fewer of either class is marked: its AUC moves by a tenth or more with one patient."""

_CELLS_AT_ONCE = 4_000_000  # of draws times patients: keeps memory below some 200 MB

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.floating[Any]]
Draws = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its interval; all None where the figure is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Verdict(StrEnum):
    """What joining gave a hospital."""

    GAINS = "gains"
    UNCLEAR = "no clear difference"
    LOSES = "loses"
    UNDEFINED = "cannot be said"


def judge(difference: Interval) -> Verdict:
    """The verdict of a paired difference of AUCs, federated minus own.

    `gains` where the whole interval is above 0, `loses` where it is below, `no clear difference` where it holds 0, and
    `cannot be said` where the AUC is not defined.
    """
    if difference.low is None or difference.high is None:
        return Verdict.UNDEFINED
    if difference.low > 0:
        return Verdict.GAINS
    return Verdict.LOSES if difference.high < 0 else Verdict.UNCLEAR


def is_small(labels: Labels) -> bool:
    """Whether either class has fewer than SMALL_CLASS patients."""
    positives = int((labels == 1).sum())
    return min(positives, len(labels) - positives) < SMALL_CLASS


def resample(labels: Labels, draws: int, seed: int | list[int]) -> Draws:
    """How often each patient is in each bootstrap draw.

    Args:
        labels: [patients], 0 or 1.
        seed: as `numpy.random.default_rng` takes it.

    Returns:
        [draws, patients]; each row adds up to the patients of a class within that class.
    """
    generator = np.random.default_rng(seed)
    times = np.zeros((draws, len(labels)), dtype=np.int32)
    for value in (0, 1):
        members = np.flatnonzero(labels == value)
        if len(members):
            times[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), draws)
    return times


def roc_auc_draws(scores: npt.NDArray[np.floating[Any]], labels: Labels, times: Draws) -> Array:
    """ROC-AUC of each draw; ties count one half (Hanley and McNeil 1982).

    Args:
        scores: [patients], or [repeats, patients] for the mean over repeats of the same patients' scores.
        labels: [patients], 0 or 1, both of them present.
        times: [draws, patients] as from `resample`; a row of ones gives the plain AUC.

    Returns:
        [draws].
    """
    repeats = [_one_repeat(one, labels, times) for one in np.atleast_2d(scores)]
    mean: Array = np.mean(repeats, axis=0)
    return mean


def interval_of(value: float, draws: Array) -> Interval:
    """A figure with the percentile interval of its draws, [draws]."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap draws of one set of patients, the same for every model that is compared on them.

    Attributes:
        labels: [patients], 0 or 1.
        times: [draws, patients] as from `resample`.
    """

    labels: Labels
    times: Draws

    @classmethod
    def of(cls, labels: Labels, seed: int | list[int], draws: int = DRAWS) -> "Resampled":
        return cls(labels, resample(labels, draws, seed))

    @property
    def is_defined(self) -> bool:
        """Whether both classes are present."""
        return 0 < int((self.labels == 1).sum()) < len(self.labels)

    def roc_auc(self, scores: npt.NDArray[np.floating[Any]]) -> tuple[float, Array]:
        """ROC-AUC as it is, and of each draw; see `roc_auc_draws`.

        Raises:
            ValueError: a class has no patient.
        """
        if not self.is_defined:
            raise ValueError("ROC-AUC is not defined for one class")
        as_is = np.ones((1, len(self.labels)), dtype=np.int32)
        return float(roc_auc_draws(scores, self.labels, as_is)[0]), roc_auc_draws(scores, self.labels, self.times)

    def interval(self, scores: npt.NDArray[np.floating[Any]]) -> Interval:
        """ROC-AUC with its interval."""
        return interval_of(*self.roc_auc(scores)) if self.is_defined else Interval()

    def difference(self, scores: npt.NDArray[np.floating[Any]], others: npt.NDArray[np.floating[Any]]) -> Interval:
        """ROC-AUC of one model minus another's on the same patients and the same draws of them."""
        if not self.is_defined:
            return Interval()
        (value, draws), (other, other_draws) = self.roc_auc(scores), self.roc_auc(others)
        return interval_of(value - other, draws - other_draws)


def _one_repeat(scores: npt.NDArray[np.floating[Any]], labels: Labels, times: Draws) -> Array:
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], (labels[order] == 1)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of patients of equal score
    chunk = max(1, _CELLS_AT_ONCE // len(scores))
    parts = []
    for first in range(0, len(times), chunk):
        sorted_times = times[first : first + chunk, order]
        high = np.add.reduceat(sorted_times * positive, starts, axis=1, dtype=np.float64)
        low = np.add.reduceat(sorted_times * ~positive, starts, axis=1, dtype=np.float64)
        below = np.cumsum(low, axis=1) - low
        parts.append((high * (below + 0.5 * low)).sum(axis=1) / (high.sum(axis=1) * low.sum(axis=1)))
    return np.concatenate(parts)
