"""Noise and samples of patients from the operating system's entropy, and from nothing that a seed could repeat.

Who could repeat either could take the noise off again, or say who was in a step.
"""

import os

import numpy as np
import numpy.typing as npt

DRAWS = 4
"""Of which one Gaussian is made. The sum of four, halved, has the distribution of one, but its last bits no longer
tell which sums can have come about (the attack: Mironov 2012, "On significance of the least significant bits for
differential privacy"; the remedy, which Opacus' secure mode has too: Holohan & Braghin 2021, "Secure random sampling in
differential privacy")."""

MAX_AT_ONCE = 1 << 18
"""Draws that memory is taken for at a time."""


def poisson_sample(rows: int, rate: float, steps: int) -> npt.NDArray[np.bool_]:
    """Which patients are in which step, each with the same chance and by itself: bool [steps, rows].

    Args:
        rate: in (0, 1]; rounded down to a multiple of 2**-64.
    """
    drawn = _words(steps * rows).reshape(steps, rows)
    threshold = int(rate * 2**64)
    return np.ones_like(drawn, dtype=bool) if threshold >= 2**64 else drawn < np.uint64(threshold)


def gaussian_noise(
    scale: float, size: int | tuple[int, ...], dtype: npt.DTypeLike = np.float32
) -> npt.NDArray[np.floating]:
    """Independent Gaussians of mean 0 and standard deviation `scale`, of this shape and floating type."""
    noise = np.empty(int(np.prod(size)), dtype=np.float64)
    for start in range(0, len(noise), MAX_AT_ONCE):
        part = noise[start : start + MAX_AT_ONCE]
        part[:] = _gaussians(DRAWS * len(part)).reshape(DRAWS, -1).sum(axis=0) * (scale / 2)
    return noise.astype(dtype).reshape(size)


def _gaussians(count: int) -> npt.NDArray[np.float64]:
    """Standard ones, by the inverse of the distribution function at 2**53 points that lie evenly in (0, 1).

    The points below 1/2 are exact, also the lowest, and a sign makes the others: there is no 0 and no 1, and the
    largest Gaussian is 8.3.
    """
    from scipy.special import ndtri  # a server needs none of it

    words = _words(count)
    lower = ndtri(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-53)
    gaussians: npt.NDArray[np.float64] = np.where(words & np.uint64(1), lower, -lower)
    return gaussians


def _words(count: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * count), dtype="<u8")
