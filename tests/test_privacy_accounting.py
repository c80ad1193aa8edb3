"""Epsilon of noisy steps against another accountant, closed formulas and integrals, which share no code with ours."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from federated_health.privacy.accounting import MIN_NOISE, TOLERANCE, Steps, calibrate, epsilon_of

DELTA = 1e-5
CASES = [(1.0, 0.5, 32), (2.0, 0.5, 32), (8.0, 0.5, 32), (1.0, 0.05, 200), (4.0, 1.0, 10)]
"""Epsilon, sampling rate, steps."""


def analytic_delta(epsilon: float, noise: float, steps: int) -> float:
    """Delta of unsampled Gaussians (Balle & Wang 2018, theorem 8); several are one with less noise."""
    mu = math.sqrt(steps) / noise
    return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))


def integrated_delta(epsilon: float, noise: float, rate: float) -> float:
    """Delta of one sampled Gaussian: the hockey-stick divergence between its two densities, the worse way round."""

    def divergence(x: float, sign: int) -> float:
        without = float(norm.pdf(x, 0, noise))
        pair = (rate * float(norm.pdf(x, 1, noise)) + (1 - rate) * without, without)[::sign]
        return max(pair[0] - math.exp(epsilon) * pair[1], 0.0)

    parts = list(pairwise(np.linspace(-12 * noise, 1 + 12 * noise, 40)))
    return max(sum(float(quad(divergence, *part, args=(sign,), epsabs=1e-13)[0]) for part in parts) for sign in (1, -1))


@pytest.mark.parametrize(
    ("delta", "epsilon", "noise"),
    [(1e-5, 1, 10.71), (1e-5, 2, 5.810), (1e-5, 8, 1.878), (1e-3, 1, 7.394), (1e-3, 2, 4.211), (1e-3, 8, 1.4985)],
)
def test_noise_by_googles_own_calibration(delta: float, epsilon: float, noise: float) -> None:
    """As dp-accounting's `calibrate_dp_mechanism` with its PLD accountant found it, in some seconds each, to 1e-3."""
    assert calibrate(epsilon, delta, 0.5, 32) == pytest.approx(noise, rel=1e-3)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.878, 0.5, 32), (10.71, 0.5, 32), (1.2, 0.05, 200), (5, 1, 32)])
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_is_at_most_that_of_renyi_accounting_and_not_far_below(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    renyi = RdpAccountant([*range(2, 65), 80, 128, 256])
    renyi.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps)
    bound = renyi.get_epsilon(delta)
    assert 0.75 * bound <= epsilon_of([Steps(rate, noise, steps)], delta) <= bound


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (0.5, 1), (5.0, 32), (40.0, 1000), (200.0, 4)])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_steps_with_every_patient_are_one_gaussian(noise: float, steps: int, delta: float) -> None:
    if analytic_delta(0.0, noise, steps) <= delta:
        assert epsilon_of([Steps(1.0, noise, steps)], delta) == 0.0
        return
    exact = brentq(lambda epsilon: analytic_delta(epsilon, noise, steps) - delta, 0, 100, xtol=1e-12)
    assert exact * (1 - 1e-9) <= epsilon_of([Steps(1.0, noise, steps)], delta) <= exact * 1.001 + 1e-5


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.5), (0.6, 0.1), (2.0, 0.9)])
@pytest.mark.parametrize("delta", [1e-6, 1e-4, 1e-2])
def test_one_sampled_step_is_an_integral(noise: float, rate: float, delta: float) -> None:
    epsilon = epsilon_of([Steps(rate, noise, 1)], delta)
    assert integrated_delta(epsilon, noise, rate) <= delta * (1 + 1e-6)
    assert integrated_delta(epsilon * 0.998 - 1e-5, noise, rate) > delta


def test_two_different_steps_are_a_product_of_gaussians() -> None:
    # Squared signal-to-noise ratios of Gaussians without sampling add up: 1/4 + 1/9 = (1/noise)**2.
    together = [Steps(1.0, 2.0, 1), Steps(1.0, 3.0, 1)]
    noise = 1 / math.sqrt(1 / 4 + 1 / 9)
    assert epsilon_of(together, DELTA) == pytest.approx(epsilon_of([Steps(1.0, noise, 1)], DELTA), rel=1e-3)


def test_order_and_grouping_do_not_matter() -> None:
    kinds = [Steps(0.5, 3.0, 4), Steps(0.2, 2.0, 6), Steps(0.5, 3.0, 5)]
    assert epsilon_of(kinds, DELTA) == epsilon_of(reversed(kinds), DELTA)
    assert epsilon_of(kinds, DELTA) == epsilon_of([Steps(0.2, 2.0, 6), Steps(0.5, 3.0, 9)], DELTA)
    assert epsilon_of([], DELTA) == epsilon_of([Steps(0.5, 1.0, 0)], DELTA) == 0.0


def test_epsilon_falls_with_noise_and_delta_and_rises_with_rate_and_steps() -> None:
    def costs(noise: float = 3.0, rate: float = 0.3, steps: int = 40, delta: float = DELTA) -> float:
        return epsilon_of([Steps(rate, noise, steps)], delta)

    assert costs() == costs()
    assert costs(noise=3.1) < costs() < costs(noise=2.9)
    assert costs(rate=0.29) < costs() < costs(rate=0.31)
    assert costs(steps=39) < costs() < costs(steps=41)
    assert costs(delta=2e-5) < costs() < costs(delta=5e-6)
    assert costs() < epsilon_of([Steps(0.3, 3.0, 40), Steps(0.1, 5.0, 1)], DELTA)


# Exchange of a patient for another


def exchanged_delta(epsilon: float, noise: float, rate: float, steps: int, *, upwards: bool) -> float:
    """Delta of sampled Gaussians between a patient that adds 1 and one that adds -1, by our own convolution.

    Privacy losses on a fine grid of outputs are rounded up or down to a grid of losses, and added up by a Fourier
    transform: rounding up gives an upper bound of the exact delta, rounding down a lower one.
    """
    interval, points = 1e-3, 2**18
    x = np.linspace(-1 - 12 * noise, 1 + 12 * noise, 400_001)
    mass = {sign: rate * norm.pdf(x, sign, noise) + (1 - rate) * norm.pdf(x, 0, noise) for sign in (1, -1)}
    losses = np.log(mass[1]) - np.log(mass[-1])
    places = (np.ceil if upwards else np.floor)(losses / interval).astype(int)
    one = np.bincount(places + points // 2, mass[1] * (x[1] - x[0]), points)
    spectrum = np.fft.rfft(np.roll(one, -(points // 2)))
    total = np.roll(np.fft.irfft(spectrum**steps, points), points // 2)
    over = (np.arange(points) - points // 2) * interval - epsilon
    return float((total[over > 0] * -np.expm1(-over[over > 0])).sum())


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(5.810, 0.5, 32), (10.71, 0.5, 32), (3.0, 0.1, 60), (5.0, 1.0, 8)]
)
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_epsilon_of_an_exchange_is_that_of_an_independent_convolution(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    epsilon = epsilon_of([Steps(rate, noise, steps)], delta, exchange=True)
    assert exchanged_delta(epsilon, noise, rate, steps, upwards=False) <= delta
    assert exchanged_delta(epsilon * 0.97 - 0.01, noise, rate, steps, upwards=True) > delta


def test_an_exchange_costs_more_than_an_absence_and_at_most_as_twice_the_clipping_norm() -> None:
    steps = Steps(0.5, 5.81, 32)
    absence, exchange = epsilon_of([steps], DELTA), epsilon_of([steps], DELTA, exchange=True)
    twice = epsilon_of([steps._replace(noise_multiplier=5.81 / 2)], DELTA)
    assert absence == pytest.approx(2.0, abs=1e-3)
    assert exchange == pytest.approx(4.226, abs=1e-3)
    assert absence < exchange < twice


def test_every_patient_in_every_step_exchanges_as_a_gaussian_with_twice_the_distance() -> None:
    exact = brentq(lambda epsilon: analytic_delta(epsilon, 5.0 / 2, 8) - DELTA, 0, 100, xtol=1e-12)
    assert exact * (1 - 1e-9) <= epsilon_of([Steps(1.0, 5.0, 8)], DELTA, exchange=True) <= exact * 1.001 + 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_no_other_pair_of_contributions_distinguishes_more(seed: int) -> None:
    """One step in two dimensions, where the patients' contributions are any of at most the clipping norm."""
    generator, noise, rate = np.random.default_rng(seed), 1.0, 0.5
    grid = np.linspace(-8, 8, 401)
    x, y = np.meshgrid(grid, grid)
    cell = (grid[1] - grid[0]) ** 2

    def density(contribution: tuple[float, float]) -> np.ndarray:
        sampled = norm.pdf(x, contribution[0], noise) * norm.pdf(y, contribution[1], noise)
        both: np.ndarray = rate * sampled + (1 - rate) * norm.pdf(x, 0, noise) * norm.pdf(y, 0, noise)
        return both

    def divergence(first: tuple[float, float], second: tuple[float, float], epsilon: float) -> float:
        return float(np.maximum(density(first) - math.exp(epsilon) * density(second), 0).sum() * cell)

    for epsilon in (0.0, 0.3, 0.8):
        worst = divergence((1, 0), (-1, 0), epsilon)
        for _ in range(10):
            (a, b), (c, d) = generator.normal(size=(2, 2))
            first, second = np.array([a, b]), np.array([c, d])
            first, second = first / max(1, np.linalg.norm(first)), second / max(1, np.linalg.norm(second))
            assert divergence(tuple(first), tuple(second), epsilon) <= worst + 1e-4  # of the sum over the grid


@pytest.mark.parametrize(("epsilon", "rate", "steps"), CASES)
def test_calibrated_noise_is_the_smallest_that_suffices(epsilon: float, rate: float, steps: int) -> None:
    noise = calibrate(epsilon, DELTA, rate, steps)
    assert epsilon_of([Steps(rate, noise, steps)], DELTA) <= epsilon
    assert epsilon_of([Steps(rate, noise * (1 - 1.5 * TOLERANCE), steps)], DELTA) > epsilon


@pytest.mark.slow
def test_calibrated_noise_suffices_for_random_settings() -> None:
    draw = random.Random(6)
    for _ in range(8):
        epsilon, delta = draw.choice([0.3, 1.0, 3.0, 20.0]), 10 ** draw.uniform(-9, -2)
        rate, steps = draw.choice([1.0, draw.uniform(0.05, 1)]), draw.randint(1, 300)
        noise = calibrate(epsilon, delta, rate, steps)
        assert epsilon_of([Steps(rate, noise, steps)], delta) <= epsilon, (epsilon, delta, rate, steps)
        assert noise == MIN_NOISE or epsilon_of([Steps(rate, noise * 0.999, steps)], delta) > epsilon


def test_calibrated_noise_suffices_even_if_the_search_ends_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scipy.optimize.brentq", lambda *args, **keywords: brentq(*args, **keywords) - 0.002)
    noise = calibrate(1.7, DELTA, 0.5, 32)
    assert epsilon_of([Steps(0.5, noise, 32)], DELTA) <= 1.7


def test_calibration_is_reproducible() -> None:
    noise = calibrate(3.0, DELTA, 0.4, 50)
    calibrate.cache_clear()
    assert calibrate(3.0, DELTA, 0.4, 50) == noise == float(f"{noise:.5g}")


@pytest.mark.slow
def test_calibrated_noise_is_never_below_its_minimum() -> None:
    assert calibrate(100.0, DELTA, 0.01, 1) == MIN_NOISE


def test_accounting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    calibrate(2.5, DELTA, 0.3, 20)
    assert capfd.readouterr() == ("", "")
