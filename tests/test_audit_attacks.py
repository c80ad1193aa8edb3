"""The figures of an audit, from made-up statistics."""

import json

import numpy as np
import pytest

from federated_health.studies.audit.attacks import ATTACKS, DROP, LIRA, LOSS, SHARE, SUBSET
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, HALF, HELD_OUT, HELD_OUT_SUM, UPDATES
from tests.support.audits import example_audit

AUDIT = example_audit()


def test_every_privacy_setting_and_attack_has_figures_as_strict_json() -> None:
    assert list(AUDIT.figures) == ["plain", "disclosure control", "secure aggregation", "epsilon 8", "epsilon 1"]
    attacks = {target: list(figures) for target, figures in AUDIT.figures["plain"]["attacks"].items()}
    assert attacks == {
        FINAL: [LOSS, LIRA],
        UPDATES: [DROP, SHARE],
        AVERAGES: [DROP, SHARE],
        HELD_OUT: [LOSS, SUBSET],
        HELD_OUT_SUM: [SUBSET],
    }
    assert list(AUDIT.figures["plain"]["hospitals"]) == ["large", "small", "middle"]
    json.dumps(AUDIT.figures, allow_nan=False)


def test_an_attack_is_as_strong_as_its_statistic_leaks() -> None:
    """Members' shares are 2, 1 and 0 standard deviations above those of others; drops leak half as much."""
    attacks = {name: entry["attacks"][UPDATES] for name, entry in AUDIT.figures.items() if name != "secure aggregation"}
    aucs = {name: by_attack[SHARE]["roc_auc"] for name, by_attack in attacks.items()}
    assert aucs["plain"]["low"] > 0.85
    assert aucs["epsilon 8"]["low"] > 0.5
    assert aucs["epsilon 8"]["high"] < aucs["plain"]["low"]
    assert aucs["epsilon 1"]["low"] < 0.5 < aucs["epsilon 1"]["high"]
    assert aucs["plain"]["value"] > attacks["plain"][DROP]["roc_auc"]["value"]


def test_held_out_rows_are_attacked_like_training_rows() -> None:
    """Scores of subset recovery leak 4 standard deviations in plain runs, and a final model nothing at all."""
    attacks = {
        name: entry["attacks"][HELD_OUT] for name, entry in AUDIT.figures.items() if name != "secure aggregation"
    }
    assert attacks["plain"][SUBSET]["roc_auc"]["low"] > 0.95
    assert attacks["plain"][SUBSET]["patients"] == 45
    for figures in (attacks["plain"][LOSS], attacks["epsilon 1"][SUBSET]):
        assert figures["roc_auc"]["low"] < 0.5 < figures["roc_auc"]["high"]


def test_secure_aggregation_leaves_the_averages_and_the_sums_over_hospitals() -> None:
    plain, secure = AUDIT.figures["plain"], AUDIT.figures["secure aggregation"]
    assert secure["attacks"] == {**plain["attacks"], UPDATES: None, HELD_OUT: None}
    assert secure["attacks"][AVERAGES][SHARE]["roc_auc"]["low"] > 0.5
    assert secure["attacks"][HELD_OUT_SUM][SUBSET]["roc_auc"]["low"] > 0.5
    assert secure["whole"] == plain["whole"]
    assert [targets[UPDATES] for targets in secure["hospitals"].values()] == [None] * 3
    assert plain["inversion"]["1"] == {"update": 1.0, "average": 0.5, "typical": 0.25, "random": 0.375}
    assert secure["inversion"]["1"] == {**plain["inversion"]["1"], "update": 0.5}


def test_findings_about_a_small_hospital_are_means_over_draws() -> None:
    """Plain runs find 1 and 0.5, the sums over all hospitals half of it; an undefined finding stays undefined."""
    found = {privacy: entry["small_hospital"] for privacy, entry in AUDIT.figures.items()}
    assert {privacy: findings["held_out"] for privacy, findings in found.items()} == {
        "plain": 0.75,
        "disclosure control": 0.0,
        "secure aggregation": 0.375,
        "epsilon 8": 0.0,
        "epsilon 1": 0.0,
    }
    assert found["plain"]["members"] is None


def test_the_control_of_an_attack_finds_nothing_where_the_attack_does() -> None:
    """The same scores, asked about the members of other runs."""
    plain = AUDIT.figures["plain"]
    assert list(plain["control"]) == [LOSS, LIRA]
    assert plain["attacks"][FINAL][LOSS]["roc_auc"]["low"] > 0.55
    assert plain["control"][LOSS]["low"] < 0.5 < plain["control"][LOSS]["high"]


def test_figures_of_an_attack_are_computed_from_its_scores() -> None:
    plan = AUDIT.plan
    statistics = [AUDIT.results[run].statistics for run in plan.runs("plain", HALF)]
    for target, attacks in ATTACKS.items():
        members, place = plan.members(target), plan.slices(target)["middle"]
        for attack, (statistic, is_calibrated) in attacks.items():
            values = np.array([by_target[target][statistic] for by_target in statistics])
            scores = lira_scores(values, members) if is_calibrated else values
            everyone = measure_attack(scores, members, plan.seed, draws=1)
            assert AUDIT.figures["plain"]["attacks"][target][attack]["roc_auc"]["value"] == everyone.roc_auc.value
        hospital = measure_attack(scores[:, place], members[:, place], plan.seed, draws=1)
        figures = AUDIT.figures["plain"]["hospitals"]["middle"][target]
        assert figures["roc_auc"]["value"] == hospital.roc_auc.value
        assert figures["patients"] == (15 if target in (HELD_OUT, HELD_OUT_SUM) else 31)


def test_model_quality_is_a_mean_over_runs() -> None:
    assert AUDIT.figures["epsilon 1"]["whole"] == {
        "roc_auc": pytest.approx(0.89),
        "deviation": pytest.approx(0.0),
        "mean_over_hospitals": pytest.approx(0.8),
    }
