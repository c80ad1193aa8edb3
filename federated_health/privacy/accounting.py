"""Epsilon of noisy steps, by privacy loss distributions (Google's dp-accounting).

A step adds Gaussian noise to a sum over patients. Each patient is sampled independently (Poisson sampling) and adds at
most the clipping norm. Of two neighbouring data sets, one lacks what a patient adds; or, if patients are exchanged,
another patient adds something else. Epsilons are upper bounds: dp-accounting rounds privacy losses up to a grid
(Doroshenko et al. 2022, "Connect the dots"); a finer grid gives a smaller epsilon.

The worst pair of an exchange is a sampled patient that adds the clipping norm in one direction or in the opposite one.
For let an event have probability p with the first patient in the sample. Without a patient it then has at least the
probability that Neyman and Pearson's lemma gives for a distance of one norm, and with the second patient in the sample
that for two. Both are reached by the same half-space of this pair.

Several runs compose as if their settings had been fixed in advance. The bound is not proved for a server that chooses
the noise of a later run after looking at an earlier model.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

INTERVALS = (1e-2, 1e-3, 1e-4, 1e-5)
"""Intervals of the grid of privacy losses, from coarse to fine."""

CONVERGED = 5e-3
"""A ten times finer grid is fine enough if it lowers epsilon by at most this fraction: the error is proportional to the
square of the interval, so a hundredth of it is left."""

TOLERANCE = 2e-4
"""Largest relative excess of a calibrated noise multiplier over the smallest one that the accountant allows."""

MIN_NOISE = 0.1
"""Smallest noise multiplier, even if epsilon would allow less."""

MAX_STRIDE = 0.7
"""Largest step of the search, in the noise multiplier's logarithm. Far below the root, the accountant needs much
memory."""


class Steps(NamedTuple):
    """Noisy steps of one kind (see `PrivacyPlan`)."""

    sampling_rate: float
    noise_multiplier: float
    number: int


def epsilon_of(steps: Iterable[Steps], delta: float, *, exchange: bool = False) -> float:
    """Epsilon of all these steps together; 0 without steps.

    Args:
        exchange: whether a patient is exchanged for another, instead of adding nothing.
    """
    numbers: Counter[tuple[float, float]] = Counter()
    for kind in steps:
        numbers[kind.sampling_rate, kind.noise_multiplier] += kind.number
    merged = tuple(sorted(Steps(*kind, number) for kind, number in numbers.items() if number))
    return _refine(merged, delta, exchange)[0] if merged else 0.0


@lru_cache(maxsize=256)
def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier (up to `TOLERANCE`) with which this number of steps costs at most epsilon.

    It is rounded up to 5 digits, so that all machines agree on it.
    """
    interval = INTERVALS[0]

    def excess(log_noise: float) -> float:
        spent = _epsilon_on_grid((Steps(sampling_rate, math.exp(log_noise), steps),), delta, interval)
        return math.log(min(max(spent, 1e-9), 1e9) / epsilon)

    noise = _find_root(excess, _guess(epsilon, delta, sampling_rate, steps))
    _, interval = _refine((Steps(sampling_rate, noise, steps),), delta)
    noise = _round_up(_find_root(excess, noise))
    while epsilon_of([Steps(sampling_rate, noise, steps)], delta) > epsilon:
        noise = _round_up(noise * (1 + TOLERANCE / 4))
    return noise


@lru_cache(maxsize=256)
def _refine(steps: tuple[Steps, ...], delta: float, exchange: bool = False) -> tuple[float, float]:
    """Epsilon of the steps, and the interval of the grid that was fine enough."""
    epsilon = math.inf
    for interval in INTERVALS:
        coarser, epsilon = epsilon, _epsilon_on_grid(steps, delta, interval, exchange)
        if coarser - epsilon <= CONVERGED * epsilon:
            break
    return epsilon, interval


def _epsilon_on_grid(steps: tuple[Steps, ...], delta: float, interval: float, exchange: bool = False) -> float:
    import dp_accounting as dp  # noqa: PLC0415  # 2 s to import

    relations = dp.NeighboringRelation
    # For sums of which the number of patients is known, adding or removing a patient is adding nothing instead.
    accountant = dp.pld.PLDAccountant(relations.REPLACE_ONE if exchange else relations.ADD_OR_REMOVE_ONE, interval)
    for rate, noise, number in steps:
        accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), number)
    return float(accountant.get_epsilon(delta))


def _guess(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Approximate noise multiplier: many steps cost as much as one Gaussian of signal-to-noise ratio mu.

    Source: the central limit theorem of Bu et al. 2020, "Deep learning with Gaussian differential privacy".
    """
    from scipy import optimize, special  # noqa: PLC0415  # slow to import

    def excess(log_mu: float) -> float:  # over the target delta (Balle & Wang 2018, theorem 8)
        mu = math.exp(log_mu)
        lost = math.exp(epsilon + special.log_ndtr(-mu / 2 - epsilon / mu))
        return float(special.ndtr(mu / 2 - epsilon / mu) - lost - delta)

    mu = math.exp(optimize.brentq(excess, math.log(1e-9), math.log(1e3)))
    return 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps))


def _find_root(excess: Callable[[float], float], guess: float) -> float:
    """Root of a decreasing function of the noise multiplier's logarithm, but at least `MIN_NOISE`."""
    from scipy.optimize import brentq  # noqa: PLC0415  # slow to import

    excess, lowest = cache(excess), math.log(MIN_NOISE)
    near = far = max(math.log(guess), lowest)
    while excess(near) * excess(far) > 0 or near == far:
        near = far
        if near == lowest and excess(near) <= 0:
            return MIN_NOISE
        # Epsilon falls about as fast as the noise grows, so a slightly longer step crosses the root.
        stride = 1.2 * excess(near) + math.copysign(TOLERANCE, excess(near))
        far = max(near + min(max(stride, -MAX_STRIDE), MAX_STRIDE), lowest)
    return math.exp(brentq(excess, near, far, xtol=TOLERANCE / 4, rtol=1e-12) + TOLERANCE / 4)


def _round_up(value: float) -> float:
    """The value rounded up to 5 digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 4)
    return float(f"{math.ceil(value / unit) * unit:.5g}")
