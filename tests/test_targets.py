"""Targets of every kind of label: losses, figures and groups against scikit-learn and by hand, and whole runs."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import MetricRecord, RecordDict
from sklearn import linear_model
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight

from federated_health.errors import RunError, SettingsError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.content import Evaluation
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.validation import read_evaluation
from federated_health.ml.class_weights import balance_classes
from federated_health.ml.intervals import compare_models
from federated_health.ml.metrics import LESS_IS_BETTER, merge_counts
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.rounds import HospitalRound, Round, read_round, write_round
from federated_health.ml.targets import Target, target_of
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.targets import INTERCEPTS, SLOPES, hospitals_of, patients_of, task_of
from tests.test_messages import over_the_wire

KINDS = ("binary", "classes", "number", "count")
NORMALISATION = Normalisation(mean=(50.0, 80.0), variance=(100.0, 225.0))


def sample(kind: str, rows: int = 60) -> tuple[Target[Any], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A target, some outputs that are better than chance, and labels."""
    target, labels = target_of(task_of(kind)), patients_of(kind, rows).labels
    noise = np.random.default_rng(7).normal(size=(rows, target.outputs)).astype(np.float32)
    if kind == "classes":
        noise[np.arange(rows), target.class_of(labels)] += 1
        return target, noise, labels
    scales: dict[str, npt.NDArray[Any]] = {
        "binary": labels,
        "number": (labels - 30) / 10,
        "count": np.log(labels + 1),
    }
    scaled = scales[kind]
    return target, (0.5 * scaled + 0.3 * noise[:, 0]).astype(np.float32), labels


def figures_of(kind: str) -> tuple[dict[str, Any], npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Figures of a sample, its predictions and its labels."""
    target, outputs, labels = sample(kind)
    sums = target.measure(outputs, labels, 0.5)
    return target.figures(sums, 100, target.roc_auc(outputs, labels)), target.predict(outputs), labels


# Figures


def test_figures_of_classes_are_those_of_scikit_learn() -> None:
    figures, predicted, labels = figures_of("classes")
    codes = np.array([0, 1, 3])

    decided = codes[predicted.argmax(axis=1)]
    assert figures["accuracy"] == reference.accuracy_score(labels, decided)
    assert figures["macro_f1"] == pytest.approx(reference.f1_score(labels, decided, average="macro"))
    assert figures["roc_auc"] == pytest.approx(reference.roc_auc_score(labels, predicted, multi_class="ovr"), abs=1e-6)
    one_hot = labels[:, np.newaxis] == codes
    assert figures["brier"] == pytest.approx(((predicted - one_hot) ** 2).sum(axis=1).mean())


def test_the_confusion_matrix_counts_actual_and_predicted_classes() -> None:
    target, outputs, labels = sample("classes")

    matrix = target.measure(outputs, labels, 0.5).matrix

    decided = np.array([0, 1, 3])[outputs.argmax(axis=1)]
    assert matrix.tolist() == reference.confusion_matrix(labels, decided).tolist()


def test_a_class_that_does_not_occur_does_not_count_in_the_macro_f1() -> None:
    target = target_of(task_of("classes"))
    outputs, labels = np.array([[2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0]]), np.array([0.0, 1, 1])

    sums = target.measure(outputs, labels, 0.5)

    assert sums.macro_f1 == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert target.roc_auc(outputs, labels) == 0.75  # of two classes: 3 has no patient


def test_figures_of_a_number_are_those_of_scikit_learn() -> None:
    figures, predicted, labels = figures_of("number")

    assert figures["mae"] == pytest.approx(reference.mean_absolute_error(labels, predicted), rel=1e-5)
    assert figures["rmse"] == pytest.approx(reference.root_mean_squared_error(labels, predicted), rel=1e-5)
    assert figures["r2"] == pytest.approx(reference.r2_score(labels, predicted), abs=1e-5)
    slope = linear_model.LinearRegression().fit(predicted[:, np.newaxis], labels).coef_[0]
    assert figures["calibration_slope"] == pytest.approx(slope, rel=1e-5)


def test_figures_of_a_count_are_those_of_scikit_learn() -> None:
    figures, expected, labels = figures_of("count")

    assert figures["deviance"] == pytest.approx(reference.mean_poisson_deviance(labels, expected), rel=1e-5)
    assert figures["deviance_explained"] == pytest.approx(
        reference.d2_tweedie_score(labels, expected, power=1), abs=1e-5
    )
    assert figures["observed_expected"] == pytest.approx(labels.sum() / expected.sum())
    assert figures["mae"] == pytest.approx(reference.mean_absolute_error(labels, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_figures_without_rows_are_not_defined(kind: str) -> None:
    target = target_of(task_of(kind))

    figures = target.figures(target.no_sums, 0, None)

    assert {value for name, value in figures.items() if "examples" not in name} == {None}


def test_figures_of_equal_labels_are_not_defined() -> None:
    number, count = target_of(task_of("number")), target_of(task_of("count"))
    equal = np.full(20, 31.4, dtype=np.float32)

    of_number = number.figures(number.measure(np.zeros(20), equal, 0.5), 0, None)
    of_count = count.figures(count.measure(np.zeros(20), np.zeros(20), 0.5), 0, None)

    assert (of_number["r2"], of_number["calibration_slope"]) == (None, None)
    assert (of_count["deviance_explained"], of_count["observed_expected"]) == (None, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_parts_merge_to_those_of_all_rows(kind: str) -> None:
    target, outputs, labels = sample(kind)

    parts = merge_counts(
        [target.measure(outputs[:23], labels[:23], 0.5), target.measure(outputs[23:], labels[23:], 0.5)]
    )

    whole = target.measure(outputs, labels, 0.5)
    for field in fields(whole):
        assert getattr(parts, field.name) == pytest.approx(getattr(whole, field.name))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_loss_of_sums_is_the_loss_that_training_minimises(kind: str) -> None:
    tf = pytest.importorskip("tensorflow")
    target, outputs, labels = sample(kind)

    trained = target.losses(tf, tf.constant(labels), tf.constant(outputs.reshape(len(labels), -1)))

    assert target.measure(outputs, labels, 0.5).loss == pytest.approx(float(np.mean(trained)), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_predicts_as_the_target_does(kind: str) -> None:
    keras = pytest.importorskip("keras")
    target, outputs, _ = sample(kind)

    saved = np.asarray(target.predictions(keras, outputs.reshape(len(outputs), -1)))

    np.testing.assert_allclose(saved.reshape(outputs.shape), target.predict(outputs), rtol=1e-5)


# Comparisons


@pytest.mark.parametrize("kind", KINDS)
def test_compared_figures_are_those_of_the_rows(kind: str) -> None:
    target, outputs, labels = sample(kind)
    sums = target.measure(outputs, labels, 0.5)
    figures = target.figures(sums, 0, target.roc_auc(outputs, labels)) | {"log_loss": sums.loss}

    estimates = {figure: target.estimate_figure(figure, outputs, labels) for figure in target.comparisons}

    assert {figure: estimate.value for figure, estimate in estimates.items()} == pytest.approx(
        {figure: figures[figure] for figure in target.comparisons}, rel=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_compared_figures_of_repeats_are_means_of_theirs(kind: str) -> None:
    target, outputs, labels = sample(kind)
    repeats, ids = np.stack([outputs, 0.3 * outputs[::-1]]), np.arange(len(labels)) // 2
    for figure in target.comparisons:
        estimate = target.estimate_figure(figure, repeats, labels, ids)

        single = [target.estimate_figure(figure, part, labels, ids) for part in repeats]
        assert estimate.value == pytest.approx(np.mean([of.value for of in single]))
        np.testing.assert_allclose(estimate.influence, np.mean([of.influence for of in single], axis=0), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_influences_are_how_far_each_row_moves_a_figure(kind: str) -> None:
    """A row that counts slightly more moves the figure by its influence, as the figure of one more such row shows."""
    target, outputs, labels = sample(kind)
    copies = 400
    for figure in target.comparisons:
        once = target.estimate_figure(figure, outputs, labels)
        for row in (0, 17, 59):
            rows = np.append(np.tile(np.arange(60), copies), row)
            moved = target.estimate_figure(figure, outputs[rows], labels[rows])

            assert (moved.value - once.value) * copies == pytest.approx(once.influence[row], rel=0.05, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_is_positive_where_the_federated_model_is_better(kind: str) -> None:
    target, outputs, labels = sample(kind)
    others = np.random.default_rng(2).normal(size=outputs.shape).astype(np.float32)

    compared = compare_models(target, outputs, others, labels)

    assert tuple(compared) == target.comparisons
    for comparison in compared.values():
        difference, federated, own = comparison.difference, comparison.federated.value, comparison.own.value
        assert difference.low is not None
        assert difference.high is not None
        assert federated is not None
        assert own is not None
        assert 0 < difference.low < abs(federated - own) < difference.high


def test_classes_of_fewer_than_five_patients_do_not_count_in_a_comparison() -> None:
    target = target_of(task_of("classes"))
    labels = np.repeat([0.0, 1.0, 3.0], [6, 5, 4])
    outputs = np.random.default_rng(3).normal(size=(15, 3))

    estimate = target.estimate_figure("roc_auc", outputs, labels)

    log_odds = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True) - np.exp(outputs))
    expected = [reference.roc_auc_score(labels == code, log_odds[:, k]) for k, code in enumerate([0, 1])]
    assert estimate.value == pytest.approx(np.mean(expected))
    assert target.can_compare(labels)
    assert not target.can_compare(labels[5:])  # one patient of class 0


# What hospitals send


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_survives_the_wire(kind: str) -> None:
    target, outputs, labels = sample(kind)
    sent = Evaluation(
        counts=target.measure(outputs, labels, 0.5),
        roc_auc=target.roc_auc(outputs, labels),
        scores=target.group_scores(outputs, labels),
    )

    read = read_evaluation(over_the_wire(sent.to_content()), target, len(labels), final=True)

    assert (read.counts, read.roc_auc) == (sent.counts, sent.roc_auc)
    assert {name: groups.tolist() for name, groups in read.scores.items()} == {
        name: groups.tolist() for name, groups in sent.scores.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_is_read_as_it_was_written(kind: str) -> None:
    target, outputs, labels = sample(kind)
    figures = HospitalRound(10, 0.5, target.measure(outputs, labels, 0.5))
    completed = Round(1, {"north": figures, "south": HospitalRound(5, None, None)}, figures)

    assert read_round(write_round(completed)) == completed


@pytest.mark.parametrize("kind", KINDS)
def test_no_group_holds_fewer_than_five_patients(kind: str) -> None:
    target, outputs, labels = sample(kind)

    groups = target.group_scores(outputs, labels, np.zeros(len(labels), dtype=np.int64))
    assert all(len(part) == 0 for part in groups.values())  # all rows are one patient's

    groups = target.group_scores(outputs, labels, np.arange(len(labels)))

    assert min(rows for part in groups.values() for rows, *_ in part) >= 5
    assert {name: part[:, 0].sum() for name, part in groups.items()} == dict(
        target.rows_of_groups(target.measure(outputs, labels, 0.5))
    )


def test_groups_of_a_number_are_means_of_similar_predictions() -> None:
    target = target_of(task_of("number"))
    outputs, labels = np.array([5, 1, 4, 2, 3, 9, 8, 7, 6, 10.0]), np.arange(10.0)

    (first, second) = target.group_scores(outputs, labels)["predictions"].tolist()

    assert first == [5, 30 + 10 * 3, 2.0]  # outputs 1 to 5, whose labels are 1, 3, 4, 2, 0
    assert second == [5, 30 + 10 * 8, 7.0]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("classes", {"confusion": [60] + [0] * 7}),
        ("classes", {"confusion": [61, -1] + [0] * 7}),
        ("classes", {"confusion": [60.0] + [0.0] * 8}),
        ("classes", {"confusion": [59] + [0] * 8}),
        ("classes", {"squared_error_sum": 121.0}),
        ("classes", {"loss_sum": 60 * 28.1}),
        ("number", {"examples": 59}),
        ("number", {"squared_error_sum": -1.0}),
        ("number", {"label_sum": 60 * 14.0}),
        ("number", {"label_squares": 60 * 13.0**2 * 1.01}),
        ("number", {"product_sum": float("nan")}),
        ("count", {"observed_sum": 60_001.0}),
        ("count", {"observed_sum": 1.5}),
        ("count", {"expected_sum": -1.0}),
        ("count", {"log_sum": 1e9}),
    ],
)
def test_sums_that_no_rows_add_up_to_are_refused(kind: str, changes: dict[str, Any]) -> None:
    target, outputs, labels = sample(kind)
    metrics = Evaluation(counts=target.measure(outputs, labels, 0.5)).to_content().metric_records["metrics"]
    content = RecordDict({"metrics": MetricRecord({**metrics, **changes})})

    with pytest.raises(MalformedMessageError):
        read_evaluation(content, target, 60)


@pytest.mark.parametrize(
    ("kind", "is_sent"), [("binary", True), ("classes", True), ("number", False), ("count", False)]
)
def test_sums_over_the_labels_of_fewer_than_five_patients_stay_at_the_hospital(kind: str, is_sent: bool) -> None:
    hospitals = hospitals_of(kind)
    hospitals[0] = replace(hospitals[0], test=patients_of(kind, 4))

    run = run_of(kind, hospitals, rounds=2)
    run.run()

    counts = run.evaluations["north"].counts
    by_round = [completed.hospitals["north"] for completed in run.history]
    assert counts.examples == (4 if is_sent else 0)
    assert [figures.counts.examples for figures in by_round if figures.counts] == [counts.examples] * 2


# Runs


def run_of(kind: str, hospitals: Any = None, **settings: Any) -> PlainRun:
    """A run in this process over hospitals whose rows are in memory."""
    hospitals = hospitals or hospitals_of(kind)
    values = {"model": "logistic", "rounds": 2, "appraisal": False, **settings}
    chosen = Settings(hospitals=len(hospitals), declared_task=hospitals[0].task, **values)
    contexts = {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}
    return PlainRun(InProcessTransport(handlers.answer, contexts), chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_one_full_batch_step_averaged_is_the_pooled_step(kind: str) -> None:
    hospitals = hospitals_of(kind)
    run = run_of(kind, hospitals, rounds=1, local_epochs=1, batch_size=0, learning_rate=0.1, l2=0.01)

    run.run()

    pooled = patients_of_all(hospitals)
    start = initial_weights(hospitals[0].task, run.settings.network_declaration, 42)
    expected = pooled_step(kind, start, pooled, run.normalisation, 0.1, 0.01)
    for name, array in run.weights.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-5)


def patients_of_all(hospitals: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    values = np.concatenate([hospital.train.values for hospital in hospitals])
    return values, np.concatenate([hospital.train.labels for hospital in hospitals]).astype(np.float64)


def pooled_step(kind: str, start: Any, pooled: Any, normalisation: Any, rate: float, l2: float) -> dict[str, Any]:
    """One step of gradient descent on all rows in one place, written out per kind of label."""
    values, labels = pooled
    scaled = (values - normalisation.mean) / np.sqrt(normalisation.variance)
    features = np.stack([scaled[:, 0], np.zeros(len(labels)), scaled[:, 1], np.zeros(len(labels))], axis=1)
    kernel, bias = (start[name].astype(np.float64) for name in ("logit/kernel", "logit/bias"))
    outputs = features @ kernel + bias
    if kind == "binary":
        slopes = 1 / (1 + np.exp(-outputs)) - labels[:, np.newaxis]
    elif kind == "classes":
        powers = np.exp(outputs)
        slopes = powers / powers.sum(axis=1, keepdims=True) - (labels[:, np.newaxis] == [0, 1, 3])
    elif kind == "number":
        slopes = 2 * (outputs - ((labels - 30) / 10)[:, np.newaxis])
    else:
        slopes = np.exp(outputs) - labels[:, np.newaxis]
    rows = len(labels)
    return {
        "logit/kernel": kernel - rate * (features.T @ slopes / rows + l2 * kernel),
        "logit/bias": bias - rate * slopes.sum(axis=0) / rows,
    }


@pytest.mark.parametrize(("kind", "error"), [("number", 0.03), ("count", 0.06)])
def test_a_linear_network_recovers_the_coefficients_of_the_truth(kind: str, error: float) -> None:
    """The stated error is about three standard errors of the estimates from 1,500 rows."""
    hospitals = hospitals_of(kind, (600, 500, 400))
    run = run_of(kind, hospitals, rounds=30, local_epochs=2, learning_rate=0.02, l2=0.0, batch_size=64)

    run.run()

    assert run.normalisation is not None
    mean, deviation = np.array(run.normalisation.mean), np.sqrt(run.normalisation.variance)
    slopes = run.weights["logit/kernel"][[0, 2], 0] / deviation * [10, 15]
    intercept = run.weights["logit/bias"][0] + slopes @ ((np.array([50, 80]) - mean) / [10, 15])
    np.testing.assert_allclose(slopes, SLOPES[kind], atol=error)
    assert intercept == pytest.approx(INTERCEPTS[kind], abs=error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_reports_figures_and_the_benefit_of_joining(kind: str) -> None:
    run = run_of(kind, appraisal=True, rounds=5, learning_rate=0.1)

    figures = run.run()

    target = target_of(task_of(kind))
    assert set(figures["hospitals"]) == set(figures["joining"]) == {"north", "south", "east"}
    for benefit in figures["joining"].values():
        assert tuple(benefit["comparisons"]) == target.comparisons
        for figure, comparison in benefit["comparisons"].items():
            own, federated, difference = (comparison[key] for key in ("own", "federated", "difference"))
            sign = -1 if figure in LESS_IS_BETTER else 1
            assert difference["value"] == pytest.approx(sign * (federated["value"] - own["value"]))
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert max(figures["importance"], key=figures["importance"].__getitem__) == "age"


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        ("classes", "average"),
        ("number", "fedmedian"),
        ("count", "fedadam"),
        ("classes", "krum"),
        *((kind, "qfedavg") for kind in KINDS),  # the only one that reads the loss
    ],
)
def test_strategies_train_every_kind(kind: str, strategy: str) -> None:
    run = run_of(kind, strategy=strategy, rounds=2)
    before = initial_weights(task_of(kind), run.settings.network_declaration, 42)

    run.run()

    assert len(run.history) == 2
    assert any((run.weights[name] != before[name]).any() for name in before)


@pytest.mark.parametrize("kind", KINDS)
def test_differential_privacy_trains_every_kind(kind: str) -> None:
    run = run_of(kind, dp_epsilon=8.0, rounds=2)

    figures = run.run()["federation"]

    if kind in ("binary", "classes"):
        assert abs(figures["test_examples"] - 120) < 7 * figures["test_examples_noise"]
    else:  # no held-out figure is released
        assert figures["test_examples"] == 0


# Class weights


def test_balanced_class_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 3], [50, 30, 20])

    weights = balance_classes([(20, 30, 0), (30, 0, 20)])

    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert weights == pytest.approx(expected.tolist())


def test_a_class_without_patients_cannot_be_balanced() -> None:
    with pytest.raises(RunError, match="class 2 of 2"):
        balance_classes([(20, 0), (30, 0)])


def test_balanced_training_weighs_each_row_by_its_class() -> None:
    hospitals = hospitals_of("binary")
    for hospital in hospitals:
        hospital.train.labels[12:] = 0  # 12 rows of class 1 at most
    settings = {"rounds": 1, "local_epochs": 1, "batch_size": 0, "l2": 0.0, "learning_rate": 0.1}

    run = run_of("binary", hospitals, class_weight="balanced", **settings)
    run.run()

    values, labels = patients_of_all(hospitals)
    known = np.array([(hospital.train.labels == 1).sum() for hospital in hospitals])
    positives = known[known >= 5].sum()
    assert run.class_weights == pytest.approx(
        tuple((len(labels) - known[known < 5].sum()) / (2 * rows) for rows in (len(labels) - known.sum(), positives))
    )
    start = initial_weights(hospitals[0].task, run.settings.network_declaration, 42)
    factors = np.array(run.class_weights)[labels.astype(int)]
    assert run.normalisation is not None
    scaled = (values - run.normalisation.mean) / np.sqrt(run.normalisation.variance)
    features = np.stack([scaled[:, 0], np.zeros(len(labels)), scaled[:, 1], np.zeros(len(labels))], axis=1)
    outputs = (features @ start["logit/kernel"])[:, 0]
    slopes = factors * (1 / (1 + np.exp(-outputs)) - labels)
    expected = start["logit/kernel"][:, 0] - 0.1 * features.T @ slopes / len(labels)
    np.testing.assert_allclose(run.weights["logit/kernel"][:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("other", [{"dp_epsilon": 1.0}, {"secure_aggregation": True}])
def test_balanced_class_weights_need_numbers_that_privacy_withholds(other: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="class-weight"):
        Settings(class_weight="balanced", **other)
