"""The journal of fits, resuming, and worker processes of a study that is stopped or killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from federated_health.errors import RunError
from federated_health.studies.benefit import training_setups
from federated_health.studies.benefit.benefit_study import run_fits
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.compared_strategies import settings_of
from federated_health.studies.benefit.journal import JOURNAL, Journal, fingerprint_of
from federated_health.studies.benefit.training_setups import (
    EvaluationProtocol,
    Fit,
    FitResult,
    TrainingSetup,
    plan_fits,
)
from tests.support import awkward_apps
from tests.support.cohorts import cohort_of, patients, protocol_of
from tests.support.scripts import PROJECT

COHORT = cohort_of({name: patients(24, seed) for seed, name in enumerate("abc")})
PROTOCOL = protocol_of(folds=2, rounds=1, local_epochs=1)
FITS = plan_fits(["a", "b", "c"], PROTOCOL)  # 16


def result_of(number: int) -> FitResult:
    return FitResult(scores={"a": [number / 3, -0.5], "b": []}, threshold=0.25, rounds=number, importance={"a": [0.5]})


def journal_in(folder: Path, protocol: EvaluationProtocol = PROTOCOL, *, force: bool = False) -> Journal:
    return Journal(folder, fingerprint_of(COHORT, protocol), force=force)


def lines_of(folder: Path) -> list[str]:
    return (folder / JOURNAL).read_text().splitlines()


# The journal


def save(folder: Path, number: int) -> None:
    """Save the first fits in a new journal."""
    journal = journal_in(folder)
    for place, fit in enumerate(FITS[:number]):
        journal.add(fit, result_of(place))


def test_a_journal_returns_the_saved_results(tmp_path: Path) -> None:
    save(tmp_path, 3)

    journal = journal_in(tmp_path)
    assert journal.results == {fit: result_of(place) for place, fit in enumerate(FITS[:3])}
    assert all(isinstance(fit.setup, TrainingSetup) for fit in journal.results)


def test_a_result_is_on_disk_when_add_returns(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.add(FITS[0], result_of(7))

    assert json.loads(lines_of(tmp_path)[-1])["rounds"] == 7


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_last_line_loses_only_its_own_fit(tmp_path: Path, cut: int) -> None:
    save(tmp_path, 3)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[: -cut - 1])

    journal = journal_in(tmp_path)
    assert list(journal.results) == FITS[:2]
    journal.add(FITS[2], result_of(9))

    again = journal_in(tmp_path)
    assert list(again.results) == FITS[:3]
    assert again.results[FITS[2]] == result_of(9)


def test_a_complete_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    save(tmp_path, 2)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-1])

    journal = journal_in(tmp_path)
    journal.add(FITS[2], result_of(2))

    again = journal_in(tmp_path)
    assert list(again.results) == FITS[:3]


def test_a_power_cut_while_a_journal_is_opened_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a journal writes it anew."""
    save(tmp_path, 3)
    before = lines_of(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        journal_in(tmp_path)

    assert lines_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


OTHER_STUDIES: dict[str, EvaluationProtocol] = {
    "folds": replace(PROTOCOL, folds=3),
    "repeats": replace(PROTOCOL, repeats=2),
    "tune": replace(PROTOCOL, tune=True),
    "strategy": replace(PROTOCOL, strategies=("average",)),
    "rounds": replace(PROTOCOL, settings=replace(PROTOCOL.settings, rounds=2)),
    "l2": replace(PROTOCOL, settings=replace(PROTOCOL.settings, l2=0.5)),
    "seed": replace(PROTOCOL, settings=replace(PROTOCOL.settings, seed=1)),
    "model": replace(PROTOCOL, settings=replace(PROTOCOL.settings, model="mlp")),
}


@pytest.mark.parametrize("change", OTHER_STUDIES)
def test_the_journal_of_another_study_is_refused_and_left_unchanged(tmp_path: Path, change: str) -> None:
    save(tmp_path, 3)
    before = lines_of(tmp_path)

    with pytest.raises(RunError, match=r"another study .* --force"):
        journal_in(tmp_path, OTHER_STUDIES[change])

    assert lines_of(tmp_path) == before


def test_a_further_strategy_adds_to_a_study(tmp_path: Path) -> None:
    save(tmp_path, 3)

    journal = journal_in(tmp_path, replace(PROTOCOL, strategies=(*PROTOCOL.strategies, "average")))
    assert len(journal.results) == 3


def test_a_default_argument_of_a_strategy_makes_no_other_study() -> None:
    def prox(label: str) -> EvaluationProtocol:
        name, arguments = settings_of(label)
        settings = replace(PROTOCOL.settings, strategy=name, strategy_args=arguments)
        return replace(PROTOCOL, settings=settings, strategies=(label,))

    assert fingerprint_of(COHORT, prox("fedprox")) == fingerprint_of(COHORT, prox("fedprox:proximal-mu=0.1"))
    assert fingerprint_of(COHORT, prox("fedprox")) != fingerprint_of(COHORT, prox("fedprox:proximal-mu=0.2"))


def test_other_rows_make_another_study(tmp_path: Path) -> None:
    save(tmp_path, 1)
    other = Cohort(COHORT.task, COHORT.tables, {**COHORT.hashes, "b": "another hash"})

    with pytest.raises(RunError, match="another study"):
        Journal(tmp_path, fingerprint_of(other, PROTOCOL), force=False)


@pytest.mark.parametrize(
    "change", [{"verbose": True}, {"wait": 3.0}, {"out": "elsewhere"}, {"force": True}, {"data": "elsewhere"}], ids=str
)
def test_settings_without_effect_on_results_make_no_other_study(tmp_path: Path, change: dict[str, Any]) -> None:
    save(tmp_path, 3)

    journal = journal_in(tmp_path, replace(PROTOCOL, settings=replace(PROTOCOL.settings, **change)))
    assert len(journal.results) == 3


def test_force_resumes_the_same_study_and_replaces_another_one(tmp_path: Path) -> None:
    save(tmp_path, 3)

    journal = journal_in(tmp_path, force=True)
    assert len(journal.results) == 3
    journal = journal_in(tmp_path, OTHER_STUDIES["seed"], force=True)
    assert journal.results == {}
    assert len(lines_of(tmp_path)) == 1


def test_a_file_that_is_no_journal_is_not_replaced_even_with_force(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"\xff\xfe\x00")

    with pytest.raises(RunError, match="journal"):
        journal_in(tmp_path, force=True)

    assert (tmp_path / JOURNAL).read_bytes() == b"\xff\xfe\x00"


def test_a_missing_folder_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing"):
        journal_in(tmp_path / "missing")


def test_a_full_disk_is_a_run_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    journal = journal_in(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        journal.add(FITS[0], result_of(0))


# Studies in this process


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """The trained fits in order; results are made up, and nothing is trained."""
    fits: list[Fit] = []

    def run(fit: Fit, **_: Any) -> FitResult:
        fits.append(fit)
        return result_of(FITS.index(fit))

    monkeypatch.setattr(training_setups, "run_fit", run)
    return fits


def run_in(folder: Path, protocol: EvaluationProtocol = PROTOCOL, **options: Any) -> dict[Fit, FitResult]:
    journal = journal_in(folder, protocol)
    return run_fits(COHORT, protocol, journal, **({"jobs": 1} | options))


def test_fits_of_another_strategy_do_not_count_as_finished(tmp_path: Path, trained: list[Fit]) -> None:
    """The journal holds 15 of 16 fits of this study, and 4 of another strategy."""
    others = [Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject=f"other-{number}") for number in range(4)]
    journal = journal_in(tmp_path)
    for place, fit in enumerate([*FITS[:15], *others]):
        journal.add(fit, result_of(place))
    shown: list[tuple[int, int]] = []

    run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert trained == FITS[15:]
    assert shown == [(15, 16), (16, 16)]


def test_a_further_value_of_a_sweep_trains_only_its_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an earlier study named a strategy without the argument that has the default value."""
    trained: list[Fit] = []

    def run(fit: Fit, **_: Any) -> FitResult:
        trained.append(fit)
        return result_of(len(trained))

    monkeypatch.setattr(training_setups, "run_fit", run)
    before = run_in(tmp_path, replace(PROTOCOL, strategies=("fedavg", "fedprox")))
    trained.clear()

    sweep = replace(PROTOCOL, strategies=("fedavg", "fedprox:proximal-mu=0.01", "fedprox:proximal-mu=0.1"))
    results = run_in(tmp_path, sweep)

    assert {(fit.setup, fit.subject) for fit in trained} == {(TrainingSetup.FEDERATED, "fedprox:proximal-mu=0.01")}
    assert len(trained) == PROTOCOL.folds
    assert list(results) == plan_fits(["a", "b", "c"], sweep)
    for fit in plan_fits(["a", "b", "c"], replace(PROTOCOL, strategies=("fedprox:proximal-mu=0.1",))):
        assert results[fit] == before[fit.key]


@pytest.mark.parametrize(("first", "second"), [("fedprox:proximal-mu=0.1", "fedprox"), ("fedprox", "fedprox")])
def test_a_journal_knows_a_model_by_any_of_its_names(tmp_path: Path, first: str, second: str) -> None:
    fit = Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject=first)
    journal = journal_in(tmp_path)
    journal.add(fit, result_of(1))

    for opened in (journal, journal_in(tmp_path)):
        assert opened.results[replace(fit, subject=second).key] == result_of(1)


def test_a_study_trains_every_fit_once_and_reports_progress(tmp_path: Path, trained: list[Fit]) -> None:
    shown: list[tuple[int, int]] = []

    results = run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert trained == FITS
    assert results == {fit: result_of(place) for place, fit in enumerate(FITS)}
    assert shown == [(done, 16) for done in range(17)]
    assert len(lines_of(tmp_path)) == 17


@pytest.mark.parametrize("after", [0, 1, 7, 15])
def test_a_stopped_study_resumes_after_its_last_fit(
    tmp_path: Path, trained: list[Fit], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    run = training_setups.run_fit

    def stop(fit: Fit, **rest: Any) -> FitResult:
        if len(trained) == after:
            raise KeyboardInterrupt
        result: FitResult = run(fit, **rest)
        return result

    monkeypatch.setattr(training_setups, "run_fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path)
    monkeypatch.setattr(training_setups, "run_fit", run)
    assert trained == FITS[:after]

    shown: list[tuple[int, int]] = []
    results = run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert trained == FITS  # each once
    assert shown[0] == (after, 16)
    assert list(results) == FITS
    assert results == {fit: result_of(place) for place, fit in enumerate(FITS)}


def test_a_finished_study_trains_nothing(tmp_path: Path, trained: list[Fit]) -> None:
    first = run_in(tmp_path)
    trained.clear()

    assert run_in(tmp_path, jobs=4) == first
    assert trained == []


def test_a_failed_fit_is_named_and_the_finished_ones_are_saved(
    tmp_path: Path, trained: list[Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training_setups.run_fit

    def fail(fit: Fit, **rest: Any) -> FitResult:
        if fit == FITS[8 + 1]:
            raise RunError("training diverged")
        result: FitResult = run(fit, **rest)
        return result

    monkeypatch.setattr(training_setups, "run_fit", fail)

    with pytest.raises(RunError, match=r"^repeat 1, fold 2, own b: training diverged"):
        run_in(tmp_path)

    assert trained == FITS[:9]
    assert len(lines_of(tmp_path)) == 1 + 9


# Worker processes


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which worker processes leave their ids."""
    folder = tmp_path_factory.mktemp("started")
    monkeypatch.setenv(awkward_apps.STARTED, str(folder))
    return folder


def processes_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def is_alive(process: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_until(condition: Any) -> None:
    """Wait without a limit, since machines may be slow."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one_to_the_bit(tmp_path: Path) -> None:
    """The last four fits are trained; the journals hold made-up results of the others."""
    serial, parallel = tmp_path / "serial", tmp_path / "parallel"
    for folder in (serial, parallel):
        folder.mkdir()
        save(folder, len(FITS) - 4)

    results = run_in(serial, jobs=1)

    assert list(results) == FITS
    assert run_in(parallel, jobs=2) == results
    assert sorted(lines_of(parallel)) == sorted(lines_of(serial))


@pytest.mark.slow
def test_a_worker_process_that_dies_is_a_run_error_and_the_journal_stays(tmp_path: Path, started: Path) -> None:
    save(tmp_path, 5)
    before = lines_of(tmp_path)

    with pytest.raises(RunError, match=r"worker process .* resumes"):
        run_in(tmp_path, app=awkward_apps.dies, jobs=2)

    assert lines_of(tmp_path) == before
    assert not any(map(is_alive, processes_in(started)))


def run_sleeping_study() -> None:
    """A study in the folder that the first argument names; its fits do not end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored below a background job of a shell
    try:
        run_in(Path(sys.argv[1]), app=awkward_apps.sleeps, jobs=2)
    except KeyboardInterrupt:
        sys.exit(130)


@pytest.fixture
def sleeping(tmp_path: Path, started: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A study with two worker processes, both in a fit that takes ten minutes."""
    command = [sys.executable, "-m", "tests.support.awkward_apps", str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True) as running:
        wait_until(lambda: len(processes_in(started)) == 2 or running.poll() is not None)
        yield running
        if running.poll() is None:
            running.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    "group", [False, True], ids=["signal to the study", "signal to all processes, as by a terminal"]
)
def test_ctrl_c_ends_all_processes_without_waiting_for_fits(
    sleeping: "subprocess.Popen[bytes]", started: Path, group: bool
) -> None:
    processes = processes_in(started)
    assert all(map(is_alive, processes))

    os.killpg(sleeping.pid, signal.SIGINT) if group else sleeping.send_signal(signal.SIGINT)

    assert sleeping.wait() == 130
    wait_until(lambda: not any(map(is_alive, processes)))


@pytest.mark.slow
def test_workers_of_a_killed_study_end(sleeping: "subprocess.Popen[bytes]", started: Path) -> None:
    processes = processes_in(started)
    assert all(map(is_alive, processes))

    sleeping.kill()

    wait_until(lambda: not any(map(is_alive, processes)))
