"""`python -m federated_health audit`: what it refuses, in one line and without a trace; what it leaves."""

import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import utils
from federated_health.cli import main as cli
from federated_health.cli.console import console
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.errors import RunError
from federated_health.studies.audit import audit_study
from federated_health.studies.audit.membership import measure_attack
from federated_health.studies.audit.shadow_runs import AuditPlan, ShadowRun, ShadowRunResult
from tests.support.audits import LEAKS, Audit

Verb = Callable[..., tuple[int, str, str]]
EPSILONS = tuple(float(name.split()[1]) for name in LEAKS if name != "plain")


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path) -> Verb:
    """Runs the subcommand with arguments in a folder of its own; returns its exit code, stdout and stderr."""
    assert in_folder.is_dir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["federated_health", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            utils.run_script(cli.main)
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[AuditPlan]:
    """What would be trained; what is seen of it is made up, and intervals are of few draws."""
    plans: list[AuditPlan] = []

    def run_tasks(_: Any, train: Any, *, save: Callable[[ShadowRun, ShadowRunResult], None], **__: Any) -> None:
        plan: AuditPlan = train.keywords["plan"]
        plans.append(plan)
        for shadow, result in Audit(plan).results.items():
            save(shadow, result)

    monkeypatch.setattr(audit_study, "run_tasks", run_tasks)
    monkeypatch.setattr("federated_health.studies.audit.attacks.measure_attack", partial(measure_attack, draws=100))
    return plans


def assert_refused(result: tuple[int, str, str], code: int, *parts: str) -> None:
    ended, printed, said = result
    assert (ended, printed) == (code, "")
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ("--shadows 4", 2, "shadows: expected an even number from 6, got 4"),
        ("--shadows 7", 2, "shadows: expected an even number from 6, got 7"),
        ("--shadows some", 2, "argument --shadows: expected a whole number from 1, got 'some'"),
        ("--epsilons 1,-2", 2, "argument --epsilons: expected numbers above 0 between commas"),
        ("--epsilons 1,2,1", 2, "epsilons: expected different values, got 1, 2, 1"),
        ("--epsilons 1e6", 2, "dp-epsilon"),
        ("--dp-delta 0.0045", 2, "dp-delta: expected less than 1/227, one over the training rows, got 0.0045"),
        ("--jobs 0", 2, "argument --jobs: expected a whole number from 1, got '0'"),
        ("--rounds 0", 2, "rounds: expected at least 1, got 0"),
        ("--strategy qfedavg --epsilons 1", 2, "qfedavg: needs each hospital's training loss"),
        ("--dp-epsilon 1", 2, "unrecognized arguments: --dp-epsilon 1"),
        ("--data nowhere", 1, "nowhere/manifest.json: is not there; run: python create_dataset.py"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(
    audit: Verb, trained: list[AuditPlan], hospitals_folder: Path, flags: str, code: int, words: str
) -> None:
    data = [] if "--data" in flags else ["--data", hospitals_folder]
    assert_refused(audit(*data, *flags.split()), code, words)
    assert trained == []
    assert list(Path().iterdir()) == []


def test_a_hospital_that_is_too_small_to_be_halved_is_refused(
    audit: Verb, uci: Source, trained: list[AuditPlan]
) -> None:
    partition = Partition(by="iid", hospitals=3, seed=1)
    write_hospitals(Path("data"), uci, divide(uci, partition), partition=partition.describe())
    path = Path("data/client_2.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:4]))
    assert_refused(audit("--data", "data"), 1, "data/client_2.csv: ")
    assert trained == []


def test_a_run_keeps_its_report(audit: Verb, hospitals_folder: Path, trained: list[AuditPlan]) -> None:
    Path("run").mkdir()
    Path("run", "metrics.json").write_text("{}")
    Path("run", "report.html").write_text("a run's")
    result = audit("--data", hospitals_folder, "--out", "run")
    assert_refused(result, 1, "run: holds a run (metrics.json, report.html); --force replaces its report")
    assert trained == []
    assert Path("run", "report.html").read_text() == "a run's"
    assert audit("--data", hospitals_folder, "--out", "run", "--force", "--shadows", 6, "--epsilons", 8)[0] == 0
    assert "The attack on ourselves" in Path("run", "report.html").read_text()
    assert audit("--data", hospitals_folder, "--out", "run", "--shadows", 6, "--epsilons", 8)[0] == 0  # its own


def test_what_was_asked_for_is_trained(audit: Verb, hospitals_folder: Path, trained: list[AuditPlan]) -> None:
    flags = "--shadows 6 --wholes 1 --draws 2 --epsilons 1,8 --rounds 3 --dp-clip 2 --l2 0 --seed 5"
    assert audit("--data", hospitals_folder, *flags.split())[0] == 0
    (plan,) = trained
    assert list(plan.privacies) == ["plain", "epsilon 8", "epsilon 1"]
    assert [one.dp_epsilon for one in plan.privacies.values()] == [0.0, 8.0, 1.0]
    for one in plan.privacies.values():
        assert (one.rounds, one.dp_clip, one.l2, one.seed, one.hospitals) == (3, 2.0, 0.0, 5, 4)
    assert (plan.half_runs, plan.full_runs, plan.draws, plan.seed) == (6, 1, 2, 5)
    assert plan.smallest == "switzerland"
    assert plan.sizes == (1, 4, 16, 92)


def test_an_audit_leaves_its_figures_as_strict_json_and_a_page_and_shows_them(
    audit: Verb, hospitals_folder: Path, trained: list[AuditPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 120)
    epsilons = ",".join(f"{one:g}" for one in EPSILONS)
    code, printed, said = audit("--data", hospitals_folder, "--out", "out", "--shadows", 8, "--epsilons", epsilons)
    assert (code, said) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads(Path("out/audit.json").read_text(), parse_constant=refuse)
    assert list(written["privacies"]) == ["plain", "encrypted", "epsilon 8", "epsilon 1"]
    assert written["privacies"] == Audit(trained[0]).figures
    assert set(written["audit"]["hospitals"]) == {"cleveland", "hungary", "switzerland", "va-long-beach"}
    assert sorted(path.name for path in Path("out").iterdir()) == ["audit.json", "report.html"]
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "plain 0.900 0.900" in lines
    assert "epsilon 8 0.890 0.890" in lines
    assert "guess: typical patient 25 % 25 % 25 % 25 %" in lines
    assert lines[-1].endswith("wrote out/audit.json and report.html")


def test_a_federation_that_fails_leaves_nothing(
    audit: Verb, hospitals_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RunError("epsilon 1: the weights came apart")

    monkeypatch.setattr(audit_study, "run_tasks", fail)
    result = audit("--data", hospitals_folder, "--out", "out")
    assert_refused(result, 1, "epsilon 1: the weights came apart")
    assert list(Path("out").iterdir()) == []


@pytest.mark.slow
def test_a_short_audit_end_to_end(hospitals_folder: Path, tmp_path: Path) -> None:
    """Logistic regression for three rounds, one epsilon; over two processes."""
    shown: list[tuple[int, int]] = []
    figures = audit_study.run(
        data=hospitals_folder,
        out=tmp_path,
        force=False,
        shadows=6,
        wholes=1,
        draws=0,
        epsilons=(1.0,),
        settings={"model": "logistic", "rounds": 3},
        jobs=2,
        show=lambda done, total: shown.append((done, total)),
    )
    assert shown == [(done, 14) for done in range(15)]
    found = figures["privacies"]
    assert list(found) == ["plain", "encrypted", "epsilon 1"]
    updates = found["plain"]["attacks"]["updates"]["LiRA on gradient shares"]
    private = found["epsilon 1"]["attacks"]["updates"]["LiRA on gradient shares"]
    assert updates["patients"] == 689
    assert updates["roc_auc"]["low"] > private["roc_auc"]["high"]
    assert (tmp_path / "report.html").stat().st_size > 20_000
