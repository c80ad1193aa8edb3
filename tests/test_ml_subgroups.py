"""Figures of subgroups against scikit-learn, statsmodels and calculations by hand."""

from math import exp, log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from scipy.stats import fisher_exact, norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from federated_health.data.subgroups import Subgroup, subgroups_of
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.intervals import wilson_interval
from federated_health.ml.subgroup_figures import clear_differences, figures_of, fisher, summarise_subgroups
from federated_health.ml.subgroups import GroupFigures, measure_groups, merge_groups
from federated_health.ml.targets.binary import probability

Z = 1.959964
ALL = Subgroup("sex", "everybody", 0, -np.inf, np.inf)
HALVES = (Subgroup("sex", "female", 0, 0, 1), Subgroup("sex", "male", 0, 1, 2))

Array = npt.NDArray[Any]


def patients(rows: int, seed: int = 0, slope: float = 1.5) -> tuple[Array, Array, Array]:
    """Codes of sex, [rows, 1], log-odds and labels of a model whose risks are right."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0.3, slope, rows)
    labels = (generator.random(rows) < probability(scores)).astype(np.float32)
    return generator.integers(0, 2, (rows, 1)).astype(np.float64), scores, labels


def measure(scores: Array, labels: Array, threshold: float = 0.5, ids: Array | None = None) -> GroupFigures:
    (group,) = measure_groups([ALL], np.zeros((len(labels), 1)), scores, labels, threshold, ids)
    return group


def ends(figure: Any) -> list[float]:
    return [figure["low"], figure["high"]]


def test_each_group_has_the_figures_of_its_rows_alone() -> None:
    sex, scores, labels = patients(200)
    for group, code in zip(measure_groups(HALVES, sex, scores, labels, 0.4), (0, 1), strict=True):
        of = sex[:, 0] == code
        assert group == measure(scores[of], labels[of], 0.4)


def test_counts_and_shares_are_those_of_the_predictions() -> None:
    _, scores, labels = patients(120)
    predicted = probability(scores) >= 0.4

    group = measure(scores, labels, 0.4)
    figures = figures_of(group)

    assert group.cells == (
        (predicted & (labels == 1)).sum(),
        (predicted & (labels == 0)).sum(),
        (~predicted & (labels == 0)).sum(),
        (~predicted & (labels == 1)).sum(),
    )
    for name, of, right in (("sensitivity", labels == 1, predicted), ("specificity", labels == 0, ~predicted)):
        assert figures[name]["value"] == pytest.approx(right[of].mean())
        expected = proportion_confint((right & of).sum(), of.sum(), method="wilson")
        assert ends(figures[name]) == pytest.approx(expected)
    assert (figures["rows"], figures["positives"]) == (120, labels.sum())


@pytest.mark.parametrize(("successes", "number"), [(0, 7), (7, 7), (3, 7), (40, 41)])
def test_the_wilson_interval_is_that_of_statsmodels(successes: int, number: int) -> None:
    low, high = wilson_interval(np.array(successes / number), np.array(number))
    assert (low, high) == pytest.approx(proportion_confint(successes, number, method="wilson"), abs=1e-12)


def test_the_roc_auc_is_scikit_learn_s_with_delong_s_variance() -> None:
    _, scores, labels = patients(90)
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative).astype(float)
    delong = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)

    group = measure(scores, labels)

    assert group.roc_auc == pytest.approx(roc_auc_score(labels, scores))
    assert group.auc_variance == pytest.approx(delong)
    figure = figures_of(group)["roc_auc"]
    assert figure["low"] < group.roc_auc < figure["high"] < 1
    more = 0.2 * 90  # pairs that are added, half of them in order
    middle = (group.roc_auc * wins.size + more / 2) / (wins.size + more)
    half = Z * sqrt(delong) / (middle * (1 - middle))
    expected = [1 / (1 + exp(-(log(middle / (1 - middle)) + sign * half))) for sign in (-1, 1)]
    assert ends(figure) == pytest.approx(expected, rel=1e-5)


def test_calibration_is_that_of_statsmodels_with_robust_errors() -> None:
    _, scores, labels = patients(150)
    design = np.column_stack([np.ones(150), scores])
    slope = sm.GLM(labels, design, family=sm.families.Binomial()).fit(cov_type="HC0")
    intercept = sm.GLM(labels, np.ones(150), offset=scores, family=sm.families.Binomial()).fit(cov_type="HC0")

    group = measure(scores, labels)

    assert [group.intercept, group.slope] == pytest.approx([intercept.params[0], slope.params[1]], rel=1e-6)
    variances = np.array([intercept.bse[0], slope.bse[1]]) ** 2 * 150 / 149
    assert [group.intercept_variance, group.slope_variance] == pytest.approx(variances, rel=1e-5)


def test_rows_of_one_patient_are_not_counted_as_several_patients() -> None:
    """Each patient three times: the figures are the same, and their precision is that of the patients."""
    _, scores, labels = patients(80)
    ids, once = np.arange(80), measure(scores, labels)

    thrice = measure(np.tile(scores, 3), np.tile(labels, 3), ids=np.tile(ids, 3))

    for name, interval in figures_of(once).items():
        if isinstance(interval, dict):
            assert figures_of(thrice)[name]["value"] == pytest.approx(interval["value"]), name
            tolerance = {"roc_auc": 5e-3}.get(name, 1e-9)  # the middle of a ROC-AUC counts rows
            assert ends(figures_of(thrice)[name]) == pytest.approx(ends(interval), rel=tolerance), name


def test_clustered_calibration_is_that_of_statsmodels() -> None:
    _, scores, labels = patients(150)
    ids = np.random.default_rng(1).integers(0, 60, 150)
    numbers = np.unique(ids, return_inverse=True)[1]
    options = {"groups": numbers, "use_correction": False}
    design = np.column_stack([np.ones(150), scores])
    fitted = sm.GLM(labels, design, family=sm.families.Binomial()).fit(cov_type="cluster", cov_kwds=options)

    group = measure(scores, labels, ids=ids)

    number = numbers.max() + 1
    assert group.slope_variance == pytest.approx(fitted.bse[1] ** 2 * number / (number - 1), rel=1e-5)


def test_the_interval_of_observed_expected_is_that_of_a_ratio() -> None:
    _, scores, labels = patients(100)
    risks = probability(scores)
    ratio = labels.sum() / risks.sum()
    deviation = sqrt(((labels - ratio * risks) ** 2).sum() * 100 / 99) / labels.sum()

    figure = figures_of(measure(scores, labels))["observed_expected"]

    assert figure["value"] == pytest.approx(ratio)
    assert ends(figure) == pytest.approx([ratio * exp(-Z * deviation), ratio * exp(Z * deviation)], rel=1e-6)


@pytest.mark.parametrize("slope", [0.5, 1.5])
def test_intervals_hold_the_truth_about_as_often_as_they_say(slope: float) -> None:
    """300 samples of 150 patients whose risks are right: observed/expected, intercept and slope are 1, 0 and 1."""
    truth = {"observed_expected": 1.0, "calibration_intercept": 0.0, "calibration_slope": 1.0}
    held = dict.fromkeys(truth, 0)
    for seed in range(300):
        _, scores, labels = patients(150, seed, slope)
        figures = figures_of(measure(scores, labels))
        for name, value in truth.items():
            held[name] += figures[name]["low"] <= value <= figures[name]["high"]
    assert all(0.91 <= number / 300 <= 0.985 for number in held.values()), held


def test_repeats_are_averaged_within_folds() -> None:
    _, scores, labels = patients(60)
    second = scores + np.random.default_rng(3).normal(size=60)
    folds = np.tile(np.arange(60) % 2, (2, 1))
    shifted = np.where(folds == 1, 100.0, 0.0)  # models of different folds do not share a scale
    (group,) = measure_groups([ALL], np.zeros((60, 1)), np.stack([scores, second]), labels, 0.5, folds=folds)
    (moved,) = measure_groups([ALL], np.zeros((60, 1)), np.stack([scores, second]) + shifted, labels, 0.5, folds=folds)

    predicted = np.mean([probability(of) >= 0.5 for of in (scores, second)], axis=0)
    assert group.true_positives == pytest.approx(predicted[labels == 1].sum())
    assert group.expected == pytest.approx(np.mean([probability(of).sum() for of in (scores, second)]))
    assert moved.roc_auc == pytest.approx(group.roc_auc)


def test_a_share_that_is_the_same_for_every_row_counts_every_row() -> None:
    """Each positive is found in one of two repeats, so that their means do not vary."""
    labels = np.repeat([1.0, 0.0], 10)
    scores = np.stack([np.where(labels == 1, 2.0, -2.0), np.full(20, -2.0)])
    (group,) = measure_groups([ALL], np.zeros((20, 1)), scores, labels, 0.5)
    assert group.true_positives == pytest.approx(5)
    assert group.sensitivity_number == 10


@pytest.mark.parametrize("positives", [0, 1, 4])
def test_of_few_patients_of_a_class_ranks_and_calibration_are_not_defined(positives: int) -> None:
    labels = np.array([1.0] * positives + [0.0] * 30)
    figures = figures_of(measure(np.linspace(-1, 1, len(labels)), labels))
    undefined = {"value": None, "low": None, "high": None}
    unclear = "roc_auc", "observed_expected", "calibration_intercept", "calibration_slope"
    assert all(figures[name] == undefined for name in unclear)
    assert (figures["sensitivity"] == undefined) == (positives == 0)


def test_a_perfect_ranking_has_an_interval_with_width() -> None:
    labels = np.repeat([1.0, 0.0], 8)
    figures = figures_of(measure(np.where(labels == 1, 2.0, -2.0), labels))
    assert figures["roc_auc"]["value"] == 1
    assert 0.5 < figures["roc_auc"]["low"] < 0.95
    assert 0.5 < figures["sensitivity"]["low"] < 0.8
    assert figures["calibration_slope"]["value"] is None


def test_an_empty_group_has_no_figures() -> None:
    figures = figures_of(measure(np.zeros(0), np.zeros(0)))
    assert figures["rows"] == 0
    assert all(of["value"] is None for of in figures.values() if isinstance(of, dict))


# Several hospitals


def test_counts_of_hospitals_are_added() -> None:
    _, scores, labels = patients(200)
    parts = [measure(scores[:90], labels[:90]), measure(scores[90:], labels[90:])]
    merged, pooled = figures_of(merge_groups(parts)), figures_of(measure(scores, labels))
    for name in ("sensitivity", "specificity"):
        assert merged[name] == pytest.approx(pooled[name])
    assert merged["observed_expected"]["value"] == pytest.approx(pooled["observed_expected"]["value"])
    assert ends(merged["observed_expected"]) == pytest.approx(ends(pooled["observed_expected"]), rel=0.02)


def test_the_merged_roc_auc_is_over_pairs_of_one_hospital() -> None:
    _, scores, labels = patients(160)
    parts = slice(0, 60), slice(60, 160)
    pairs = [(labels[part] == 1).sum() * (labels[part] == 0).sum() for part in parts]
    values = [roc_auc_score(labels[part], scores[part]) for part in parts]

    merged = merge_groups([measure(scores[part], labels[part]) for part in parts])

    assert merged.roc_auc == pytest.approx(np.average(values, weights=pairs))
    singles = [measure(scores[part], labels[part]).auc_variance for part in parts]
    assert merged.auc_variance == pytest.approx(np.dot(np.square(pairs), singles) / sum(pairs) ** 2)


def test_calibration_is_weighted_by_precision() -> None:
    first = GroupFigures(intercept=0.4, intercept_variance=0.04)
    second = GroupFigures(intercept=-0.2, intercept_variance=0.01)
    merged = merge_groups([first, second, GroupFigures()])
    assert merged.intercept == pytest.approx((0.4 * 25 - 0.2 * 100) / 125)
    assert merged.intercept_variance == pytest.approx(1 / 125)
    assert merged.slope_variance == 0


def test_hospitals_without_the_figure_do_not_count() -> None:
    _, scores, labels = patients(100)
    known = measure(scores, labels)
    few = measure(np.array([1.0, -1.0]), np.array([1.0, 0.0]))
    merged = merge_groups([known, few])
    assert (merged.roc_auc, merged.auc_variance) == pytest.approx((known.roc_auc, known.auc_variance))
    assert figures_of(merged)["roc_auc"] == pytest.approx(figures_of(known)["roc_auc"])
    assert merged.true_positives == known.true_positives + 1


# Differences between groups


def test_a_clear_difference_is_found_and_its_p_value_adjusted() -> None:
    women = GroupFigures(true_positives=34, false_negatives=16, sensitivity_number=50)
    men = GroupFigures(true_positives=410, false_negatives=40, sensitivity_number=450)
    clear, comparisons = clear_differences(HALVES, [women, men])
    (difference,) = clear
    assert (difference.figure, difference.lower, difference.higher) == ("sensitivity", "female", "male")
    assert comparisons == 1
    assert difference.p_value == pytest.approx(fisher_exact([[34, 16], [410, 40]]).pvalue)


def test_p_values_are_adjusted_for_all_comparisons() -> None:
    one = GroupFigures(40, 30, 70, 10, 50.0, 20.0, 50, 100, 0.8, 0.001)
    two = GroupFigures(30, 15, 85, 20, 50.0, 20.0, 50, 100, 0.7, 0.001)
    clear, comparisons = clear_differences(HALVES, [one, two])
    assert comparisons == 4
    raw = [
        2 * norm.sf(0.1 / sqrt(0.002)),
        fisher_exact([[40, 10], [30, 20]]).pvalue,
        fisher_exact([[70, 30], [85, 15]]).pvalue,
        1.0,
    ]
    adjusted = multipletests(raw, method="holm")[1]
    assert [difference.p_value for difference in clear] == pytest.approx(sorted(p for p in adjusted if p < 0.05))


@pytest.mark.parametrize(
    "table", [[[4, 3], [113, 8]], [[0, 5], [3, 0]], [[5, 0], [9, 0]], [[6, 6], [51, 7]], [[900, 300], [15_000, 9_000]]]
)
def test_shares_are_compared_by_fisher_s_exact_test(table: list[list[int]]) -> None:
    one, two = ((right / (right + wrong), float(right + wrong)) for right, wrong in table)
    assert fisher(one, two) == pytest.approx(fisher_exact(table).pvalue, rel=1e-6)


def test_a_small_group_does_not_differ_clearly_by_chance() -> None:
    """7 and 121 patients of whom 91 % are found: the normal approximation rejects in 13 of 1,000 cases."""
    generator = np.random.default_rng(0)
    found = generator.binomial([7, 121], 0.91, (2000, 2))
    p_values = [fisher((few / 7, 7.0), (many / 121, 121.0)) for few, many in found]
    assert np.mean(np.array(p_values) < 0.005) <= 0.008


def test_groups_of_different_columns_are_not_compared() -> None:
    groups = Subgroup("sex", "female", 0, 0, 1), Subgroup("age", "under 50", 1, -np.inf, 50)
    sums = GroupFigures(true_positives=5, false_negatives=45, sensitivity_number=50)
    others = GroupFigures(true_positives=45, false_negatives=5, sensitivity_number=50)
    assert clear_differences(groups, [sums, others]) == ([], 0)


def test_equal_groups_rarely_differ() -> None:
    """Of 200 federations in which groups do not differ, about 5 % or fewer have a clear difference."""
    found = 0
    for seed in range(200):
        sex, scores, labels = patients(300, seed)
        found += bool(clear_differences(HALVES, measure_groups(HALVES, sex, scores, labels, 0.5))[0])
    assert found <= 18


# What files hold


def test_files_hold_hospitals_and_all_together() -> None:
    generator = np.random.default_rng(5)
    groups = len(HEART_DISEASE.subgroups)
    assert groups == 2

    def of_hospital(rows: int) -> list[GroupFigures]:
        values = np.column_stack([generator.integers(30, 80, rows), generator.integers(0, 2, rows)]).astype(np.float64)
        values = np.pad(values, ((0, 0), (0, len(HEART_DISEASE.columns) - 2)))
        labels = generator.integers(0, 2, rows).astype(np.float64)
        return measure_groups(subgroups_of(HEART_DISEASE), values, generator.normal(size=rows), labels, 0.5)

    figures = summarise_subgroups(HEART_DISEASE, {"bern": of_hospital(80), "basel": of_hospital(60), "genf": []})

    assert list(figures["hospitals"]) == ["basel", "bern"]
    women = [figures["hospitals"][name]["sex"]["female"]["rows"] for name in ("basel", "bern")]
    assert figures["federation"]["sex"]["female"]["rows"] == sum(women)
    assert figures["federation"]["sex"]["female"]["hospitals"] == 2
    assert list(figures["federation"]["age"]) == ["under 50", "50 to under 60", "60 and over"]
    assert summarise_subgroups(HEART_DISEASE, {"genf": []}) == {}
