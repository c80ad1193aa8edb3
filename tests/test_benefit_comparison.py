"""Figures of a study against scikit-learn, on small made-up scores."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as reference

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.bootstrap import Resampled, improvement_of, roc_auc_draws
from federated_health.ml.calibration import calibration
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Interval, Verdict
from federated_health.studies.benefit.comparison import (
    OutOfFold,
    Scores,
    collect_scores,
    compare_models,
)
from federated_health.studies.benefit.estimates import estimate_names
from federated_health.studies.benefit.training_setups import Fit, FitResult, TrainingSetup, plan_fits
from tests.support.cohorts import cohort_of, patients, protocol_of
from tests.support.example_targets import outputs_of
from tests.support.targets import patients_of, task_of

SETUPS = ("own", "federated", "pooled", "without")
REPEATS, DRAWS = 2, 200


TARGET = target_of(HEART_DISEASE)


def labels_of(positives: int, negatives: int, seed: int = 0) -> npt.NDArray[np.float32]:
    labels = np.repeat([1.0, 0.0], [positives, negatives]).astype(np.float32)
    return np.random.default_rng(seed).permutation(labels)


def out_of_fold(labels: npt.NDArray[np.float32], distance: float, seed: int, shift: float = 0.0) -> OutOfFold:
    generator = np.random.default_rng(seed)
    size = (REPEATS, len(labels))
    log_odds = generator.normal(distance * (labels - 0.5) + shift, 1.0, size).round(1)
    return OutOfFold(log_odds, generator.choice([0.3, 0.5, 0.6], size))


def scores_of(labels: dict[str, npt.NDArray[np.float32]], models: tuple[str, ...] = SETUPS) -> Scores:
    return Scores(
        TARGET,
        labels,
        {
            model: {
                name: out_of_fold(outcomes, 1.0 + 0.3 * place, seed=10 * place + number, shift=float(number))
                for number, (name, outcomes) in enumerate(labels.items())
            }
            for place, model in enumerate(models)
        },
    )


@pytest.fixture(scope="module")
def scores() -> Scores:
    return scores_of(
        {"a": labels_of(20, 30), "b": labels_of(9, 40, 1), "one-class": labels_of(7, 0)}, (*SETUPS, "median")
    )


@pytest.fixture(scope="module")
def figures(scores: Scores) -> dict[str, Any]:
    return compare_models(scores, seed=1, draws=DRAWS)


def by_scikit_learn(labels: npt.NDArray[np.float32], scores: OutOfFold) -> dict[str, float]:
    """Means over repeats."""
    risks = probability(scores.outputs)
    repeats = [
        {
            "roc_auc": reference.roc_auc_score(labels, scores.outputs[repeat]),
            "average_precision": reference.average_precision_score(labels, scores.outputs[repeat]),
            "accuracy": reference.accuracy_score(labels, risks[repeat] >= scores.thresholds[repeat]),
            "brier": reference.brier_score_loss(labels, risks[repeat]),
        }
        for repeat in range(REPEATS)
    ]
    return {key: float(np.mean([figures[key] for figures in repeats])) for key in repeats[0]}


@pytest.mark.parametrize("model", [*SETUPS, "median"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_figures_of_a_hospital_are_means_over_repeats_as_by_scikit_learn(
    scores: Scores, figures: dict[str, Any], model: str, name: str
) -> None:
    metrics = figures["hospitals"][name]["models"][model]

    expected = by_scikit_learn(scores.labels[name], scores.models[model][name])
    assert metrics["roc_auc"]["value"] == pytest.approx(expected.pop("roc_auc"))
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    lines = [calibration(log_odds, scores.labels[name]) for log_odds in scores.models[model][name].outputs]
    assert metrics["calibration_slope"] == pytest.approx(np.mean([line.slope for line in lines]))
    assert metrics["calibration_intercept"] == pytest.approx(np.mean([line.intercept for line in lines]))
    assert set(metrics) == {"roc_auc", *estimate_names(TARGET)}


@pytest.mark.parametrize("model", SETUPS)
def test_figures_over_all_patients_use_the_scores_of_all_hospitals(
    scores: Scores, figures: dict[str, Any], model: str
) -> None:
    labels = np.concatenate([scores.labels[name] for name in ("a", "b", "one-class")])
    everyone = OutOfFold(
        *(
            np.concatenate([getattr(scores.models[model][name], field) for name in ("a", "b", "one-class")], axis=1)
            for field in ("outputs", "thresholds")
        )
    )

    metrics = figures["all"]["models"][model]

    expected = by_scikit_learn(labels, everyone)
    assert metrics["roc_auc"]["value"] == pytest.approx(expected.pop("roc_auc"))
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert (figures["all"]["patients"], figures["all"]["positives"]) == (106, 36)


def test_all_patients_are_in_the_order_of_the_labels_whatever_the_order_of_the_scores(scores: Scores) -> None:
    models = {model: dict(reversed(list(hospitals.items()))) for model, hospitals in scores.models.items()}
    reordered = Scores(TARGET, scores.labels, models).all_rows("own")

    np.testing.assert_array_equal(reordered.outputs, scores.all_rows("own").outputs)
    np.testing.assert_array_equal(reordered.thresholds, scores.all_rows("own").thresholds)


@pytest.mark.parametrize("model", SETUPS)
def test_the_mean_over_hospitals_counts_each_hospital_once(figures: dict[str, Any], model: str) -> None:
    """A figure that is not defined in one hospital is the mean over the others."""
    metrics = {name: entry["models"][model] for name, entry in figures["hospitals"].items()}

    mean = figures["mean"]["models"][model]

    aucs = [metrics[name]["roc_auc"]["value"] for name in ("a", "b")]
    assert mean["roc_auc"]["value"] == pytest.approx(sum(aucs) / 2)
    for key in ("accuracy", "brier"):
        assert mean[key] == pytest.approx(sum(metrics[name][key] for name in metrics) / 3)
    for key in ("average_precision", "calibration_slope", "calibration_intercept"):
        assert mean[key] == pytest.approx((metrics["a"][key] + metrics["b"][key]) / 2)


def test_one_class_has_no_auc_no_average_precision_and_no_verdict(figures: dict[str, Any]) -> None:
    entry = figures["hospitals"]["one-class"]

    undefined = asdict(Interval())
    assert entry["verdict"] == Verdict.UNDEFINED
    assert entry["small"] is True
    assert all(difference == undefined for difference in entry["differences"].values())
    for metrics in entry["models"].values():
        assert metrics["roc_auc"] == undefined
        assert [metrics[key] for key in ("average_precision", "calibration_slope", "calibration_intercept")] == [
            None
        ] * 3
        assert 0 <= metrics["accuracy"] <= 1


def test_differences_are_paired_within_the_draws_of_a_hospital(scores: Scores, figures: dict[str, Any]) -> None:
    resampled = Resampled.of(scores.labels["b"], [1, 1], DRAWS)  # the seed, and the hospital's place

    differences = figures["hospitals"]["b"]["differences"]

    for other in ("own", "pooled", "without"):
        log_odds = {model: scores.models[model]["b"].outputs for model in ("federated", other)}
        once = np.ones((len(resampled.labels), 1))
        drawn = {
            model: (
                float(roc_auc_draws(outputs, resampled.labels, once)[0]),
                roc_auc_draws(outputs, resampled.labels, resampled.times),
            )
            for model, outputs in log_odds.items()
        }
        paired = improvement_of(TARGET, drawn["federated"], drawn[other])
        assert differences[f"federated_minus_{other}"] == asdict(paired)
    aucs = {model: figures["hospitals"]["b"]["models"][model]["roc_auc"]["value"] for model in ("median", "federated")}
    assert differences["median_minus_federated"]["value"] == pytest.approx(aucs["median"] - aucs["federated"])
    assert len(differences) == 4


def test_the_mean_difference_uses_independent_draws_in_each_hospital(scores: Scores, figures: dict[str, Any]) -> None:
    draws = []
    for place, name in enumerate(("a", "b")):
        resampled = Resampled.of(scores.labels[name], [1, place], DRAWS)
        federated, own = (
            roc_auc_draws(scores.models[model][name].outputs, resampled.labels, resampled.times)
            for model in ("federated", "own")
        )
        draws.append(federated - own)

    interval = figures["mean"]["differences"]["federated_minus_own"]

    assert (interval["low"], interval["high"]) == pytest.approx(
        tuple(np.quantile(np.mean(draws, axis=0), [0.025, 0.975]))
    )
    correlation = np.mean((draws[0] - draws[0].mean()) * (draws[1] - draws[1].mean())) / draws[0].std() / draws[1].std()
    assert abs(correlation) < 0.3  # 200 pairs of independent draws: a deviation of 0.07


def test_the_interval_over_all_patients_is_stratified_by_hospital_and_class(
    scores: Scores, figures: dict[str, Any]
) -> None:
    parts = [Resampled.of(scores.labels[name], [1, place], DRAWS).times for place, name in enumerate(scores.labels)]
    labels, log_odds = scores.all_labels, scores.all_rows("own").outputs
    drawn = [
        np.mean([reference.roc_auc_score(labels, repeat, sample_weight=draw) for repeat in log_odds])
        for draw in np.concatenate(parts).T
    ]

    interval = figures["all"]["models"]["own"]["roc_auc"]

    assert (interval["low"], interval["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def entry_of(federated: float, own: float, labels: npt.NDArray[np.float32]) -> Any:
    """Figures of one hospital, by the distance of the classes in two models' scores."""
    models = {model: {"a": out_of_fold(labels, own, seed=place)} for place, model in enumerate(SETUPS)}
    models["federated"] = {"a": out_of_fold(labels, federated, seed=9)}
    return compare_models(Scores(TARGET, {"a": labels}, models), seed=1, draws=DRAWS)["hospitals"]["a"]


@pytest.mark.parametrize(
    ("federated", "own", "verdict"),
    [(4.0, 0.5, Verdict.GAINS), (0.5, 4.0, Verdict.LOSES), (1.5, 1.5, Verdict.UNCLEAR)],
)
def test_the_verdict_judges_federated_minus_own(federated: float, own: float, verdict: Verdict) -> None:
    assert entry_of(federated, own, labels_of(60, 60))["verdict"] is verdict


@pytest.mark.parametrize(("rarer", "verdict"), [(4, Verdict.UNDEFINED), (5, Verdict.GAINS)])
def test_a_verdict_needs_five_patients_of_each_class(rarer: int, verdict: Verdict) -> None:
    entry = entry_of(6.0, 0.0, labels_of(rarer, 60))

    assert entry["verdict"] is verdict
    assert entry["small"] is True
    assert entry["differences"]["federated_minus_own"]["low"] is not None


def several_rows(scores: Scores, times: int) -> Scores:
    """Each patient's row repeated."""
    models = {
        model: {
            name: OutOfFold(np.repeat(part.outputs, times, axis=1), np.repeat(part.thresholds, times, axis=1))
            for name, part in by_hospital.items()
        }
        for model, by_hospital in scores.models.items()
    }
    labels = {name: np.repeat(of_hospital, times) for name, of_hospital in scores.labels.items()}
    return Scores(
        scores.target,
        labels,
        models,
        {name: np.repeat(np.arange(len(of)), times) for name, of in scores.labels.items()},
    )


def test_more_rows_of_the_same_patients_change_no_interval_and_no_verdict() -> None:
    scores = scores_of({"a": labels_of(20, 30), "b": labels_of(4, 40, 1)})

    once, fourfold = (compare_models(of, seed=1, draws=DRAWS) for of in (scores, several_rows(scores, 4)))

    for name in ("a", "b", "mean", "all"):
        first, second = (figures.get(name) or figures["hospitals"][name] for figures in (once, fourfold))
        for kind in ("models", "differences"):
            for key, entry in first[kind].items():
                found, expected = (of.get("roc_auc", of) for of in (second[kind][key], entry))
                assert found == pytest.approx(expected), (name, kind, key)
    assert fourfold["hospitals"]["b"]["verdict"] is Verdict.UNDEFINED  # 16 rows of 4 patients
    assert fourfold["hospitals"]["b"]["small"] is True
    assert (fourfold["all"]["patients"], fourfold["all"]["rows"]) == (94, 376)


def test_a_slope_without_a_value_in_one_repeat_is_left_out_of_the_mean_of_every_model() -> None:
    """Otherwise the means of two models would be over different hospitals."""
    scores = scores_of({"a": labels_of(20, 30), "b": labels_of(20, 20, 1)})
    scores.models["own"]["b"].outputs[1] = 2 * scores.labels["b"] - 1  # this repeat separates the classes

    figures = compare_models(scores, seed=1, draws=10)

    slopes = {
        name: {model: metrics["calibration_slope"] for model, metrics in entry["models"].items()}
        for name, entry in {**figures["hospitals"], "mean": figures["mean"]}.items()
    }
    assert slopes["b"]["own"] is None
    assert slopes["b"]["federated"] is not None
    assert slopes["mean"] == pytest.approx(slopes["a"])


def test_figures_are_plain_json(figures: dict[str, Any]) -> None:
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_seed_determines_the_intervals(scores: Scores, figures: Any) -> None:
    again, other = compare_models(scores, seed=1, draws=DRAWS), compare_models(scores, seed=2, draws=DRAWS)

    assert again == figures
    first, second = (study["hospitals"]["a"]["models"]["own"]["roc_auc"] for study in (figures, other))
    assert first["value"] == second["value"]
    assert first["low"] != second["low"]


# From fits to scores


def test_scores_of_every_fit_are_at_the_positions_of_their_rows() -> None:
    """A score encodes its model, repeat, hospital and row, so that a wrong position is noticed."""
    cohort = cohort_of({"a": patients(13, 1), "b": patients(17, 2)})
    protocol = protocol_of(folds=3, repeats=2)
    protocol = replace(protocol, strategies=("fedavg", "average"))
    codes = {"own": 1, "fedavg": 2, "average": 3, "": 4, "without": 5}

    def number(fit: Fit, name: str, row: int) -> float:
        code = codes[fit.subject if fit.setup in (TrainingSetup.FEDERATED, TrainingSetup.POOLED) else fit.setup]
        return 10_000 * code + 1000 * fit.repeat + 100 * (name == "b") + row

    results = {}
    for fit in plan_fits(["a", "b"], protocol):
        split = cohort.split(folds=3, fold=fit.fold, seed=protocol.settings.seed + fit.repeat)
        tested = [fit.subject] if fit.setup in (TrainingSetup.OWN, TrainingSetup.LEAVE_ONE_OUT) else ["a", "b"]
        results[fit] = FitResult(
            scores={name: [number(fit, name, row) for row in split[name].test] for name in tested},
            threshold=0.1 + fit.fold / 10,
            rounds=1,
            importance={},
        )

    scores = collect_scores(cohort, protocol, results)

    assert set(scores.models) == {"own", "federated", "average", "pooled", "without"}
    for model, code in {"own": 1, "federated": 2, "average": 3, "pooled": 4, "without": 5}.items():
        for name, rows in {"a": 13, "b": 17}.items():
            for repeat in range(2):
                expected = 10_000 * code + 1000 * repeat + 100 * (name == "b") + np.arange(rows)
                assert scores.models[model][name].outputs[repeat].tolist() == expected.tolist()
    for fold in range(3):
        held_out_rows = cohort.split(folds=3, fold=fold, seed=protocol.settings.seed + 1)["b"].test
        assert (scores.models["own"]["b"].thresholds[1, held_out_rows] == 0.1 + fold / 10).all()
    assert scores.labels["a"].tolist() == cohort.tables["a"]["disease"].tolist()


# Other kinds of labels


def scores_of_kind(kind: str) -> Scores:
    """Two repeats of outputs near the labels; those of federated models are nearest."""
    task = task_of(kind)
    labels = {
        name: patients_of(kind, rows, seed).labels for seed, (name, rows) in enumerate({"a": 60, "b": 40}.items())
    }
    models = {
        model: {
            name: OutOfFold(
                np.stack([outputs_of(task, of, noise, seed) for seed in (1, 2)]).astype(np.float64),
                np.full((2, len(of)), 0.5),
            )
            for name, of in labels.items()
        }
        for model, noise in zip(SETUPS, (1.5, 0.5, 0.6, 1.0), strict=True)
    }
    return Scores(target_of(task), labels, models)


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_figures_of_other_kinds_are_means_over_repeats(kind: str) -> None:
    scores = scores_of_kind(kind)
    target = scores.target

    figures = compare_models(scores, seed=1, draws=DRAWS)

    for name, labels in scores.labels.items():
        outputs = scores.models["federated"][name].outputs
        by_repeat = [target.figures(target.measure(of, labels, 0.5), 0, target.roc_auc(of, labels)) for of in outputs]
        metrics = figures["hospitals"][name]["models"]["federated"]
        assert set(metrics) == {target.compared, *estimate_names(target)}
        assert {key: value for key, value in metrics.items() if key != target.compared} == pytest.approx(
            {key: np.mean([of[key] for of in by_repeat]) for key in estimate_names(target)}
        )
        assert metrics[target.compared]["value"] == pytest.approx(
            np.mean([of[target.compared] for of in by_repeat]), rel=1e-5
        )


@pytest.mark.parametrize(
    ("kind", "key"),
    [("classes", "federated_minus_own"), ("number", "own_minus_federated"), ("count", "own_minus_federated")],
)
def test_differences_of_other_kinds_are_named_for_what_they_are(kind: str, key: str) -> None:
    figures = compare_models(scores_of_kind(kind), seed=1, draws=DRAWS)

    assert key in figures["mean"]["differences"]
    for entry in figures["hospitals"].values():
        assert entry["differences"][key]["low"] > 0
        assert entry["verdict"] == Verdict.GAINS
    json.dumps(figures, allow_nan=False)


def test_a_study_of_too_few_patients_of_a_quantity_has_no_verdict() -> None:
    scores = scores_of_kind("number")
    few = {
        model: {"a": OutOfFold(of["a"].outputs[:, :9], of["a"].thresholds[:, :9])}
        for model, of in scores.models.items()
    }

    figures = compare_models(Scores(scores.target, {"a": scores.labels["a"][:9]}, few), seed=1, draws=DRAWS)

    assert figures["hospitals"]["a"]["verdict"] == Verdict.UNDEFINED
    assert figures["hospitals"]["a"]["differences"]["own_minus_federated"]["value"] is None
    assert figures["mean"]["models"]["own"]["rmse"] is not None
