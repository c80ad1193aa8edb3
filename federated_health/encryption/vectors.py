"""What is encrypted, as vectors, and what the sums of such vectors say. Arrays in, arrays out; knows no cipher.

A hospital's figures are divided by the number of all hospitals' patients, so that whatever is added up stays of the
size of one patient's, where the cipher is precise; counts are whole again once they are rounded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.encryption.ckks import ERROR, SLOTS
from federated_health.errors import EncryptionError
from federated_health.ml.metrics import Counts
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import MIN_OBSERVED, Normalisation, column_sums
from federated_health.ml.rounds import HospitalRound

Vector = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]

MAX_PATIENTS = 200_000
"""Of all hospitals: with many more, the error of the sum of many rounds could move a count by one."""

PLACES = 8
"""Numbers of one round in the vector of many rounds."""

ROUNDS = SLOTS // PLACES
"""In one such vector."""

BINS = 512
FURTHEST = 12.0
"""Log-odds between whose negative and itself the bins of a histogram lie; scores beyond are in the outermost ones."""

_WIDTH = 2 * FURTHEST / BINS
_COUNTS = tuple(field.name for field in fields(Counts))


def flatten(weights: Weights, share: float) -> Vector:
    """A hospital's share of the average, [weights].

    Args:
        share: of all that is averaged, that is this hospital's.
    """
    return share * np.concatenate([array.ravel() for array in weights.values()]).astype(np.float64)


def unflatten(vector: Vector, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """The average of these shapes, as float32: the inverse of `flatten` once the shares add up to 1."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(vector.astype(np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def write_sums(values: Vector, measurements: Sequence[Measurement], patients: int) -> Vector:
    """One hospital's sums for the normalisation, [3 * measurements]: counts, sums, sums of squares.

    Values are taken in half ranges from the middle of their declared range. A column that was observed in fewer than
    five rows counts nothing.

    Args:
        values: [rows, measurements], NaN for missing.
        patients: of all hospitals.
    """
    middle, half = _ranges(measurements)
    sums = column_sums((values - middle) / half)
    return np.concatenate([sums.count, sums.total, sums.squares]) / patients


def read_normalisation(vector: Vector, measurements: Sequence[Measurement], patients: int) -> Normalisation:
    """The normalisation (see `statistics.normalisation_from`) of the sum of all hospitals' `write_sums`.

    Raises:
        EncryptionError: it is not the sum of what hospitals can have sent.
    """
    middle, half = _ranges(measurements)
    count, total, squares = np.split(vector * patients, 3)
    slack = 2 * ERROR * patients
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
        raise EncryptionError("the sums of columns are none that hospitals can have sent")
    rows = np.maximum(count, 1.0)
    mean = total / rows
    variance = squares / rows - mean**2
    varies = (count > 0) & (variance > 4 * slack / rows)
    return Normalisation(
        mean=tuple(np.where(count > 0, middle + half * mean, 0.0).tolist()),
        variance=tuple(np.where(varies, half**2 * variance, 1.0).tolist()),
    )


def write_round(number: int, one: HospitalRound, patients: int) -> Vector:
    """What a round gave at one hospital, [SLOTS]: zeros but in the round's own places, so that rounds add up, too."""
    counts = one.counts or Counts()
    rows = 0 if one.train_loss is None else one.train_examples
    figures = [getattr(counts, name) for name in _COUNTS] + [rows * (one.train_loss or 0.0), rows]
    vector = np.zeros(SLOTS)
    vector[_places(number)] = np.array(figures, dtype=np.float64) / patients
    return vector


def read_round(number: int, vector: Vector, patients: int) -> HospitalRound:
    """What a round gave at all hospitals together, of the sum of many rounds' `write_round`."""
    *counts, loss, rows = vector[_places(number)] * patients
    trained = round(rows)
    return HospitalRound(
        train_examples=trained,
        train_loss=max(loss, 0.0) / trained if trained else None,
        counts=read_counts(np.array(counts)) if np.round(counts[:4]).sum() else None,
    )


def read_counts(figures: Vector) -> Counts:
    """Counts, in the order of their fields, of which the whole ones may be a little off.

    Raises:
        EncryptionError: they cannot be what hospitals counted.
    """
    whole, sums = np.round(figures[:4]), np.maximum(figures[4:], 0.0)
    if not np.isfinite(figures).all() or (whole < 0).any():
        raise EncryptionError("the sums of counts are none that hospitals can have sent")
    values = dict(zip(_COUNTS, [*map(int, whole), *map(float, sums)], strict=True))
    return Counts(**values)  # type: ignore[arg-type]  # each of its field's own type


def histogram(log_odds: Scores, labels: npt.NDArray[np.float32]) -> Vector:
    """[2 * BINS]: of the positive and of the negative, how many score in each bin."""
    edges = np.linspace(-FURTHEST, FURTHEST, BINS + 1)[1:-1]
    bins = np.searchsorted(edges, log_odds, side="right")
    return np.concatenate([np.bincount(bins[labels == label], minlength=BINS).astype(np.float64) for label in (1, 0)])


def read_histogram(vector: Vector) -> tuple[Vector, Vector]:
    """The bins that hold patients as cells (see `metrics.microaggregate`), of the positive and of the negative.

    Args:
        vector: [2 * BINS], numbers of patients, which may be a little off.

    Raises:
        EncryptionError: they cannot be numbers of patients.
    """
    numbers = np.round(vector)
    if not np.isfinite(vector).all() or (numbers < 0).any():
        raise EncryptionError("the sums of scores are none that hospitals can have sent")
    centres = -FURTHEST + _WIDTH * (np.arange(BINS) + 0.5)
    cells = []
    for part in np.split(numbers, 2):
        held = part > 0
        # Within a bin scores are taken as spread evenly.
        cells.append(np.column_stack([part[held], centres[held], np.full(held.sum(), _WIDTH / math.sqrt(12))]))
    return cells[0], cells[1]


@dataclass(frozen=True, eq=False)
class FinalSums:
    """What hospitals say of the final weights, of one or summed.

    Attributes:
        counts: of held-out patients.
        roc_auc: sum of the hospitals' own ROC-AUCs.
        with_roc_auc: how many have one.
        importance: [columns], see `appraisal.Benefit`; zeros where it was not asked for.
        scores: see `histogram`, of held-out patients.
    """

    counts: Counts
    roc_auc: float
    with_roc_auc: int
    importance: Vector
    scores: Vector

    def to_vector(self, patients: int) -> Vector:
        figures = [float(getattr(self.counts, name)) for name in _COUNTS]
        of_patients = np.concatenate([figures, self.importance, self.scores]) / patients
        return np.concatenate([[self.roc_auc, float(self.with_roc_auc)], of_patients])

    @classmethod
    def from_vector(cls, vector: Vector, columns: int, patients: int) -> "FinalSums":
        """The inverse of `to_vector`, and of sums of what it gave."""
        figures = vector[2:] * patients
        first = len(_COUNTS)
        return cls(
            counts=read_counts(figures[:first]),
            roc_auc=float(vector[0]),
            with_roc_auc=round(vector[1]),
            importance=figures[first : first + columns],
            scores=figures[first + columns :],
        )

    @staticmethod
    def length(columns: int) -> int:
        """Of `to_vector`."""
        return 2 + len(_COUNTS) + columns + 2 * BINS


def _places(number: int) -> slice:
    """Of a round, from 1, in the vector of its block of rounds."""
    start = (number - 1) % ROUNDS * PLACES
    return slice(start, start + PLACES)


def _ranges(measurements: Sequence[Measurement]) -> tuple[Vector, Vector]:
    """The middles and the halves of the declared ranges."""
    low, high = (np.array([getattr(one, end) for one in measurements]) for end in ("low", "high"))
    return (low + high) / 2, (high - low) / 2
