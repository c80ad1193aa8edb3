"""What leaves a hospital whose data are not public: no count of few patients, nor the complement of one."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from flwr.app import Context, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import DisclosureError
from federated_health.hospital import handlers
from federated_health.hospital.disclosure import disclose, join_cells
from federated_health.hospital.policy import Policy
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import (
    DIFFERENCING,
    SMALL_CELL,
    SWITCHED_OFF,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.validation import (
    read_evaluation,
    read_registration,
    read_training_scores,
    read_update,
)
from federated_health.ml.calibration import Calibration
from federated_health.ml.networks import Network, weight_shapes
from federated_health.ml.normalisation import column_sums
from federated_health.ml.scores import microaggregate
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.transport.app_calls import hospital_context
from tests.support.example_run import benefit, comparison
from tests.support.own_hospitals import WEIGHTS, OwnHospital, message_of, metrics_of, registration_request
from tests.support.targets import task_of

MIN_CELL = 5
TARGET = target_of(HEART_DISEASE)
COLUMNS = len(HEART_DISEASE.columns)

pytestmark = pytest.mark.usefixtures("server_identity")


def hospital_with(train: tuple[int, int], test: tuple[int, int], seed: int = 0) -> Hospital:
    """A hospital with these numbers of positive and negative patients on either side of its split."""
    generator = np.random.default_rng(seed)

    def patients(positives: int, negatives: int) -> Patients:
        values = np.array([column_values(column, positives + negatives, generator) for column in HEART_DISEASE.columns])
        labels = np.array([1.0] * positives + [0.0] * negatives, dtype=np.float32)
        return Patients(values.T.reshape(-1, COLUMNS), labels)

    return Hospital(name="basel", task=HEART_DISEASE, train=patients(*train), test=patients(*test))


def column_values(column: Any, rows: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Random values of a column, a fifth of them missing."""
    choices = list(column.codes) if hasattr(column, "codes") else np.linspace(column.low, column.high, 7).tolist()
    values = generator.choice(np.array(choices, dtype=np.float64), rows)
    return np.where(generator.random(rows) < 0.2, np.nan, values)


def is_safe(part: float, whole: float) -> bool:
    return all(count == 0 or count >= MIN_CELL for count in (part, whole - part))


def counts_of(tp: int, fp: int, tn: int, fn: int) -> Counts:
    rows = tp + fp + tn + fn
    return Counts(tp, fp, tn, fn, loss_sum=0.123456789 * rows, squared_error_sum=0.0987654321 * rows)


# Counts of outcomes


def test_the_outcomes_of_seven_patients_do_not_leave() -> None:
    hospital, counts = hospital_with((12, 11), (4, 3)), counts_of(4, 0, 3, 0)

    update = disclose(Update(weights=WEIGHTS, examples=23, loss=0.5, counts=counts), hospital, Policy())
    final = disclose(Evaluation(counts=counts), hospital, Policy(), is_final=True)

    assert update.counts is None
    assert set(update.suppressed) == {"round-evaluation"}
    assert update.weights is WEIGHTS
    metrics = update.to_content().metric_records["metrics"]
    assert set(metrics) == {"num-examples", "train-loss"}
    assert set(final.to_content().metric_records["metrics"]) == set()
    assert final.to_content().config_records["disclosure"] == {"final-evaluation": SMALL_CELL}


@pytest.mark.parametrize(
    ("cells", "is_released"),
    [
        ((30, 10, 30, 10), True),
        ((40, 0, 40, 0), True),
        ((39, 10, 30, 1), False),
        ((5, 5, 5, 5), True),
        ((5, 5, 5, 4), False),
        ((29, 0, 50, 1), False),  # 29 of 30 positive patients are found: one is not
    ],
)
def test_a_cell_leaves_only_if_each_cell_beside_it_may(cells: tuple[int, int, int, int], is_released: bool) -> None:
    tp, fp, tn, fn = cells
    hospital = hospital_with((20, 20), (tp + fn, fp + tn))

    evaluation = disclose(Evaluation(counts=counts_of(*cells)), hospital, Policy())

    assert evaluation.has_counts == is_released
    assert ("true_positives" in evaluation.to_content().metric_records["metrics"]) == is_released


def test_losses_are_rounded_as_in_the_tables_and_those_of_public_data_are_not() -> None:
    hospital, counts = hospital_with((20, 20), (40, 40)), counts_of(30, 10, 30, 10)

    rounded = disclose(Evaluation(counts=counts), hospital, Policy()).counts
    exact = disclose(Evaluation(counts=counts), hospital, Policy(public=True, releases_off=("scores",))).counts

    assert (rounded.loss_sum, rounded.squared_error_sum) == pytest.approx((80 * 0.123, 80 * 0.099), abs=1e-12)
    assert exact == counts


@pytest.mark.parametrize("label", ["classes", "number", "count"])
def test_other_labels_have_minimum_cells_too(label: str) -> None:
    task = task_of(label)
    target = target_of(task)
    generator = np.random.default_rng(1)
    rows = 12
    labels = {
        "classes": np.array(([0] * 8) + [1] * 4, dtype=np.float32),
        "number": generator.normal(0, 1, rows).astype(np.float32),
        "count": np.array([0] * 9 + [1] * 3, dtype=np.float32),
    }[label]
    if label == "classes":
        labels = np.array(list(task.label.classes), dtype=np.float32)[labels.astype(int)]
    patients = Patients(np.zeros((rows, len(task.columns))), labels)
    hospital = Hospital(name="basel", task=task, train=patients, test=patients)
    outputs = np.zeros((rows, target.outputs), dtype=np.float32).squeeze()

    content = Evaluation(counts=target.measure(outputs, labels, 0.5))
    assert disclose(content, hospital, Policy()).has_counts == (label == "number")
    few = replace(hospital, test=patients.take(np.arange(4)))
    assert not disclose(content, few, Policy()).has_counts


# Scores and the ROC-AUC


def final_evaluation(positives: int, negatives: int) -> Evaluation:
    generator = np.random.default_rng(1)
    outputs = generator.normal(size=positives + negatives).astype(np.float32)
    labels = np.array([1.0] * positives + [0.0] * negatives, dtype=np.float32)
    return Evaluation(
        counts=TARGET.measure(outputs, labels, 0.5),
        roc_auc=TARGET.roc_auc(outputs, labels),
        scores=TARGET.group_scores(outputs, labels),
    )


@pytest.mark.parametrize(("positives", "is_released"), [(3, False), (4, False), (5, True), (25, True), (27, False)])
def test_no_exact_auc_and_no_scores_of_few_patients_of_a_class(positives: int, is_released: bool) -> None:
    """Score groups of the larger class alone would tell the size of the smaller one: it is the rest."""
    hospital, content = (
        hospital_with((20, 20), (positives, 30 - positives)),
        final_evaluation(positives, 30 - positives),
    )

    evaluation = disclose(content, hospital, Policy(), is_final=True)

    metrics = evaluation.to_content().metric_records["metrics"]
    assert ("roc_auc" in metrics) == ("negatives" in metrics) == ("positives" in metrics) == is_released
    assert {"roc-auc", "scores"}.isdisjoint(evaluation.suppressed) == is_released


def test_training_scores_do_not_tell_the_size_of_a_small_class() -> None:
    cells = microaggregate(np.linspace(-2, 2, 37))
    content = TrainingScores(positives=np.zeros((0, 3)), negatives=cells)

    suppressed = disclose(content, hospital_with((3, 37), (10, 10)), Policy())

    assert set(suppressed.to_content().metric_records["metrics"]) == set()
    read = read_training_scores(suppressed.to_content(), 40)
    assert (len(read.positives), len(read.negatives)) == (0, 0)


@pytest.mark.parametrize("minimum", [5, 8, 12, 16, 30, 40])
def test_score_groups_are_joined_to_the_minimum_cell(minimum: int) -> None:
    scores = np.sort(np.random.default_rng(2).normal(size=43))
    cells = microaggregate(scores)

    joined = join_cells(cells, minimum)

    assert joined[:, 0].min() >= minimum
    assert joined[:, 0].sum() == 43
    mean = np.average(joined[:, 1], weights=joined[:, 0])
    assert mean == pytest.approx(np.average(cells[:, 1], weights=cells[:, 0]))
    square = np.average(joined[:, 1] ** 2 + joined[:, 2] ** 2, weights=joined[:, 0])
    assert square == pytest.approx(np.average(cells[:, 1] ** 2 + cells[:, 2] ** 2, weights=cells[:, 0]))
    assert len(join_cells(cells, 44)) == 0


# Registration


def registration_of(hospital: Hospital) -> Registration:
    train = hospital.train
    classes = np.bincount(train.labels.astype(int), minlength=2)
    positions = list(HEART_DISEASE.measurement_positions)
    return Registration(
        name=hospital.name,
        train_examples=len(train),
        test_examples=len(hospital.test),
        sums=column_sums(train.values[:, positions]),
        associations=np.full(28, 0.25),
        class_counts=tuple(classes.tolist()),
    )


def test_class_counts_leave_only_together() -> None:
    """One class of two is the complement of the other."""
    for positives, is_released in ((1, False), (4, False), (5, True), (20, True), (36, False)):
        hospital = hospital_with((positives, 40 - positives), (10, 10))
        content = disclose(registration_of(hospital), hospital, Policy()).to_content()
        read = read_registration(content, HEART_DISEASE.measurements, 28, 2)
        assert read.class_counts == ((40 - positives, positives) if is_released else (0, 0))


def test_associations_of_a_code_leave_only_if_each_of_its_four_cells_may() -> None:
    hospital = hospital_with((20, 20), (10, 10))
    values = hospital.train.values.copy()
    sex, labels = HEART_DISEASE.column_names.index("sex"), hospital.train.labels
    values[:, sex] = 0.0
    values[np.flatnonzero(labels == 1)[:10], sex] = 1.0
    values[np.flatnonzero(labels == 0)[:3], sex] = 1.0  # three men without the disease
    hospital = replace(hospital, train=Patients(values, labels))

    associations = disclose(registration_of(hospital), hospital, Policy()).associations

    of_sex = 1  # after age
    assert associations[of_sex : of_sex + 2].tolist() == [0.0, 0.0]


def test_few_held_out_patients_are_not_counted() -> None:
    hospital = hospital_with((10, 10), (2, 2))

    content = disclose(registration_of(hospital), hospital, Policy()).to_content()

    assert content.metric_records["metrics"]["test-examples"] == 0
    assert read_registration(content, HEART_DISEASE.measurements, 28, 2).test_examples == 0


def test_sums_are_never_altered() -> None:
    hospital = hospital_with((13, 14), (10, 10), seed=3)
    content = registration_of(hospital)

    sums = disclose(content, hospital, Policy()).sums

    for name in ("count", "total", "squares"):
        np.testing.assert_array_equal(getattr(sums, name), getattr(content.sums, name))


def test_a_hospital_below_its_own_minimum_cell_does_not_register() -> None:
    hospital = hospital_with((5, 4), (10, 10))

    with pytest.raises(DisclosureError, match="fewer training patients"):
        disclose(registration_of(hospital), hospital, Policy(min_cell=10))


# The benefit of joining


def test_observed_numbers_leave_only_with_their_complements() -> None:
    hospital = hospital_with((20, 20), (10, 10))
    observed = np.array([0.0, 1, 4, 5, 20, 35, 36, 39, 40, 7, 33, 34, 40])
    content = Benefit(comparisons={}, calibration={}, importance=np.zeros(COLUMNS), observed=observed)

    found = disclose(content, hospital, Policy()).observed

    assert found.tolist() == [0, 0, 0, 5, 20, 35, 0, 0, 40, 7, 33, 34, 40]


def test_no_benefit_of_few_held_out_patients_of_a_class() -> None:
    hospital = hospital_with((20, 20), (4, 20))
    content = replace(benefit(), importance=np.ones(COLUMNS), observed=np.full(COLUMNS, 40))

    suppressed = disclose(content, hospital, Policy()).to_content()

    assert set(suppressed.metric_records["metrics"]) == set()
    read = Benefit.from_content(suppressed, HEART_DISEASE, 40, 24)
    assert not read.importance.any()
    assert read.suppressed == {"appraisal": SMALL_CELL}


@pytest.mark.parametrize(("is_public", "decimals"), [(False, 3), (True, 9)])
def test_mean_losses_of_a_benefit_have_three_decimals_unless_the_data_are_public(
    is_public: bool, decimals: int
) -> None:
    exact = comparison(0.123456789, 0.098765432, (0.024691357, 0.001234567, 0.0512345678))
    content = replace(
        benefit(),
        comparisons={**benefit().comparisons, "brier": exact},
        calibration={"own": Calibration(None, 0.123456789), "federated": Calibration(1.123456789, -1.0)},
        observed=np.full(COLUMNS, 40),
    )

    message = disclose(content, hospital_with((20, 20), (10, 10)), Policy(public=is_public)).to_content()
    read = Benefit.from_content(message, HEART_DISEASE, 40, 20)

    found, auc = read.comparisons["brier"], content.comparisons["roc_auc"]
    assert found.own.value == round(0.123456789, decimals)
    assert found.difference.low == round(0.001234567, decimals)
    assert found.difference.p_value == exact.difference.p_value
    assert read.calibration["own"] == Calibration(None, round(0.123456789, decimals))
    assert read.calibration["federated"].slope == round(1.123456789, decimals)
    assert read.comparisons["roc_auc"] == auc  # exact, as the final evaluation has it


# The policy


def test_a_policy_switches_releases_off() -> None:
    policy = Policy(
        releases_off=("associations", "round-evaluation", "roc-auc", "scores", "threshold-scores", "appraisal")
    )
    hospital = hospital_with((20, 20), (20, 20))
    evaluation = final_evaluation(20, 20)

    registration = disclose(registration_of(hospital), hospital, policy)
    final = disclose(evaluation, hospital, policy, is_final=True)
    update = disclose(Update(weights=WEIGHTS, examples=40, loss=0.5, counts=evaluation.counts), hospital, policy)

    assert registration.suppressed == {"associations": SWITCHED_OFF}
    assert update.suppressed == {"round-evaluation": SWITCHED_OFF}
    assert final.suppressed == {"roc-auc": SWITCHED_OFF, "scores": SWITCHED_OFF}
    assert final.has_counts


# Whole replies


@pytest.fixture(scope="module")
def table(hospitals_folder: Path) -> pd.DataFrame:
    return pd.read_csv(hospitals_folder / "client_1.csv").drop_duplicates()


class KnownScores:
    """Ages as log-odds: (age - 55) / 10."""

    target, may_measure = TARGET, True

    def __init__(self, hospital: Hospital) -> None:
        self.hospital, self.train_rows = hospital, len(hospital.train)

    def score(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.test.values[:, 0] - 55) / 10).astype(np.float32)

    def score_training(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.train.values[:, 0] - 55) / 10).astype(np.float32)

    def train(self, weights: Any, *_: Any, **__: Any) -> Any:
        return weights, 0.123456


@pytest.fixture(autouse=True)
def _known_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "local_model", lambda hospital, *_: KnownScores(hospital))


KINDS = ("train", "evaluate", "evaluate.threshold", "evaluate.final")


def replies_of(own: OwnHospital, context: Context) -> dict[str, RecordDict]:
    """What a hospital sends in a run of one round."""
    replies = {"query.statistics": own.reply(registration_request(own.name, asks_classes=True), context)}
    for kind in KINDS:
        values: dict[str, int | bool] = {"evaluate-first": True, "server-round": 3} if kind == "train" else {}
        replies[kind] = own.reply(message_of(own.name, kind, values), context)
    return replies


def counts_in(replies: dict[str, RecordDict]) -> list[tuple[float, float]]:
    """Every number of patients that leaves, and the number of which it is a part."""
    registered = metrics_of(replies["query.statistics"])
    train, test = registered["train-examples"], registered.get("test-examples", 0)
    found = [(train, train), (test, test)]
    found += [(count, train) for count in registered.get("class-counts", [])]
    for kind, reply in replies.items():
        metrics = metrics_of(reply)
        cells = (
            [metrics[f"{truth}_{sign}"] for truth in ("true", "false") for sign in ("positives", "negatives")]
            if ("true_positives" in metrics)
            else []
        )
        whole = train if kind in ("train", "evaluate.threshold") else test
        if cells:
            tp, tn, fp, fn = cells
            found += [(cell, row) for cell, row in ((tp, tp + fn), (fn, tp + fn), (tn, tn + fp), (fp, tn + fp))]
            found += [(tp, tp + fp), (tn, tn + fn), (tp + fn, sum(cells)), (tp + fp, sum(cells))]
        groups = [metrics[name][::3] for name in ("positives", "negatives") if name in metrics]
        found += [(rows, rows) for group in groups for rows in group]
        found += [(sum(group), whole) for group in groups if group]
    return found


@settings(max_examples=40)
@given(data=st.data())
def test_no_count_of_few_patients_leaves_nor_its_complement(table: pd.DataFrame, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(table))), min_size=12, max_size=90, unique=True))
    seed = data.draw(st.integers(0, 100))
    with tempfile.TemporaryDirectory() as folder:
        own = OwnHospital(Path(folder))
        replies = replies_of(own, own.context(table.iloc[rows], seed))

    assert [pair for pair in counts_in(replies) if not is_safe(*pair)] == []


def test_the_server_reads_what_is_suppressed(own: OwnHospital, table: pd.DataFrame) -> None:
    replies = replies_of(own, own.context(table[:30]))
    registration = read_registration(replies["query.statistics"], HEART_DISEASE.measurements, 28, 2)
    declared = registration.test_examples
    shapes = weight_shapes(HEART_DISEASE, Network("logistic"))

    update = read_update(replies["train"], shapes, registration.train_examples, evaluated=declared, target=TARGET)
    final = read_evaluation(replies["evaluate.final"], TARGET, declared, final=True, task=HEART_DISEASE)

    assert update.counts is None
    assert set(update.suppressed) == {"round-evaluation"}
    assert (final.has_counts, final.roc_auc, final.scores) == (False, None, {})
    assert not any(any(group.cells) for group in final.subgroups)
    assert set(final.suppressed) == {"final-evaluation", "roc-auc", "scores", "subgroups"}


@pytest.fixture
def own(tmp_path: Path) -> OwnHospital:
    return OwnHospital(tmp_path)


def test_the_hospital_keeps_its_own_figures(own: OwnHospital, table: pd.DataFrame) -> None:
    context = own.context(table[:30])
    replies_of(own, context)

    figures: dict[str, Any] = dict(context.state.metric_records["figures"])
    assert figures["test_examples"] > 0
    assert {"accuracy", "brier", "roc_auc"} <= set(figures)


def test_all_of_public_data_leaves(hospitals_folder: Path) -> None:
    own = OwnHospital(hospitals_folder, "cleveland")
    context = hospital_context("cleveland", {"data": str(hospitals_folder / "client_1.csv")})

    replies = replies_of(own, context)

    assert not any("disclosure" in reply for reply in replies.values())
    assert replies["train"].metric_records["metrics"]["train-loss"] == 0.123456


def test_a_public_csv_that_was_changed_is_no_longer_public(hospitals_folder: Path, tmp_path: Path) -> None:
    for name in ("client_1.csv", "manifest.json"):
        (tmp_path / name).write_bytes((hospitals_folder / name).read_bytes())
    with (tmp_path / "client_1.csv").open("a") as file:
        file.write("50,1,1,140,200,0,0,150,0,1,1,0,3,0\n")
    own = OwnHospital(tmp_path, "cleveland")

    own.reply(
        registration_request("cleveland"), hospital_context("cleveland", {"data": str(tmp_path / "client_1.csv")})
    )

    assert (tmp_path / "releases-cleveland.json").exists()


def test_scores_are_suppressed_after_a_removal(own: OwnHospital, table: pd.DataFrame) -> None:
    large = table.head(200)
    before = replies_of(own, own.context(large))
    after = replies_of(own, own.context(large.drop(index=large.index[::70])))
    reasons = {name: reason for reply in after.values() for name, reason in reply.get("disclosure", {}).items()}

    assert "scores" not in before["evaluate.final"].get("disclosure", {})
    assert DIFFERENCING in reasons.values()
    assert reasons["column-sums"] == DIFFERENCING
