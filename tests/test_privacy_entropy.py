"""Noise and samples: their distributions, and their source, the operating system's entropy."""

import os
import random
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, kstest, norm

from federated_health.names import MAX_WEIGHTS
from federated_health.privacy.entropy import DRAWS, LOST_MASS, MAX_AT_ONCE, gaussian_noise, poisson_sample
from federated_health.setting_fields import MAX_STEPS, MIN_DELTA

MIN_P = 1e-9
"""Probability that a test on true randomness fails by chance: not to be expected in a lifetime."""

Stream = Callable[[int], bytes]


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The operating system's entropy replaced by a known stream; the numbers of bytes that were read."""
    reads: list[int] = []

    def urandom(count: int) -> bytes:
        reads.append(count)
        return np.random.default_rng(len(reads)).bytes(count)

    monkeypatch.setattr(os, "urandom", urandom)
    return reads


def test_noise_is_gaussian() -> None:
    noise = gaussian_noise(2.5, (200_000,))
    assert kstest(noise / 2.5, norm.cdf).pvalue > MIN_P
    standard = noise / 2.5
    # Standard errors of the first four moments of 200,000 Gaussians: 0.0022, 0.0032, 0.0087, 0.022.
    moments = [np.mean(standard**power) for power in range(1, 5)]
    assert np.abs(np.subtract(moments, [0, 1, 0, 3])).max() < 7 * 0.022
    assert abs(moments[0]) < 7 * 0.0022
    assert abs(moments[1] - 1) < 7 * 0.0032


def test_neighbouring_noise_is_independent() -> None:
    noise = gaussian_noise(1.0, (200_000,))
    for lag in (1, 2, 3, 4, MAX_AT_ONCE // 4, MAX_AT_ONCE // 2):
        assert abs(np.corrcoef(noise[:-lag], noise[lag:])[0, 1]) < 7 / np.sqrt(len(noise) - lag)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5), (2, 3, 4), (MAX_AT_ONCE + 3,)])
def test_noise_has_the_given_shape(shape: tuple[int, ...]) -> None:
    noise = gaussian_noise(1.0, shape)
    assert noise.shape == shape
    assert noise.dtype == np.float64
    assert np.isfinite(noise).all()
    assert len(np.unique(noise)) > 0.99 * noise.size - 1


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0x0000000000000001, norm.ppf(1.5 * 2.0**-117)),  # the lowest, whose 64 further bits are the same word
        (0x0000000000000000, -norm.ppf(0.5 * 2.0**-117)),
        (0x00000000FFFFF001, norm.ppf((2**20 - 1 + (0xFFFFF001 + 0.5) * 2.0**-64) * 2.0**-53)),  # the last rare one
        (0x0000000100000001, norm.ppf((2**20 + 0.5) * 2.0**-53)),  # the next has no further bits
        (0xFFFFFFFFFFFFFFFF, norm.ppf(0.5 - 2.0**-54)),  # next to the middle
        (0x4000000000000001, norm.ppf(0.125)),
        (0x4000000000000000, norm.ppf(0.875)),
    ],
)
def test_words_give_their_gaussians(word: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: word.to_bytes(8, "little") * (count // 8))
    assert gaussian_noise(1.0, (1,))[0] == pytest.approx(2 * expected, rel=1e-9, abs=1e-15)  # of four, half the sum
    assert abs(expected) < 12.6


def test_the_lost_tails_of_a_run_are_far_below_the_smallest_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Total variation between a run's noise and true Gaussians, which adds to delta."""
    largest = []
    for word in (0, 1):
        monkeypatch.setattr(os, "urandom", lambda count, word=word: word.to_bytes(8, "little") * (count // 8))
        largest.append(abs(gaussian_noise(1.0, (1,))[0]) / 2)
    lost = 2 * norm.sf(min(largest))
    assert lost * DRAWS * MAX_STEPS * MAX_WEIGHTS < 1e-3 * MIN_DELTA
    assert norm.sf(max(largest)) == pytest.approx(LOST_MASS / 2, rel=1e-9)


def test_noise_is_half_the_sum_of_four_gaussians(stream: list[int]) -> None:
    noise = gaussian_noise(3.0, (5,))
    assert stream == [8 * DRAWS * 5]
    words = np.frombuffer(np.random.default_rng(1).bytes(8 * 20), dtype="<u8")
    lower = norm.ppf(((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**53)
    gaussians = np.where(words % 2 == 1, lower, -lower).reshape(4, 5)
    assert noise == pytest.approx(3.0 * gaussians.sum(axis=0) / 2, rel=1e-12)


def test_all_entropy_comes_from_the_operating_system(stream: list[int]) -> None:
    draws = gaussian_noise(1.0, (MAX_AT_ONCE + 3,)), poisson_sample(9, 0.5, 4)
    assert stream == [8 * DRAWS * MAX_AT_ONCE, 8 * DRAWS * 3, 8 * 36]
    stream.clear()
    again = gaussian_noise(1.0, (MAX_AT_ONCE + 3,)), poisson_sample(9, 0.5, 4)
    assert all(np.array_equal(first, second) for first, second in zip(draws, again, strict=True))


def test_no_seed_repeats_noise_or_samples() -> None:
    def seeded() -> tuple[bytes, bytes]:
        np.random.seed(6)
        random.seed(6)
        return gaussian_noise(1.0, (50,)).tobytes(), poisson_sample(200, 0.5, 1).tobytes()

    (noise, sample), (other_noise, other_sample) = seeded(), seeded()
    assert noise != other_noise
    assert sample != other_sample


@pytest.mark.slow
def test_tensorflow_s_seed_repeats_nothing_and_its_stream_is_not_used() -> None:
    import tensorflow as tf

    def seeded() -> tuple[bytes, bytes, bytes]:
        tf.keras.utils.set_random_seed(6)
        noise, sample = gaussian_noise(1.0, (50,)), poisson_sample(200, 0.5, 1)
        return noise.tobytes(), sample.tobytes(), tf.random.normal([5]).numpy().tobytes() + np.random.bytes(5)

    (noise, sample, seeds), (other_noise, other_sample, other_seeds) = seeded(), seeded()
    assert noise != other_noise
    assert sample != other_sample
    assert seeds == other_seeds


@pytest.mark.parametrize("rate", [0.001, 0.3, 0.5, 0.97])
def test_each_patient_is_drawn_with_the_rate(rate: float) -> None:
    drawn = poisson_sample(500, rate, 400)
    assert drawn.shape == (400, 500)
    assert drawn.dtype == np.bool_
    assert binomtest(int(drawn.sum()), drawn.size, rate).pvalue > MIN_P


def test_patients_are_sampled_independently() -> None:
    """Their number in a step is binomial, and neither patients nor steps are correlated."""
    drawn = poisson_sample(100, 0.4, 5_000)
    variance = drawn.sum(axis=1).var()
    assert variance == pytest.approx(100 * 0.4 * 0.6, rel=7 * np.sqrt(2 / 5_000))
    correlations = np.corrcoef(drawn[:, :20].T.astype(float)) - np.eye(20)
    assert np.abs(correlations).max() < 7 / np.sqrt(5_000)
    assert np.abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 7 / np.sqrt(drawn.size)


def test_the_sampling_threshold_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [0, 2**62 - 1, 2**62, 2**64 - 1]
    content = b"".join(word.to_bytes(8, "little") for word in words)
    monkeypatch.setattr(os, "urandom", lambda _: content)
    assert poisson_sample(4, 1.0, 1).tolist() == [[True, True, True, True]]
    assert poisson_sample(4, 0.25, 1).tolist() == [[True, True, False, False]]
    assert poisson_sample(4, 2.0**-64, 1).tolist() == [[True, False, False, False]]
    assert poisson_sample(2, 0.25, 2).tolist() == [[True, True], [False, False]]
    assert poisson_sample(4, np.nextafter(1.0, 0.0), 1).tolist() == [[True, True, True, False]]
