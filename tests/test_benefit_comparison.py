"""Figures of a study against scikit-learn, on small scores made by hand."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as reference

from federated_health.ml.bootstrap import Resampled
from federated_health.ml.curves import calibration
from federated_health.ml.metrics import Verdict, probability
from federated_health.studies.benefit.comparison import (
    POINT_ESTIMATES,
    OutOfFold,
    Scores,
    collect_scores,
    compare_models,
)
from federated_health.studies.benefit.training_setups import Fit, FitResult, TrainingSetup, plan_fits
from tests.support.cohorts import cohort_of, patients, protocol_of

WAYS = ("own", "federated", "pooled", "without")
REPEATS, DRAWS = 2, 200


def labels_of(positives: int, negatives: int, seed: int = 0) -> npt.NDArray[np.float32]:
    labels = np.repeat([1.0, 0.0], [positives, negatives]).astype(np.float32)
    return np.random.default_rng(seed).permutation(labels)


def out_of_fold(labels: npt.NDArray[np.float32], distance: float, seed: int, shift: float = 0.0) -> OutOfFold:
    generator = np.random.default_rng(seed)
    size = (REPEATS, len(labels))
    log_odds = generator.normal(distance * (labels - 0.5) + shift, 1.0, size).round(1)
    return OutOfFold(log_odds, generator.choice([0.3, 0.5, 0.6], size))


def scores_of(labels: dict[str, npt.NDArray[np.float32]], ways: tuple[str, ...] = WAYS) -> Scores:
    return Scores(
        labels,
        {
            way: {
                name: out_of_fold(those, 1.0 + 0.3 * place, seed=10 * place + number, shift=float(number))
                for number, (name, those) in enumerate(labels.items())
            }
            for place, way in enumerate(ways)
        },
    )


@pytest.fixture(scope="module")
def scores() -> Scores:
    return scores_of(
        {"a": labels_of(20, 30), "b": labels_of(9, 40, 1), "one-class": labels_of(7, 0)}, (*WAYS, "median")
    )


@pytest.fixture(scope="module")
def figures(scores: Scores) -> dict[str, Any]:
    return compare_models(scores, seed=1, draws=DRAWS)


def by_scikit_learn(labels: npt.NDArray[np.float32], one: OutOfFold) -> dict[str, float]:
    risks = probability(one.log_odds)
    return {
        "roc_auc": float(np.mean([reference.roc_auc_score(labels, each) for each in one.log_odds])),
        "average_precision": float(np.mean([reference.average_precision_score(labels, each) for each in one.log_odds])),
        "accuracy": float(
            np.mean([reference.accuracy_score(labels, risks[i] >= one.thresholds[i]) for i in range(REPEATS)])
        ),
        "brier": float(np.mean([reference.brier_score_loss(labels, each) for each in risks])),
    }


@pytest.mark.parametrize("way", [*WAYS, "median"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_hospital_s_figures_are_the_means_of_its_repeats_by_scikit_learn(
    scores: Scores, figures: dict[str, Any], way: str, name: str
) -> None:
    found = figures["hospitals"][name]["models"][way]

    expected = by_scikit_learn(scores.labels[name], scores.models[way][name])
    assert found["roc_auc"]["value"] == pytest.approx(expected.pop("roc_auc"))
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    fitted = [calibration(one, scores.labels[name]) for one in scores.models[way][name].log_odds]
    assert found["calibration_slope"] == pytest.approx(np.mean([one.slope for one in fitted]))
    assert found["calibration_intercept"] == pytest.approx(np.mean([one.intercept for one in fitted]))
    assert set(found) == {"roc_auc", *POINT_ESTIMATES}


@pytest.mark.parametrize("way", WAYS)
def test_figures_over_all_patients_are_those_of_all_scores_together(
    scores: Scores, figures: dict[str, Any], way: str
) -> None:
    labels = np.concatenate([scores.labels[name] for name in ("a", "b", "one-class")])
    everyone = OutOfFold(
        *(
            np.concatenate([getattr(scores.models[way][name], field) for name in ("a", "b", "one-class")], axis=1)
            for field in ("log_odds", "thresholds")
        )
    )

    found = figures["all"]["models"][way]

    expected = by_scikit_learn(labels, everyone)
    assert found["roc_auc"]["value"] == pytest.approx(expected.pop("roc_auc"))
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert (figures["all"]["patients"], figures["all"]["positives"]) == (106, 36)


def test_all_patients_are_in_the_order_of_the_labels_whatever_order_a_way_is_in(scores: Scores) -> None:
    turned = Scores(scores.labels, {way: dict(reversed(list(of.items()))) for way, of in scores.models.items()})

    np.testing.assert_array_equal(turned.all_patients("own").log_odds, scores.all_patients("own").log_odds)
    np.testing.assert_array_equal(turned.all_patients("own").thresholds, scores.all_patients("own").thresholds)


@pytest.mark.parametrize("way", WAYS)
def test_the_mean_over_hospitals_counts_each_of_them_once(figures: dict[str, Any], way: str) -> None:
    """Where a figure is not defined in one hospital, it is the mean over the others."""
    of = {name: one["models"][way] for name, one in figures["hospitals"].items()}

    found = figures["mean"]["models"][way]

    assert found["roc_auc"]["value"] == pytest.approx((of["a"]["roc_auc"]["value"] + of["b"]["roc_auc"]["value"]) / 2)
    for key in ("accuracy", "brier"):
        assert found[key] == pytest.approx(sum(of[name][key] for name in of) / 3)
    for key in ("average_precision", "calibration_slope", "calibration_intercept"):
        assert found[key] == pytest.approx((of["a"][key] + of["b"][key]) / 2)


def test_one_class_has_no_auc_no_average_precision_and_no_verdict(figures: dict[str, Any]) -> None:
    one = figures["hospitals"]["one-class"]

    nothing = {"value": None, "low": None, "high": None}
    assert one["verdict"] == "cannot be said"
    assert one["small"] is True
    assert all(difference == nothing for difference in one["differences"].values())
    for model in one["models"].values():
        assert model["roc_auc"] == nothing
        assert (model["average_precision"], model["calibration_slope"], model["calibration_intercept"]) == (None,) * 3
        assert 0 <= model["accuracy"] <= 1


def test_differences_are_paired_and_of_the_hospital_s_own_draws(scores: Scores, figures: dict[str, Any]) -> None:
    resampled = Resampled.of(scores.labels["b"], [1, 1], DRAWS)  # the seed, and the hospital's place

    found = figures["hospitals"]["b"]["differences"]

    for other in ("own", "pooled", "without"):
        of = {way: scores.models[way]["b"].log_odds for way in ("federated", other)}
        paired = resampled.difference(of["federated"], of[other])
        assert found[f"federated_minus_{other}"] == {"value": paired.value, "low": paired.low, "high": paired.high}
    values = {way: figures["hospitals"]["b"]["models"][way]["roc_auc"]["value"] for way in ("median", "federated")}
    assert found["median_minus_federated"]["value"] == pytest.approx(values["median"] - values["federated"])
    assert len(found) == 4


def test_the_mean_difference_is_of_independent_draws_in_each_hospital(scores: Scores, figures: dict[str, Any]) -> None:
    draws = []
    for place, name in enumerate(("a", "b")):
        resampled = Resampled.of(scores.labels[name], [1, place], DRAWS)
        federated, own = (resampled.roc_auc(scores.models[way][name].log_odds)[1] for way in ("federated", "own"))
        draws.append(federated - own)

    found = figures["mean"]["differences"]["federated_minus_own"]

    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(np.mean(draws, axis=0), [0.025, 0.975])))
    correlation = np.mean((draws[0] - draws[0].mean()) * (draws[1] - draws[1].mean())) / draws[0].std() / draws[1].std()
    assert abs(correlation) < 0.3  # 200 pairs of independent draws: a deviation of 0.07


def test_the_interval_over_all_patients_takes_as_many_of_each_hospital_and_class(
    scores: Scores, figures: dict[str, Any]
) -> None:
    parts = [Resampled.of(scores.labels[name], [1, place], DRAWS).times for place, name in enumerate(scores.labels)]
    labels, log_odds = scores.all_labels, scores.all_patients("own").log_odds
    drawn = [
        np.mean([reference.roc_auc_score(labels, one, sample_weight=draw) for one in log_odds])
        for draw in np.concatenate(parts).T
    ]

    found = figures["all"]["models"]["own"]["roc_auc"]

    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def verdicts_of(federated: float, own: float, labels: npt.NDArray[np.float32]) -> Any:
    ways = {way: {"a": out_of_fold(labels, own, seed=place)} for place, way in enumerate(WAYS)}
    ways["federated"] = {"a": out_of_fold(labels, federated, seed=9)}
    return compare_models(Scores({"a": labels}, ways), seed=1, draws=DRAWS)


@pytest.mark.parametrize(
    ("federated", "own", "verdict"),
    [(4.0, 0.5, Verdict.GAINS), (0.5, 4.0, Verdict.LOSES), (1.5, 1.5, Verdict.UNCLEAR)],
)
def test_a_verdict_is_that_of_federated_minus_own(federated: float, own: float, verdict: Verdict) -> None:
    figures = verdicts_of(federated, own, labels_of(60, 60))

    assert figures["hospitals"]["a"]["verdict"] is verdict


@pytest.mark.parametrize(("rarer", "verdict"), [(4, Verdict.UNDEFINED), (5, Verdict.GAINS)])
def test_four_of_a_class_have_figures_and_no_verdict(rarer: int, verdict: Verdict) -> None:
    one = verdicts_of(6.0, 0.0, labels_of(rarer, 60))["hospitals"]["a"]

    assert one["verdict"] is verdict
    assert one["small"] is True
    assert one["differences"]["federated_minus_own"]["low"] is not None


def test_a_slope_that_one_repeat_does_not_have_is_not_defined_and_left_out_of_every_way_s_mean() -> None:
    """Else the mean slope of one way would be over other hospitals than that of another."""
    scores = scores_of({"a": labels_of(20, 30), "b": labels_of(20, 20, 1)})
    scores.models["own"]["b"].log_odds[1] = 2 * scores.labels["b"] - 1  # this repeat separates the classes

    found = compare_models(scores, seed=1, draws=10)

    slopes = {
        name: {way: model["calibration_slope"] for way, model in one["models"].items()}
        for name, one in found["hospitals"].items()
    }
    assert slopes["b"]["own"] is None
    assert slopes["b"]["federated"] is not None
    assert {way: one["calibration_slope"] for way, one in found["mean"]["models"].items()} == pytest.approx(slopes["a"])


def test_figures_are_plain_json(figures: dict[str, Any]) -> None:
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_one_seed_gives_the_same_figures_and_another_one_other_intervals(scores: Scores, figures: Any) -> None:
    again, other = compare_models(scores, seed=1, draws=DRAWS), compare_models(scores, seed=2, draws=DRAWS)

    assert again == figures
    one, another = (of["hospitals"]["a"]["models"]["own"]["roc_auc"] for of in (figures, other))
    assert one["value"] == another["value"]
    assert one["low"] != another["low"]


# From fits to scores


def test_every_fit_s_scores_are_put_in_their_rows_places() -> None:
    """A score names its hospital, its row, its repeat and its way, so that a wrong place would be seen."""
    cohort = cohort_of({"a": patients(13, 1), "b": patients(17, 2)})
    protocol = protocol_of(folds=3, repeats=2)
    strategies = ("fedavg", "average")
    protocol = type(protocol)(**{**vars(protocol), "strategies": strategies})
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
    for way, code in {"own": 1, "federated": 2, "average": 3, "pooled": 4, "without": 5}.items():
        for name, rows in {"a": 13, "b": 17}.items():
            for repeat in range(2):
                expected = 10_000 * code + 1000 * repeat + 100 * (name == "b") + np.arange(rows)
                assert scores.models[way][name].log_odds[repeat].tolist() == expected.tolist()
    for fold in range(3):
        tested_rows = cohort.split(folds=3, fold=fold, seed=protocol.settings.seed + 1)["b"].test
        assert (scores.models["own"]["b"].thresholds[1, tested_rows] == 0.1 + fold / 10).all()
    assert scores.labels["a"].tolist() == cohort.tables["a"]["disease"].tolist()
