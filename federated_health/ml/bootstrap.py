"""Bootstrap draws of patients, for the bands of curves and for the attacks of an audit.

Draws are stratified by class (Efron and Tibshirani 1993): each holds as many patients of each class as the sample. Rows
of one patient are not independent, so draws are of patients, each with all rows (cluster bootstrap, Davison and Hinkley
1997, section 3.8). Intervals of figures and comparisons of models need no draws: see `intervals`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.targets import Array, Floats, PatientIds
from federated_health.ml.verdicts import MIN_CLASS_SIZE, Interval

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

Times = npt.NDArray[Any]
"""How often each patient is in each draw, [patients, draws]; uint16 as from `resample`, or float64."""


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


def roc_auc_draws(scores: Floats, labels: Floats, times: Times) -> Array:
    """ROC-AUC of each draw, [draws]: the share of pairs of a positive and a negative whose positive scores higher.

    Ties count one half (Hanley and McNeil 1982).

    Args:
        scores: [patients].
        labels: [patients], 0 or 1, with both classes present in each draw.
        times: as from `resample`; a column of ones gives the plain AUC.
    """
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    parts = []
    for draws in in_steps(times):
        high, low = draws[positive], draws[negative]
        parts.append(_wins(scores[positive], scores[negative], high, low) / (high.sum(axis=0) * low.sum(axis=0)))
    return np.concatenate(parts)


def in_steps(times: Times) -> Iterator[Array]:
    """The draws as float64, [patients, some draws], at most MAX_CELLS_PER_STEP cells at a time."""
    step = max(1, MAX_CELLS_PER_STEP // len(times))
    for first in range(0, times.shape[1], step):
        yield times[:, first : first + step].astype(np.float64)


def percentile_interval(value: float, draws: Array) -> Interval:
    """A figure with the percentile interval of its draws, [draws]."""
    low, high = np.quantile(draws, ENDS)
    return Interval(value=value, low=float(low), high=float(high))


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
