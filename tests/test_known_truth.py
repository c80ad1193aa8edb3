"""Verdicts on simulated federations of which the truth is known."""

from collections import Counter

import numpy as np
import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.ml.intervals import compare_models
from federated_health.ml.targets import target_of
from federated_health.ml.verdicts import Verdict, combine, judge_hospitals
from tests.support.known_truth import COMBINED, VERDICTS, HeldOut, Truth, simulate_federation


def verdicts_of(federation: dict[str, HeldOut]) -> dict[str, dict[str, Verdict]]:
    """Verdict by figure and hospital, adjusted for the number of hospitals."""
    target = target_of(HEART_DISEASE)
    compared = {
        name: compare_models(target, rows.federated, rows.own, rows.labels) for name, rows in federation.items()
    }
    return {
        figure: judge_hospitals({name: of_figure[figure].difference for name, of_figure in compared.items()})
        for figure in target.comparisons
    }


@pytest.mark.parametrize("truth", Truth)
def test_each_hospital_has_the_right_verdicts(truth: Truth) -> None:
    federation = simulate_federation(truth)

    found = verdicts_of(federation)

    assert found == {figure: dict.fromkeys(federation, verdict) for figure, verdict in VERDICTS[truth].items()}
    for name in federation:
        assert combine(of_figure[name] for of_figure in found.values()) is COMBINED[truth]


def test_in_few_federations_in_which_nothing_changes_any_hospital_gains_or_loses() -> None:
    """Of 100 federations, 5 may have one for a figure (Holm 1979), give or take two deviations of 2.2."""
    wrong = Counter[str]()
    for seed in range(100):
        federation = simulate_federation(Truth.CHANGES_NOTHING, hospitals=10, patients=60, seed=seed)
        for figure, verdicts in verdicts_of(federation).items():
            wrong[figure] += bool({Verdict.GAINS, Verdict.LOSES} & {*verdicts.values()})

    assert max(wrong.values()) <= 9


def test_a_clear_gain_in_one_of_forty_hospitals_is_found() -> None:
    """A p-value from some hundred draws could not be below 0.05 / 40."""
    federation = simulate_federation(Truth.CHANGES_NOTHING, hospitals=39, seed=3)
    federation["gains"] = simulate_federation(Truth.HELPS, hospitals=1, seed=4)["hospital-1"]

    found = verdicts_of(federation)

    for verdicts in found.values():
        assert [name for name, verdict in verdicts.items() if verdict is Verdict.GAINS] == ["gains"]


def test_the_simulated_risks_are_what_they_are_said_to_be() -> None:
    """A shift raises each risk and swaps no two patients; noise does not change the mean risk by much."""
    harmed = simulate_federation(Truth.HARMS_RISKS, hospitals=1, patients=4000)["hospital-1"]
    nothing = simulate_federation(Truth.CHANGES_NOTHING, hospitals=1, patients=4000)["hospital-1"]

    np.testing.assert_allclose(harmed.federated, nothing.federated + 1.5, atol=1e-5)
    np.testing.assert_array_equal(harmed.own, nothing.own)
    assert nothing.own.mean() == pytest.approx(nothing.federated.mean(), abs=0.05)
