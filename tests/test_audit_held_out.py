"""Attacks on the held-out rows of toy hospitals, from the sums that they release under known weights."""

from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
import pytest

from federated_health.data.hospital import Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.noisy_evaluation import EDGES, count_rows
from federated_health.ml.normalisation import column_sums, withheld_sums
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.studies.audit.held_out import (
    membership_equations,
    outcome_equations,
    registration_equations,
    sum_over_hospitals,
)
from federated_health.studies.audit.observations import Evaluated, layers_of, log_odds_of
from federated_health.studies.audit.subset_recovery import recover_subset

Array = npt.NDArray[np.float64]

GENERATOR = np.random.default_rng(11)
FEATURES = GENERATOR.normal(size=(24, 3))
LABELS = (GENERATOR.random(24) < 0.5).astype(np.float32)
HELD_OUT = np.isin(np.arange(24), [1, 4, 9, 16, 20, 23])


def evaluated(features: Array, labels: npt.NDArray[np.float32], rounds: int, threshold: float = 0.4) -> list[Evaluated]:
    """The sums over these rows under the weights of logistic regressions, one per round."""
    generator, evaluations = np.random.default_rng(5), []
    for _ in range(rounds):
        kernel, bias = generator.normal(size=(3, 1)), generator.normal(size=1)
        weights = {"logit/kernel": kernel.astype(np.float32), "logit/bias": bias.astype(np.float32)}
        risks = probability(log_odds_of(layers_of(weights), features))
        evaluations.append(Evaluated(weights, threshold, asdict(count_outcomes(risks, labels, threshold))))
    return evaluations


def test_a_few_rounds_of_sums_tell_which_candidates_are_held_out() -> None:
    evaluations = evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=6)
    assert (recover_subset(membership_equations(evaluations, FEATURES, LABELS)) == HELD_OUT).all()


def test_counts_alone_tell_less_than_counts_and_losses() -> None:
    evaluations = [
        replace(part, sums={name: value for name, value in part.sums.items() if name.endswith("tives")})
        for part in evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=2)
    ]
    equations = membership_equations(evaluations, FEATURES, LABELS)
    assert equations.terms.shape == (8, 24)
    assert (recover_subset(equations) != HELD_OUT).any()


def test_withheld_sums_tell_nothing() -> None:
    silent = [replace(part, sums={}) for part in evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=6)]
    assert (recover_subset(membership_equations(silent, FEATURES, LABELS)) == 0.5).all()
    prior = np.linspace(0, 1, 6)
    assert (recover_subset(outcome_equations(silent, FEATURES[HELD_OUT]), prior) == prior).all()


def test_rounded_losses_are_matched_within_their_rounding() -> None:
    """As disclosure control rounds them: means with three decimals."""
    rounded = []
    for part in evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=12):
        means = {name: 6 * round(part.sums[name] / 6, 3) for name in ("loss_sum", "squared_error_sum")}
        rounded.append(replace(part, sums={**part.sums, **means}))
    assert (recover_subset(membership_equations(rounded, FEATURES, LABELS)) == HELD_OUT).all()


def test_cells_of_scores_are_sums_over_the_candidates_in_each() -> None:
    """Numbers of held-out patients by class and score; with noise, as under differential privacy, little remains."""
    (part,) = evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=1)
    log_odds = log_odds_of(layers_of(part.weights), FEATURES[HELD_OUT])
    table = count_rows(target_of(HEART_DISEASE), log_odds, LABELS[HELD_OUT], np.arange(6), 1.0)
    exact = replace(part, sums={}, cells=tuple(table.ravel().tolist()), edges=tuple(EDGES))
    equations = membership_equations([exact], FEATURES, LABELS)
    assert equations.terms.shape == (16, 24)
    assert (equations.terms @ HELD_OUT == equations.sums).all()
    assert (equations.terms.sum(axis=0) == 1).all()
    noise = np.random.default_rng(2).normal(scale=3.0, size=16)
    noisy = replace(exact, cells=tuple((table.ravel() + noise).tolist()))
    scores = recover_subset(membership_equations([noisy], FEATURES, LABELS))
    assert ((scores >= 0.5) != HELD_OUT).any()


def test_sums_tell_the_outcomes_of_held_out_patients_whose_columns_are_known() -> None:
    evaluations = evaluated(FEATURES[HELD_OUT], LABELS[HELD_OUT], rounds=3)
    outcomes = recover_subset(outcome_equations(evaluations, FEATURES[HELD_OUT]))
    assert (outcomes == LABELS[HELD_OUT]).all()


def test_sums_over_hospitals_are_those_of_all_their_rows() -> None:
    by_hospital = {"a": evaluated(FEATURES[:9], LABELS[:9], 2), "b": evaluated(FEATURES[9:], LABELS[9:], 2)}
    together = sum_over_hospitals(by_hospital)
    for summed, expected in zip(together, evaluated(FEATURES, LABELS, 2), strict=True):
        assert summed.sums == pytest.approx(expected.sums)
        assert summed.threshold == 0.4


def test_a_sum_that_one_hospital_withholds_is_in_no_sum_over_hospitals() -> None:
    first, second = evaluated(FEATURES[:9], LABELS[:9], 1), evaluated(FEATURES[9:], LABELS[9:], 1)
    loss_only = [replace(second[0], sums={"loss_sum": second[0].sums["loss_sum"]})]
    (summed,) = sum_over_hospitals({"a": first, "b": loss_only})
    assert list(summed.sums) == ["loss_sum"]


def candidates() -> Patients:
    """Age and cholesterol of eight patients; the first two are held out."""
    ages = [41, 63, 44, 58, 60, 71, 52, 39]
    cholesterol = [233, np.nan, 250, 204, 199, 301, 212, 260]
    return Patients(np.array([ages, cholesterol], dtype=float).T, np.zeros(8, dtype=np.float32))


def test_the_sums_of_a_registration_tell_who_is_held_out() -> None:
    everyone = candidates()
    sums = column_sums(everyone.values[2:])
    scores = recover_subset(registration_equations(sums, everyone, [0, 1]))
    assert scores.tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_a_registration_without_sums_tells_nothing() -> None:
    equations = registration_equations(withheld_sums(2), candidates(), [0, 1])
    assert recover_subset(equations).tolist() == [0.5] * 8
