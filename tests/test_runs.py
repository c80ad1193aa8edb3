"""The folder of a run: its results, its checkpoints, and how a run resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from federated_health import files
from federated_health.cli import console, run_results
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import RunError
from federated_health.files import hash_file
from federated_health.ml.backend import load_keras
from federated_health.ml.model_files import read_description
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.report import run_page, saved_model
from federated_health.report.page import Page, Section, Table, write_report
from federated_health.report.tables_folder import write_tables
from federated_health.server import run_summary
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.server.resuming import read_checkpoint, settings_to_resume
from federated_health.server.run_folder import RunFolder
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.conftest import PROJECT
from tests.support.checkpoints import checkpoint_of
from tests.support.light_hospitals import CHOSEN, ROWS, app_of, run_of, settings_of, three_with_scores

ALL = {"metrics.json", "model.keras", "report.html", "rounds.csv", "settings.json"}
PLAN = PrivacyPlan(
    epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=4, learning_rate=0.1, rounds=8, run="0" * 16
)
FINISHED = ALL | {"checkpoints"}


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def run_in(out: Path, *, rounds: int | None = None, force: bool = False) -> None:
    """A whole run, or one that is stopped after so many rounds."""
    federated_run = run_of(three_with_scores())
    settings = replace(federated_run.settings, out=str(out), force=force)
    with RunFolder(settings) as folder:
        federated_run.gather()
        folder.begin(federated_run)
        for record in federated_run.rounds():
            folder.append_round(federated_run)
            if record.number == rounds:
                break
        stopped = rounds is not None
        figures = federated_run.figures_of_last_round() if stopped else federated_run.evaluate()
        folder.finish(federated_run, figures, stopped=stopped)


@pytest.fixture(scope="module")
def _keras() -> None:
    """Loaded once in this process, so that no run starts another one that saves its model (see test_model_saver.py)."""
    load_keras()


@pytest.mark.slow
@pytest.mark.usefixtures("_keras")
@pytest.mark.parametrize(("stopped", "threshold"), [(False, CHOSEN), (True, 0.5)])
def test_saved_files_hold_the_threshold_of_their_figures(tmp_path: Path, stopped: bool, threshold: float) -> None:
    run_in(tmp_path, rounds=3 if stopped else None)
    assert json.loads((tmp_path / "metrics.json").read_text())["threshold"] == threshold
    assert read_description(tmp_path / "model.keras")["threshold"] == threshold


# The report


@pytest.mark.slow
@pytest.mark.usefixtures("_keras")
def test_a_report_is_of_the_run_s_own_model_and_force_replaces_it(tmp_path: Path) -> None:
    run_in(tmp_path)
    assert names_in(tmp_path) == FINISHED | {"tables"}
    first = (tmp_path / "report.html").read_text()
    assert_equal_to_metrics(tmp_path)
    assert read_description(tmp_path / "model.keras")["weights_sha256"] in first
    assert hash_file(tmp_path / "model.keras") in first
    assert "3 rounds" in first
    run_in(tmp_path, rounds=2, force=True)
    second = (tmp_path / "report.html").read_text()
    assert "2 rounds" in second
    assert "stopped before its last round" not in first
    assert "stopped before its last round" in second
    assert hash_file(tmp_path / "model.keras") in second


def assert_equal_to_metrics(folder: Path) -> None:
    """Pandas reads from tables/ the figures that metrics.json has, and from rounds.csv those of the last round."""
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "tables" / "figures-on-held-out-patients.csv", index_col="hospital")
    for name, row in {**metrics["hospitals"], "federation": metrics["federation"]}.items():
        for column, figure in (("ROC-AUC", "roc_auc"), ("specificity", "specificity"), ("Brier score", "brier")):
            value = table[column][name]
            assert np.isnan(value) if row[figure] is None else value == pytest.approx(row[figure], rel=1e-15)
    assert len(pd.read_csv(folder / "rounds.csv")) == metrics["rounds"] * len(table.drop(index="hospital mean"))


@pytest.mark.slow
@pytest.mark.usefixtures("_keras")
def test_figures_and_model_are_saved_although_the_report_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret value")

    monkeypatch.setattr(run_page, "page_of_run", fail)
    with pytest.raises(RunError, match=r"report\.html: .*ZeroDivisionError") as raised:
        run_in(tmp_path)
    assert "secret" not in str(raised.value)
    assert json.loads((tmp_path / "metrics.json").read_text())["rounds"] == 3
    assert read_description(tmp_path / "model.keras")["rounds"] == 3
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_written_is_an_error_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_report(tmp_path / "report.html", lambda: Page(title="a", lead="b", sections=[]))


def test_starting_a_server_imports_neither_keras_nor_libraries_that_draw() -> None:
    program = (
        "import sys, server, federated_health.studies.benefit.benefit_study\n"
        "late = {'matplotlib', 'jinja2', 'scipy', 'sklearn', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "sys.exit(f'imported too early: {sorted(late)}' if late else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


# Starting, resuming and ending at any moment: with light hospitals, and without a model


def chosen_for(out: Path, **changed: Any) -> Settings:
    return replace(settings_of("fedavg"), **{"out": str(out), "min_hospitals": 3, "appraisal": False, **changed})


def resumed(out: Path, **changed: Any) -> Settings:
    return replace(chosen_for(out), **{"out": "", "resume": str(out), **changed})


def run_for(settings: Settings) -> PlainRun:
    app = app_of({hospital.name: hospital for hospital in three_with_scores()})
    return PlainRun(InProcessTransport(app, {name: hospital_context(name, {}) for name in ROWS}), settings)


class StopHereError(Exception):
    """Ends a run early."""


def run_to_end(settings: Settings, *, until: int = 99, copy: Path | None = None) -> PlainRun:
    """A run as server.py makes it; StopHereError after so many rounds, and for -1 before the run begins.

    Args:
        copy: where the folder is copied before the error, as a killed process would leave it.
    """

    def stop_here() -> None:
        if copy is not None:
            shutil.copytree(folder.path, copy)
        raise StopHereError

    with RunFolder(settings) as folder:
        federated_run = run_for(settings)
        if folder.checkpoint is not None:
            federated_run.resume(folder.checkpoint)
        federated_run.gather()
        if until == -1:
            stop_here()
        folder.begin(federated_run)
        if until <= len(federated_run.history):
            stop_here()
        for record in federated_run.rounds():
            folder.append_round(federated_run)
            if record.number == until:
                stop_here()
        folder.finish(federated_run, federated_run.evaluate(), stopped=False)
    return federated_run


def stop(settings: Settings, until: int, copy: Path | None = None) -> None:
    """A run that an exception ends after so many rounds (see `run_to_end`)."""
    with pytest.raises(StopHereError):
        run_to_end(settings, until=until, copy=copy)


@pytest.fixture
def _no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and a report that are made at once."""

    def save(path: Path, *_: object) -> None:
        path.write_text("a model")

    monkeypatch.setattr(saved_model.ModelSaver, "prepare", lambda _: None)
    monkeypatch.setattr(saved_model, "save_final_model", save)
    monkeypatch.setattr(run_page, "write_run_report", lambda path, _: path.write_text("a report"))


light = pytest.mark.usefixtures("_no_keras")


def rounds_in(folder: Path) -> list[int]:
    rows = (folder / "rounds.csv").read_text().splitlines()
    assert rows[0].startswith("round,hospital,")
    return sorted({int(row.split(",")[0]) for row in rows[1:]})


@light
def test_a_completed_run_leaves_its_files_and_its_last_checkpoint(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path / "run"))
    assert names_in(tmp_path / "run") == FINISHED
    assert names_in(tmp_path / "run" / "checkpoints") == {"finished-000003.checkpoint", "history.jsonl"}
    assert rounds_in(tmp_path / "run") == [1, 2, 3]
    lines = (tmp_path / "run" / "rounds.csv").read_text().splitlines()
    assert lines[:5] == [
        "round,hospital,train_examples,train_loss,test_examples,test_loss,test_accuracy,test_brier",
        "1,a,30,1.000000,60,2.000000,1.000000,0.000000",
        "1,b,10,1.000000,20,2.000000,1.000000,0.000000",
        "1,c,5,1.000000,10,2.000000,1.000000,0.000000",
        "1,federation,45,1.000000,90,2.000000,1.000000,0.000000",
    ]
    assert len(lines) == 1 + 3 * 4


@pytest.mark.parametrize("until", [-1, 0])
def test_a_run_that_ends_before_its_first_round_leaves_no_files(until: int, tmp_path: Path) -> None:
    stop(chosen_for(tmp_path / "run"), until)
    assert names_in(tmp_path) == set()
    (tmp_path / "mine").mkdir()
    stop(chosen_for(tmp_path / "mine"), until)
    assert names_in(tmp_path) == {"mine"}
    assert names_in(tmp_path / "mine") == set()


@light
@pytest.mark.parametrize("until", [-1, 0])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_forced_run_that_ends_before_its_first_round_leaves_the_earlier_run(
    until: int, rounds: int, tmp_path: Path
) -> None:
    run_to_end(chosen_for(tmp_path, rounds=rounds))
    before = contents_of(tmp_path)
    stop(chosen_for(tmp_path, force=True, seed=7), until)
    assert contents_of(tmp_path) == before
    with pytest.raises(RunError, match="the run is over"):
        RunFolder(resumed(tmp_path, rounds=rounds))
    assert run_to_end(resumed(tmp_path, rounds=5)).history[-1].number == 5


@light
def test_a_forced_run_replaces_an_earlier_one_when_its_first_round_is_completed(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path))
    stop(chosen_for(tmp_path, force=True, seed=7), 1)
    assert names_in(tmp_path) == {"checkpoints", "rounds.csv", "settings.json"}
    assert rounds_in(tmp_path) == [1]
    assert json.loads((tmp_path / "settings.json").read_text())["seed"] == 7


@light
def test_a_forced_run_does_not_resume_the_interrupted_run_in_its_folder(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 2)
    stop(chosen_for(tmp_path, force=True, seed=7), 1)
    checkpoint = read_checkpoint(tmp_path)
    assert (checkpoint.round_number, checkpoint.settings["seed"]) == (1, 7)
    assert (tmp_path / "checkpoints" / "history.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize("until", [-1, 0])
def test_a_forced_run_without_a_round_leaves_the_checkpoints_of_an_interrupted_one(until: int, tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 2)
    before = contents_of(tmp_path)
    stop(chosen_for(tmp_path, force=True, seed=7), until)
    assert contents_of(tmp_path) == before
    assert read_checkpoint(tmp_path).round_number == 2


@light
@pytest.mark.parametrize("until", [0, 1, 2, 3])
def test_a_killed_run_resumes_and_ends_with_the_results_of_an_undisturbed_one(until: int, tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path / "whole"))
    stop(chosen_for(tmp_path / "alive"), until, copy=tmp_path / "run")
    assert "checkpoints" in names_in(tmp_path / "run")
    with (tmp_path / "run" / "rounds.csv").open("a") as torn:
        torn.write("9,a,30,1.0")
    run_to_end(resumed(tmp_path / "run"))
    assert names_in(tmp_path / "run") == FINISHED
    whole, run = ((tmp_path / name / "rounds.csv").read_text() for name in ("whole", "run"))
    assert whole == run
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run")]
    assert metrics[1].pop("faults")["resumed_after"] == [until]
    assert metrics[0].pop("faults")["resumed_after"] == []
    assert metrics[0] == metrics[1]


@light
def test_a_run_can_resume_repeatedly_and_counts_each_time(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 1)
    stop(resumed(tmp_path), 1)
    stop(resumed(tmp_path), 2)
    assert rounds_in(tmp_path) == [1, 2]
    assert names_in(tmp_path) == {"checkpoints", "rounds.csv", "settings.json"}
    assert run_to_end(resumed(tmp_path)).problems.resumed_after == [1, 1, 2]


@light
def test_a_run_resumes_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path / "here", force=True), 2)
    (tmp_path / "here").rename(tmp_path / "there")
    given: dict[str, Value] = {"resume": str(tmp_path / "there")}
    config = settings_to_resume(tmp_path / "there", given)
    assert config == {**chosen_for(tmp_path / "here").to_config(), "out": "", "resume": str(tmp_path / "there")}
    run_to_end(Settings.from_config(config))
    assert names_in(tmp_path) == {"there"}
    assert names_in(tmp_path / "there") == FINISHED


def test_a_resumed_run_that_ends_before_its_next_round_keeps_its_checkpoint(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 2)
    for until in (-1, 0):
        stop(resumed(tmp_path), until)
        assert read_checkpoint(tmp_path).round_number == 2
        assert rounds_in(tmp_path) == [1, 2]


@light
def test_the_results_of_a_stopped_run_stay_until_new_ones_replace_them(tmp_path: Path) -> None:
    settings = chosen_for(tmp_path)
    with RunFolder(settings) as folder:
        federated_run = run_for(settings)
        federated_run.gather()
        folder.begin(federated_run)
        next(rounds := federated_run.rounds())
        folder.append_round(federated_run)
        (tmp_path / "rounds.csv").write_text("round,hospital\n1,a,3")  # as a full disk leaves it
        next(rounds)
        folder.finish(federated_run, federated_run.figures_of_last_round(), stopped=True)
    assert names_in(tmp_path) == ALL | {"checkpoints"}
    assert json.loads((tmp_path / "metrics.json").read_text())["stopped"] is True
    assert json.loads((tmp_path / "metrics.json").read_text())["rounds"] == 2
    assert rounds_in(tmp_path) == [1, 2]
    stop(resumed(tmp_path), -1)
    assert names_in(tmp_path) == ALL | {"checkpoints"}
    before = {name: (tmp_path / name).read_bytes() for name in ALL}
    stop(resumed(tmp_path), 0)
    assert {name: (tmp_path / name).read_bytes() for name in ALL} == before
    run_to_end(resumed(tmp_path))
    assert "stopped" not in json.loads((tmp_path / "metrics.json").read_text())


def test_a_folder_that_holds_only_checkpoints_can_resume_and_needs_force_for_a_new_run(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 2)
    for name in ALL:
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"\(checkpoints\).*--resume.*--force"):
        RunFolder(chosen_for(tmp_path))
    assert read_checkpoint(tmp_path).round_number == 2


@light
def test_a_run_killed_before_its_first_checkpoint_can_start_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "history.jsonl").touch()
    with pytest.raises(RunError, match="no checkpoint"):
        read_checkpoint(tmp_path)
    run_to_end(chosen_for(tmp_path))
    assert names_in(tmp_path) == FINISHED


@light
def test_a_run_killed_while_it_removed_its_checkpoints_is_over(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path))
    (last,) = (tmp_path / "checkpoints").glob("*.checkpoint")
    shutil.copy(last, last.with_name("round-000002.checkpoint"))
    with pytest.raises(RunError, match="the run is over"):
        read_checkpoint(tmp_path)


@light
def test_a_finished_run_without_its_checkpoint_is_over_and_cannot_be_extended(tmp_path: Path) -> None:
    """As earlier versions and runs with differential privacy leave it."""
    run_to_end(chosen_for(tmp_path))
    (tmp_path / "checkpoints" / "finished-000003.checkpoint").unlink()
    for given in ({}, {"rounds": 9}):
        with pytest.raises(RunError, match="the run is over and left no checkpoint"):
            read_checkpoint(tmp_path, given)


def test_a_run_resumes_with_its_own_settings_except_for_those_that_may_change(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 1)
    others: dict[str, Value] = {"seed": 7, "rounds": 0, "hospitals": 4, "max-update-norm": 5.0}
    for name, value in others.items():
        with pytest.raises(RunError, match=f"{name}: expected .*, got {value}"):
            settings_to_resume(tmp_path, {name: value})
        if value:
            with pytest.raises(RunError, match=f"{name}: expected .*, got {value}"):
                RunFolder(resumed(tmp_path, **{name.replace("-", "_"): value}))
    given: dict[str, Value] = {
        "seed": 42,
        "rounds": 4,
        "min-hospitals": 2,
        "wait": 9.0,
        "round-timeout": 8.0,
        "address": "127.0.0.1:1",
    }
    config = settings_to_resume(tmp_path, given)
    assert {name: config[name] for name in given} == given
    assert RunFolder(resumed(tmp_path, min_hospitals=2, wait=9.0)).checkpoint is not None
    assert names_in(tmp_path) == {"checkpoints", "rounds.csv", "settings.json"}


def test_a_run_whose_columns_changed_meaning_does_not_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(chosen_for(tmp_path), 1)
    altered = replace(HEART_DISEASE, label=replace(HEART_DISEASE.label, meaning="something else"))
    monkeypatch.setattr(Settings, "task_declaration", altered)
    with pytest.raises(RunError, match="something else"):
        RunFolder(resumed(tmp_path))
    assert rounds_in(tmp_path) == [1]


def test_a_folder_without_a_run_does_not_resume(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("none", "does not exist"),
        ("a" * 300, "does not exist"),
        ("file", "Not a directory"),
        ("empty", "holds no checkpoint"),
    ):
        for attempt in (read_checkpoint, lambda path: RunFolder(resumed(path))):
            with pytest.raises(RunError, match=f"{name}.*{words}"):
                attempt(tmp_path / name)
    assert names_in(tmp_path) == {"file", "empty"}


def test_a_folder_without_permission_is_an_error_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root has every permission, so the refusal is simulated."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("stat", "iterdir", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(RunError, match="holds no checkpoint"):
        read_checkpoint(tmp_path)
    with pytest.raises(RunError, match="Permission denied"):
        RunFolder(chosen_for(tmp_path))
    with pytest.raises(RunError, match="cannot be written to"):
        RunFolder(chosen_for(Path("a" * 300)))


def test_a_folder_that_was_removed_during_a_run_is_an_error_of_the_run(tmp_path: Path) -> None:
    settings = chosen_for(tmp_path / "run")
    with RunFolder(settings) as folder:
        federated_run = run_for(settings)
        federated_run.gather()
        folder.begin(federated_run)
        shutil.rmtree(tmp_path / "run")
        next(federated_run.rounds())
        with pytest.raises(RunError, match="cannot be written"):
            folder.append_round(federated_run)
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("name", ["settings.json", "rounds.csv"])
def test_a_first_round_whose_files_cannot_be_written_leaves_its_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.write_bytes

    def refuse(path: Path, content: bytes) -> None:
        if path.name == name:
            raise RunError(f"{path}: cannot be written (No space left on device)")
        real(path, content)

    monkeypatch.setattr(files, "write_bytes", refuse)
    with pytest.raises(RunError, match="No space left"):
        run_to_end(chosen_for(tmp_path / "run"))
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "run").round_number == 1
    stop(resumed(tmp_path / "run"), 2)
    assert rounds_in(tmp_path / "run") == [1, 2]


@light
@pytest.mark.parametrize("last", ["metrics.json", "model.keras", "report.html"])
def test_a_run_killed_while_it_saved_its_results_resumes_to_its_end(
    last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = {"write_json": run_summary, "save_final_model": saved_model, "write_run_report": run_page}
    real = {name: getattr(home, name) for name, home in homes.items()}

    def mortal(name: str) -> Callable[..., None]:
        def write(path: Path, *rest: Any) -> None:
            real[name](path, *rest)
            if path.name == last:
                raise StopHereError

        return write

    with monkeypatch.context() as patched:
        for name, home in homes.items():
            patched.setattr(home, name, mortal(name))
        with pytest.raises(StopHereError):
            run_to_end(chosen_for(tmp_path))
    assert "checkpoints" in names_in(tmp_path)
    federated_run = run_to_end(resumed(tmp_path))
    assert names_in(tmp_path) == FINISHED
    assert federated_run.problems.resumed_after == [3]
    with pytest.raises(RunError, match="the run is over"):
        RunFolder(resumed(tmp_path))


@light
def test_tables_of_an_earlier_run_go_with_its_results_and_other_files_stay(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path, seed=7))
    table = Table(caption="Old", columns=("x", "y"), rows=(("a", 1),))
    write_tables(tmp_path / "tables", Page(title="t", lead="l", sections=[Section("s", [table])]))
    (tmp_path / "tables" / "mine.csv").write_text("mine")
    with pytest.raises(RunError, match="tables"):
        RunFolder(chosen_for(tmp_path))
    stop(chosen_for(tmp_path, force=True), 1)
    assert names_in(tmp_path / "tables") == {"mine.csv"}


# Extending


@light
@pytest.mark.parametrize("before", [0, 2, 3])
def test_a_stopped_or_finished_run_is_extended_to_the_results_of_a_longer_one(before: int, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    run_to_end(chosen_for(whole, rounds=6))
    if before == 3:
        run_to_end(chosen_for(run))
    else:
        stop(chosen_for(tmp_path / "alive"), before, copy=run)
    config = settings_to_resume(run, {"resume": str(run), "rounds": 6})
    extended = run_to_end(Settings.from_config(config))
    assert contents_of(run).keys() == {run / path.relative_to(whole) for path in contents_of(whole)}
    for name in ("rounds.csv", "model.keras"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((run / "settings.json").read_text())["rounds"] == 6
    assert extended.problems.resumed_after == [before]
    with pytest.raises(RunError, match="over after 6 rounds"):
        read_checkpoint(run)


@light
def test_a_finished_run_can_be_extended_repeatedly_and_keeps_one_checkpoint(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path))
    for rounds in (4, 6):
        run_to_end(resumed(tmp_path, rounds=rounds))
        assert names_in(tmp_path / "checkpoints") == {f"finished-00000{rounds}.checkpoint", "history.jsonl"}
        assert rounds_in(tmp_path) == list(range(1, rounds + 1))


@light
def test_fewer_rounds_than_are_completed_are_refused_and_fewer_than_planned_end_a_run(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path, rounds=9), 2)
    with pytest.raises(RunError, match="rounds: expected at least 2, since 2 are completed, got 1"):
        RunFolder(resumed(tmp_path, rounds=1))
    run_to_end(resumed(tmp_path, rounds=3))
    assert rounds_in(tmp_path) == [1, 2, 3]
    for rounds in (2, 1):
        with pytest.raises(RunError, match=f"rounds: expected at least 4, since 3 are completed, got {rounds}"):
            RunFolder(resumed(tmp_path, rounds=rounds))
    with pytest.raises(RunError, match=r"over after 3 rounds; there is nothing to resume; --rounds"):
        RunFolder(resumed(tmp_path, rounds=3))


@light
def test_the_results_of_a_finished_run_stay_while_it_is_extended_without_a_further_round(tmp_path: Path) -> None:
    run_to_end(chosen_for(tmp_path))
    before = {name: (tmp_path / name).read_bytes() for name in ALL}
    settings = resumed(tmp_path, rounds=6)
    with RunFolder(settings) as folder:
        federated_run = run_for(settings)
        assert folder.checkpoint is not None
        federated_run.resume(folder.checkpoint)
        federated_run.gather()
        folder.begin(federated_run)
        folder.finish(federated_run, federated_run.figures_of_last_round(), stopped=True)
    assert {name: (tmp_path / name).read_bytes() for name in ALL} == before
    assert run_to_end(resumed(tmp_path, rounds=6)).history[-1].number == 6


def test_a_run_with_differential_privacy_is_not_extended(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(2, settings={**chosen_for(tmp_path).to_config(), "dp-epsilon": 4.0})
    CheckpointFolder(tmp_path / "checkpoints").save(checkpoint)
    with pytest.raises(RunError, match=r"rounds: expected 3, the number in the run's privacy plan, got 4"):
        read_checkpoint(tmp_path, {"rounds": 4})
    assert read_checkpoint(tmp_path, {"rounds": 3}).round_number == 2


@light
def test_a_finished_run_with_differential_privacy_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainRun, "privacy", property(lambda _: PLAN))
    settings = chosen_for(tmp_path)
    with RunFolder(settings) as folder:
        federated_run = run_for(settings)
        federated_run.normalisation = Normalisation(mean=(0.0,) * 5, variance=(1.0,) * 5)
        folder.begin(federated_run)
        folder.finish(federated_run, {"hospitals": {}, "federation": None}, stopped=False)
    assert names_in(tmp_path) == ALL


@light
def test_a_folder_in_use_by_one_server_is_refused_to_another(tmp_path: Path) -> None:
    stop(chosen_for(tmp_path), 1)
    with RunFolder(resumed(tmp_path)) as folder:
        for settings in (resumed(tmp_path), chosen_for(tmp_path, force=True)):
            with pytest.raises(RunError, match="in use"), RunFolder(settings):
                raise AssertionError
        assert folder.checkpoint is not None
    with RunFolder(resumed(tmp_path)):
        pass


@light
def test_a_resumed_run_is_never_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(chosen_for(tmp_path), 2)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointFolder, "remove", lambda _: pytest.fail("it removed its checkpoint"))
        stop(resumed(tmp_path), 0)
    assert read_checkpoint(tmp_path).round_number == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_server_whose_model_is_never_saved_and_the_run_resumes(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    is_waiting, is_announced, popen = threading.Event(), threading.Event(), subprocess.Popen

    def start_frozen(*_: object, **options: Any) -> subprocess.Popen[bytes]:
        child = popen(["sleep", "600"], **options)
        child.send_signal(signal.SIGSTOP)
        started.append(child)
        return child

    def signal_twice() -> None:
        for moment in (is_waiting, is_announced):
            assert moment.wait(60)
            os.kill(os.getpid(), number)

    def communicate(*arguments: Any, **keywords: Any) -> Any:
        is_waiting.set()
        return real(*arguments, **keywords)

    real = popen.communicate
    monkeypatch.setattr(popen, "communicate", communicate)
    monkeypatch.setattr(subprocess, "Popen", start_frozen)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(console, "say", lambda line: is_announced.set() if "again" in line else None)
    signaller = threading.Thread(target=signal_twice)

    def run_and_save(settings: Settings) -> None:
        with RunFolder(settings) as folder:
            federated_run = run_for(settings)
            federated_run.gather()
            folder.begin(federated_run)
            for _ in federated_run.rounds():
                folder.append_round(federated_run)
            figures = federated_run.evaluate()
            signaller.start()
            run_results.save_results(folder, federated_run, figures)

    with pytest.raises(KeyboardInterrupt):
        run_and_save(chosen_for(tmp_path))
    signaller.join(60)
    (child,) = started
    assert child.wait(60) == -signal.SIGKILL
    assert names_in(tmp_path) == {"checkpoints", "metrics.json", "rounds.csv", "settings.json"}
    assert read_checkpoint(tmp_path).round_number == 3
