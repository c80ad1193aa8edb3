"""The federated model recalibrated for each hospital, cross-fitted over the folds of a study."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Verdict
from federated_health.studies.benefit.comparison import OutOfFold, Scores, compare_models
from federated_health.studies.benefit.recalibrated import add_recalibrated, describe_recalibration

REPEATS, FOLDS = 2, 4

Array = npt.NDArray[np.float64]


def scores_of(shifts: dict[str, float], rows: int = 400, seed: int = 0) -> Scores:
    """Hospitals whose own models give the true risks, and whose federated models' log-odds are too low by a shift."""
    generator = np.random.default_rng(seed)
    labels, own, folds = {}, {}, {}
    for name in shifts:
        truth = generator.normal(0, 1.5, rows)
        labels[name] = (generator.random(rows) < probability(truth)).astype(np.float32)
        own[name] = OutOfFold(np.stack([truth] * REPEATS), np.full((REPEATS, rows), 0.5))
        folds[name] = np.stack([generator.permutation(rows) % FOLDS for _ in range(REPEATS)])
    federated = {name: OutOfFold(of.outputs - shifts[name], of.thresholds) for name, of in own.items()}
    models = {"own": own, "federated": federated, "pooled": own, "without": own}
    return Scores(target_of(HEART_DISEASE), labels, models, folds)


@pytest.fixture(scope="module")
def scores() -> Scores:
    return add_recalibrated(scores_of({"shifted": 2.0, "right": 0.0}))


@pytest.fixture(scope="module")
def figures(scores: Scores) -> dict[str, Any]:
    return compare_models(scores)


def intercept_of(log_odds: Array, labels: npt.NDArray[np.float32]) -> Any:
    """Fit of the intercept alone, by statsmodels."""
    return sm.GLM(labels, np.ones(len(labels)), family=sm.families.Binomial(), offset=log_odds).fit()


def test_each_fold_is_corrected_by_a_fit_to_the_other_folds(scores: Scores) -> None:
    labels, folds = scores.labels["shifted"], scores.folds["shifted"]
    federated, recalibrated = (scores.models[model]["shifted"] for model in ("federated", "recalibrated"))

    for repeat in range(REPEATS):
        for fold in range(FOLDS):
            held_out = folds[repeat] == fold
            fitted = intercept_of(federated.outputs[repeat, ~held_out], labels[~held_out])
            expected = federated.outputs[repeat, held_out] + fitted.params[0]
            np.testing.assert_allclose(recalibrated.outputs[repeat, held_out], expected, atol=1e-6)
            threshold = 1 / (1 + np.exp(-fitted.params[0]))  # from 0.5
            np.testing.assert_allclose(recalibrated.thresholds[repeat, held_out], threshold, atol=1e-6)


def test_labels_of_a_fold_do_not_change_its_own_correction(scores: Scores) -> None:
    labels = scores.labels["shifted"].copy()
    held_out = scores.folds["shifted"][0] == 1
    labels[held_out] = 1 - labels[held_out]

    other = add_recalibrated(replace(scores, labels={**scores.labels, "shifted": labels}))

    before, after = (of.models["recalibrated"]["shifted"].outputs[0] for of in (scores, other))
    np.testing.assert_array_equal(before[held_out], after[held_out])
    assert (before[~held_out] != after[~held_out]).all()


def test_risks_that_are_too_low_become_as_accurate_as_the_own_models(scores: Scores, figures: dict[str, Any]) -> None:
    recalibration = describe_recalibration(scores, figures["hospitals"])["shifted"]

    assert recalibration["before"]["calibration_intercept"] > 1.5
    assert abs(recalibration["after"]["calibration_intercept"]) < 0.1
    assert recalibration["after"]["brier"] == pytest.approx(0.166, abs=0.02)
    assert recalibration["before"]["brier"] > recalibration["after"]["brier"] + 0.05
    assert figures["hospitals"]["shifted"]["differences"]["recalibrated"]["brier"]["low"] > 0.05
    assert figures["hospitals"]["shifted"]["verdicts"]["brier"] is Verdict.LOSES
    compared = recalibration["comparisons"]["brier"]
    assert compared["verdict"] is Verdict.UNCLEAR
    assert compared["own"] == figures["hospitals"]["shifted"]["models"]["own"]["brier"]
    assert compared["recalibrated"] == figures["hospitals"]["shifted"]["models"]["recalibrated"]["brier"]
    assert compared["difference"]["value"] == pytest.approx(
        compared["own"]["value"] - compared["recalibrated"]["value"]
    )


def test_the_line_is_that_of_all_scores_with_its_interval(scores: Scores, figures: dict[str, Any]) -> None:
    line = describe_recalibration(scores, figures["hospitals"])["shifted"]

    fitted = intercept_of(scores.models["federated"]["shifted"].outputs[0], scores.labels["shifted"])
    low, high = fitted.conf_int()[0]
    assert line["intercept"] == pytest.approx({"value": fitted.params[0], "low": low, "high": high}, abs=1e-5)
    assert line["slope"] is None


def test_recalibration_does_not_change_ranking_and_decisions(figures: dict[str, Any]) -> None:
    for entry in figures["hospitals"].values():
        before, after = (entry["models"][model] for model in ("federated", "recalibrated"))
        assert before["roc_auc"]["value"] == pytest.approx(after["roc_auc"]["value"])
        for name in ("accuracy", "recall", "specificity"):
            assert before[name] == after[name]


def test_the_line_of_repeats_with_and_without_a_slope_is_that_of_those_without() -> None:
    """In the first repeat risks are too extreme, in the second they are right."""
    scores = scores_of({"mixed": 0.0})
    federated = scores.models["federated"]["mixed"]
    federated.outputs[0] = 3 * federated.outputs[0] + 2

    scores = add_recalibrated(scores)
    line = describe_recalibration(scores, compare_models(scores)["hospitals"])["mixed"]

    fitted = intercept_of(federated.outputs[1], scores.labels["mixed"])
    assert line["intercept"]["value"] == pytest.approx(fitted.params[0], abs=1e-5)
    assert line["slope"] is None


def test_a_hospital_with_too_few_patients_keeps_the_federated_model() -> None:
    scores = scores_of({"large": 2.0, "few": 2.0})
    few = np.flatnonzero(scores.labels["few"] == 1)[4:]  # four positives are left
    scores.labels["few"][few] = 0

    scores = add_recalibrated(scores)

    federated, recalibrated = (scores.models[model]["few"] for model in ("federated", "recalibrated"))
    np.testing.assert_array_equal(recalibrated.outputs, federated.outputs)
    assert set(describe_recalibration(scores, compare_models(scores)["hospitals"])) == {"large"}


def test_without_enough_patients_anywhere_there_is_no_recalibrated_model() -> None:
    scores = scores_of({"few": 2.0}, rows=8)

    assert "recalibrated" not in add_recalibrated(scores).models
