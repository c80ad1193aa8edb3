"""The table of noisy counts: what one patient changes in it, and the figures that are computed from it."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import MetricRecord, RecordDict
from scipy.stats import norm

from federated_health.data.labels import ClassLabel
from federated_health.data.task_files import HEART_DISEASE, READMISSION_30D
from federated_health.messages.content import NOISY_COUNTS
from federated_health.messages.noisy_evaluation import make_evaluation, noisy_figures, read_noisy_evaluation
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.ml.noisy_evaluation import (
    EDGES,
    EXCHANGE,
    MAX_CHANGE,
    count_rows,
    edges_of,
    figures_of,
    fixed_threshold,
    largest_change,
    read_table,
    table_shape,
)
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.ml.scores import roc_auc
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import BinaryTarget, Counts
from federated_health.ml.targets.classes import ClassTarget
from tests.support.targets import LABELS, task_of

BINARY = BinaryTarget(HEART_DISEASE.label)
CELLS = 2 * (len(EDGES) + 1)


def plan_of(epsilon: float, delta: float) -> PrivacyPlan:
    return PrivacyPlan(
        epsilon=epsilon,
        delta=delta,
        clip=1.0,
        sampling_rate=0.5,
        steps=1,
        learning_rate=1.0,
        rounds=3,
        run="0" * 16,
    )


def random_rows(seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Outputs, labels and patients of 60 rows of 25 patients, all numbers of patients in use."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(60) < 0.5).astype(np.float32)
    patients = np.concatenate([np.arange(25), generator.integers(0, 25, 35)])
    return generator.normal(0, 3, 60).astype(np.float32), labels, patients.astype(np.intp)


def without(patient: int, patients: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
    rest = patients != patient
    return rest, np.unique(patients[rest], return_inverse=True)[1]


# One patient


@pytest.mark.parametrize("largest", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_patient_changes_the_table_by_at_most_the_bound_however_many_rows_it_has(seed: int, largest: float) -> None:
    outputs, labels, patients = random_rows(seed)
    patients[:15] = 3  # of many rows
    patients = np.unique(patients, return_inverse=True)[1]
    table = count_rows(BINARY, outputs, labels, patients, largest)
    for patient in range(patients.max() + 1):
        rest, numbers = without(patient, patients)
        other = count_rows(BINARY, outputs[rest], labels[rest], numbers, largest)
        own = count_rows(BINARY, outputs[~rest], labels[~rest], np.arange((~rest).sum()), 1.0)  # each row is counted
        expected = own * min(1.0, largest / float(np.linalg.norm(own)))
        np.testing.assert_allclose(table - other, expected, atol=1e-12)
        assert np.linalg.norm(table - other) <= largest + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_an_exchanged_patient_changes_the_table_by_at_most_the_root_of_2(seed: int) -> None:
    outputs, labels, patients = random_rows(seed)
    table = count_rows(BINARY, outputs, labels, patients, 2.0)
    generator = np.random.default_rng(seed)
    for patient in range(25):
        own = patients == patient
        others = np.where(own, generator.normal(0, 8, 60).astype(np.float32), outputs)
        exchanged = count_rows(BINARY, others, np.where(own, 1 - labels, labels), patients, 2.0)
        assert 0 < np.linalg.norm(table - exchanged) <= 2.0 * EXCHANGE + 1e-12


def test_patients_have_several_rows_only_where_a_column_identifies_them() -> None:
    assert (largest_change(HEART_DISEASE), largest_change(READMISSION_30D)) == (1.0, MAX_CHANGE)


# Noise


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-5), (1.0, 1e-3), (2.0, 1e-5), (8.0, 1e-5), (2.0, 1e-9)])
def test_the_noise_is_that_of_the_analytic_gaussian_mechanism(epsilon: float, delta: float) -> None:
    """Balle & Wang 2018, theorem 8: the smallest noise for (epsilon, delta) and a change of 1."""

    def delta_of(noise: float, change: float = 1.0, epsilon: float = epsilon) -> float:
        mu = change / noise
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu))

    plan = plan_of(epsilon, delta)
    assert delta_of(plan.evaluation_noise) <= delta < delta_of(plan.evaluation_noise * 0.999)
    exchanged = plan.exchange_epsilons["held_out"]
    assert delta_of(plan.evaluation_noise, EXCHANGE, exchanged) <= delta * (1 + 1e-6)
    assert delta_of(plan.evaluation_noise, EXCHANGE, exchanged * 0.998) > delta


def test_the_noise_of_figures_is_its_standard_deviation() -> None:
    table = np.full((2, len(EDGES) + 1), 500.0)
    figures = figures_of(BINARY, table, 3.0, 7)
    assert figures["test_examples_noise"] == pytest.approx(3 * math.sqrt(CELLS), rel=0.15)
    # Accuracy is (A, correct) / (A + B): its derivative is half that of A minus B, over 8000 patients.
    assert figures["accuracy_noise"] == pytest.approx(3 * math.sqrt(CELLS) / 2 / (CELLS * 500), rel=0.15)
    assert "train_examples_noise" not in figures
    assert figures == figures_of(BINARY, table, 3.0, 7)


def test_the_noise_of_several_hospitals_adds_up() -> None:
    evaluation = make_evaluation(BINARY, np.full((2, len(EDGES) + 1), 500.0))
    one, four = (noisy_figures([evaluation] * number, BINARY, 3.0, 7) for number in (1, 4))
    assert four["test_examples"] == 4 * one["test_examples"]
    assert four["test_examples_noise"] == pytest.approx(2 * one["test_examples_noise"], rel=1e-2)


# Figures


def test_a_table_without_noise_has_the_outcome_counts_and_nearly_the_exact_figures() -> None:
    generator = np.random.default_rng(1)
    labels = (generator.random(5000) < 0.4).astype(np.float32)
    outputs = (generator.normal(0, 2, 5000) + 2 * labels - 1).astype(np.float32)

    sums, auc = read_table(BINARY, count_rows(BINARY, outputs, labels, np.arange(5000), 1.0))

    exact = BINARY.measure(outputs, labels, 0.5)
    assert isinstance(sums, Counts)
    assert sums.matrix == exact.matrix
    assert sums.squared_error_sum == pytest.approx(exact.squared_error_sum, rel=0.03)
    assert auc == pytest.approx(roc_auc(outputs, labels), abs=0.015)


def test_the_roc_auc_of_a_table_counts_pairs_of_one_bin_one_half() -> None:
    labels = np.array([0, 0, 0, 1, 1], np.float32)
    outputs = np.array([-5, -0.5, 1.5, 1.5, 5], np.float32)
    _, auc = read_table(BINARY, count_rows(BINARY, outputs, labels, np.arange(5), 1.0))
    assert auc == pytest.approx(roc_auc(outputs, labels)) == pytest.approx(5.5 / 6)


def test_ranges_around_a_typical_share_tell_risks_of_a_rare_outcome_apart() -> None:
    rare = BinaryTarget(READMISSION_30D.label)
    assert READMISSION_30D.label.typical_share == 0.11
    edges = edges_of(rare)
    assert fixed_threshold(rare) == 0.11
    assert np.abs(edges - np.log(0.11 / 0.89)).min() == 0
    assert (np.diff(edges) > 0.1).all()
    assert ((edges > -3.2) & (edges < -1.0)).sum() >= 8  # risks of 0.04 to 0.27
    assert table_shape(rare) == (2, len(edges) + 1)
    generator = np.random.default_rng(1)
    outputs = generator.normal(-2.2, 0.6, 20_000).astype(np.float32)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-outputs))).astype(np.float32)

    table = count_rows(rare, outputs, labels, np.arange(20_000), 2.0)
    figures = figures_of(rare, table, 4.0, 7)

    exact = rare.score_figures(outputs, labels)
    counts = rare.measure(outputs, labels, fixed_threshold(rare))
    sums = read_table(rare, count_rows(rare, outputs, labels, np.arange(20_000), 1.0)).sums
    assert isinstance(sums, Counts)
    assert sums.matrix == counts.matrix
    assert figures["roc_auc"] == pytest.approx(roc_auc(outputs, labels), abs=0.005)
    assert figures["prevalence"] == pytest.approx(labels.mean(), abs=1e-4)
    assert figures["average_precision"] == pytest.approx(exact["average_precision"], abs=0.01)
    assert figures["calibration_slope"] == pytest.approx(exact["calibration_slope"], abs=0.05)
    assert figures["calibration_intercept"] == pytest.approx(exact["calibration_intercept"], abs=0.05)
    assert 0 < figures["calibration_slope_noise"] < 0.2


def test_counts_below_0_become_0() -> None:
    table = np.full((2, len(EDGES) + 1), -1.0)
    sums, auc = read_table(BINARY, table)
    assert (sums.examples, auc) == (0, None)
    table[1] = 2.0
    sums, auc = read_table(BINARY, table)
    assert isinstance(sums, Counts)
    assert (sums.matrix, auc) == ((0, 0, 8, 8), None)
    assert 0 <= sums.squared_error_sum <= 16


def test_several_classes_have_a_confusion_matrix() -> None:
    target = ClassTarget(ClassLabel(name="grade", meaning="grade", codes={0: "a", 2: "b", 5: "c"}))
    labels, outputs = np.array([0, 2, 5, 5], np.float32), np.eye(3, dtype=np.float32)[[0, 0, 2, 1]]
    table = count_rows(target, outputs, labels, np.arange(4), 1.0)
    assert table.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    figures = noisy_figures([make_evaluation(target, table)], target, 1.0, 9)
    assert figures["accuracy"] == 0.5
    assert figures["brier"] is figures["roc_auc"] is None


@pytest.mark.parametrize("kind", LABELS)
def test_only_a_label_without_classes_has_no_table(kind: str) -> None:
    assert (table_shape(target_of(task_of(kind))) is None) == (kind in ("number", "count"))


# The message


def message_with(counts: list[float], **others: float) -> RecordDict:
    return RecordDict({METRICS: MetricRecord({NOISY_COUNTS: counts, **others})})


def test_an_evaluation_is_read_as_it_was_written() -> None:
    table = np.random.default_rng(3).normal(5, 8, (2, len(EDGES) + 1))
    evaluation = make_evaluation(BINARY, table)
    content = evaluation.to_content()
    assert dict(content.metric_records[METRICS]) == {NOISY_COUNTS: table.ravel().tolist()}
    assert read_noisy_evaluation(content, BINARY) == evaluation


@pytest.mark.parametrize(
    "content",
    [
        message_with([1.0] * (CELLS - 1)),
        message_with([1.0] * (CELLS + 1)),
        message_with([math.nan] + [1.0] * (CELLS - 1)),
        message_with([-1e9] + [1.0] * (CELLS - 1)),
        message_with([1.0] * CELLS, roc_auc=0.5),
        RecordDict({METRICS: MetricRecord({"num-examples": 3})}),
    ],
)
def test_an_impossible_evaluation_is_refused(content: RecordDict) -> None:
    with pytest.raises(MalformedMessageError):
        read_noisy_evaluation(content, BINARY)
