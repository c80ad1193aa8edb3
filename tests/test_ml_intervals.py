"""Intervals and differences against SciPy, scikit-learn and DeLong by brute force, and at their edges."""

import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from federated_health.ml.intervals import (
    compare_models,
    difference_of,
    estimate_mean,
    estimate_roc_auc,
    improvement_of,
    interval_of,
    mean_of_classes,
    mean_of_hospitals,
)
from federated_health.ml.students_t import p_value_of, quantile_of
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Difference, Interval
from tests.support.targets import task_of

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


def test_rows_of_a_patient_count_together_as_in_an_average_over_clusters() -> None:
    """By hand: each patient's rows' placements are added up, and their deviations within the patients' classes."""
    generator = np.random.default_rng(5)
    ids = generator.integers(0, 25, 80)
    labels = (generator.random(80) < 0.5).astype(np.float64)
    scores = labels + generator.normal(size=25)[ids] + generator.normal(size=80)

    variance, _ = estimate_roc_auc(scores, labels, ids).spread

    of_positives, of_negatives = placements(scores, labels)
    roc_auc = reference.roc_auc_score(labels, scores)
    influence = np.empty(80)
    influence[labels == 1] = (of_positives - roc_auc) / (labels == 1).sum()
    influence[labels == 0] = (of_negatives - roc_auc) / (labels == 0).sum()
    patients = {name: influence[ids == name].sum() for name in np.unique(ids)}
    strata = [[name for name in patients if labels[ids == name].max() == value] for value in (0, 1)]
    expected = sum(len(names) * np.var([patients[name] for name in names], ddof=1) for names in strata)
    assert variance == pytest.approx(expected)


@pytest.mark.parametrize("figure", ["roc_auc", "brier"])
def test_equal_rows_of_a_patient_do_not_narrow_an_interval(figure: str) -> None:
    target, (scores, labels) = target_of(task_of("binary")), binormal(6, 20, 45)
    once = target.estimate_figure(figure, scores, labels)

    scores, labels, ids = np.repeat(scores, 4), np.repeat(labels, 4), np.repeat(np.arange(65), 4)
    fourfold = target.estimate_figure(figure, scores, labels, ids)

    assert bounds(interval_of(fourfold)) == pytest.approx(bounds(interval_of(once)))


def test_numbers_of_patients_may_be_any_and_in_any_order() -> None:
    scores, labels = binormal(7, 20, 30)
    ids = np.arange(50) // 2
    order = np.random.default_rng(1).permutation(50)

    shuffled = estimate_roc_auc(scores[order], labels[order], 10**12 - 7 * ids[order])

    assert bounds(interval_of(shuffled)) == pytest.approx(bounds(interval_of(estimate_roc_auc(scores, labels, ids))))


def test_a_mean_loss_has_the_interval_of_student_s_t_on_the_log_scale() -> None:
    losses = np.random.default_rng(8).exponential(2.0, 40)

    interval = interval_of(estimate_mean(losses, is_share=False))

    error = stats.sem(losses) / losses.mean()
    low, high = stats.t.interval(0.95, 39, loc=np.log(losses.mean()), scale=error)
    assert interval.value == pytest.approx(losses.mean())
    assert bounds(interval) == pytest.approx((np.exp(low), np.exp(high)))


def test_the_interval_of_a_brier_score_is_on_the_logit_scale() -> None:
    scores, labels = binormal(9, 25, 25)
    losses = (probability(scores) - labels) ** 2

    interval = interval_of(target_of(task_of("binary")).estimate_figure("brier", scores, labels))

    mean = reference.brier_score_loss(labels, probability(scores))
    error = stats.sem(losses) / (mean * (1 - mean))
    odds = np.exp(np.log(mean / (1 - mean)) + np.array([-1, 1]) * stats.t.ppf(0.975, 49) * error)
    assert interval.value == pytest.approx(mean)
    assert bounds(interval) == pytest.approx(tuple(odds / (1 + odds)))


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (1, 20), (5, 5), (8, 100), (50, 50)])
def test_a_perfect_ranking_has_an_interval_with_a_width(positives: int, negatives: int) -> None:
    labels = labels_of(positives, negatives)

    low, high = bounds(interval_of(estimate_roc_auc(labels, labels)))
    reversed_low, reversed_high = bounds(interval_of(estimate_roc_auc(-labels, labels)))

    assert 0 < low < 0.98
    assert high == 1.0
    assert (reversed_low, reversed_high) == pytest.approx((0.0, 1 - low))


def test_an_interval_of_a_perfect_ranking_is_narrower_the_more_patients_there_are() -> None:
    lows = [bounds(interval_of(estimate_roc_auc(labels_of(n, n), labels_of(n, n))))[0] for n in (5, 10, 50, 500)]

    assert lows == sorted(lows)


@given(SOME_ROWS)
def test_an_interval_contains_its_value_and_keeps_its_limits(rows: list[tuple[float, int, int]]) -> None:
    scores, labels, _ = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    target = target_of(task_of("binary"))
    for figure in target.comparisons:
        estimate = target.estimate_figure(figure, scores, labels)
        other = target.estimate_figure(figure, scores[::-1], labels)
        interval, difference = interval_of(estimate), improvement_of(figure, estimate, other)

        if not estimate.is_defined:
            assert interval == Interval()
            assert difference == Difference()
            continue
        assert interval.value is not None
        assert difference.value is not None
        assert difference.p_value is not None
        low, high = bounds(interval)
        assert 0 <= low <= interval.value <= high <= 1
        low, high = bounds(difference)
        assert -1 <= low <= difference.value <= high <= 1
        assert (difference.p_value < 0.05) is not (low <= 0 <= high)


# Differences


def delong(first: Array, second: Array, labels: Array) -> tuple[float, float]:
    """Difference of two ROC-AUCs and its variance, from the covariances of all placements."""
    parts = [placements(scores, labels) for scores in (first, second)]
    covariances = [np.cov(np.stack(of_class)) / of_class[0].size for of_class in zip(*parts, strict=True)]
    contrast = np.array([1, -1])
    value = parts[0][0].mean() - parts[1][0].mean()
    return float(value), float(sum(contrast @ covariance @ contrast for covariance in covariances))


def test_a_difference_of_roc_aucs_is_that_of_delong_over_all_pairs() -> None:
    scores, labels = binormal(10, 30, 50)
    other = scores + np.random.default_rng(0).normal(0, 1.0, 80)

    difference = difference_of(estimate_roc_auc(scores, labels), estimate_roc_auc(other, labels))

    value, variance = delong(scores, other, labels)
    low, high = bounds(difference)
    assert difference.value == pytest.approx(value)
    assert difference.p_value == pytest.approx(2 * stats.norm.sf(abs(value) / variance**0.5), abs=0.01)
    assert (high - low) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.05)
    assert (high - low) / 2 > 1.96 * variance**0.5


def test_a_difference_of_mean_losses_is_a_paired_t_test() -> None:
    first, second = np.random.default_rng(11).exponential(1.0, (2, 30))

    difference = difference_of(estimate_mean(first, is_share=False), estimate_mean(second, is_share=False))

    theirs = stats.ttest_rel(first, second)
    assert difference.value == pytest.approx(first.mean() - second.mean())
    assert difference.p_value == pytest.approx(theirs.pvalue)
    assert bounds(difference) == pytest.approx(tuple(theirs.confidence_interval()))


def test_a_difference_is_above_zero_where_the_first_model_is_better() -> None:
    good, bad = (estimate_mean(np.full(10, value) + np.arange(10) / 100, is_share=False) for value in (0.1, 0.3))

    assert improvement_of("brier", good, bad).value == pytest.approx(0.2)
    assert improvement_of("roc_auc", good, bad).value == pytest.approx(-0.2)


def test_two_models_with_the_same_ranking_do_not_differ() -> None:
    """A rounding error between repeats in another order, or between other scores with the same ranking, would be a
    verdict.
    """
    scores, labels = binormal(12, 37, 41)
    repeats = np.stack([scores, scores[::-1], np.roll(scores, 5)])

    difference = difference_of(estimate_roc_auc(repeats, labels), estimate_roc_auc(np.exp(repeats[[2, 0, 1]]), labels))

    assert difference == Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)


def test_a_small_difference_between_nearly_equal_models_is_not_taken_for_a_rounding_error() -> None:
    losses = np.random.default_rng(13).exponential(1.0, 50)

    difference = difference_of(*(estimate_mean(one, is_share=False) for one in (losses * (1 + 1e-8), losses)))

    assert difference.p_value == pytest.approx(stats.ttest_1samp(losses, 0).pvalue, rel=1e-3)


def test_two_different_models_that_rank_perfectly_may_still_differ() -> None:
    labels = labels_of(6, 6)
    first = estimate_roc_auc(labels + np.linspace(0, 0.5, 12), labels)

    difference = difference_of(first, estimate_roc_auc(labels + np.linspace(0.5, 0, 12), labels))

    low, high = bounds(difference)
    assert (difference.value, difference.p_value) == (0.0, 1.0)
    assert low == -high
    assert 0.1 < high < 0.6


@pytest.mark.parametrize("loss", [1e3, 1e150, 1e200, 1.7e308, np.inf, np.nan])
def test_absurd_losses_have_a_finite_interval_or_none(loss: float) -> None:
    absurd = estimate_mean(np.append(np.arange(1.0, 20.0), loss), is_share=False)

    interval = interval_of(absurd)
    difference = difference_of(absurd, estimate_mean(np.arange(1.0, 21.0), is_share=False))

    ends = [*vars(interval).values(), *vars(difference).values()]
    assert ends == [None] * 7 if loss > 1e150 or np.isnan(loss) else np.isfinite(ends).all()


# Means


def test_the_mean_of_hospitals_has_the_variance_of_independent_figures() -> None:
    samples = [binormal(seed, positives, 30) for seed, positives in ((1, 10), (2, 20), (3, 30))]
    single = [estimate_roc_auc(*sample) for sample in samples]

    mean = mean_of_hospitals(single)

    assert mean.value == pytest.approx(np.mean([one.value for one in single]))
    assert mean.spread[0] == pytest.approx(sum(one.spread[0] for one in single) / 9)
    assert mean.spread[1] > max(one.spread[1] for one in single)


def test_the_mean_of_classes_has_the_variance_of_correlated_figures() -> None:
    """Two figures that are equal vary as much together as alone."""
    estimate = estimate_roc_auc(*binormal(4, 15, 20))

    mean = mean_of_classes([estimate, estimate])

    assert bounds(interval_of(mean)) == pytest.approx(bounds(interval_of(estimate)))


def compared_by_hand(figure: str, outputs: Array, own: Array, labels: Array) -> tuple[float, float]:
    """Log-loss or mean one-against-all ROC-AUC of both models, by scikit-learn."""
    powers = [np.exp(part) / np.exp(part).sum(axis=1, keepdims=True) for part in (outputs, own)]
    if figure == "log_loss":
        return tuple(reference.log_loss(labels, part) for part in powers)
    return tuple(reference.roc_auc_score(labels, part, multi_class="ovr") for part in powers)


def test_models_of_several_classes_are_compared_by_figures_of_scikit_learn() -> None:
    generator = np.random.default_rng(14)
    labels = np.repeat([0.0, 1.0, 3.0], 20)
    outputs, own = (np.eye(3)[np.repeat([0, 1, 2], 20)] + noise * generator.normal(size=(60, 3)) for noise in (0.7, 2))

    compared = compare_models(target_of(task_of("classes")), outputs, own, labels)

    for figure in ("roc_auc", "log_loss"):
        federated, alone = compared_by_hand(figure, outputs, own, labels)
        assert compared[figure].federated.value == pytest.approx(federated)
        assert compared[figure].own.value == pytest.approx(alone)
        assert compared[figure].difference.value == pytest.approx(abs(federated - alone))


def test_a_hundred_thousand_rows_take_less_than_a_second() -> None:
    generator = np.random.default_rng(15)
    labels = (generator.random(100_000) < 0.1).astype(np.float32)
    scores, ids = generator.normal(labels).astype(np.float32), generator.integers(0, 70_000, 100_000)
    began = time.process_time()

    compare_models(target_of(task_of("binary")), scores, scores + 0.1, labels, ids)

    assert time.process_time() - began < 2  # 0.2 s when measured


def coverage_of(distance: float, positives: int, negatives: int, trials: int) -> float:
    true = stats.norm.cdf(distance / np.sqrt(2))
    covered = []
    for seed in range(trials):
        low, high = bounds(interval_of(estimate_roc_auc(*binormal(seed, positives, negatives, distance))))
        covered.append(low <= true <= high)
    return float(np.mean(covered))


@pytest.mark.parametrize("distance", [0.3, 1.0, 1.8])
def test_intervals_of_ten_patients_of_a_class_cover_the_true_roc_auc(distance: float) -> None:
    """Of 400 samples, 95 % have a standard error of 1.1 %; `benchmarks/coverage.py` tries more cases, more often."""
    assert 0.92 <= coverage_of(distance, 10, 40, 400) <= 0.99


def test_a_verdict_on_equally_good_models_is_wrong_in_about_five_of_a_hundred_cases() -> None:
    """Both figures; the rarer class has 8 of 40 patients."""
    target, wrong = target_of(task_of("binary")), {"roc_auc": 0, "brier": 0}
    for seed in range(300):
        shared, labels = binormal(seed, 8, 32)
        first, second = shared - 2 + np.random.default_rng([seed, 1]).normal(0, 0.7, (2, 40))
        for figure, comparison in compare_models(target, first, second, labels).items():
            assert comparison.difference.p_value is not None
            wrong[figure] += comparison.difference.p_value < 0.05

    assert all(3 <= number <= 27 for number in wrong.values())  # 15, give or take three deviations
