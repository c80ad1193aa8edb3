"""The benefit of joining at one hospital: its message, its validation, and its figures."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import MetricRecord, RecordDict

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.hospital import Hospital, Patients, load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.hospital import handlers
from federated_health.hospital.benefit import describe_benefit, measure_benefit, score_alone, weigh_columns
from federated_health.hospital.disclosure import disclose
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.hospital.policy import Policy
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import Evaluation, TrainConfig
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.ml.bootstrap import labels_of_patients
from federated_health.ml.calibration import Calibration, calibration
from federated_health.ml.intervals import compare_models
from federated_health.ml.metrics import MAX_LOSS
from federated_health.ml.networks import Network, initial_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts
from federated_health.ml.verdicts import Comparison, Difference, Interval, Verdict
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from tests.support.example_run import benefit as example_benefit
from tests.support.example_targets import outputs_of
from tests.support.targets import patients_of, task_of
from tests.test_messages import over_the_wire

Bounds = tuple[float, float, float]
"""A difference, and its interval."""

TINY = Task(
    name="tiny",
    columns=(
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
        Measurement(name="chol", meaning="cholesterol", unit="mg/dl", low=0, high=1000),
    ),
    label=Label(name="ill", meaning="is ill"),
)  # seven features: age and its flag, three of sex, chol and its flag
TRAIN, TEST = 30, 20

BENEFIT = Benefit(
    comparisons={
        "roc_auc": Comparison(
            own=Interval(value=0.7, low=0.45, high=0.85),
            federated=Interval(value=0.75, low=0.5, high=0.9),
            difference=Difference(value=0.05, low=-0.1, high=0.25, p_value=0.3),
        ),
        "brier": Comparison(
            own=Interval(value=0.25, low=0.2, high=0.375),
            federated=Interval(value=0.375, low=0.25, high=0.5),
            difference=Difference(value=-0.125, low=-0.25, high=-0.0625, p_value=0.001),
        ),
    },
    calibration={"own": Calibration(None, 0.5), "federated": Calibration(0.75, 1.5)},
    importance=np.array([0.5, -0.125, 3e-8]),
    observed=np.array([30.0, 0.0, 5.0]),
)
UNDEFINED = replace(BENEFIT, comparisons={}, calibration={})


def read(content: RecordDict) -> Benefit:
    return Benefit.from_content(content, TINY, TRAIN, TEST)


def content_with(**changes: Any) -> RecordDict:
    """A valid message with these metrics changed; None leaves one out."""
    content = BENEFIT.to_content()
    for key, value in changes.items():
        if value is None:
            del content.metric_records[METRICS][key.replace("_", "-")]
        else:
            content.metric_records[METRICS][key.replace("_", "-")] = value
    return content


# Over the wire


@pytest.mark.parametrize("benefit", [BENEFIT, UNDEFINED], ids=["defined", "undefined"])
def test_a_benefit_survives_the_wire(benefit: Benefit) -> None:
    received = read(over_the_wire(benefit.to_content()))

    assert received.comparisons == benefit.comparisons
    assert received.calibration == benefit.calibration
    assert received.importance.tolist() == benefit.importance.tolist()
    assert received.observed.tolist() == benefit.observed.tolist()


BOUNDS = ("value", "low", "high")
FIGURES = [f"{of}_{figure}_{end}" for figure in ("roc_auc", "brier") for of in ("own", "federated") for end in BOUNDS]
DIFFERENCES = [f"difference_{figure}_{end}" for figure in ("roc_auc", "brier") for end in BOUNDS]
P_VALUES = ["difference_roc_auc_p_value", "difference_brier_p_value"]
INTERCEPTS = ["own_calibration_intercept", "federated_calibration_intercept"]


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in (*FIGURES, *P_VALUES) for value in (-0.01, 1.01, float("nan"), 1, [0.5])),
        *({key: value} for key in DIFFERENCES for value in (-1.01, 1.01, float("inf"))),
        *({key: value} for key in INTERCEPTS for value in (1.1e39, -2e39, float("nan"), float("-inf"), 0)),
        *({"federated_calibration_slope": value} for value in (-101.0, 101.0, float("nan"), 1)),
        *({"observed": value} for value in (None, [30.0, 0.0], [30.0, 0.0, 5.0, 5.0], 30.0)),
        *({"observed": [value, 0.0, 5.0]} for value in (31.0, 5.5, -1.0, 4.0, 1.0, float("nan"))),
        *({"importance": value} for value in (None, [0.5, 0.5], [0.5, float("nan"), 0.5], 0.5)),
        *({"importance": [sign * (TEST * MAX_LOSS + 1), 0.0, 0.0]} for sign in (1, -1)),
        {"accuracy": 0.9},
        {"own_mae_value": 0.9},
    ],
    ids=str,
)
def test_a_malformed_benefit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessageError):
        read(content_with(**changes))


@pytest.mark.parametrize("lacking", [*FIGURES, *DIFFERENCES, *P_VALUES, *INTERCEPTS])
def test_some_figures_without_the_others_are_refused(lacking: str) -> None:
    with pytest.raises(MalformedMessageError, match="only some of its figures"):
        read(content_with(**{lacking: None}))


def test_a_comparison_on_too_few_held_out_rows_is_refused() -> None:
    content = BENEFIT.to_content()
    content.metric_records[METRICS]["importance"] = [0.0, 0.0, 0.0]
    assert Benefit.from_content(content, TINY, TRAIN, 10).comparisons
    with pytest.raises(MalformedMessageError, match="too few held-out rows"):
        Benefit.from_content(content, TINY, TRAIN, 9)


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_losses_that_overflow_a_page_are_refused(kind: str) -> None:
    task, columns = task_of(kind), np.zeros(len(task_of(kind).columns))
    *others, figure = target_of(task).comparisons

    def benefit(loss: float) -> Benefit:
        nothing = Difference(value=0.0, low=0.0, high=0.0, p_value=1.0)
        compared = {
            name: Comparison(
                own=Interval(value=of, low=of, high=of),
                federated=Interval(value=of, low=of, high=of),
                difference=nothing,
            )
            for name, of in {**dict.fromkeys(others, 0.5), figure: loss}.items()
        }
        return Benefit(comparisons=compared, calibration={}, importance=columns, observed=columns)

    assert Benefit.from_content(benefit(1e99).to_content(), task, TRAIN, TEST).comparisons
    with pytest.raises(MalformedMessageError, match="is not between"):
        Benefit.from_content(benefit(1e101).to_content(), task, TRAIN, TEST)


@pytest.mark.parametrize("shift", [-0.03, 0.03])
@pytest.mark.parametrize("figure", ["roc_auc", "brier"])
def test_a_difference_that_contradicts_the_figures_is_refused(figure: str, shift: float) -> None:
    value = BENEFIT.comparisons[figure].difference.value
    assert value is not None
    with pytest.raises(MalformedMessageError, match="difference of its figures"):
        read(content_with(**{f"difference_{figure}_value": value + shift}))


def test_a_mean_loss_may_be_rounded_to_three_decimals_and_a_roc_auc_may_not() -> None:
    read(content_with(difference_brier_value=-0.1265))
    with pytest.raises(MalformedMessageError):
        read(content_with(difference_brier_value=-0.1267))
    with pytest.raises(MalformedMessageError):
        read(content_with(difference_roc_auc_value=0.0501))


@pytest.mark.parametrize("low", ["own_roc_auc_low", "difference_roc_auc_low", "federated_brier_low"])
def test_a_value_outside_of_its_interval_is_refused(low: str) -> None:
    with pytest.raises(MalformedMessageError, match="outside of its interval"):
        read(content_with(**{low: 0.8}))
    with pytest.raises(MalformedMessageError, match="outside of its interval"):
        read(content_with(**{low.replace("low", "high"): -0.2 if low.startswith("difference") else 0.01}))


@pytest.mark.parametrize(
    "changes",
    [
        {"difference_roc_auc_p_value": 0.049},  # the interval contains 0
        {"difference_brier_p_value": 0.05},  # it does not
        {"difference_brier_p_value": 1.0},
        {"difference_roc_auc_low": 0.001},
        {"difference_brier_high": 0.001},
    ],
    ids=str,
)
def test_a_p_value_that_contradicts_the_interval_is_refused(changes: dict[str, Any]) -> None:
    """A hospital cannot state a clear difference with an interval that shows none, nor the reverse."""
    with pytest.raises(MalformedMessageError, match="contradicts the interval"):
        read(content_with(**changes))


@pytest.mark.parametrize("p_value", [0.001, 0.4])
def test_an_interval_that_rounding_moved_to_zero_agrees_with_either_verdict(p_value: float) -> None:
    read(content_with(difference_brier_high=0.0, difference_brier_p_value=p_value))


@pytest.mark.parametrize(
    "changes",
    [
        {"federated_roc_auc_low": 0.75},
        {"federated_roc_auc_high": 1.0},
        {"federated_roc_auc_low": 0.0},
        {"difference_roc_auc_low": -1.0},
        {"difference_roc_auc_high": 1.0},
        {"difference_roc_auc_p_value": 1.0},
        {"difference_brier_p_value": 0.0},
        {"federated_calibration_slope": -100.0},
        {"federated_calibration_slope": None},
        {"observed": [30.0, 0.0, 5.0]},
        {"importance": [TEST * MAX_LOSS, 0.0, 0.0]},
    ],
    ids=str,
)
def test_values_at_their_bounds_are_allowed(changes: dict[str, Any]) -> None:
    read(content_with(**changes))


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_each_kind_of_label_has_its_own_figures(kind: str) -> None:
    task = task_of(kind)
    loss = Comparison(
        own=Interval(value=24.0, low=20.0, high=1e6),
        federated=Interval(value=20.0, low=10.0, high=25.0),
        difference=Difference(value=4.0, low=1.0, high=15.0, p_value=0.0),
    )
    compared = {"roc_auc": BENEFIT.comparisons["roc_auc"]} if kind == "classes" else {}
    compared |= {target_of(task).comparisons[-1]: loss}
    columns = np.zeros(len(task.columns))
    content = Benefit(comparisons=compared, calibration={}, importance=columns, observed=columns).to_content()

    assert Benefit.from_content(content, task, TRAIN, TEST).comparisons == compared
    with pytest.raises(MalformedMessageError):
        read(content)
    content.metric_records[METRICS]["own-calibration-intercept"] = 0.0
    with pytest.raises(MalformedMessageError):
        Benefit.from_content(content, task, TRAIN, TEST)


def test_a_benefit_with_another_record_is_refused() -> None:
    content = BENEFIT.to_content()
    content["more"] = MetricRecord({"rows": 3})

    with pytest.raises(MalformedMessageError):
        read(content)


# The log line


def test_a_benefit_is_described_by_its_verdict_and_figures() -> None:
    line = describe_benefit(BENEFIT, target_of(TINY))

    assert "loses" in line
    assert "not adjusted" in line
    assert re.findall(r"[+-]?\d\.\d{3}", line) == [
        *("0.750", "0.700", "+0.050", "-0.100", "+0.250"),
        *("0.375", "0.250", "-0.125", "-0.250", "-0.062"),
    ]


@pytest.mark.parametrize(
    ("auc", "brier", "verdict"),
    [
        ((0.05, 0.01, 0.1), (0.0, -0.1, 0.1), Verdict.GAINS),
        ((0.05, 0.01, 0.1), (-0.1, -0.2, -0.05), Verdict.MIXED),
        ((0.0, -0.1, 0.1), (-0.1, -0.2, -0.05), Verdict.LOSES),
        ((0.0, -0.1, 0.1), (0.0, -0.1, 0.1), Verdict.UNCLEAR),
    ],
)
def test_a_hospital_judges_both_figures(auc: Bounds, brier: Bounds, verdict: Verdict) -> None:
    assert example_benefit(auc, brier).verdict is verdict


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "count"])
@pytest.mark.parametrize("is_rounded", [False, True], ids=["exact", "rounded"])
def test_no_honest_report_is_refused(kind: str, is_rounded: bool) -> None:
    """Models that are equal, perfect, useless or far off; few rows, and patients with several rows."""
    task, reports = task_of(kind), 0
    target, columns = target_of(task), np.zeros(len(task.columns))
    hospital = Hospital(name="a", task=task, train=patients_of(kind, 40), test=patients_of(kind, 60))
    for seed in range(60):
        generator = np.random.default_rng(seed)
        rows = int(generator.choice([12, 20, 60]))
        labels, ids = patients_of(kind, rows, seed=seed).labels, generator.integers(0, rows // 2, rows)
        patients = ids if seed % 3 == 0 else None
        if not target.can_compare(labels_of_patients(labels, patients)):
            continue
        noise = generator.choice([0.0, 0.01, 1.0, 5.0], 2)
        federated, own = (outputs_of(task, labels, of, seed + place) for place, of in enumerate(noise))
        models = {"own": federated if seed % 7 == 0 else own, "federated": federated}
        benefit = Benefit(
            comparisons=compare_models(target, federated, models["own"], labels, patients),
            calibration={name: calibration(of, labels) for name, of in models.items() if kind == "binary"},
            importance=columns,
            observed=columns,
        )
        disclosed = disclose(benefit, hospital, Policy(public=not is_rounded))

        received = Benefit.from_content(over_the_wire(disclosed.to_content()), task, 40, rows)

        assert received.verdict == benefit.verdict
        reports += 1
    assert reports > 20


def test_an_undefined_benefit_is_described_by_its_reason() -> None:
    assert UNDEFINED.verdict is Verdict.UNDEFINED
    assert re.search(r"too few patients.*fewer than 5 held-out patients", describe_benefit(UNDEFINED, target_of(TINY)))


# At the hospital


@dataclass
class AgeAlone:
    """A model whose log-odds are (age - 55) / 10, whatever the weights."""

    hospital: Hospital
    target = target_of(TINY)
    may_measure = True

    def score(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.test.values[:, 0] - 55) / 10).astype(np.float32)

    def score_training(self, _: Any) -> npt.NDArray[np.float32]:
        return ((self.hospital.train.values[:, 0] - 55) / 10).astype(np.float32)

    def score_shuffled(self, weights: Any, column: int, order: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        return self.score(weights)[order] if column == 0 else self.score(weights)


def hospital_of(labels: Iterable[int], train: int = 12) -> Hospital:
    """Ages that are higher for positive patients, with some overlap."""
    outcomes = np.array(list(labels), dtype=np.float32)
    generator = np.random.default_rng(len(outcomes))
    ages = generator.normal(50 + 12 * outcomes, 6)
    values = np.column_stack([ages, generator.integers(0, 2, len(outcomes)), np.full(len(outcomes), np.nan)])
    training = Patients(np.tile([[50.0, 1.0, 200.0]], (train, 1)), np.ones(train, np.float32))
    return Hospital(name="a", task=TINY, train=training, test=Patients(values, outcomes))


CONFIG = TrainConfig(
    task="tiny",
    schema=TINY.schema_hash,
    network=Network("logistic"),
    strategy="fedavg",
    strategy_args="",
    rounds=3,
    local_epochs=2,
    batch_size=8,
    learning_rate=0.1,
    l2=0.0,
    seed=42,
    threshold=0.5,
    normalisation=Normalisation(mean=(50.0, 200.0), variance=(100.0, 1000.0)),
)


def test_only_the_column_that_the_model_uses_has_importance() -> None:
    labels = [0] * 12 + [1] * 12

    age, sex, chol = weigh_columns(AgeAlone(hospital_of(labels)), {}, [1])  # type: ignore[arg-type]

    assert (sex, chol) == (0.0, 0.0)
    assert age > 1


def test_importance_matches_hand_calculation() -> None:
    """Two patients: a shuffle keeps or swaps them, and the loss of a swap is known."""
    hospital = hospital_of([0, 1])
    hospital.test.values[:, 0] = [45.0, 65.0]  # log-odds -1 and 1, both on the right side
    right, wrong = 2 * np.log1p(np.exp(-1.0)), 2 * np.log1p(np.exp(1.0))
    generator = np.random.default_rng([7])
    swaps = sum(generator.permutation(2)[0] == 1 for _ in range(10))

    weights = weigh_columns(AgeAlone(hospital), {}, [7])  # type: ignore[arg-type]

    assert 0 < swaps < 10
    assert weights[0] == pytest.approx(swaps / 10 * (wrong - right))


@pytest.mark.parametrize("observed", [0, 1, 4, 5, 12])
def test_counts_of_observed_values_are_released_from_five_on(observed: int) -> None:
    hospital = hospital_of([0, 0, 1])
    hospital.train.values[observed:, 2] = np.nan

    benefit = measure_benefit(AgeAlone(hospital), {}, CONFIG)  # type: ignore[arg-type]

    assert benefit.observed.tolist() == [12.0, 12.0, observed if observed >= 5 else 0.0]


@pytest.mark.parametrize(("positives", "negatives"), [(4, 20), (20, 4), (0, 9), (0, 0)])
def test_fewer_than_five_patients_of_one_class_have_no_verdict(positives: int, negatives: int) -> None:
    benefit = measure_benefit(
        AgeAlone(hospital_of([1] * positives + [0] * negatives)),  # type: ignore[arg-type]
        {},
        CONFIG,
    )

    assert benefit.verdict is Verdict.UNDEFINED
    assert (benefit.comparisons, benefit.calibration) == ({}, {})
    assert read(over_the_wire(benefit.to_content())).importance.tolist() == benefit.importance.tolist()


@pytest.mark.parametrize("log_rate", [400.0, 300.0])
def test_a_model_that_diverged_has_no_verdict(monkeypatch: pytest.MonkeyPatch, log_rate: float) -> None:
    """A rate of e^400 events per patient: its deviance is a number, and its variance is not. One of e^300 has both."""
    hospital = Hospital(
        name="a", task=task_of("count"), train=patients_of("count", 20), test=patients_of("count", 20, seed=2)
    )

    class Diverged(AgeAlone):
        target = target_of(task_of("count"))
        may_measure = False

        def score(self, _: Any) -> npt.NDArray[np.float32]:
            return np.full(20, log_rate, dtype=np.float32)

    monkeypatch.setattr("federated_health.hospital.benefit.score_alone", lambda *_: np.zeros(20, dtype=np.float32))

    benefit = measure_benefit(Diverged(hospital), {}, CONFIG)  # type: ignore[arg-type]

    assert benefit.verdict is Verdict.UNDEFINED
    Benefit.from_content(over_the_wire(benefit.to_content()), task_of("count"), 20, 20)


@pytest.mark.parametrize(("patients", "verdict"), [(4, Verdict.UNDEFINED), (5, Verdict.UNCLEAR)])
def test_rows_of_the_same_patient_count_once_for_a_verdict(
    patients: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 rows with the label 1 are of so many patients."""
    monkeypatch.setattr("federated_health.hospital.benefit.score_alone", lambda local, _: local.score({}))
    hospital = hospital_of([1] * 20 + [0] * 20)
    ids = np.array([number % patients for number in range(20)] + list(range(100, 120)))

    benefit = measure_benefit(
        AgeAlone(replace(hospital, test=replace(hospital.test, ids=ids))),  # type: ignore[arg-type]
        {},
        CONFIG,
    )

    assert benefit.verdict is verdict


# In a run's figures


def evaluation_of(positives: int, negatives: int) -> Evaluation:
    return Evaluation(counts=Counts(true_positives=positives, true_negatives=negatives))


def test_benefits_in_metrics_json_match_hand_calculation() -> None:
    """20 and 60 held-out patients: importance is the sum of both losses, divided by 80."""
    other = replace(UNDEFINED, importance=np.array([1.5, 0.125, 0.0]), observed=np.array([7.0, 8.0, 0.0]))

    summary = summarise_benefits(
        {"b": BENEFIT, "a": other, "gone": BENEFIT},
        {"a": evaluation_of(4, 56), "b": evaluation_of(10, 10), "c": evaluation_of(1, 1)},
        TINY,
    )

    assert list(summary["joining"]) == ["a", "b"]
    roc_auc, brier = summary["joining"]["b"].pop("comparisons").values()
    assert roc_auc == {
        "verdict": "no clear difference",
        "own": {"value": 0.7, "low": 0.45, "high": 0.85},
        "federated": {"value": 0.75, "low": 0.5, "high": 0.9},
        "difference": {"value": 0.05, "low": -0.1, "high": 0.25, "p_value": 0.3},
    }
    assert brier["verdict"] == "loses"
    assert brier["difference"]["value"] == -0.125
    assert summary["joining"]["b"] == {
        "verdict": "loses",
        "calibration": {"own": {"slope": None, "intercept": 0.5}, "federated": {"slope": 0.75, "intercept": 1.5}},
        "small": False,
    }
    nothing = {"value": None, "low": None, "high": None}
    unknown = {
        "verdict": "cannot be said",
        "own": nothing,
        "federated": nothing,
        "difference": {**nothing, "p_value": None},
    }
    assert summary["joining"]["a"] == {
        "verdict": "cannot be said",
        "comparisons": {"roc_auc": unknown, "brier": unknown},
        "small": True,
    }
    assert summary["importance"] == pytest.approx({"age": 2.0 / 80, "sex": 0.0, "chol": 3e-8 / 80})
    assert summary["observed"] == {"a": {"age": 7, "sex": 8, "chol": 0}, "b": {"age": 30, "sex": 0, "chol": 5}}


@pytest.mark.parametrize(("hospitals", "verdict"), [(2, "loses"), (5, "may lose")])
def test_verdicts_are_adjusted_for_the_number_of_hospitals(hospitals: int, verdict: str) -> None:
    """A p-value of 0.02 is below 0.05 / 2, and not below 0.05 / 5; one hospital has too few patients."""
    brier = BENEFIT.comparisons["brier"]
    clear = replace(brier, difference=replace(brier.difference, p_value=0.02))
    benefit = replace(BENEFIT, comparisons={**BENEFIT.comparisons, "brier": clear})
    reports = {**{str(number): benefit for number in range(hospitals)}, "few": UNDEFINED}

    joining = summarise_benefits(reports, dict.fromkeys(reports, evaluation_of(10, 10)), TINY)["joining"]

    assert joining.pop("few")["verdict"] == "cannot be said"
    assert {entry["verdict"] for entry in joining.values()} == {verdict}
    assert {entry["comparisons"]["brier"]["verdict"] for entry in joining.values()} == {verdict}


def test_metrics_without_benefits_have_no_entries_for_them() -> None:
    assert summarise_benefits({}, {"a": evaluation_of(5, 5)}, TINY) == {}
    assert summarise_benefits({"a": BENEFIT}, {}, TINY) == {}


# With the real network


@pytest.fixture(scope="module")
def hungary(hospitals_folder: Path) -> Hospital:
    return load_hospital(hospitals_folder / "client_2.csv", HEART_DISEASE, "hungary", 42)


def run_of(hospitals: list[Hospital], **changes: Any) -> PlainRun:
    from client import app

    settings = replace(
        Settings(),
        **({"hospitals": len(hospitals), "rounds": 4, "local_epochs": 2} | changes),
    )
    return PlainRun(
        InProcessTransport(app, {hospital.name: InMemoryHospital(hospital) for hospital in hospitals}), settings
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_a_hospitals_own_model_equals_a_run_of_that_hospital_alone(hungary: Hospital, model: str) -> None:
    run = run_of([hungary], model=model, appraisal=False)
    run.run()
    config = run.train_config()
    alone = handlers.local_model(hungary, config.network, config.normalisation).score(run.weights)

    # The own model uses its own normalisation, and not that of the federation.
    wide = replace(config, normalisation=Normalisation(mean=(0.0,) * 5, variance=(1e6,) * 5))
    own = score_alone(handlers.local_model(hungary, wide.network, wide.normalisation), wide)

    assert own.tobytes() == alone.tobytes()
    assert np.ptp(own) > 0.5  # it has learnt something


@pytest.mark.slow
def test_a_column_with_zero_weights_has_no_importance(hungary: Hospital) -> None:
    run = run_of([hungary], model="logistic", rounds=20, appraisal=False)
    run.run()
    config = run.train_config()
    weights = {name: array.copy() for name, array in run.weights.items()}
    ignored, used = (HEART_DISEASE.column_names.index(name) for name in ("chol", "cp"))
    weights["logit/kernel"][HEART_DISEASE.feature_slices[ignored]] = 0.0

    importance = weigh_columns(handlers.local_model(hungary, config.network, config.normalisation), weights, [1])

    assert importance[ignored] == 0.0
    assert importance[used] > 1.0


@pytest.mark.slow
def test_a_shuffled_column_gives_the_scores_of_a_shuffled_csv(hungary: Hospital) -> None:
    """Shuffling features and shuffling the column in the CSV are the same to the bit."""
    normalisation = Normalisation(mean=(50.0, 130.0, 240.0, 150.0, 1.0), variance=(80.0, 300.0, 2500.0, 500.0, 1.0))
    local = handlers.local_model(hungary, Network(), normalisation)
    weights = initial_weights(HEART_DISEASE, Network(), 3)
    order = np.random.default_rng(0).permutation(len(hungary.test))
    assert np.isnan(hungary.test.values[:, HEART_DISEASE.column_names.index("chol")]).any()

    for column in range(len(HEART_DISEASE.columns)):
        values = hungary.test.values.copy()
        values[:, column] = values[order, column]
        shuffled = replace(hungary, test=Patients(values, hungary.test.labels))
        expected = handlers.local_model(shuffled, Network(), normalisation).score(weights)

        assert local.score_shuffled(weights, column, order).tobytes() == expected.tobytes()


@pytest.mark.slow
def test_a_run_collects_benefits_and_each_hospital_logs_its_own(
    hungary: Hospital, caplog: pytest.LogCaptureFixture
) -> None:
    others = replace(hungary, name="a-copy")

    with caplog.at_level(logging.INFO):
        figures = run_of([hungary, others]).run()

    assert list(figures["joining"]) == ["a-copy", "hungary"]
    benefit = figures["joining"]["hungary"]
    for figure, sign in (("roc_auc", 1), ("brier", -1)):
        comparison = benefit["comparisons"][figure]
        own, federated = comparison["own"]["value"], comparison["federated"]["value"]
        assert federated == pytest.approx(figures["hospitals"]["hungary"][figure])
        assert comparison["difference"]["value"] == pytest.approx(sign * (federated - own))
    assert benefit["calibration"]["federated"]["intercept"] == pytest.approx(
        figures["hospitals"]["hungary"]["calibration_intercept"], abs=0.1
    )
    assert any("joining" in record.message for record in caplog.records)
    assert set(figures["importance"]) == set(HEART_DISEASE.column_names)
    assert "joining" not in run_of([hungary, others], appraisal=False).run()


@pytest.mark.slow
def test_the_log_of_a_hospital_names_its_inverted_label(hungary: Hospital, caplog: pytest.LogCaptureFixture) -> None:
    def inverted(rows: Patients) -> Patients:
        return replace(rows, labels=1 - rows.labels)

    turned = replace(hungary, name="inverted", train=inverted(hungary.train), test=inverted(hungary.test))

    with caplog.at_level(logging.INFO):
        run_of([hungary, turned]).run()

    warnings = [record.getMessage() for record in caplog.records if ".hospital." in record.name]
    assert len([line for line in warnings if "disease may be inverted" in line]) == 1
