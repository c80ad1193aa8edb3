"""The figures of an audit, from made-up statistics."""

import json

import numpy as np
import pytest

from federated_health.studies.audit.attacks import ATTACKS, DROP, LIRA, LOSS, SHARE
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, HALF, UPDATES
from tests.support.audits import example_audit

AUDIT = example_audit()


def test_every_privacy_setting_and_attack_has_figures_as_strict_json() -> None:
    assert list(AUDIT.figures) == ["plain", "encrypted", "epsilon 8", "epsilon 1"]
    attacks = {target: list(figures) for target, figures in AUDIT.figures["plain"]["attacks"].items()}
    assert attacks == {FINAL: [LOSS, LIRA], UPDATES: [DROP, SHARE], AVERAGES: [DROP, SHARE]}
    assert list(AUDIT.figures["plain"]["hospitals"]) == ["large", "small", "middle"]
    json.dumps(AUDIT.figures, allow_nan=False)


def test_an_attack_is_as_strong_as_its_statistic_leaks() -> None:
    """Members' shares are 2, 0.5 and 0 standard deviations above those of others; drops leak half as much."""
    attacks = {name: entry["attacks"][UPDATES] for name, entry in AUDIT.figures.items() if name != "encrypted"}
    aucs = {name: by_attack[SHARE]["roc_auc"] for name, by_attack in attacks.items()}
    assert aucs["plain"]["low"] > 0.85
    assert aucs["epsilon 8"]["low"] > 0.5
    assert aucs["epsilon 8"]["high"] < 0.75
    assert aucs["epsilon 1"]["low"] < 0.5 < aucs["epsilon 1"]["high"]
    assert aucs["plain"]["value"] > attacks["plain"][DROP]["roc_auc"]["value"]


def test_encrypted_figures_are_those_of_plain_runs_without_updates() -> None:
    plain, encrypted = AUDIT.figures["plain"], AUDIT.figures["encrypted"]
    assert encrypted["attacks"] == {**plain["attacks"], UPDATES: None}
    assert encrypted["whole"] == plain["whole"]
    assert [targets[UPDATES] for targets in encrypted["hospitals"].values()] == [None] * 3
    assert [shares["update"] for shares in encrypted["inversion"].values()] == [None] * 3
    assert plain["inversion"]["1"] == {"update": 1.0, "average": 0.5, "typical": 0.25, "random": 0.375}
    assert encrypted["inversion"]["1"] == {**plain["inversion"]["1"], "update": None}


def test_figures_of_an_attack_are_computed_from_its_scores() -> None:
    plan = AUDIT.plan
    members, place = plan.members(), plan.slices()["middle"]
    statistics = [AUDIT.results[run].statistics for run in plan.runs("plain", HALF)]
    for target, attacks in ATTACKS.items():
        for attack, (statistic, is_calibrated) in attacks.items():
            values = np.array([by_target[target][statistic] for by_target in statistics])
            scores = lira_scores(values, members) if is_calibrated else values
            everyone = measure_attack(scores, members, plan.seed, draws=1)
            assert AUDIT.figures["plain"]["attacks"][target][attack]["roc_auc"]["value"] == everyone.roc_auc.value
        hospital = measure_attack(scores[:, place], members[:, place], plan.seed, draws=1)
        figures = AUDIT.figures["plain"]["hospitals"]["middle"][target]
        assert figures["roc_auc"]["value"] == hospital.roc_auc.value
        assert figures["patients"] == 31


def test_model_quality_is_a_mean_over_runs() -> None:
    assert AUDIT.figures["epsilon 1"]["whole"] == {
        "roc_auc": pytest.approx(0.89),
        "deviation": pytest.approx(0.0),
        "mean_over_hospitals": pytest.approx(0.8),
    }
