"""Noise and samples of patients from the operating system's entropy, never from a seed.

Anyone who could repeat the noise could subtract it, and anyone who could repeat a sample would know who was in a step.
"""

import math
import os

import numpy as np
import numpy.typing as npt

DRAWS = 4
"""Draws per Gaussian. Half the sum of four is a Gaussian too, but its last bits no longer reveal which sums are
possible (attack: Mironov 2012, "On significance of the least significant bits for differential privacy"; remedy, also
in Opacus: Holohan & Braghin 2021, "Secure random sampling in differential privacy")."""

MAX_AT_ONCE = 1 << 18
"""Largest number of Gaussians computed at once, to bound the memory."""


def poisson_sample(rows: int, rate: float, steps: int) -> npt.NDArray[np.bool_]:
    """Which patients are in which step, each independently with the same probability: bool [steps, rows].

    Args:
        rate: in (0, 1]; rounded down to a multiple of 2**-64.
    """
    words = _random_words(steps * rows).reshape(steps, rows)
    threshold = int(rate * 2**64)
    return np.ones_like(words, dtype=bool) if threshold >= 2**64 else words < np.uint64(threshold)


def gaussian_noise(scale: float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Independent Gaussians of mean 0 and standard deviation `scale`, in float64: see `privacy.training`."""
    noise = np.empty(math.prod(shape))
    for start in range(0, len(noise), MAX_AT_ONCE):
        part = noise[start : start + MAX_AT_ONCE]
        part[:] = _gaussians(DRAWS * len(part)).reshape(DRAWS, -1).sum(axis=0) * (scale / 2)
    return noise.reshape(shape)


def _gaussians(count: int) -> npt.NDArray[np.float64]:
    """Standard Gaussians, by the inverse distribution function at 2**53 evenly spaced points in (0, 1).

    Points below 1/2 are exact, even the lowest; a random sign gives the others. So 0 and 1 do not occur, and the
    largest Gaussian is 8.3.
    """
    from scipy.special import ndtri  # noqa: PLC0415  # slow to import, and only needed where noise is drawn

    words = _random_words(count)
    lower: npt.NDArray[np.float64] = ndtri(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-53)
    return np.where(words & np.uint64(1), lower, -lower)


def _random_words(count: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * count), dtype="<u8")
