"""`python -m federated_health audit`: the requests that it refuses, and the files that it writes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.task_writing import write_task
from federated_health.errors import RunError
from federated_health.studies.audit import audit_study
from federated_health.studies.audit.membership import measure_attack
from federated_health.studies.audit.shadow_runs import AuditPlan, ShadowRun, ShadowRunResult
from tests.support.audits import LEAKS, Audit
from tests.support.cohorts import patients, write_tables
from tests.support.power_cuts import nothing_lost
from tests.support.script_calls import RunScript, assert_refused
from tests.support.targets import write_dataset

EPSILONS = tuple(float(name.split()[1]) for name in LEAKS if "epsilon" in name)


@pytest.fixture
def audit(run_script: RunScript) -> RunScript:
    """Runs the subcommand with arguments in a folder of its own."""
    return partial(run_script, "federated-health", "audit")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[AuditPlan]:
    """The plans of all audits; nothing is trained, results are made up, and intervals are of few draws.

    Plans and results are pickled, as on their way to and from worker processes.
    """
    plans: list[AuditPlan] = []

    def run_tasks(_: Any, train: Any, *, save: Callable[[ShadowRun, ShadowRunResult], None], **__: Any) -> None:
        plan: AuditPlan = pickled(train).keywords["plan"]
        plans.append(plan)
        for shadow, result in Audit(plan).results.items():
            save(*pickled((shadow, result)))

    monkeypatch.setattr(audit_study, "run_tasks", run_tasks)
    monkeypatch.setattr("federated_health.studies.audit.attacks.measure_attack", partial(measure_attack, draws=20))
    return plans


def pickled(value: Any) -> Any:
    return ForkingPickler.loads(ForkingPickler.dumps(value))


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--shadows 4", 2, ["shadows", "even", "6", "got 4"]),
        ("--shadows 7", 2, ["shadows", "even", "6", "got 7"]),
        ("--shadows some", 2, ["--shadows", "'some'"]),
        ("--epsilons 1,-2", 2, ["--epsilons", "above 0"]),
        ("--epsilons 1,2,1", 2, ["epsilons", "different", "got 1, 2, 1"]),
        ("--epsilons 1e6", 2, ["dp-epsilon"]),
        ("--dp-delta 0.0045", 2, ["dp-delta", "1/227", "got 0.0045"]),
        ("--jobs 0", 2, ["--jobs", "'0'"]),
        ("--rounds 0", 2, ["rounds", "at least 1", "got 0"]),
        ("--strategy qfedavg --epsilons 1", 2, ["qfedavg", "training loss"]),
        ("--dp-epsilon 1", 2, ["unrecognized", "--dp-epsilon 1"]),
        ("--data nowhere", 1, ["nowhere/manifest.json", "does not exist"]),
    ],
)
def test_invalid_requests_are_refused_in_one_line_and_nothing_is_written(
    audit: RunScript, plans: list[AuditPlan], hospitals_folder: Path, flags: str, code: int, words: list[str]
) -> None:
    data = [] if "--data" in flags else ["--data", hospitals_folder]
    assert_refused(audit(*data, *flags.split()), code, *words)
    assert plans == []
    assert list(Path().iterdir()) == []


def test_a_hospital_that_is_too_small_to_join_a_run_is_left_out_and_named(
    audit: RunScript, in_folder: Path, plans: list[AuditPlan]
) -> None:
    write_tables(in_folder / "data", {"a": patients(40, 1), "small": patients(3, 2), "b": patients(50, 3)})
    result = audit("--data", "data", "--out", "out", "--shadows", 6, "--epsilons", 8)
    assert result.succeeded, result.error
    assert list(plans[0].hospitals) == ["a", "b"]
    assert len([line for line in result.output.splitlines() if "left out: small" in line]) == 1
    written = json.loads(Path("out/audit.json").read_text())
    assert list(written["left_out"]) == ["small"]
    assert set(written["audit"]["hospitals"]) == {"a", "b"}
    assert "left out: small" in Path("out/report.html").read_text().lower()


def test_an_audit_needs_two_hospitals_that_are_large_enough(
    audit: RunScript, in_folder: Path, plans: list[AuditPlan]
) -> None:
    write_tables(in_folder / "data", {"a": patients(40, 1), "small": patients(3, 2)})
    assert_refused(audit("--data", "data"), 1, "at least 2", "got 1", "small", "got 3")
    assert plans == []
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_hospitals_with_too_few_training_rows_to_halve_are_left_out(
    audit: RunScript, hospitals_folder: Path, plans: list[AuditPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_study, "MIN_ROWS", 100)
    assert audit("--data", hospitals_folder, "--shadows", 6, "--epsilons", 8).succeeded
    assert "switzerland" not in plans[0].hospitals
    monkeypatch.setattr(audit_study, "MIN_ROWS", 225)
    assert_refused(audit("--data", hospitals_folder, "--out", "b"), 1, "got 1", "hungary", "at least 225")


@pytest.mark.parametrize("kind", ["classes", "number", "count"])
def test_a_label_that_is_not_binary_is_refused(audit: RunScript, plans: list[AuditPlan], kind: str) -> None:
    write_dataset(Path("data"), kind)
    assert_refused(audit("--data", "data"), 2, "task", "binary", f"kind {kind}")
    assert plans == []
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_the_report_of_a_run_is_replaced_with_force_only(
    audit: RunScript, hospitals_folder: Path, plans: list[AuditPlan]
) -> None:
    Path("run").mkdir()
    Path("run", "metrics.json").write_text("{}")
    Path("run", "report.html").write_text("a run's")
    result = audit("--data", hospitals_folder, "--out", "run")
    assert_refused(result, 1, "run: ", "metrics.json, report.html", "--force")
    assert plans == []
    assert Path("run", "report.html").read_text() == "a run's"
    assert audit("--data", hospitals_folder, "--out", "run", "--force", "--shadows", 6, "--epsilons", 8)[0] == 0
    assert "Privacy audit" in Path("run", "report.html").read_text()
    assert audit("--data", hospitals_folder, "--out", "run", "--shadows", 6, "--epsilons", 8)[0] == 0  # its own


def test_flags_become_the_plan(audit: RunScript, hospitals_folder: Path, plans: list[AuditPlan]) -> None:
    flags = "--shadows 6 --wholes 1 --draws 2 --small-hospitals 4 --epsilons 1,8 --rounds 3 --dp-clip 2 --l2 0 --seed 5"
    assert audit("--data", hospitals_folder, *flags.split())[0] == 0
    (plan,) = plans
    assert list(plan.privacies) == ["plain", "disclosure control", "epsilon 8", "epsilon 1"]
    assert [settings.dp_epsilon for settings in plan.privacies.values()] == [0.0, 0.0, 8.0, 1.0]
    for settings in plan.privacies.values():
        assert (settings.rounds, settings.dp_clip, settings.l2) == (3, 2.0, 0.0)
        assert (settings.seed, settings.hospitals) == (5, 4)
    assert (plan.half_runs, plan.full_runs, plan.draws, plan.drawn, plan.seed) == (6, 1, 2, 4, 5)
    assert plan.smallest == "switzerland"
    assert plan.sizes == (1, 4, 16, 92)


def test_an_update_of_very_many_rows_is_not_inverted(
    audit: RunScript, hospitals_folder: Path, plans: list[AuditPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_study, "MAX_INVERTED", 91)
    assert audit("--data", hospitals_folder, "--shadows", 6, "--epsilons", 8)[0] == 0
    assert plans[0].sizes == (1, 4, 16)


def test_an_audit_writes_strict_json_and_a_page_and_prints_its_figures(
    audit: RunScript, hospitals_folder: Path, plans: list[AuditPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    epsilons = ",".join(f"{epsilon:g}" for epsilon in EPSILONS)
    with nothing_lost(Path()):
        code, output, errors = audit("--data", hospitals_folder, "--out", "out", "--shadows", 8, "--epsilons", epsilons)
    assert (code, errors) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads(Path("out/audit.json").read_text(), parse_constant=refuse)
    assert list(written["privacies"]) == ["plain", "disclosure control", "secure aggregation", "epsilon 8", "epsilon 1"]
    assert written["privacies"] == Audit(plans[0]).figures
    few = list(written["sums_of_few"].values())
    assert few[:2] == [1.0, 1.0]
    assert few[-1] == 0.0
    assert set(written["audit"]["hospitals"]) == {"cleveland", "hungary", "switzerland", "va-long-beach"}
    assert sorted(path.name for path in Path("out").iterdir()) == ["audit.json", "report.html", "tables"]
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "plain 0.900 0.900" in lines
    assert "epsilon 8 0.890 0.890" in lines
    assert "guess: typical patient 25 % 25 % 25 % 25 %" in lines
    assert any("out/audit.json" in line for line in lines[-2:])


def test_an_audit_with_a_failed_run_writes_nothing(
    audit: RunScript, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("epsilon 1: training diverged")

    monkeypatch.setattr(audit_study, "run_tasks", fail)
    result = audit("--data", hospitals_folder, "--out", "out")
    assert_refused(result, 1, "epsilon 1: training diverged")
    assert list(Path("out").iterdir()) == []


def test_an_audit_takes_the_training_settings_of_the_task_apart_from_what_attacks_do_not_know(
    audit: RunScript, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[AuditPlan] = []

    def stop(_: object, train: Any, **__: object) -> None:
        plans.append(train.keywords["plan"])
        raise RunError("it is not trained here")

    monkeypatch.setattr(audit_study, "run_tasks", stop)
    training: dict[str, str | int | float] = {"rounds": 7, "dp_rounds": 9, "l2": 0.5}
    training |= {"optimizer": "adam", "learning_rate": 0.001, "dropout": 0.5}
    Path("task.toml").write_text(write_task(replace(HEART_DISEASE, training=training)))
    flags = ["--task-file", "task.toml", "--epsilons", 1]
    assert_refused(audit("--data", hospitals_folder, *flags), 1, "not trained")
    plain, _, private = plans[0].privacies.values()
    assert (plain.rounds, private.rounds, plain.l2) == (7, 9, 0.5)
    assert (plain.optimizer, plain.learning_rate, plain.dropout) == ("sgd", 0.05, 0.0)


@pytest.mark.slow
def test_a_short_audit_of_real_patients_end_to_end(hospitals_folder: Path, tmp_path: Path) -> None:
    """The two smallest hospitals and two rounds, without noise and with much; in this process."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(hospitals_folder, data)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["hospitals"] = manifest["hospitals"][2:]
    (data / "manifest.json").write_text(json.dumps(manifest))
    shown: list[tuple[int, int]] = []
    figures = audit_study.run(
        data=data,
        out=out,
        force=False,
        shadows=6,
        wholes=1,
        draws=0,
        small_hospitals=1,
        epsilons=(1.0,),
        settings={"rounds": 2},
        jobs=1,
        show=lambda done, total: shown.append((done, total)),
    )
    assert shown == [(done, 24) for done in range(25)]
    by_privacy = figures["privacies"]
    assert list(by_privacy) == ["plain", "disclosure control", "secure aggregation", "epsilon 1"]
    plain, private = (
        by_privacy[privacy]["attacks"]["updates"]["LiRA on gradient shares"] for privacy in ("plain", "epsilon 1")
    )
    assert plain["patients"] == 242
    assert plain["roc_auc"]["low"] > private["roc_auc"]["high"]
    plain, controlled = (by_privacy[name]["small_hospital"] for name in ("plain", "disclosure control"))
    assert plain["added"] == plain["held_out"] == 1.0
    assert controlled["added"] == controlled["counted"] == 0.0
    assert "Privacy audit" in (out / "report.html").read_text()
