"""Intervals and differences against SciPy, scikit-learn and DeLong by brute force, and at their edges."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from federated_health.ml.intervals import (
    estimate_roc_auc,
)
from federated_health.ml.students_t import p_value_of, quantile_of
from federated_health.ml.verdicts import Interval

Array = npt.NDArray[np.float64]


def labels_of(positives: int, negatives: int) -> Array:
    return np.repeat([1.0, 0.0], [positives, negatives])


def binormal(seed: int, positives: int, negatives: int, distance: float = 1.2) -> tuple[Array, Array]:
    """Scores with a known ROC-AUC, Phi(distance / sqrt(2)), and labels in no order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(labels_of(positives, negatives))
    return generator.normal(distance * labels, 1.0), labels


def bounds(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def placements(scores: Array, labels: Array) -> tuple[Array, Array]:
    """Share of the other class that each positive and each negative is on the right side of, by all pairs."""
    high, low = scores[labels == 1], scores[labels == 0]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    return wins.mean(axis=1), wins.mean(axis=0)


# Student's t


@pytest.mark.parametrize("freedom", [1.0, 1.5, 4.0, 9.3, 80.0, 1e4, 1e7])
def test_student_s_t_is_that_of_scipy(freedom: float) -> None:
    values = [0.0, 0.01, 0.7, 1.96, 4.5, 20.0]

    assert [p_value_of(value, freedom) for value in values] == pytest.approx(2 * stats.t.sf(values, freedom), rel=1e-11)
    for level in (0.5, 0.95, 0.999):
        assert quantile_of(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-11)


# Figures


SOME_ROWS = st.lists(
    st.tuples(st.sampled_from([-1.5, 0.0, 0.5, 2.0]), st.sampled_from([0, 1]), st.integers(0, 2)), min_size=2
)


@given(SOME_ROWS)
def test_a_roc_auc_is_that_of_scikit_learn_over_the_pairs_within_folds(rows: list[tuple[float, int, int]]) -> None:
    scores, labels, folds = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(labels == 1)
        for j in np.flatnonzero(labels == 0)
        if folds[i] == folds[j]
    ]

    estimate = estimate_roc_auc(scores, labels, folds=folds)

    assert estimate.value == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    assert estimate.is_defined is bool(pairs)
    if len(np.unique(labels)) == 2:
        assert estimate_roc_auc(scores, labels).value == pytest.approx(reference.roc_auc_score(labels, scores))


def test_pairs_within_folds_worked_by_hand() -> None:
    """Fold 0 has 1 of 2 pairs in order, fold 1 half of its one pair; over all pairs 5.5 of 6 would be."""
    labels = np.array([1, 0, 0, 1, 0])
    scores, folds = np.array([5.0, 4.0, 6.0, 3.0, 3.0]), np.array([0, 0, 0, 1, 1])

    estimate = estimate_roc_auc(scores, labels, folds=folds)

    assert estimate.value == pytest.approx((1 + 0.5) / 3)
    # What each row wins, less the value times its pairs, over the 3 pairs.
    assert estimate.influence == pytest.approx([0.0, 1 / 6, -1 / 6, 0.0, 0.0])


def test_repeats_have_folds_of_their_own_and_count_the_same() -> None:
    (first, labels), (second, _) = binormal(1, 12, 18), binormal(2, 12, 18)
    folds = np.random.default_rng(0).integers(0, 3, (2, 30))

    both = estimate_roc_auc(np.stack([first, second]), labels, folds=folds)

    single = [estimate_roc_auc(scores, labels, folds=fold) for scores, fold in zip((first, second), folds, strict=True)]
    assert both.value == pytest.approx(np.mean([one.value for one in single]))
    np.testing.assert_allclose(both.influence, np.mean([one.influence for one in single], axis=0))


@pytest.mark.parametrize("ties", [False, True])
def test_the_variance_of_a_roc_auc_is_that_of_delong_over_all_pairs(*, ties: bool) -> None:
    scores, labels = binormal(3, 17, 40)
    scores = scores.round(0) if ties else scores

    estimate = estimate_roc_auc(scores, labels)

    of_positives, of_negatives = placements(scores, labels)
    parts = [np.var(of_positives, ddof=1) / 17, np.var(of_negatives, ddof=1) / 40]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 16 + parts[1] ** 2 / 39)
    assert estimate.spread == pytest.approx((sum(parts), freedom))
    assert estimate.variance == pytest.approx(sum(parts))


def test_a_roc_auc_tested_against_guessing_is_the_test_of_brunner_and_munzel() -> None:
    scores, labels = binormal(4, 15, 25, distance=0.6)

    estimate = estimate_roc_auc(scores, labels)

    variance, freedom = estimate.spread
    theirs = stats.brunnermunzel(scores[labels == 0], scores[labels == 1])
    assert p_value_of(abs(estimate.value - 0.5) / variance**0.5, freedom) == pytest.approx(theirs.pvalue)
