"""The normalisation of a run: counts, sums and sums of squares per measurement, which merge by addition."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.errors import RunError

MIN_OBSERVED = 5
"""Smallest number of patients over whose values a hospital sends a column's sums."""

SUM_NAMES = ("count", "total", "squares")

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """Number, sum and sum of squares of each measurement's observed values, each float64 [measurements]."""

    count: Vector
    total: Vector
    squares: Vector

    @property
    def are_released(self) -> bool:
        """Whether any sum is not 0."""
        return bool(np.any([self.count, self.total, self.squares]))


@dataclass(frozen=True)
class Normalisation:
    """Mean and variance of each measurement, for every hospital and the saved model."""

    mean: tuple[float, ...]
    variance: tuple[float, ...]


def column_sums(values: Vector, most_rows: int = 1) -> ColumnSums:
    """Sums over one hospital's training rows; 0 in columns that are observed in rows of too few patients.

    Args:
        values: [rows, measurements], NaN for missing.
        most_rows: largest number of rows of one patient, so that MIN_OBSERVED times as many are of MIN_OBSERVED
            patients.
    """
    observed = ~np.isnan(values)
    present = np.where(observed, values, 0.0)
    sums = np.array([observed.sum(axis=0), present.sum(axis=0), (present**2).sum(axis=0)])
    return ColumnSums(*np.where(sums[0] >= MIN_OBSERVED * most_rows, sums, 0.0))


def withheld_sums(measurements: int) -> ColumnSums:
    """Zeros in place of sums that a hospital does not send."""
    return ColumnSums(*np.zeros((3, measurements)))


def public_normalisation(measurements: Iterable[Measurement]) -> Normalisation:
    """A normalisation from the task's declarations, which depends on no patient (see `Measurement.public_scale`)."""
    scales = [measurement.public_scale for measurement in measurements]
    return Normalisation(
        mean=tuple(mean for mean, _ in scales), variance=tuple(deviation**2 for _, deviation in scales)
    )


def merge_sums(parts: Iterable[ColumnSums]) -> ColumnSums:
    """The sums of all rows together, of at least one part."""
    parts = list(parts)
    return ColumnSums(*(np.sum([getattr(part, name) for part in parts], axis=0) for name in SUM_NAMES))


def normalisation_from(sums: ColumnSums) -> Normalisation:
    """Mean and population variance. A column that no hospital released, or that never varies, is left unscaled.

    Raises:
        RunError: the sums are impossible: negative or fractional counts, values not finite, or a negative variance.
    """
    is_finite = np.isfinite([sums.count, sums.total, sums.squares]).all()
    if not is_finite or (sums.count < 0).any() or (sums.count != np.floor(sums.count)).any():
        raise RunError("the hospitals' merged sums are impossible: expected whole counts and finite sums")
    mean, mean_square = np.array([sums.total, sums.squares]) / np.maximum(sums.count, 1.0)
    variance = mean_square - mean**2
    if (variance < -1e-9 * np.maximum(mean_square, 1.0)).any():
        raise RunError("the hospitals' merged sums are impossible: expected no negative variance")
    negligible = variance <= 1e-9 * np.maximum(mean_square, 1e-12)
    return Normalisation(mean=tuple(mean.tolist()), variance=tuple(np.where(negligible, 1.0, variance).tolist()))
