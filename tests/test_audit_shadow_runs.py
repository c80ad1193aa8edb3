"""The training rows of each shadow run, and shadow runs that are trained and observed in process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import app
from federated_health.data.hospital import load_hospital
from federated_health.data.manifest import find_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError
from federated_health.settings import Settings
from federated_health.studies.audit.attacks import ATTACKS
from federated_health.studies.audit.membership import measure_attack
from federated_health.studies.audit.shadow_runs import (
    AVERAGES,
    DISCLOSURE_CONTROL,
    DRAWN,
    FINAL,
    FULL,
    HALF,
    HELD_OUT,
    HELD_OUT_SUM,
    SMALL,
    UPDATES,
    AuditPlan,
    ShadowRun,
    ShadowRunResult,
    train_shadow_run,
)
from tests.support.audits import hospitals_of, plan_of


def test_every_patient_is_in_half_of_the_runs_and_half_of_each_hospital_in_every_run() -> None:
    plan = plan_of()
    members = plan.members()
    assert members.shape == (8, 91)
    assert members.sum(axis=0).tolist() == [4] * 91
    assert (members[::2] == ~members[1::2]).all()
    for place, halves in zip(plan.slices().values(), ({20}, {10}, {15, 16}), strict=True):
        assert set(members[:, place].sum(axis=1).tolist()) == halves
    assert len({row.tobytes() for row in members}) == 8
    assert (members == plan.members()).all()
    assert (members != replace(plan, seed=8).members()).any()


def test_hospitals_follow_each_other_in_the_order_of_patients() -> None:
    plan = plan_of()
    assert plan.slices() == {"large": slice(0, 40), "small": slice(40, 60), "middle": slice(60, 91)}
    assert plan.smallest == "small"


def test_held_out_rows_are_halved_on_their_own() -> None:
    plan = plan_of()
    assert plan.slices(HELD_OUT) == {"large": slice(0, 20), "small": slice(20, 30), "middle": slice(30, 45)}
    members = plan.members(HELD_OUT)
    assert members.shape == (8, 45)
    assert members.sum(axis=0).tolist() == [4] * 45
    assert (members[:, :20].sum(axis=1) == 10).all()
    assert (members == plan.members(HELD_OUT_SUM)).all()


def test_updates_are_not_inverted_again_under_disclosure_control() -> None:
    kinds = {shadow.kind for shadow in plan_of().shadow_runs() if shadow.privacy == DISCLOSURE_CONTROL}
    assert kinds == {HALF, FULL, DRAWN}


def test_every_other_privacy_setting_has_the_same_shadow_runs() -> None:
    plan = plan_of()
    runs = plan.shadow_runs()
    assert len(runs) == len(set(runs)) == 4 * (8 + 2 + 2) + 3 * 3 * 2
    for privacy in set(plan.privacies) - {DISCLOSURE_CONTROL}:
        same = [replace(shadow, privacy="") for shadow in runs if shadow.privacy == privacy]
        assert same[:8] == [ShadowRun(privacy="", kind=HALF, number=number) for number in range(8)]
        assert same[8:10] == [ShadowRun(privacy="", kind=FULL, number=number) for number in range(2)]
        assert same[10] == ShadowRun(privacy="", kind=SMALL, number=0, rows=1)
        assert same[-1] == ShadowRun(privacy="", kind=DRAWN, number=1)


def trained(plan: AuditPlan, privacy: str, kind: str, number: int = 0, rows: int = 0) -> ShadowRunResult:
    return train_shadow_run(ShadowRun(privacy=privacy, kind=kind, number=number, rows=rows), plan, app)


def small_plan(**changes: object) -> AuditPlan:
    """Logistic regression for two rounds, without noise and with strong noise."""
    quick = {"model": "logistic", "rounds": 2, "local-epochs": 1, "appraisal": False, "hospitals": 2}
    config = {**quick, **changes}
    return plan_of(
        hospitals=hospitals_of({"a": 24, "b": 12}),
        privacies={
            "plain": Settings.from_config(config),  # type: ignore[arg-type]  # values of settings
            DISCLOSURE_CONTROL: Settings.from_config(config),  # type: ignore[arg-type]  # values of settings
            "epsilon 1": Settings.from_config({**config, "dp-epsilon": 1.0}),  # type: ignore[dict-item]  # the same
        },
        sizes=(1, 2),
    )


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["plain", DISCLOSURE_CONTROL, "epsilon 1"])
def test_half_runs_give_every_attack_its_statistics_and_full_runs_give_none(privacy: str) -> None:
    plan = small_plan()
    half = trained(plan, privacy, HALF, 1)
    assert {target: set(kinds) for target, kinds in half.statistics.items()} == {
        FINAL: {"confidence"},
        UPDATES: {"drop", "share"},
        AVERAGES: {"drop", "share"},
        HELD_OUT: {"confidence", "subset"},
        HELD_OUT_SUM: {"subset"},
    }
    for target, attacks in ATTACKS.items():
        for statistic, _ in attacks.values():
            values = half.statistics[target][statistic]
            assert values.shape == ((18,) if target in (HELD_OUT, HELD_OUT_SUM) else (36,))
            assert np.isfinite(values).all()
            assert values.std() > 0 or (privacy != "plain" and target in (HELD_OUT, HELD_OUT_SUM))
    assert half.roc_auc is not None
    assert 0 <= half.roc_auc <= 1
    full = trained(plan, privacy, FULL)
    assert full.roc_auc is not None
    assert not full.statistics


@pytest.mark.slow
def test_updates_of_real_patients_reveal_members_and_the_final_model_hardly_does(hospitals_folder: Path) -> None:
    """After two rounds, without any shadow model."""
    hospitals = {}
    for number in (3, 4):
        path, name = find_hospital(hospitals_folder, number)
        hospitals[name] = load_hospital(path, HEART_DISEASE, name, 42)
    settings = Settings.from_config({"rounds": 2, "hospitals": 2})
    plan = plan_of(hospitals=hospitals, privacies={"plain": settings})
    result = trained(plan, "plain", HALF)
    for place in plan.slices().values():
        members = plan.members()[:1, place]
        share, confidence = (
            measure_attack(result.statistics[target][statistic][None, place], members, 1).roc_auc
            for target, statistic in ((UPDATES, "share"), (FINAL, "confidence"))
        )
        assert share.low is not None
        assert confidence.value is not None
        assert share.low > 0.75
        assert confidence.value < 0.65


@pytest.mark.slow
def test_plain_sums_reveal_which_patients_are_held_out() -> None:
    """Two rounds, 6 of 12 held-out rows and 3 of 6."""
    plan = small_plan()
    half = trained(plan, "plain", HALF, 1)
    assert (half.statistics[HELD_OUT]["subset"] == plan.members(HELD_OUT)[1]).all()


@pytest.mark.slow
def test_disclosure_control_hides_which_patients_are_held_out_and_changes_no_update() -> None:
    """The halves have 6 and 3 held-out rows, so that every count is 0 or too small."""
    plan = small_plan()
    plain, controlled = (trained(plan, privacy, HALF, 1).statistics for privacy in ("plain", DISCLOSURE_CONTROL))
    assert (controlled[HELD_OUT]["subset"] == 0.5).all()
    for target in (FINAL, UPDATES, AVERAGES):
        for statistic, values in plain[target].items():
            assert (controlled[target][statistic] == values).all()


@pytest.mark.slow
def test_a_plain_update_of_one_patient_reveals_the_patient_and_a_noisy_one_does_not() -> None:
    plan = small_plan()
    plain, noisy = (trained(plan, privacy, SMALL, rows=1).inversion for privacy in ("plain", "epsilon 1"))
    assert plain["update"] == 1.0
    assert noisy["update"] < 0.8
    assert plain["average"] < 1.0
    assert (plain["typical"], plain["random"]) == (noisy["typical"], noisy["random"])  # of the same patients
    assert 0 < plain["random"] <= 1


@pytest.mark.slow
def test_a_shadow_run_that_loses_a_hospital_fails() -> None:
    """The hospital may not join: it has too few training rows for this delta."""
    plan = small_plan(**{"dp-delta": 0.1})
    with pytest.raises(RunError):
        trained(plan, "epsilon 1", HALF)
