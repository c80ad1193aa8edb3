"""Figures of a study against scikit-learn, statsmodels and hand calculation, on small made-up scores."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn import metrics as reference
from statsmodels.stats.multitest import multipletests

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.calibration import calibration
from federated_health.ml.intervals import improvement_of
from federated_health.ml.targets import Folds, target_of
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Difference, Interval, Verdict
from federated_health.studies.benefit.comparison import (
    OutOfFold,
    Scores,
    collect_scores,
    compare_models,
)
from federated_health.studies.benefit.estimates import SIGNED, estimate_names
from federated_health.studies.benefit.training_setups import Fit, FitResult, TrainingSetup, plan_fits
from tests.support.cohorts import cohort_of, patients, protocol_of
from tests.support.example_targets import outputs_of
from tests.support.targets import patients_of, task_of

SETUPS = ("own", "federated", "pooled", "without")
REPEATS, FOLDS = 2, 3
TARGET = target_of(HEART_DISEASE)

Labels = npt.NDArray[np.float32]


def labels_of(positives: int, negatives: int, seed: int = 0) -> Labels:
    labels = np.repeat([1.0, 0.0], [positives, negatives]).astype(np.float32)
    return np.random.default_rng(seed).permutation(labels)


def out_of_fold(labels: Labels, distance: float, seed: int, shift: float = 0.0) -> OutOfFold:
    generator = np.random.default_rng(seed)
    size = (REPEATS, len(labels))
    log_odds = generator.normal(distance * (labels - 0.5) + shift, 1.0, size).round(1)
    return OutOfFold(log_odds, generator.choice([0.3, 0.5, 0.6], size))


def folds_of(labels: Labels) -> npt.NDArray[np.intp]:
    """Other folds in each repeat."""
    return np.stack([np.random.default_rng(repeat).permutation(len(labels)) % FOLDS for repeat in range(REPEATS)])


def scores_of(labels: dict[str, Labels], models: tuple[str, ...] = SETUPS) -> Scores:
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
        {name: folds_of(outcomes) for name, outcomes in labels.items()},
    )


@pytest.fixture(scope="module")
def scores() -> Scores:
    return scores_of(
        {"a": labels_of(20, 30), "b": labels_of(9, 40, 1), "one-class": labels_of(7, 0)}, (*SETUPS, "median")
    )


@pytest.fixture(scope="module")
def figures(scores: Scores) -> dict[str, Any]:
    return compare_models(scores)


# Figures


def auc_within_folds(labels: Labels, log_odds: npt.NDArray[np.float64], folds: Folds) -> float:
    """Mean of the folds' ROC-AUCs, each with as much weight as it has pairs."""
    parts = [(labels[folds == fold], log_odds[folds == fold]) for fold in range(FOLDS)]
    pairs = [(of == 1).sum() * (of == 0).sum() for of, _ in parts]
    aucs = [reference.roc_auc_score(*part) if number else 0.0 for part, number in zip(parts, pairs, strict=True)]
    return float(np.average(aucs, weights=pairs))


def by_scikit_learn(labels: Labels, scores: OutOfFold, folds: Folds) -> dict[str, list[float]]:
    """Figures of each repeat."""
    found: dict[str, list[float]] = {}
    for log_odds, thresholds, of_fold in zip(scores.outputs, scores.thresholds, folds, strict=True):
        risks = probability(log_odds)
        predicted = risks >= thresholds
        figures = {
            "roc_auc": auc_within_folds(labels, log_odds, of_fold),
            "brier": reference.brier_score_loss(labels, risks),
            "accuracy": reference.accuracy_score(labels, predicted),
            "recall": reference.recall_score(labels, predicted),
            "specificity": reference.recall_score(labels, predicted, pos_label=0),
            "average_precision": reference.average_precision_score(labels, log_odds),
            "log_loss": reference.log_loss(labels, risks),
            "observed_expected": labels.sum() / risks.sum(),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(float(value))
    return found


def values_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """The figures without their intervals."""
    return {name: of["value"] if isinstance(of, dict) else of for name, of in metrics.items()}


@pytest.mark.parametrize("model", [*SETUPS, "median"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_figures_of_a_hospital_are_means_over_repeats_as_by_scikit_learn(
    scores: Scores, figures: dict[str, Any], model: str, name: str
) -> None:
    metrics = values_of(figures["hospitals"][name]["models"][model])
    repeats = figures["repeats"][name][model]

    expected = by_scikit_learn(scores.labels[name], scores.models[model][name], scores.folds[name])
    lines = [calibration(log_odds, scores.labels[name]) for log_odds in scores.models[model][name].outputs]
    expected["calibration_slope"] = [line.slope or 0.0 for line in lines]
    expected["calibration_intercept"] = [line.intercept or 0.0 for line in lines]
    assert metrics == pytest.approx({key: np.mean(values) for key, values in expected.items()})
    for key, values in expected.items():
        assert repeats[key]["values"] == pytest.approx(values), key
        deviation = abs(values[0] - values[1]) / 2**0.5
        assert (repeats[key]["mean"], repeats[key]["sd"]) == pytest.approx((np.mean(values), deviation)), key


@pytest.mark.parametrize("model", SETUPS)
def test_figures_over_all_patients_use_the_scores_of_all_hospitals(
    scores: Scores, figures: dict[str, Any], model: str
) -> None:
    names = ("a", "b", "one-class")
    labels = np.concatenate([scores.labels[name] for name in names])
    folds = np.concatenate([scores.folds[name] for name in names], axis=1)
    everyone = OutOfFold(
        *(
            np.concatenate([getattr(scores.models[model][name], field) for name in names], axis=1)
            for field in ("outputs", "thresholds")
        )
    )

    metrics = values_of(figures["all"]["models"][model])

    expected = by_scikit_learn(labels, everyone, folds)
    assert {key: metrics[key] for key in expected} == pytest.approx(
        {key: np.mean(values) for key, values in expected.items()}
    )
    assert (figures["all"]["patients"], figures["all"]["positives"]) == (106, 36)


def test_all_patients_are_in_the_order_of_the_labels_whatever_the_order_of_the_scores(scores: Scores) -> None:
    models = {model: dict(reversed(list(hospitals.items()))) for model, hospitals in scores.models.items()}
    folds = dict(reversed(list(scores.folds.items())))
    reordered = Scores(TARGET, scores.labels, models, folds)

    np.testing.assert_array_equal(reordered.all_rows("own").outputs, scores.all_rows("own").outputs)
    np.testing.assert_array_equal(reordered.all_rows("own").thresholds, scores.all_rows("own").thresholds)
    np.testing.assert_array_equal(reordered.all_folds, scores.all_folds)


def test_patients_of_different_hospitals_with_equal_numbers_are_different() -> None:
    labels = {"a": labels_of(3, 3), "b": labels_of(2, 2), "c": labels_of(1, 1)}
    scores = replace(scores_of(labels), ids={"a": np.array([7, 7, 8, 8, 9, 9]), "b": np.array([7, 7, 9, 9])})

    numbers = scores.all_ids

    assert numbers is not None
    assert [len(set(part)) for part in np.split(numbers, [6, 10])] == [3, 2, 2]
    assert len(set(numbers)) == 7


def simple(
    labels: list[int], own: list[float], federated: list[float], folds: list[int], hospital: str = "a"
) -> Scores:
    """One hospital and one repeat, whose pooled and other models equal the federated one."""
    outputs = {"own": own} | dict.fromkeys(SETUPS[1:], federated)
    return Scores(
        TARGET,
        {hospital: np.array(labels, dtype=np.float32)},
        {
            model: {hospital: OutOfFold(np.array([of], dtype=np.float64), np.full((1, len(of)), 0.5))}
            for model, of in outputs.items()
        },
        {hospital: np.array([folds])},
    )


def test_only_pairs_of_one_fold_are_compared() -> None:
    """The own model ranks each fold as the federated model does, on another scale: together 5 of 9 pairs are right."""
    scores = simple(
        labels=[1, 0, 1, 0, 1, 0],
        own=[-3.0, -4.0, 0.5, -0.5, 4.0, 3.0],
        federated=[1.0, -1.0, 1.0, -1.0, 1.0, -1.0],
        folds=[0, 0, 1, 1, 2, 2],
    )

    entry = compare_models(scores)["hospitals"]["a"]

    assert [entry["models"][model]["roc_auc"]["value"] for model in ("own", "federated")] == [1.0, 1.0]
    assert entry["differences"]["own"]["roc_auc"]["value"] == 0.0


def test_a_fold_of_one_class_has_no_pairs() -> None:
    """Fold 0 has 2 pairs, one of them right; fold 1 has only positives, who would make it worse or better."""
    scores = simple(labels=[1, 0, 0, 1, 1], own=[0.0, 1.0, -1.0, -9.0, 9.0], federated=[2.0] * 5, folds=[0, 0, 0, 1, 1])

    entry = compare_models(scores)["hospitals"]["a"]

    assert entry["models"]["own"]["roc_auc"]["value"] == 0.5
    assert entry["corrected_differences"]["own"]["roc_auc"]["value"] is None  # one fold alone has no deviation


def test_a_hospital_whose_folds_all_have_one_class_has_no_roc_auc() -> None:
    scores = simple(labels=[1, 1, 0, 0], own=[1.0, 2.0, 0.0, 3.0], federated=[1.0] * 4, folds=[0, 0, 1, 1])

    figures = compare_models(scores)

    entry = figures["hospitals"]["a"]
    assert entry["models"]["own"]["roc_auc"] == asdict(Interval())
    assert entry["differences"]["own"]["roc_auc"] == asdict(Difference())
    assert entry["models"]["own"]["brier"]["value"] is not None
    assert figures["mean"]["models"]["own"]["roc_auc"] == asdict(Interval())
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("model", SETUPS)
def test_the_mean_over_hospitals_counts_each_hospital_once(figures: dict[str, Any], model: str) -> None:
    """A figure that is not defined in one hospital is the mean over the others."""
    metrics = {name: values_of(entry["models"][model]) for name, entry in figures["hospitals"].items()}

    mean = values_of(figures["mean"]["models"][model])

    for key in ("accuracy", "brier", "log_loss", "recall"):
        assert mean[key] == pytest.approx(sum(metrics[name][key] for name in metrics) / 3)
    for key in ("roc_auc", "average_precision", "specificity"):
        assert mean[key] == pytest.approx((metrics["a"][key] + metrics["b"][key]) / 2)


def test_figures_that_are_best_in_the_middle_do_not_cancel_in_a_mean(figures: dict[str, Any]) -> None:
    """The scores of hospital b are shifted by 1, so its intercept is lower."""
    entries = figures["hospitals"]
    for model in SETUPS:
        for key in SIGNED:
            known = [of["models"][model][key] for of in entries.values() if of["models"][model][key] is not None]
            ideal = 0.0 if key == "calibration_intercept" else 1.0
            assert figures["mean"]["ranges"][model][key] == {
                "low": min(known),
                "high": max(known),
                "mean_distance": pytest.approx(np.mean([abs(value - ideal) for value in known])),
            }
    assert figures["mean"]["ranges"]["own"]["calibration_intercept"]["low"] < -0.5


def test_one_class_has_no_auc_no_average_precision_and_no_verdict(figures: dict[str, Any]) -> None:
    entry = figures["hospitals"]["one-class"]

    assert entry["verdict"] == Verdict.UNDEFINED
    assert set(entry["verdicts"].values()) == {Verdict.UNDEFINED}
    assert entry["small"] is True
    assert all(of["roc_auc"] == asdict(Difference()) for of in entry["differences"].values())
    for metrics in entry["models"].values():
        assert metrics["roc_auc"] == asdict(Interval())
        undefined = {key for key, value in metrics.items() if value is None}
        assert undefined == {"specificity", "average_precision", "calibration_slope", "calibration_intercept"}


# Differences


def test_differences_are_paired_and_above_0_where_the_federated_model_is_better(
    scores: Scores, figures: dict[str, Any]
) -> None:
    entry, labels = figures["hospitals"]["b"], scores.labels["b"]

    assert list(entry["differences"]) == ["own", "pooled", "without", "median"]
    for name, differences in entry["differences"].items():
        better, other = ("median", "federated") if name == "median" else ("federated", name)
        values = {model: values_of(entry["models"][model]) for model in (better, other)}
        assert differences["roc_auc"]["value"] == pytest.approx(values[better]["roc_auc"] - values[other]["roc_auc"])
        assert differences["brier"]["value"] == pytest.approx(values[other]["brier"] - values[better]["brier"])
        for figure in ("roc_auc", "brier"):
            estimates = [
                TARGET.estimate_figure(figure, scores.models[of]["b"].outputs, labels, None, scores.folds["b"])
                for of in (better, other)
            ]
            assert differences[figure] == asdict(improvement_of(figure, *estimates))


def test_the_mean_difference_adds_the_variances_of_different_hospitals() -> None:
    """The hospitals' losses vary independently: the squared half-width of their mean is a quarter of both together."""
    scores = scores_of({"a": labels_of(300, 300), "b": labels_of(300, 300, 1)})

    figures = compare_models(scores)

    def half_width(entry: Any) -> float:
        difference = entry["differences"]["own"]["brier"]
        return float(difference["high"] - difference["low"]) / 2

    halves = [half_width(figures["hospitals"][name]) for name in ("a", "b")]
    assert half_width(figures["mean"]) == pytest.approx(np.hypot(halves[0], halves[1]) / 2, rel=0.01)


def test_corrected_differences_are_those_of_nadeau_and_bengio() -> None:
    """Three folds of one repeat: one held-out row per two training rows."""
    scores = scores_of({"a": labels_of(20, 30)})

    corrected = compare_models(scores)["hospitals"]["a"]["corrected_differences"]["own"]

    labels, folds = scores.labels["a"], scores.folds["a"]
    losses = {model: (probability(scores.models[model]["a"].outputs) - labels) ** 2 for model in ("own", "federated")}
    by_fold = np.array(
        [
            (losses["own"] - losses["federated"])[repeat, folds[repeat] == fold].mean()
            for repeat in range(REPEATS)
            for fold in range(FOLDS)
        ]
    )
    error = np.sqrt(by_fold.var(ddof=1) * (1 / 6 + 1 / 2))
    half = stats.t.ppf(0.975, 5) * error
    assert corrected["brier"] == pytest.approx(
        {
            "value": by_fold.mean(),
            "low": by_fold.mean() - half,
            "high": by_fold.mean() + half,
            "p_value": 2 * stats.t.sf(abs(by_fold.mean()) / error, 5),
        }
    )
    aucs = [
        np.mean(
            [
                reference.roc_auc_score(
                    labels[folds[repeat] == fold], scores.models[model]["a"].outputs[repeat, folds[repeat] == fold]
                )
                for repeat in range(REPEATS)
                for fold in range(FOLDS)
            ]
        )
        for model in ("federated", "own")
    ]
    assert corrected["roc_auc"]["value"] == pytest.approx(aucs[0] - aucs[1])


# Verdicts


def compared(
    federated: float, own: float, labels: Labels, *, shift: float = 0.0, spread: float = 1.0
) -> dict[str, Any]:
    """Figures of one hospital, by the distance of the classes in two models' scores; risks of the first are shifted."""
    models = {model: {"a": out_of_fold(labels, own, seed=place)} for place, model in enumerate(SETUPS)}
    scored = out_of_fold(labels, federated, seed=9)
    models["federated"] = {"a": OutOfFold(spread * scored.outputs + shift, scored.thresholds)}
    entry: dict[str, Any] = compare_models(Scores(TARGET, {"a": labels}, models, {"a": folds_of(labels)}))["hospitals"][
        "a"
    ]
    return entry


@pytest.mark.parametrize(
    ("federated", "own", "shift", "ranking", "risks", "verdict"),
    [
        (4.0, 0.5, 0.0, Verdict.GAINS, Verdict.GAINS, Verdict.GAINS),
        (0.5, 4.0, 0.0, Verdict.LOSES, Verdict.LOSES, Verdict.LOSES),
        (1.5, 1.5, 0.0, Verdict.UNCLEAR, Verdict.UNCLEAR, Verdict.UNCLEAR),
        (1.5, 1.5, 3.0, Verdict.UNCLEAR, Verdict.LOSES, Verdict.LOSES),
        (2.5, 0.5, 3.0, Verdict.GAINS, Verdict.LOSES, Verdict.MIXED),
    ],
    ids=["gains", "loses", "equal", "risks too high", "better ranked, risks too high"],
)
def test_ranking_and_risks_are_judged_apart(
    federated: float, own: float, shift: float, ranking: Verdict, risks: Verdict, verdict: Verdict
) -> None:
    entry = compared(federated, own, labels_of(60, 60), shift=shift)

    assert entry["verdicts"] == {"roc_auc": ranking, "brier": risks}
    assert entry["verdict"] is verdict


def test_comparisons_and_calibration_are_those_of_the_models() -> None:
    entry = compared(1.5, 1.5, labels_of(60, 60), shift=3.0)

    for figure in ("roc_auc", "brier"):
        assert entry["comparisons"][figure] == {
            "verdict": entry["verdicts"][figure],
            "own": entry["models"]["own"][figure],
            "federated": entry["models"]["federated"][figure],
            "difference": entry["differences"]["own"][figure],
            "adjusted_p_value": entry["differences"]["own"][figure]["p_value"],  # one hospital
        }
    assert entry["calibration"]["federated"]["intercept"] < -2  # risks are too high
    assert abs(entry["calibration"]["own"]["intercept"]) < 1


def test_p_values_are_adjusted_for_the_number_of_hospitals_with_a_verdict() -> None:
    distances = {"a": 1.3, "b": 1.5, "c": 3.0, "few": 9.0}
    labels = {name: labels_of(4 if name == "few" else 50, 50, place) for place, name in enumerate(distances)}
    models = {
        model: {
            name: out_of_fold(of, distances[name] if model == "federated" else 1.0, seed=place + 10 * number)
            for number, (name, of) in enumerate(labels.items())
        }
        for place, model in enumerate(SETUPS)
    }
    hospitals = compare_models(Scores(TARGET, labels, models, {name: folds_of(of) for name, of in labels.items()}))[
        "hospitals"
    ]

    for figure in ("roc_auc", "brier"):
        p_values = {name: entry["differences"]["own"][figure]["p_value"] for name, entry in hospitals.items()}
        rejected, expected, *_ = multipletests([p_values[name] for name in "abc"], 0.05, method="holm")
        adjusted = [hospitals[name]["comparisons"][figure]["adjusted_p_value"] for name in "abc"]
        assert adjusted == pytest.approx(expected)
        assert [hospitals[name]["verdicts"][figure] is Verdict.GAINS for name in "abc"] == list(rejected)
        assert hospitals["few"]["comparisons"][figure]["adjusted_p_value"] is None
        assert hospitals["few"]["verdicts"][figure] is Verdict.UNDEFINED
    b = hospitals["b"]["comparisons"]["roc_auc"]
    assert b["difference"]["p_value"] < 0.05 <= b["adjusted_p_value"]


@pytest.mark.parametrize(("rarer", "verdict"), [(4, Verdict.UNDEFINED), (5, Verdict.GAINS)])
def test_a_verdict_needs_five_patients_of_each_class(rarer: int, verdict: Verdict) -> None:
    entry = compared(9.0, 0.0, labels_of(rarer, 60))

    assert entry["verdict"] is verdict
    assert entry["small"] is True
    assert entry["differences"]["own"]["roc_auc"]["low"] is not None


def several_rows(scores: Scores, times: int) -> Scores:
    """Each patient's row repeated."""
    models = {
        model: {
            name: OutOfFold(np.repeat(part.outputs, times, axis=1), np.repeat(part.thresholds, times, axis=1))
            for name, part in by_hospital.items()
        }
        for model, by_hospital in scores.models.items()
    }
    return Scores(
        scores.target,
        {name: np.repeat(of_hospital, times) for name, of_hospital in scores.labels.items()},
        models,
        {name: np.repeat(of_hospital, times, axis=1) for name, of_hospital in scores.folds.items()},
        {name: np.repeat(np.arange(len(of)), times) for name, of in scores.labels.items()},
    )


def test_more_rows_of_the_same_patients_change_no_interval_and_no_verdict() -> None:
    scores = scores_of({"a": labels_of(20, 30), "b": labels_of(4, 40, 1)})

    once, fourfold = (compare_models(of) for of in (scores, several_rows(scores, 4)))

    for name in ("a", "b", "mean", "all"):
        first, second = (figures.get(name) or figures["hospitals"][name] for figures in (once, fourfold))
        for kind in ("models", "differences", "corrected_differences"):
            for key, entry in first[kind].items():
                for figure in ("roc_auc", "brier"):
                    assert second[kind][key][figure] == pytest.approx(entry[figure]), (name, kind, key, figure)
    assert fourfold["hospitals"]["b"]["verdict"] is Verdict.UNDEFINED  # 16 rows of 4 patients
    assert fourfold["hospitals"]["b"]["small"] is True
    assert (fourfold["all"]["patients"], fourfold["all"]["rows"]) == (94, 376)


def test_a_figure_without_a_value_in_one_repeat_is_left_out_of_the_mean_of_every_model() -> None:
    """Otherwise the means of two models would be over different hospitals."""
    scores = scores_of({"a": labels_of(20, 30), "b": labels_of(20, 20, 1)})
    scores.folds["b"][1] = 1 - scores.labels["b"]  # no fold has both classes

    figures = compare_models(scores)

    aucs = {
        name: {model: of["roc_auc"]["value"] for model, of in entry["models"].items()}
        for name, entry in {**figures["hospitals"], "mean": figures["mean"]}.items()
    }
    assert set(aucs["b"].values()) == {None}
    assert aucs["mean"] == pytest.approx(aucs["a"])


def test_figures_are_plain_json(figures: dict[str, Any]) -> None:
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_one_repeat_has_no_standard_deviation() -> None:
    figures = compare_models(simple([1, 0, 1, 0], [1.0] * 4, [1.0] * 4, [0, 0, 1, 1]))

    assert figures["repeats"]["a"]["own"]["roc_auc"] == {"values": [0.5], "mean": 0.5, "sd": None}


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
        assert (scores.folds["b"][1, held_out_rows] == fold).all()
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
    return Scores(target_of(task), labels, models, {name: folds_of(of) for name, of in labels.items()})


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_figures_of_other_kinds_are_means_over_repeats(kind: str) -> None:
    scores = scores_of_kind(kind)
    target = scores.target
    whole = replace(
        scores, folds={name: np.zeros_like(of) for name, of in scores.folds.items()} | {"a": scores.folds["a"]}
    )

    figures = compare_models(whole)

    name, labels = "b", scores.labels["b"]  # one fold, so that all pairs are compared
    outputs = scores.models["federated"][name].outputs
    by_repeat = [target.figures(target.measure(of, labels, 0.5), 0, target.roc_auc(of, labels)) for of in outputs]
    for of, sums in zip(by_repeat, (target.measure(of, labels, 0.5) for of in outputs), strict=True):
        of["log_loss"] = sums.loss
    metrics = values_of(figures["hospitals"][name]["models"]["federated"])
    assert set(metrics) == {*target.comparisons, *estimate_names(target)}
    assert metrics == pytest.approx({key: np.mean([of[key] for of in by_repeat]) for key in metrics}, rel=1e-5)


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_differences_of_other_kinds_are_above_0_where_the_federated_model_is_better(kind: str) -> None:
    figures = compare_models(scores_of_kind(kind))

    for entry in figures["hospitals"].values():
        for difference in entry["differences"]["own"].values():
            assert difference["low"] > 0
        assert set(entry["verdicts"].values()) == {Verdict.GAINS}
        assert "calibration" not in entry
    json.dumps(figures, allow_nan=False)


def test_a_study_of_too_few_patients_of_a_quantity_has_no_verdict() -> None:
    scores = scores_of_kind("number")
    few = {
        model: {"a": OutOfFold(of["a"].outputs[:, :9], of["a"].thresholds[:, :9])}
        for model, of in scores.models.items()
    }

    figures = compare_models(Scores(scores.target, {"a": scores.labels["a"][:9]}, few, {"a": scores.folds["a"][:, :9]}))

    assert figures["hospitals"]["a"]["verdict"] == Verdict.UNDEFINED
    assert figures["hospitals"]["a"]["differences"]["own"]["mae"]["value"] is not None
    assert figures["mean"]["models"]["own"]["rmse"] is not None
