"""Which candidates are behind released sums: hand-made sums with one solution, with several, and with noise."""

import numpy as np
import pytest

from federated_health.studies.audit import subset_recovery
from federated_health.studies.audit.subset_recovery import Equations, recover_subset


def equations(terms: list[list[float]], sums: list[float], error: float = 0.0) -> Equations:
    return Equations(np.array(terms, dtype=float), np.array(sums, dtype=float), np.full(len(sums), error))


def test_a_sum_with_one_solution_in_whole_numbers_names_every_candidate() -> None:
    """Ages 41, 44, 58 and 63: only 41 + 63 is 104."""
    ages = equations([[41, 44, 58, 63]], [104])
    assert recover_subset(ages).tolist() == [1, 0, 0, 1]


def test_two_sums_tell_what_one_does_not() -> None:
    """41 + 63 = 44 + 60, but their squares differ: 41 x 41 + 63 x 63 = 5650."""
    ages = [41.0, 44.0, 60.0, 63.0]
    squares = equations([ages, [age**2 for age in ages]], [104, 5650])
    assert recover_subset(squares).tolist() == [1, 0, 0, 1]


def test_a_rounded_sum_is_matched_within_its_error() -> None:
    assert recover_subset(equations([[0.1234, 0.5678, 0.9]], [1.02], error=0.01)).tolist() == [1, 0, 1]


def test_candidates_that_no_sum_distinguishes_get_the_same_score() -> None:
    """No whole number solves 2 x (a + b) = 1, so both halves are as good as each other."""
    assert recover_subset(equations([[2, 2]], [1])) == pytest.approx([0.25, 0.25], abs=1e-3)


def test_sums_with_noise_give_fractions_between_0_and_1_near_the_truth() -> None:
    generator = np.random.default_rng(3)
    terms, members = generator.normal(size=(40, 20)), generator.random(20) < 0.5
    noisy = Equations(terms, terms @ members + generator.normal(scale=0.1, size=40), np.zeros(40))
    scores = recover_subset(noisy)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert ((scores > 0.5) == members).all()
    assert 0 < np.abs(scores - members).mean() < 0.2


def test_many_candidates_are_scored_like_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sums are many, both ways give the truth."""
    generator = np.random.default_rng(4)
    terms, members = generator.normal(size=(60, 40)), generator.random(40) < 0.5
    exact = Equations(terms, terms @ members, np.zeros(60))
    for limit in (300, 10):
        monkeypatch.setattr(subset_recovery, "MAX_SEARCHED", limit)
        assert recover_subset(exact, max_nodes=0) == pytest.approx(members.astype(float), abs=0.01)
    scores = recover_subset(Equations(terms[:5], terms[:5] @ members, np.zeros(5)), max_nodes=0)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_without_any_released_sum_the_prior_remains() -> None:
    nothing = Equations.none(3)
    assert recover_subset(nothing).tolist() == [0.5] * 3
    assert recover_subset(nothing, np.array([0.1, 0.2, 0.9])).tolist() == [0.1, 0.2, 0.9]


def test_a_sum_that_says_little_leaves_scores_near_the_prior() -> None:
    """The sum is about the first candidate alone."""
    scores = recover_subset(equations([[1, 0, 0]], [0.4]), np.array([0.9, 0.2, 0.7]))
    assert scores == pytest.approx([0.4, 0.2, 0.7], abs=1e-3)


def test_equations_about_the_same_candidates_are_joined() -> None:
    joined = equations([[1, 2, 4]], [5]) + equations([[1, 1, 1]], [2])
    assert joined.terms.shape == (2, 3)
    assert recover_subset(joined).tolist() == [1, 0, 1]
