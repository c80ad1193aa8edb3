"""Decision curves against calculations by hand, an independent formula and exact counts."""

from math import log

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.ml.decision_curves import (
    MAX_THRESHOLD,
    THRESHOLDS,
    count_decisions,
    counts_of_cells,
    last_threshold,
    merge_decisions,
)
from federated_health.ml.scores import microaggregate
from federated_health.ml.targets.binary import probability

Floats = npt.NDArray[np.float64]


def at(threshold: float) -> int:
    return int(np.abs(THRESHOLDS - threshold).argmin())


def log_odds_of(risk: float) -> float:
    return log(risk / (1 - risk))


def patients(rows: int, seed: int = 0) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    scores = generator.normal(-0.5, 1.5, rows)
    return scores, (generator.random(rows) < probability(scores)).astype(np.float64)


def test_the_net_benefit_is_that_of_a_calculation_by_hand() -> None:
    """Of ten patients, from a risk of 20 % on, three of four positives and two of six negatives are treated."""
    risks = [0.9, 0.6, 0.3, 0.1, 0.5, 0.25, 0.15, 0.1, 0.05, 0.02]
    counts = count_decisions(np.array([log_odds_of(risk) for risk in risks]), np.array([1] * 4 + [0] * 6))

    assert counts.net_benefit[at(0.20)] == pytest.approx(3 / 10 - 2 / 10 * 0.2 / 0.8)
    assert counts.net_benefit[at(0.55)] == pytest.approx(2 / 10)
    assert counts.net_benefit[at(0.95)] == 0
    assert counts.treat_all[at(0.20)] == pytest.approx(4 / 10 - 6 / 10 * 0.25)
    assert counts.treat_all[at(0.40)] == pytest.approx(0, abs=1e-12)  # the share of positives


def test_the_net_benefit_is_the_independent_formula() -> None:
    """Sensitivity, specificity and prevalence: se * p - (1 - sp) * (1 - p) * odds (Pfeiffer and Gail 2020)."""
    scores, labels = patients(300)
    counts = count_decisions(scores, labels)
    for threshold in (0.05, 0.3, 0.71):
        treated = 1 / (1 + np.exp(-scores)) >= threshold
        sensitivity, specificity = treated[labels == 1].mean(), 1 - treated[labels == 0].mean()
        share = labels.mean()
        expected = sensitivity * share - (1 - specificity) * (1 - share) * threshold / (1 - threshold)
        assert counts.net_benefit[at(threshold)] == pytest.approx(expected)


def test_the_band_is_that_of_a_bootstrap() -> None:
    scores, labels = patients(250)
    low, high = count_decisions(scores, labels).band or pytest.fail("there is no band")
    generator = np.random.default_rng(1)
    draws = [
        count_decisions(scores[rows], labels[rows]).net_benefit
        for rows in (generator.integers(0, 250, 250) for _ in range(300))
    ]
    for threshold in (0.1, 0.3, 0.6):
        width = 2 * 1.96 * np.std(draws, axis=0)[at(threshold)]
        assert (high - low)[at(threshold)] == pytest.approx(width, rel=0.15)


def test_rows_of_one_patient_do_not_narrow_the_band() -> None:
    scores, labels = patients(100)
    once = count_decisions(scores, labels)
    thrice = count_decisions(np.tile(scores, 3), np.tile(labels, 3), np.tile(np.arange(100), 3))
    assert thrice.net_benefit == pytest.approx(once.net_benefit)
    assert np.array(thrice.band) == pytest.approx(np.array(once.band))


def test_repeats_are_averaged() -> None:
    (first, labels), (second, _) = patients(80), patients(80, 1)
    both = count_decisions(np.stack([first, second]), labels)
    parts = [count_decisions(of, labels).net_benefit for of in (first, second)]
    assert both.net_benefit == pytest.approx(np.mean(parts, axis=0))


def test_hospitals_merge_by_adding_their_counts() -> None:
    scores, labels = patients(200)
    merged = merge_decisions([count_decisions(scores[:70], labels[:70]), count_decisions(scores[70:], labels[70:])])
    together = count_decisions(scores, labels)
    assert merged.net_benefit == pytest.approx(together.net_benefit)
    assert merged.treat_all == pytest.approx(together.treat_all)
    (low, high), (low_together, high_together) = merged.band, together.band  # type: ignore[misc]
    assert (high - low) == pytest.approx(high_together - low_together, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_cells_of_scores_come_near_the_exact_counts(seed: int) -> None:
    scores, labels = patients(400, seed)
    exact = count_decisions(scores, labels)
    cells = counts_of_cells(microaggregate(scores[labels == 1]), microaggregate(scores[labels == 0]))
    assert cells is not None
    assert (cells.rows, cells.positives) == (400, labels.sum())
    shown = THRESHOLDS <= 0.5
    error = (cells.net_benefit - exact.net_benefit)[shown]
    assert np.sqrt((error**2).mean()) < 0.006
    assert np.abs(error).max() < 0.02
    (low, high), (low_exact, high_exact) = cells.band, exact.band  # type: ignore[misc]
    assert (high - low)[shown] == pytest.approx((high_exact - low_exact)[shown], rel=0.1)


def test_rows_in_no_cell_count_as_those_in_cells() -> None:
    positives, negatives = np.array([[10.0, 2.0, 0.0]]), np.array([[20.0, -2.0, 0.0]])
    counts = counts_of_cells(positives, negatives, (12, 24))
    assert counts is not None
    assert (counts.rows, counts.positives) == (36, 12)
    assert counts.net_benefit[at(0.5)] == pytest.approx(12 / 36)


def test_without_a_cell_of_each_class_there_is_no_curve() -> None:
    cells, none = np.array([[10.0, 2.0, 0.0]]), np.zeros((0, 3))
    assert counts_of_cells(cells, none) is None
    assert counts_of_cells(none, cells) is None


def test_cells_of_rows_say_nothing_of_patients() -> None:
    cells = np.array([[10.0, 2.0, 0.0]])
    counts = counts_of_cells(cells, cells, are_patients=False)
    assert counts is not None
    assert counts.band is None
    assert merge_decisions([counts, count_decisions(*patients(20))]).band is None


@pytest.mark.parametrize(("middle", "expected"), [(0.03, 0.1), (0.22, 0.3), (0.65, 0.7), (0.99, MAX_THRESHOLD)])
def test_the_range_of_thresholds_follows_the_risks(middle: float, expected: float) -> None:
    scores = np.full(200, log_odds_of(middle))
    assert last_threshold(count_decisions(scores, np.arange(200) % 2.0)) == pytest.approx(expected)
