"""Counts and figures against scikit-learn and by hand; ROC-AUC and threshold from microaggregated scores."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression

from federated_health.data.sources.source import Source
from federated_health.data.split import split_rows
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.metrics import MAX_BINARY_CELLS, MIN_CELL_SIZE, merge_counts
from federated_health.ml.microaggregates import choose_threshold, figures_of_cells, roc_auc_from_microaggregates
from federated_health.ml.scores import CELL_STEP, average_precision, microaggregate, roc_auc, rounding_step
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts, count_outcomes, probability
from federated_health.ml.targets.binary_figures import figures_of, score_figures

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.float32]

SCORES = np.array([0.9, 0.8, 0.5, 0.4, 0.3, 0.1])
LABELS = np.array([1, 0, 1, 1, 0, 0], dtype=np.float32)


def hospital(seed: int, rows: int, diseased: float, shift: float = 0.0) -> tuple[Scores, Labels]:
    """Log-odds as a trained model gives them, and labels."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(rows) < diseased).astype(np.float32)
    return generator.normal(np.where(labels > 0.5, 1.5, -1.0) + shift, 1.6), labels


def precision_and_recall(counts: Counts) -> tuple[float | None, float | None]:
    figures = figures_of(counts, 0, None)
    return figures["precision"], figures["recall"]


def test_counts_worked_by_hand() -> None:
    counts = count_outcomes(SCORES, LABELS)

    # 0.9 and 0.5 are rightly positive, 0.8 wrongly; 0.4 is wrongly negative, 0.3 and 0.1 rightly.
    assert (counts.true_positives, counts.false_positives) == (2, 1)
    assert (counts.true_negatives, counts.false_negatives) == (2, 1)
    assert counts.examples == 6
    assert counts.accuracy == pytest.approx(4 / 6)
    assert precision_and_recall(counts) == pytest.approx((2 / 3, 2 / 3))
    assert counts.f1 == pytest.approx(2 / 3)
    assert counts.loss_sum == pytest.approx(-np.log([0.9, 0.2, 0.5, 0.4, 0.7, 0.9]).sum())
    assert counts.squared_error_sum == pytest.approx(0.01 + 0.64 + 0.25 + 0.36 + 0.09 + 0.01)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_scikit_learn_s(seed: int) -> None:
    log_odds, labels = hospital(seed, 137, 0.4, shift=0.7)
    scores = 1 / (1 + np.exp(-log_odds))
    predicted = scores >= 0.5

    counts = count_outcomes(scores, labels)

    assert [
        counts.true_negatives,
        counts.false_positives,
        counts.false_negatives,
        counts.true_positives,
    ] == reference.confusion_matrix(labels, predicted).ravel().tolist()
    assert counts.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    figures = figures_of(counts, 0, None)
    assert figures["precision"] == pytest.approx(reference.precision_score(labels, predicted))
    assert figures["recall"] == pytest.approx(reference.recall_score(labels, predicted))
    assert figures["specificity"] == pytest.approx(reference.recall_score(labels, predicted, pos_label=0))
    assert counts.f1 == pytest.approx(reference.f1_score(labels, predicted))
    assert counts.loss == pytest.approx(reference.log_loss(labels, scores))
    assert figures["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
    assert roc_auc(log_odds, labels) == pytest.approx(reference.roc_auc_score(labels, scores))


def test_precision_and_recall_are_not_swapped() -> None:
    counts = Counts(true_positives=6, false_positives=2, true_negatives=1, false_negatives=6)

    assert precision_and_recall(counts) == (0.75, 0.5)
    assert counts.f1 == pytest.approx(0.6)


def test_specificity_is_the_share_of_the_negative_rows_that_are_recognised() -> None:
    figures = figures_of(Counts(true_positives=30, false_positives=12, true_negatives=1, false_negatives=7), 0, None)
    assert (figures["specificity"], figures["recall"]) == (1 / 13, 30 / 37)
    assert figures_of(Counts(true_positives=3, false_negatives=1), 0, None)["specificity"] is None


def test_a_score_at_the_threshold_is_positive() -> None:
    labels = np.ones(3, dtype=np.float32)

    assert count_outcomes(np.array([0.2, 0.3, 0.4]), labels, threshold=0.3).true_positives == 2


def test_a_certain_and_wrong_prediction_has_a_finite_loss() -> None:
    counts = count_outcomes(np.array([0.0, 1.0]), np.array([1, 0], dtype=np.float32))

    assert counts.loss_sum == pytest.approx(2 * 12 * np.log(10))
    assert counts.squared_error_sum == 2


def test_counts_are_plain_numbers() -> None:
    counts = count_outcomes(SCORES, LABELS)

    assert [type(value) for value in asdict(counts).values()] == [int, int, int, int, float, float]


def test_figures_without_patients_are_not_defined() -> None:
    counts = count_outcomes(np.array([]), np.array([], dtype=np.float32))

    assert counts == Counts()
    assert figures_of(counts, 5, None) == {
        "train_examples": 5,
        "test_examples": 0,
        "accuracy": None,
        "precision": None,
        "recall": None,
        "specificity": None,
        "f1": None,
        "roc_auc": None,
        "brier": None,
        "prevalence": None,
        "average_precision": None,
        "calibration_slope": None,
        "calibration_intercept": None,
    }
    assert counts.loss is None


def test_precision_without_a_positive_prediction_is_not_defined_and_recall_is_zero() -> None:
    counts = Counts(true_negatives=3, false_negatives=2)

    assert (*precision_and_recall(counts), counts.f1) == (None, 0.0, 0.0)


def test_recall_without_a_positive_patient_is_not_defined_and_precision_is_zero() -> None:
    counts = Counts(true_negatives=3, false_positives=2)

    assert (*precision_and_recall(counts), counts.f1) == (0.0, None, 0.0)


def test_figures_are_computed_from_the_counts() -> None:
    figures = figures_of(count_outcomes(SCORES, LABELS), 20, 0.75)

    assert (figures["train_examples"], figures["test_examples"], figures["roc_auc"]) == (20, 6, 0.75)
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["brier"] == pytest.approx(1.36 / 6)


def test_probabilities_of_log_odds() -> None:
    np.testing.assert_allclose(
        probability(np.array([0.0, np.log(3.0), -np.log(3.0), 80.0, -80.0], dtype=np.float32)),
        [0.5, 0.75, 0.25, 1.0, 0.0],
        rtol=1e-6,
        atol=1e-15,
    )


def test_probabilities_do_not_overflow_and_stay_within_0_and_1() -> None:
    largest = np.finfo(np.float32).max
    log_odds = np.array([-largest, -1e4, -745.0, 745.0, 1e4, largest], dtype=np.float32)

    # Warnings are errors here.
    assert probability(log_odds).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("log_odds", [-25.0, -10.0, -1.0, 1.0, 10.0, 25.0])
def test_probabilities_are_precise_where_the_loss_needs_them(log_odds: float) -> None:
    risk = probability(np.array([log_odds], dtype=np.float32))

    assert risk[0] == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-4, abs=0)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    parts=st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), max_size=20), min_size=1, max_size=5
    )
)
def test_merged_counts_are_those_of_the_pooled_patients(parts: list[list[tuple[float, float]]]) -> None:
    def count(rows: list[tuple[float, float]]) -> Counts:
        return count_outcomes(
            np.array([score for score, _ in rows]), np.array([label for _, label in rows], dtype=np.float32)
        )

    merged, pooled = merge_counts(count(rows) for rows in parts), count(list(itertools.chain(*parts)))

    names = ("true_positives", "false_positives", "true_negatives", "false_negatives")
    assert [getattr(merged, name) for name in names] == [getattr(pooled, name) for name in names]
    assert merged.loss_sum == pytest.approx(pooled.loss_sum)
    assert merged.squared_error_sum == pytest.approx(pooled.squared_error_sum)


def test_merged_accuracy_is_not_the_mean_of_accuracies() -> None:
    large, small = Counts(true_positives=90, false_positives=10), Counts(false_positives=10)

    assert merge_counts([large, small]).accuracy == pytest.approx(90 / 110)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_the_auc_of_a_single_class_is_not_defined(labels: list[int]) -> None:
    assert roc_auc(np.array([0.1, 0.2, 0.3]), np.array(labels, dtype=np.float32)) is None


def test_the_auc_worked_by_hand_counts_a_tie_as_half() -> None:
    scores, labels = np.array([3.0, 2.0, 2.0, 1.0]), np.array([1, 1, 0, 0], dtype=np.float32)

    assert roc_auc(scores, labels) == pytest.approx((1 + 1 + 0.5 + 1) / 4)


@pytest.mark.parametrize("decimals", [0, 1, 9], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_average_precision_is_scikit_learn_s(decimals: int, weighted: bool) -> None:
    log_odds, labels = hospital(4, 90, 0.2)
    weights = np.random.default_rng(5).integers(1, 4, 90).astype(np.float64) if weighted else None

    result = average_precision(log_odds.round(decimals), labels, weights)

    expected = reference.average_precision_score(labels, log_odds.round(decimals), sample_weight=weights)
    assert result == pytest.approx(expected)


def test_the_average_precision_worked_by_hand() -> None:
    """Precisions 1/1 at a recall of 1/2, and 2/4 at a recall of 1."""
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 0, 1])) == pytest.approx(0.5 + 0.25)


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0]])
def test_the_average_precision_of_one_class_is_not_defined(labels: list[int]) -> None:
    assert average_precision(np.zeros(len(labels)), np.array(labels)) is None


def test_tables_of_a_rare_outcome_lead_with_what_positive_patients_say() -> None:
    target = target_of(HEART_DISEASE)

    common, *rare = (target.shown_figures({"prevalence": share}) for share in (0.2, 0.19, 0.81))

    assert common == target.shown_figures({}) == target.shown_figures({"prevalence": None})
    assert "accuracy" in common
    for names in rare:
        assert "accuracy" not in names
        assert names.index("recall") < names.index("average_precision") < names.index("roc_auc")


# Cells


def test_cells_worked_by_hand() -> None:
    log_odds = np.array([2.0, -1.0, -1.5, -2.5, -2.0, -3.0, 1.0, 1.0, 1.0, 1.0, 4.0])

    cells = microaggregate(log_odds)

    # Sorted: -3, -2.5, -2, -1.5, -1, 1 | 1, 1, 1, 2, 4; means -1.5 and 1.8; deviations 1.29 and 1.17
    np.testing.assert_allclose(cells, [[6, -1.5, 1.3], [5, 1.8, 1.2]], atol=1e-12)


@pytest.mark.parametrize("number", range(MIN_CELL_SIZE))
def test_scores_too_few_for_a_cell_are_not_released(number: int) -> None:
    assert microaggregate(np.ones(number)).shape == (0, 3)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(number=st.integers(0, 2000), seed=st.integers(0, 1000))
def test_cells_have_their_minimum_size_and_hold_every_patient(number: int, seed: int) -> None:
    log_odds = np.random.default_rng(seed).normal(0, 3, number)

    cells = microaggregate(log_odds)

    assert len(cells) <= MAX_BINARY_CELLS
    if number < MIN_CELL_SIZE:
        assert len(cells) == 0
        return
    assert cells[:, 0].min() >= MIN_CELL_SIZE == 5
    assert cells[:, 0].max() - cells[:, 0].min() <= 1
    assert cells[:, 0].sum() == number
    np.testing.assert_allclose(cells[:, 1:] / CELL_STEP, np.round(cells[:, 1:] / CELL_STEP), atol=1e-9)
    assert (cells[:, 2] >= 0).all()
    mean = (cells[:, 0] * cells[:, 1]).sum() / number
    assert mean == pytest.approx(log_odds.mean(), abs=CELL_STEP / 2 + 1e-9)


def test_cells_do_not_depend_on_the_order_of_patients() -> None:
    log_odds, _ = hospital(3, 100, 0.5)

    np.testing.assert_array_equal(microaggregate(log_odds), microaggregate(log_odds[::-1]))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(number=st.integers(0, 400), patients=st.integers(1, 120), most=st.integers(1, 60), seed=st.integers(0, 1000))
def test_no_patient_has_more_than_a_fifth_of_a_cell(number: int, patients: int, most: int, seed: int) -> None:
    """The first patient has `most` more rows than others do, all with similar scores."""
    generator = np.random.default_rng(seed)
    ids = np.concatenate([generator.integers(patients, size=number), np.zeros(most, dtype=np.int64)])
    log_odds = np.concatenate([generator.normal(size=number), generator.normal(2, 0.1, size=most)])

    cells = microaggregate(log_odds, ids)

    rows = cells[:, 0].astype(int)
    assert rows.sum() in (0, number + most)
    ordered = ids[np.argsort(log_odds, kind="stable")]
    for cell in np.split(ordered, np.cumsum(rows)[:-1]) if len(rows) else []:
        assert np.bincount(cell).max() * 5 <= len(cell)
    if len(rows) == 0 and number + most:  # only where the patient with most rows has more than a fifth of all
        assert np.bincount(ids).max() * 5 > number + most


@pytest.mark.parametrize(("rows", "step"), [(5, 0.1), (9, 0.1), (10, 0.05), (25, 0.02), (50, 0.01), (500, 0.01)])
def test_a_cell_is_rounded_the_finer_the_more_patients_it_has(rows: int, step: float) -> None:
    assert rounding_step(rows) == step
    cell = np.linspace(0.9, 1.12345, rows)

    ((_, mean, deviation),) = microaggregate(cell, most=1)

    assert mean == pytest.approx(cell.mean(), abs=step / 2 + 1e-9)
    assert mean / step == pytest.approx(round(mean / step), abs=1e-6)
    assert deviation == pytest.approx(cell.std(), abs=CELL_STEP / 2 + 1e-9)


@pytest.mark.parametrize(("rows", "uncertain"), [(5, 0.25), (10, 0.3), (25, 0.5), (50, 0.5), (500, 0.5)])
def test_a_score_far_from_the_known_others_is_not_found_from_the_deviation(rows: int, uncertain: float) -> None:
    """All others are 0; any two scores that are less than `uncertain` apart may have the same deviation."""
    scores = np.arange(2.0, 8.0, 0.01)

    deviations = [microaggregate(np.append(np.zeros(rows - 1), score), most=1)[0, 2] for score in scores]

    assert len(set(deviations)) <= np.ptp(scores) / uncertain + 2


def test_rows_of_one_patient_do_not_make_a_cell_finer() -> None:
    """Of 50 rows, 10 are of each of 5 patients: a patient's mean score would be known to 0.05 with steps of 0.01."""
    ((_, mean, _),) = microaggregate(np.linspace(1.0, 1.1134, 50), np.arange(50) % 5, most=1)

    assert mean == pytest.approx(1.1)


def rare(seed: int, rows: int) -> tuple[Scores, Labels]:
    """Scores like those of readmission: 11 % are positive, and scores hardly differ."""
    generator = np.random.default_rng(seed)
    log_odds = generator.normal(-2.2, 0.5, rows)
    return log_odds, (generator.random(rows) < probability(0.9 * log_odds - 0.2)).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_figures_from_cells_of_large_hospitals_with_a_rare_outcome(seed: int) -> None:
    hospitals = [rare(seed, 12_000), rare(seed + 10, 12_000)]
    log_odds, labels = pooled(hospitals)
    positives, negatives = cells_of(hospitals)

    figures = figures_of_cells(positives, negatives)

    assert max(len(positives), len(negatives)) <= 2 * MAX_BINARY_CELLS
    auc = roc_auc_from_microaggregates(positives, negatives)
    assert auc == pytest.approx(reference.roc_auc_score(labels, log_odds), abs=0.001)
    expected = reference.average_precision_score(labels, log_odds)
    assert figures["average_precision"] == pytest.approx(expected, abs=0.003)
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds[:, np.newaxis], labels)
    assert figures["calibration_slope"] == pytest.approx(fitted.coef_[0, 0], abs=0.01)
    assert figures["calibration_intercept"] is not None
    shifted = probability(log_odds + figures["calibration_intercept"])
    assert shifted.mean() == pytest.approx(labels.mean(), abs=2e-4)
    best = max(f1_at(threshold, log_odds, labels) for threshold in np.linspace(0.08, 0.2, 60))
    assert f1_at(threshold_of(hospitals) or 0.5, log_odds, labels) > best - 0.01


def test_positives_in_no_cell_count_in_the_federation_s_figures() -> None:
    hospitals = [rare(seed, 2_000) for seed in (1, 2, 3)]
    log_odds, labels = pooled(hospitals)
    (positives, _), (_, negatives) = cells_of(hospitals[:2]), cells_of(hospitals)

    def errors(rows: tuple[int, int] | None) -> tuple[float, float]:
        figures, exact = figures_of_cells(positives, negatives, rows), score_figures(log_odds, labels)
        pairs = [(figures[name], exact[name]) for name in ("average_precision", "calibration_intercept")]
        of_precision, of_intercept = (abs((value or 0) - (expected or 0)) for value, expected in pairs)
        return of_precision, of_intercept

    of_precision, of_intercept = errors((int(labels.sum()), int((1 - labels).sum())))
    assert of_precision < 0.01
    assert of_intercept < 0.02
    of_precision, of_intercept = errors(None)
    assert of_precision > 0.03
    assert of_intercept > 0.3


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.02])
def test_scores_that_hardly_differ_are_not_ranked_from_cells(deviation: float) -> None:
    """By rounding, cells of one class would all be above those of the other."""
    log_odds, labels = rare(0, 12_000)
    positives, negatives = cells_of([((log_odds - log_odds.mean()) / log_odds.std() * deviation - 2.03, labels)])

    figures = figures_of_cells(positives, negatives)

    assert roc_auc_from_microaggregates(positives, negatives) is None
    assert (figures["average_precision"], figures["calibration_slope"]) == (None, None)
    assert figures["calibration_intercept"] == pytest.approx(2.03 - np.log(1 / labels.mean() - 1), abs=0.05)


def test_figures_from_cells_need_both_classes() -> None:
    cells, nothing = np.array([[5.0, 1.0, 0.2]]), np.zeros((0, 3))

    assert set(figures_of_cells(cells, nothing).values()) == {None}
    assert set(figures_of_cells(nothing, cells).values()) == {None}


@pytest.mark.parametrize("seed", range(8))
def test_the_auc_from_cells_is_near_the_exact_auc(seed: int) -> None:
    hospitals = [
        hospital(seed, 303, 0.46),
        hospital(seed + 100, 294, 0.36, shift=-0.4),
        hospital(seed + 200, 123, 0.9, shift=0.8),
        hospital(seed + 300, 200, 0.75, shift=0.3),
    ]
    log_odds, labels = (np.concatenate(side) for side in zip(*hospitals, strict=True))
    positives = np.concatenate([microaggregate(scores[truth == 1]) for scores, truth in hospitals])
    negatives = np.concatenate([microaggregate(scores[truth == 0]) for scores, truth in hospitals])

    from_cells = roc_auc_from_microaggregates(positives, negatives)

    assert positives[:, 0].sum() + negatives[:, 0].sum() == len(labels)  # no class was too small to be released
    assert from_cells == pytest.approx(reference.roc_auc_score(labels, log_odds), abs=0.002)


@pytest.mark.parametrize("seed", range(6))
def test_the_auc_from_cells_of_real_hospitals_is_within_its_stated_bounds(uci: Source, seed: int) -> None:
    """0.005 over the patients in released cells, 0.02 over all: Switzerland has few patients without disease."""
    rows = uci.table.drop(columns=["hospital", "disease"])
    missing = rows.isna().astype(np.float64)
    features = np.hstack([((rows - rows.mean()) / rows.std()).fillna(0.0).to_numpy(), missing.to_numpy()])
    labels = uci.table["disease"].to_numpy(dtype=np.float32)
    sides = []
    for _, those in uci.table.groupby("hospital", sort=False):
        train, test = split_rows(those.drop(columns="hospital"), "disease", seed)
        sides.append((those.index[train].to_numpy(), those.index[test].to_numpy()))
    fitted = LogisticRegression(C=0.1).fit(
        *(array[np.concatenate([train for train, _ in sides])] for array in (features, labels))
    )
    log_odds = fitted.decision_function(features)

    from_cells = roc_auc_from_microaggregates(
        *(
            np.concatenate([microaggregate(log_odds[test][labels[test] == truth]) for _, test in sides])
            for truth in (1, 0)
        )
    )

    everyone = np.concatenate([test for _, test in sides])
    exact = reference.roc_auc_score(labels[everyone], log_odds[everyone])
    assert 0.8 < exact < 0.95
    assert from_cells == pytest.approx(exact, abs=0.02)
    released = np.concatenate(
        [test[labels[test] == truth] for _, test in sides for truth in (1, 0) if (labels[test] == truth).sum() >= 5]
    )
    assert len(released) < len(everyone)
    assert from_cells == pytest.approx(reference.roc_auc_score(labels[released], log_odds[released]), abs=0.005)


def test_the_auc_from_cells_worked_by_hand() -> None:
    low, high = np.array([[5.0, -2.0, 0.0]]), np.array([[5.0, 2.0, 0.0]])

    assert roc_auc_from_microaggregates(high, low) == pytest.approx(1.0)
    assert roc_auc_from_microaggregates(low, high) == pytest.approx(0.0)
    spread = np.array([[5.0, -2.0, 0.5]])
    assert roc_auc_from_microaggregates(spread, spread) == pytest.approx(0.5)
    # Three quarters of the positives are above all negatives, a quarter beneath.
    split, between = np.array([[15.0, 2.0, 0.1], [5.0, -2.0, 0.1]]), np.array([[7.0, 0.0, 0.1]])
    assert roc_auc_from_microaggregates(split, between) == pytest.approx(0.75)


@pytest.mark.parametrize("deviation", [0.8, 1.0, 2.0])
def test_patients_of_a_cell_are_spread_by_its_deviation(deviation: float) -> None:
    """An even spread of that deviation reaches sqrt(3) deviations from its mean, here 1, to either side."""
    reach = np.sqrt(3) * deviation
    above_zero = (1 + reach) / (2 * reach)

    from_cells = roc_auc_from_microaggregates(np.array([[5.0, 1.0, deviation]]), np.array([[5.0, 0.0, 0.0]]))

    assert from_cells == pytest.approx(above_zero, abs=1 / 30 + 1e-9)  # fifteen points a cell


def test_the_auc_from_cells_needs_both_classes() -> None:
    cells, nothing = np.array([[5.0, 1.0, 0.2]]), np.zeros((0, 3))

    assert roc_auc_from_microaggregates(cells, nothing) is None
    assert roc_auc_from_microaggregates(nothing, cells) is None


# The threshold

Hospitals = list[tuple[Scores, Labels]]


def pooled(hospitals: Hospitals) -> tuple[Scores, Labels]:
    log_odds, labels = (np.concatenate(side) for side in zip(*hospitals, strict=True))
    return log_odds, labels


def threshold_of(hospitals: Hospitals) -> float | None:
    """The threshold from the cells that the hospitals release of each class."""
    return choose_threshold(*cells_of(hospitals))


def cells_of(hospitals: Hospitals) -> tuple[Scores, Scores]:
    """Cells of positives and of negatives, of all hospitals together."""
    positives, negatives = (
        np.concatenate([microaggregate(log_odds[labels == truth]) for log_odds, labels in hospitals])
        for truth in (1, 0)
    )
    return positives, negatives


def f1_at(threshold: float, log_odds: Scores, labels: Labels) -> float:
    return float(reference.f1_score(labels, 1 / (1 + np.exp(-log_odds)) >= threshold))


def greatest_f1(log_odds: Scores, labels: Labels) -> float:
    precision, recall, _ = reference.precision_recall_curve(labels, log_odds)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


@pytest.mark.parametrize("seed", range(12))
def test_the_threshold_from_cells_is_nearly_the_best(seed: int) -> None:
    hospitals = [
        hospital(seed, 227, 0.46),
        hospital(seed + 100, 220, 0.36, shift=-0.4),
        hospital(seed + 200, 92, 0.9, shift=0.8),
        hospital(seed + 300, 150, 0.75, shift=0.3),
    ]
    log_odds, labels = pooled(hospitals)
    chosen = threshold_of(hospitals)

    assert chosen is not None
    assert f1_at(chosen, log_odds, labels) >= greatest_f1(log_odds, labels) - 0.012


@pytest.mark.parametrize(("diseased", "shift"), [(0.05, 0.0), (0.2, -2.0), (0.5, 3.0), (0.95, 0.0), (0.1, 6.0)])
def test_the_threshold_is_nearly_the_best_at_any_prevalence_and_calibration(diseased: float, shift: float) -> None:
    hospitals = [hospital(seed, 2000, diseased, shift=shift) for seed in (1, 2, 3)]
    log_odds, labels = pooled(hospitals)
    chosen = threshold_of(hospitals)

    assert chosen is not None
    assert f1_at(chosen, log_odds, labels) >= greatest_f1(log_odds, labels) - 0.01
    assert f1_at(chosen, log_odds, labels) >= f1_at(0.5, log_odds, labels) - 0.005


def brute_force(positives: list[tuple[int, float]], negatives: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """F1 and thresholds in log-odds of cells without deviation: below all scores, and midway between neighbours."""
    points = sorted({mean for _, mean in (*positives, *negatives)})
    thresholds = []
    for threshold in [points[0] - 0.1, *((low + high) / 2 for low, high in itertools.pairwise(points))]:
        hits = sum(patients for patients, mean in positives if mean >= threshold)
        alarms = sum(patients for patients, mean in negatives if mean >= threshold)
        misses = sum(patients for patients, _ in positives) - hits
        thresholds.append((2 * hits / (2 * hits + alarms + misses), threshold))
    return thresholds


CELLS = st.lists(
    st.tuples(st.integers(5, 40), st.integers(-40, 40).map(lambda mean: mean / 10)), min_size=1, max_size=8
)


@settings(max_examples=300)
@given(CELLS, CELLS)
def test_the_threshold_is_the_lowest_with_the_greatest_f1(
    positives: list[tuple[int, float]], negatives: list[tuple[int, float]]
) -> None:
    thresholds = brute_force(positives, negatives)
    greatest = max(f1 for f1, _ in thresholds)
    lowest = min(threshold for f1, threshold in thresholds if f1 > greatest - 1e-9)

    chosen = choose_threshold(
        *(np.array([(patients, mean, 0.0) for patients, mean in cells]) for cells in (positives, negatives))
    )

    assert chosen == pytest.approx(1 / (1 + math.exp(-lowest)), abs=0.5001e-4)


# From 0.5 on: 10 hits, 5 misses, F1 = 20/25. From -1.5 on: 15 hits, n alarms, 30/(30 + n). With all: 30/(50 + n).
@pytest.mark.parametrize(("between", "best"), [(6, -1.5), (7, -1.5), (8, 0.5), (16, 0.5)])
def test_a_threshold_worked_by_hand(between: int, best: float) -> None:
    positives = np.array([[10.0, 1.0, 0.0], [5.0, -1.0, 0.0]])
    negatives = np.array([[20.0, -2.0, 0.0], [between, 0.0, 0.0]])

    assert choose_threshold(positives, negatives) == pytest.approx(1 / (1 + math.exp(-best)), abs=1e-4)


def test_the_spread_of_a_cell_moves_the_threshold() -> None:
    """Positives that reach from -0.73 to 2.73, and negatives at -2: the threshold is below the lowest of them."""
    chosen = choose_threshold(np.array([[15.0, 1.0, 1.0]]), np.array([[100.0, -2.0, 0.0]]))

    assert chosen is not None
    lowest = 1 - math.sqrt(3) * 14 / 15
    assert chosen == pytest.approx(1 / (1 + math.exp(-(lowest - 2) / 2)), abs=1e-4)


def test_a_threshold_needs_both_classes() -> None:
    cells, nothing = np.array([[5.0, 1.0, 0.2]]), np.zeros((0, 3))

    assert choose_threshold(cells, nothing) is None
    assert choose_threshold(nothing, cells) is None
    assert choose_threshold(nothing, nothing) is None


@pytest.mark.parametrize("score", [-6.0, 0.0, 2.5, 7.0])
def test_equal_scores_predict_every_patient_positive(score: float) -> None:
    chosen = choose_threshold(np.array([[5.0, score, 0.0]]), np.array([[500.0, score, 0.0]]))

    assert chosen is not None
    assert 0 <= chosen <= 1 / (1 + math.exp(-score))


def test_a_threshold_is_a_plain_number_with_four_decimals() -> None:
    chosen = threshold_of([hospital(4, 300, 0.3)])

    assert type(chosen) is float
    assert chosen == round(chosen, 4)


@pytest.mark.parametrize(
    ("positive", "negative", "worst"),
    [
        (12.0, 10.0, 2 / 3),  # both are above 0.9999: four decimals cannot part them, but can call all positive
        (40.0, 38.0, 2 / 3),
        (-10.0, -12.0, 2 / 3),
        (30.0, -30.0, 1.0),
        (9.0, -9.0, 1.0),
        (1e30, -1e30, 1.0),
        (-1e30, -2e30, 2 / 3),
        (1e38, 1e37, 2 / 3),
    ],
)
def test_the_threshold_of_extreme_scores_is_not_rounded_past_every_patient(
    positive: float, negative: float, worst: float
) -> None:
    chosen = choose_threshold(np.array([[10.0, positive, 0.0]]), np.array([[10.0, negative, 0.0]]))

    assert chosen is not None
    assert 0 <= chosen <= 1
    scores, labels = probability(np.repeat([positive, negative], 10)), np.repeat([1, 0], 10).astype(np.float32)
    assert count_outcomes(scores, labels, chosen).f1 == pytest.approx(worst)


def test_counts_depend_on_the_threshold_and_losses_do_not() -> None:
    low, high = (count_outcomes(SCORES, LABELS, threshold) for threshold in (0.35, 0.85))

    assert (low.true_positives, low.false_positives, low.true_negatives, low.false_negatives) == (3, 1, 2, 0)
    assert (high.true_positives, high.false_positives, high.true_negatives, high.false_negatives) == (1, 0, 3, 2)
    assert (low.loss_sum, low.squared_error_sum) == (high.loss_sum, high.squared_error_sum)
