"""How much privacy noisy steps cost: privacy loss distributions, by Google's dp-accounting.

A step adds Gaussian noise to a sum over patients of which each was drawn by itself (Poisson sampling) and adds at most
the clipping norm. Neighbours differ by one patient, added or removed. Epsilons are upper bounds: dp-accounting rounds
privacy losses up to a grid (Doroshenko et al. 2022, "Connect the dots"), the finer the smaller the epsilon.

Several runs compose as if their settings had been fixed beforehand: the bound is not proved for a server that chooses
the noise of a later run by looking at an earlier one's model.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

ACCOUNTANT = "privacy loss distributions (dp-accounting), Poisson-sampled Gaussian"
NEIGHBOURS = "add or remove one training row"

INTERVALS = (1e-2, 1e-3, 1e-4, 1e-5)
"""Of the grid of privacy losses, from coarse to fine."""

CONVERGED = 5e-3
"""A ten times finer grid that lowers an epsilon by at most this fraction is fine enough: the error goes with the square
of the interval, so that a hundredth of it is left."""

TOLERANCE = 2e-4
"""A calibrated noise multiplier is at most this fraction above the smallest one that the accountant allows."""

MIN_NOISE = 0.1
"""No noise multiplier is calibrated lower, whatever epsilon would allow."""

MAX_STRIDE = 0.7
"""Of a noise multiplier's logarithm while it is searched: far below the right one the accountant needs much memory."""


class Steps(NamedTuple):
    """Noisy steps of one kind.

    Attributes:
        sampling_rate: a patient's chance to be in one, in (0, 1].
        noise_multiplier: standard deviation of the noise over the clipping norm.
    """

    sampling_rate: float
    noise_multiplier: float
    number: int


def epsilon_of(steps: Iterable[Steps], delta: float) -> float:
    """What all these steps together cost, at a delta; 0 of none."""
    total: Counter[tuple[float, float]] = Counter()
    for kind in steps:
        total[kind.sampling_rate, kind.noise_multiplier] += kind.number
    together = tuple(sorted(Steps(*kind, number) for kind, number in total.items() if number))
    return _refine(together, delta)[0] if together else 0.0


@lru_cache(maxsize=256)
def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The noise multiplier with which so many steps cost at most epsilon.

    Returns:
        The smallest, up to `TOLERANCE`, rounded up to five digits so that machines agree on it.
    """
    noise = _guess(epsilon, delta, sampling_rate, steps)
    interval = INTERVALS[0]

    def excess(log_noise: float) -> float:
        spent = _epsilon_on_grid((Steps(sampling_rate, math.exp(log_noise), steps),), delta, interval)
        return math.log(min(max(spent, 1e-9), 1e9) / epsilon)

    noise = _find_root(excess, noise)
    _, interval = _refine((Steps(sampling_rate, noise, steps),), delta)
    noise = _round_up(_find_root(excess, noise))
    while epsilon_of([Steps(sampling_rate, noise, steps)], delta) > epsilon:
        noise = _round_up(noise * (1 + TOLERANCE / 4))
    return noise


@lru_cache(maxsize=256)
def _refine(steps: tuple[Steps, ...], delta: float) -> tuple[float, float]:
    """Their epsilon, and the interval of the grid that was fine enough."""
    epsilon = math.inf
    for interval in INTERVALS:
        coarser, epsilon = epsilon, _epsilon_on_grid(steps, delta, interval)
        if coarser - epsilon <= CONVERGED * epsilon:
            break
    return epsilon, interval


def _epsilon_on_grid(steps: tuple[Steps, ...], delta: float, interval: float) -> float:
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent  # SciPy: 2 s to import
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    for kind in steps:
        step = PoissonSampledDpEvent(kind.sampling_rate, GaussianDpEvent(kind.noise_multiplier))
        accountant.compose(step, kind.number)
    return float(accountant.get_epsilon(delta))


def _guess(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """About the noise multiplier, by the central limit theorem for privacy losses (Bu et al. 2020, "Deep learning with
    Gaussian differential privacy"): many steps cost what one Gaussian of signal-to-noise ratio mu does."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(log_mu: float) -> float:  # of delta over the wanted one (Balle & Wang 2018, theorem 8)
        mu = math.exp(log_mu)
        half = mu / 2
        return float(ndtr(half - epsilon / mu) - math.exp(epsilon + log_ndtr(-half - epsilon / mu)) - delta)

    mu = math.exp(brentq(excess, math.log(1e-9), math.log(1e3)))
    return 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps))


def _find_root(excess: Callable[[float], float], guess: float) -> float:
    """Where a decreasing function of the noise multiplier's logarithm crosses zero; at the least noise if below it."""
    from scipy.optimize import brentq

    excess, least = cache(excess), math.log(MIN_NOISE)
    near = far = max(math.log(guess), least)
    while excess(near) * excess(far) > 0 or near == far:
        near = far
        if near == least and excess(near) <= 0:
            return MIN_NOISE
        # An epsilon falls about as fast as the noise grows: a little further is on the other side.
        stride = 1.2 * excess(near) + math.copysign(TOLERANCE, excess(near))
        far = max(near + min(max(stride, -MAX_STRIDE), MAX_STRIDE), least)
    return math.exp(brentq(excess, near, far, xtol=TOLERANCE / 4, rtol=1e-12) + TOLERANCE / 4)


def _round_up(value: float) -> float:
    """To five digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 4)
    return float(f"{math.ceil(value / unit) * unit:.5g}")
