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


RARE = 1 << 20
"""Lowest points that get more bits; one of 2**32 points is."""

LOST_MASS = 2.0**-117
"""Probability that a true Gaussian is larger, in either direction, than the largest one that can be drawn.

For the largest run that is allowed (MAX_STEPS steps of MAX_WEIGHTS weights, DRAWS each) all draws together lose less
than 1e-21: the total variation from true Gaussians, and so what it adds to delta, whose smallest value is 1e-12.
"""


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
    """Standard Gaussians, by the inverse distribution function.

    A point of (0, 1/2) is one of 2**52 evenly spaced ones, and a random sign gives the others. One of the RARE lowest
    is placed between its neighbours by 64 more bits, so that Gaussians do not end at 8.3 but at 12.5 (see `LOST_MASS`).
    """
    from scipy.special import ndtri  # noqa: PLC0415  # slow to import, and only needed where noise is drawn

    words = _random_words(count)
    numbers = words >> np.uint64(12)
    points = numbers.astype(np.float64) + 0.5
    if (rare := np.flatnonzero(numbers < RARE)).size:
        points[rare] = numbers[rare] + (_random_words(rare.size).astype(np.float64) + 0.5) * 2.0**-64
    lower: npt.NDArray[np.float64] = ndtri(points * 2.0**-53)
    return np.where(words & np.uint64(1), lower, -lower)


def _random_words(count: int) -> npt.NDArray[np.uint64]:
    return np.frombuffer(os.urandom(8 * count), dtype="<u8")
