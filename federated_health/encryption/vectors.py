"""What hospitals encrypt, as vectors, and what the decrypted sums mean. Arrays in, arrays out; no encryption here.

A hospital's figures are divided by the number of all hospitals' patients, so that a sum is no larger than one patient's
figures, where the cipher is precise. Counts are exact again after rounding. Sums that hospitals cannot have sent raise
EncryptionError.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.encryption.ckks import MAX_ERROR, SLOTS, Vector
from federated_health.errors import EncryptionError
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import MIN_OBSERVED, Normalisation, column_sums
from federated_health.ml.rounds import HospitalRound
from federated_health.ml.targets.binary import Counts

MAX_PATIENTS = 200_000
"""Largest number of patients of all hospitals: with many more, errors in a sum of many rounds could change a count."""

FIGURES_PER_ROUND = 8
ROUNDS_PER_BLOCK = SLOTS // FIGURES_PER_ROUND
"""Rounds whose figures lie side by side in one vector."""

BINS = 512
MAX_BIN_LOG_ODDS = 12.0
"""A histogram's bins divide log-odds from -12 to 12 evenly; scores beyond are in the outermost bins."""

_BIN_WIDTH = 2 * MAX_BIN_LOG_ODDS / BINS
_COUNTS = tuple(field.name for field in fields(Counts))


def flatten(weights: Weights, share: float) -> Vector:
    """A hospital's contribution to the average: its weights times its share, [weights]."""
    return share * np.concatenate([array.ravel() for array in weights.values()]).astype(np.float64)


def unflatten(vector: Vector, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """The average as float32 arrays of these shapes: the inverse of `flatten` for shares that add up to 1."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(vector.astype(np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def write_sums(values: Vector, measurements: Sequence[Measurement], patients: int) -> Vector:
    """One hospital's sums for the normalisation, [3 * measurements]: counts, sums, sums of squares.

    Values are scaled to [-1, 1] by their declared range. A column observed in fewer than five rows is left out.

    Args:
        values: [rows, measurements], NaN for missing.
        patients: number of patients of all hospitals.
    """
    middle, half = _ranges(measurements)
    sums = column_sums((values - middle) / half)
    return np.concatenate([sums.count, sums.total, sums.squares]) / patients


def read_normalisation(vector: Vector, measurements: Sequence[Measurement], patients: int) -> Normalisation:
    """The normalisation (see `normalisation.normalisation_from`) of the sum of all hospitals' `write_sums`."""
    middle, half = _ranges(measurements)
    count, total, squares = np.split(vector * patients, 3)
    slack = 2 * MAX_ERROR * patients
    count = np.round(count)
    is_possible = (
        np.isfinite(vector).all()
        and ((count == 0) | (count >= MIN_OBSERVED)).all()
        and (count <= patients).all()
        and (np.abs(total) <= count + slack).all()
        and ((squares >= -slack) & (squares <= count + slack)).all()
        and (squares * count >= total**2 - 4 * slack * np.maximum(count, 1)).all()
    )
    if not is_possible:
        raise _impossible("columns")
    rows = np.maximum(count, 1.0)
    mean = total / rows
    variance = squares / rows - mean**2
    varies = (count > 0) & (variance > 4 * slack / rows)
    return Normalisation(
        mean=tuple(np.where(count > 0, middle + half * mean, 0.0).tolist()),
        variance=tuple(np.where(varies, half**2 * variance, 1.0).tolist()),
    )


def write_round(number: int, figures: HospitalRound, patients: int) -> Vector:
    """One round's figures at one hospital, [SLOTS], at the round's own positions, so that rounds can be added too."""
    rows = 0 if figures.train_loss is None else figures.train_examples
    losses = [rows * (figures.train_loss or 0.0), rows]
    vector = np.zeros(SLOTS)
    counts = figures.counts if isinstance(figures.counts, Counts) else Counts()
    vector[_positions(number)] = np.array([*astuple(counts), *losses], dtype=np.float64) / patients
    return vector


def read_round(number: int, vector: Vector, patients: int) -> HospitalRound:
    """One round's figures at all hospitals together, from the sum of `write_round` over hospitals and rounds."""
    *counts, loss, rows = vector[_positions(number)] * patients
    trained = round(rows)
    return HospitalRound(
        train_examples=trained,
        train_loss=max(loss, 0.0) / trained if trained else None,
        counts=read_counts(np.array(counts)) if np.round(counts[:4]).sum() else None,
    )


def read_counts(figures: Vector) -> Counts:
    """Counts from figures in the order of their fields; whole numbers are rounded, since sums have small errors."""
    whole, sums = np.round(figures[:4]), np.maximum(figures[4:], 0.0)
    if not np.isfinite(figures).all() or (whole < 0).any():
        raise _impossible("counts")
    values = dict(zip(_COUNTS, [*map(int, whole), *map(float, sums)], strict=True))
    return Counts(**values)  # type: ignore[arg-type]  # each of its field's own type


def histogram(log_odds: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> Vector:
    """Number of positives, then of negatives, in each score bin, [2 * BINS]."""
    edges = np.linspace(-MAX_BIN_LOG_ODDS, MAX_BIN_LOG_ODDS, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, log_odds, side="right")
    return np.concatenate([np.bincount(bins[labels == label], minlength=BINS).astype(np.float64) for label in (1, 0)])


def read_histogram(vector: Vector) -> tuple[Vector, Vector]:
    """Non-empty bins as microaggregated scores (see `scores.microaggregate`), of the positives and of the negatives.

    Args:
        vector: [2 * BINS], numbers of patients, with small errors.
    """
    numbers = np.round(vector)
    if not np.isfinite(vector).all() or (numbers < 0).any():
        raise _impossible("scores")
    centres = -MAX_BIN_LOG_ODDS + _BIN_WIDTH * (np.arange(BINS) + 0.5)
    deviation = _BIN_WIDTH / math.sqrt(12)  # scores are taken as evenly spread within a bin
    positives, negatives = (
        np.column_stack([part[part > 0], centres[part > 0], np.full((part > 0).sum(), deviation)])
        for part in np.split(numbers, 2)
    )
    return positives, negatives


@dataclass(frozen=True, eq=False)
class FinalSums:
    """Figures for the final weights, of one hospital or summed.

    Attributes:
        counts: of held-out patients.
        roc_auc: sum of the hospitals' own ROC-AUCs.
        with_roc_auc: number of hospitals that have one.
        importance: [columns], see `Benefit`; zeros if it was not measured.
        scores: see `histogram`, of held-out patients.
    """

    counts: Counts
    roc_auc: float
    with_roc_auc: int
    importance: Vector
    scores: Vector

    def to_vector(self, patients: int) -> Vector:
        per_patient = np.concatenate([astuple(self.counts), self.importance, self.scores]) / patients
        return np.concatenate([[self.roc_auc, float(self.with_roc_auc)], per_patient])

    @classmethod
    def from_vector(cls, vector: Vector, columns: int, patients: int) -> "FinalSums":
        """The inverse of `to_vector`, also for sums of vectors."""
        counts, importance, scores = np.split(vector[2:] * patients, [len(_COUNTS), len(_COUNTS) + columns])
        return cls(read_counts(counts), float(vector[0]), round(vector[1]), importance, scores)

    @staticmethod
    def length(columns: int) -> int:
        return 2 + len(_COUNTS) + columns + 2 * BINS


def _positions(number: int) -> slice:
    """Positions of a round, from 1, in the vector of its block of rounds."""
    start = (number - 1) % ROUNDS_PER_BLOCK * FIGURES_PER_ROUND
    return slice(start, start + FIGURES_PER_ROUND)


def _ranges(measurements: Sequence[Measurement]) -> tuple[Vector, Vector]:
    low = np.array([measurement.low for measurement in measurements])
    high = np.array([measurement.high for measurement in measurements])
    return (low + high) / 2, (high - low) / 2


def _impossible(what: str) -> EncryptionError:
    return EncryptionError(f"the sums of {what} are impossible: no hospitals can have sent them")
