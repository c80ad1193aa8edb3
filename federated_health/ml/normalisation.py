"""Counts, sums and sums of squares that hospitals share so that all scale alike. They merge by addition."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.errors import RunError

MIN_OBSERVED = 5
"""A hospital releases a column's sums only over at least so many observed rows."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """Of each measurement, over the training rows in which it was observed; each float64 [measurements].

    Attributes:
        count: observed rows.
        total: sum of the values.
        squares: sum of their squares.
    """

    count: Vector
    total: Vector
    squares: Vector

    @property
    def are_released(self) -> bool:
        """Whether they tell anything of any column."""
        return bool(np.any([self.count, self.total, self.squares]))


@dataclass(frozen=True)
class Normalisation:
    """The one scaling that every hospital and the saved model use: a figure a measurement, in its unit (squared)."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


def column_sums(values: Vector, minimum: int = MIN_OBSERVED) -> ColumnSums:
    """Sums over one hospital's training rows.

    Args:
        values: [rows, measurements], NaN for missing.
        minimum: a column that was observed in fewer rows is not released: count and sums are 0.
    """
    observed = ~np.isnan(values)
    count = observed.sum(axis=0).astype(np.float64)
    released = count >= minimum
    present = np.where(observed, values, 0.0)
    return ColumnSums(
        count=np.where(released, count, 0.0),
        total=np.where(released, present.sum(axis=0), 0.0),
        squares=np.where(released, (present**2).sum(axis=0), 0.0),
    )


def withheld_sums(measurements: int) -> ColumnSums:
    """What a hospital tells of its columns where it tells nothing."""
    return ColumnSums(count=np.zeros(measurements), total=np.zeros(measurements), squares=np.zeros(measurements))


def public_normalisation(measurements: Iterable[Measurement]) -> Normalisation:
    """A scaling that depends on no patient: by what a task declares of its columns.

    The mean is in the middle of where hospitals' medians typically lie, and the standard deviation is half of that
    span; of a column without that, of what is plausible at all, of which it is a sixth.
    """
    centres, spreads = [], []
    for one in measurements:
        low, high = one.typical_median or (one.low, one.high)
        centres.append((low + high) / 2)
        spreads.append((high - low) / (2 if one.typical_median else 6))
    return Normalisation(mean=tuple(centres), variance=tuple(spread**2 for spread in spreads))


def merge_sums(parts: Iterable[ColumnSums]) -> ColumnSums:
    """The sums of all rows together.

    Raises:
        ValueError: there is no part.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("no sums to merge")
    return ColumnSums(
        count=np.sum([part.count for part in parts], axis=0),
        total=np.sum([part.total for part in parts], axis=0),
        squares=np.sum([part.squares for part in parts], axis=0),
    )


def normalisation_from(sums: ColumnSums) -> Normalisation:
    """Mean and population variance. A column that no hospital released, or that never varies, is left unscaled.

    Raises:
        RunError: the sums are impossible (negative or fractional counts, not finite, squares below their minimum).
    """
    everything = np.stack([sums.count, sums.total, sums.squares])
    if not np.isfinite(everything).all() or (sums.count < 0).any() or (sums.count != np.floor(sums.count)).any():
        raise RunError("the hospitals' merged statistics are impossible: counts must be whole and sums finite")
    count = np.maximum(sums.count, 1.0)
    mean = sums.total / count
    mean_square = sums.squares / count
    variance = mean_square - mean**2
    if (variance < -1e-9 * np.maximum(mean_square, 1.0)).any():
        raise RunError("the hospitals' merged statistics are impossible: a variance is negative")
    negligible = variance <= 1e-9 * np.maximum(mean_square, 1e-12)
    return Normalisation(mean=tuple(mean.tolist()), variance=tuple(np.where(negligible, 1.0, variance).tolist()))
