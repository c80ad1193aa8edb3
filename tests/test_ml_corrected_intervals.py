"""The corrected resampled t-test by hand, against SciPy, and on simulated cross-validations."""

import numpy as np
import pytest
from scipy import stats

from federated_health.ml.corrected_intervals import corrected_difference
from federated_health.ml.verdicts import Difference


def test_a_difference_worked_by_hand() -> None:
    """Of 5 folds: mean 0.02, variance 0.00025, times 1/5 + 1/4 a standard error of 0.0106; t is 1.886 on 4 degrees."""
    difference = corrected_difference(np.array([0.0, 0.01, 0.02, 0.03, 0.04]), 1 / 4)

    error = np.sqrt(0.00025 * 0.45)
    assert difference.value == pytest.approx(0.02)
    assert (difference.low, difference.high) == pytest.approx((0.02 - 2.7764 * error, 0.02 + 2.7764 * error), abs=1e-5)
    assert difference.p_value == pytest.approx(0.132419, abs=1e-6)


def test_without_shared_training_rows_it_is_an_ordinary_t_test() -> None:
    differences = np.random.default_rng(1).normal(0.1, 0.2, 12)

    difference = corrected_difference(differences, 0.0)

    theirs = stats.ttest_1samp(differences, 0.0)
    assert difference.p_value == pytest.approx(theirs.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_folds_without_a_difference_are_left_out() -> None:
    differences = np.array([0.1, np.nan, 0.3, 0.2])

    assert corrected_difference(differences, 0.25) == corrected_difference(differences[[0, 2, 3]], 0.25)
    assert corrected_difference(differences[:2], 0.25) == Difference()


def test_folds_that_do_not_differ_have_no_clear_difference() -> None:
    assert corrected_difference(np.zeros(10), 0.25) == Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)


def test_repeats_of_the_same_folds_do_not_make_a_difference_clear() -> None:
    """An ordinary t-test over 10 repeats of 5 folds finds one; the corrected one does not."""
    differences = np.tile([-0.02, 0.0, 0.01, 0.02, 0.04], 10)

    assert stats.ttest_1samp(differences, 0.0).pvalue < 0.01
    # t is 0.01 over the root of (1 / 50 + 1 / 4) * 0.000408: 0.953.
    assert corrected_difference(differences, 1 / 4).p_value == pytest.approx(2 * stats.t.sf(0.953, 49), abs=1e-3)
