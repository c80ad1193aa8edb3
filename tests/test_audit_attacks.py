"""The figures of an audit, from what is made up to have been seen."""

import json

import numpy as np
import pytest

from federated_health.studies.audit.attacks import ATTACKS, DROP, LIRA, LOSS, SHARE
from federated_health.studies.audit.membership import lira_scores, measure_attack
from federated_health.studies.audit.shadow_runs import AVERAGES, FINAL, HALF, UPDATES
from tests.support.audits import Audit, plan_of

AUDIT = Audit(plan_of())


def test_there_are_figures_of_every_setting_and_attack_as_strict_json() -> None:
    assert list(AUDIT.figures) == ["plain", "encrypted", "epsilon 8", "epsilon 1"]
    attacks = {target: list(ways) for target, ways in AUDIT.figures["plain"]["attacks"].items()}
    assert attacks == {FINAL: [LOSS, LIRA], UPDATES: [DROP, SHARE], AVERAGES: [DROP, SHARE]}
    assert list(AUDIT.figures["plain"]["hospitals"]) == ["large", "small", "middle"]
    json.dumps(AUDIT.figures, allow_nan=False)


def test_what_leaks_is_found_and_what_does_not_is_not() -> None:
    """Seen of members is 2, 0.5 or 0 standard deviations more."""
    aucs = {name: one["attacks"][UPDATES] for name, one in AUDIT.figures.items() if name != "encrypted"}
    found = {name: of[SHARE]["roc_auc"] for name, of in aucs.items()}
    assert found["plain"]["low"] > 0.85
    assert found["epsilon 8"]["low"] > 0.5
    assert found["epsilon 8"]["high"] < 0.75
    assert found["epsilon 1"]["low"] < 0.5 < found["epsilon 1"]["high"]
    assert found["plain"]["value"] > aucs["plain"][DROP]["roc_auc"]["value"]


def test_encrypted_is_plain_but_for_updates_which_nobody_has() -> None:
    plain, encrypted = AUDIT.figures["plain"], AUDIT.figures["encrypted"]
    assert encrypted["attacks"] == {**plain["attacks"], UPDATES: None}
    assert encrypted["whole"] == plain["whole"]
    assert [one[UPDATES] for one in encrypted["hospitals"].values()] == [None] * 3
    assert [one["update"] for one in encrypted["inversion"].values()] == [None] * 3
    assert plain["inversion"]["1"] == {"update": 1.0, "average": 0.5, "typical": 0.25, "random": 0.375}
    assert encrypted["inversion"]["1"] == {**plain["inversion"]["1"], "update": None}


def test_an_attack_s_figures_are_those_of_its_scores() -> None:
    plan = AUDIT.plan
    members, place = plan.members(), plan.slices()["middle"]
    seen = [AUDIT.results[run].statistics for run in plan.runs("plain", HALF)]
    for target, ways in ATTACKS.items():
        for way, (kind, calibrated) in ways.items():
            values = np.array([one[target][kind] for one in seen])
            scores = lira_scores(values, members) if calibrated else values
            whole = measure_attack(scores, members, plan.seed)
            assert AUDIT.figures["plain"]["attacks"][target][way]["roc_auc"]["value"] == whole.roc_auc.value
        part = measure_attack(scores[:, place], members[:, place], plan.seed)
        found = AUDIT.figures["plain"]["hospitals"]["middle"][target]
        assert found["roc_auc"]["value"] == part.roc_auc.value
        assert found["patients"] == 31


def test_worth_is_a_mean_over_federations() -> None:
    assert AUDIT.figures["epsilon 1"]["whole"] == {
        "roc_auc": pytest.approx(0.89),
        "deviation": pytest.approx(0.0),
        "mean_over_hospitals": pytest.approx(0.8),
    }
