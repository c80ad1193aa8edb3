"""The journal of fits, resuming, several processes, and what becomes of them when one dies or the study is stopped."""

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


def scored_of(number: int) -> FitResult:
    return FitResult(scores={"a": [number / 3, -0.5], "b": []}, threshold=0.25, rounds=number, importance={"a": [0.5]})


def journal_in(folder: Path, protocol: EvaluationProtocol = PROTOCOL, *, force: bool = False) -> Journal:
    return Journal(folder, fingerprint_of(COHORT, protocol), force=force)


def lines_of(folder: Path) -> list[str]:
    return (folder / JOURNAL).read_text().splitlines()


# The journal


def keep(folder: Path, number: int) -> None:
    journal = journal_in(folder)
    for place, fit in enumerate(FITS[:number]):
        journal.add(fit, scored_of(place))


def test_a_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    keep(tmp_path, 3)

    journal = journal_in(tmp_path)
    assert journal.results == {fit: scored_of(place) for place, fit in enumerate(FITS[:3])}
    assert all(isinstance(fit.setup, TrainingSetup) for fit in journal.results)


def test_a_result_is_on_disk_before_anything_else_happens(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.add(FITS[0], scored_of(7))

    assert json.loads(lines_of(tmp_path)[-1])["rounds"] == 7


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_costs_its_own_fit_alone(tmp_path: Path, cut: int) -> None:
    keep(tmp_path, 3)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[: -cut - 1])

    journal = journal_in(tmp_path)
    assert list(journal.results) == FITS[:2]
    journal.add(FITS[2], scored_of(9))

    again = journal_in(tmp_path)
    assert list(again.results) == FITS[:3]
    assert again.results[FITS[2]] == scored_of(9)


def test_a_last_line_that_lacks_its_end_of_line_alone_is_whole(tmp_path: Path) -> None:
    keep(tmp_path, 2)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-1])

    journal = journal_in(tmp_path)
    journal.add(FITS[2], scored_of(2))

    again = journal_in(tmp_path)
    assert list(again.results) == FITS[:3]


def test_opening_a_journal_never_leaves_less_than_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails while it is written anew."""
    keep(tmp_path, 3)
    before = lines_of(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        journal_in(tmp_path)

    assert lines_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


OTHERS: dict[str, Any] = {
    "folds": replace(PROTOCOL, folds=3),
    "repeats": replace(PROTOCOL, repeats=2),
    "tune": replace(PROTOCOL, tune=True),
    "strategy": replace(PROTOCOL, strategies=("average",)),
    "rounds": replace(PROTOCOL, settings=replace(PROTOCOL.settings, rounds=2)),
    "l2": replace(PROTOCOL, settings=replace(PROTOCOL.settings, l2=0.5)),
    "seed": replace(PROTOCOL, settings=replace(PROTOCOL.settings, seed=1)),
    "model": replace(PROTOCOL, settings=replace(PROTOCOL.settings, model="mlp")),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_study_s_journal_is_refused_and_left_alone(tmp_path: Path, what: str) -> None:
    keep(tmp_path, 3)
    before = lines_of(tmp_path)

    with pytest.raises(RunError, match=r"another study .* --force starts anew"):
        journal_in(tmp_path, OTHERS[what])

    assert lines_of(tmp_path) == before


def test_a_further_strategy_adds_to_a_study(tmp_path: Path) -> None:
    keep(tmp_path, 3)

    journal = journal_in(tmp_path, replace(PROTOCOL, strategies=(*PROTOCOL.strategies, "average")))
    assert len(journal.results) == 3


def test_a_strategy_s_default_may_be_given_by_name() -> None:
    def prox(arguments: str) -> EvaluationProtocol:
        settings = replace(PROTOCOL.settings, strategy="fedprox", strategy_args=arguments)
        return replace(PROTOCOL, settings=settings, strategies=("fedprox",))

    assert fingerprint_of(COHORT, prox("")) == fingerprint_of(COHORT, prox("proximal-mu=0.1"))
    assert fingerprint_of(COHORT, prox("")) != fingerprint_of(COHORT, prox("proximal-mu=0.2"))


def test_other_rows_are_another_study(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    other = Cohort(COHORT.task, COHORT.tables, {**COHORT.hashes, "b": "another hash"})

    with pytest.raises(RunError, match="another study"):
        Journal(tmp_path, fingerprint_of(other, PROTOCOL), force=False)


@pytest.mark.parametrize(
    "change", [{"verbose": True}, {"wait": 3.0}, {"out": "elsewhere"}, {"force": True}, {"data": "elsewhere"}], ids=str
)
def test_what_no_result_depends_on_makes_no_other_study(tmp_path: Path, change: dict[str, Any]) -> None:
    keep(tmp_path, 3)

    journal = journal_in(tmp_path, replace(PROTOCOL, settings=replace(PROTOCOL.settings, **change)))
    assert len(journal.results) == 3


def test_force_starts_anew_where_another_study_is_and_goes_on_where_the_same_is(tmp_path: Path) -> None:
    keep(tmp_path, 3)

    journal = journal_in(tmp_path, force=True)
    assert len(journal.results) == 3
    journal = journal_in(tmp_path, OTHERS["seed"], force=True)
    assert journal.results == {}
    assert len(lines_of(tmp_path)) == 1


def test_a_file_that_is_no_journal_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"\xff\xfe\x00")

    with pytest.raises(RunError, match="expected a study's journal"):
        journal_in(tmp_path, force=True)

    assert (tmp_path / JOURNAL).read_bytes() == b"\xff\xfe\x00"


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        journal_in(tmp_path / "not there")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    journal = journal_in(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        journal.add(FITS[0], scored_of(0))


# Running, in this process


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """Every fit is as quick as nothing; which ones were run, in order."""
    done: list[Fit] = []

    def run(fit: Fit, **_: Any) -> FitResult:
        done.append(fit)
        return scored_of(FITS.index(fit))

    monkeypatch.setattr(training_setups, "run_fit", run)
    return done


def run_in(folder: Path, protocol: EvaluationProtocol = PROTOCOL, **options: Any) -> dict[Fit, FitResult]:
    journal = journal_in(folder, protocol)
    return run_fits(COHORT, protocol, journal, **({"jobs": 1} | options))


def test_fits_of_a_further_strategy_do_not_count_as_done(tmp_path: Path, fitted: list[Fit]) -> None:
    """One of 16 models is left, and the journal holds four of another strategy besides."""
    others = [Fit(repeat=0, fold=0, setup=TrainingSetup.FEDERATED, subject=f"other-{number}") for number in range(4)]
    journal = journal_in(tmp_path)
    for place, fit in enumerate([*FITS[:15], *others]):
        journal.add(fit, scored_of(place))
    shown: list[tuple[int, int]] = []

    run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert fitted == FITS[15:]
    assert shown == [(15, 16), (16, 16)]


def test_a_study_runs_every_fit_once_and_says_how_far_it_is(tmp_path: Path, fitted: list[Fit]) -> None:
    shown: list[tuple[int, int]] = []

    results = run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert fitted == FITS
    assert results == {fit: scored_of(place) for place, fit in enumerate(FITS)}
    assert shown == [(done, 16) for done in range(17)]
    assert len(lines_of(tmp_path)) == 17


@pytest.mark.parametrize("after", [0, 1, 7, 15])
def test_a_study_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, fitted: list[Fit], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    run = vars(training_setups)["run_fit"]

    def stop(fit: Fit, **rest: Any) -> FitResult:
        if len(fitted) == after:
            raise KeyboardInterrupt
        result: FitResult = run(fit, **rest)
        return result

    monkeypatch.setattr(training_setups, "run_fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path)
    monkeypatch.setattr(training_setups, "run_fit", run)
    assert fitted == FITS[:after]

    shown: list[tuple[int, int]] = []
    results = run_in(tmp_path, show=lambda done, total: shown.append((done, total)))

    assert fitted == FITS  # each once
    assert shown[0] == (after, 16)
    assert list(results) == FITS
    assert results == {fit: scored_of(place) for place, fit in enumerate(FITS)}


def test_a_finished_study_runs_nothing(tmp_path: Path, fitted: list[Fit]) -> None:
    first = run_in(tmp_path)
    fitted.clear()

    assert run_in(tmp_path, jobs=4) == first
    assert fitted == []


def test_a_fit_that_fails_is_named_and_the_finished_ones_are_kept(
    tmp_path: Path, fitted: list[Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = vars(training_setups)["run_fit"]

    def fail(fit: Fit, **rest: Any) -> FitResult:
        if fit == FITS[8 + 1]:
            raise RunError("no hospital sent an update that can be used")
        result: FitResult = run(fit, **rest)
        return result

    monkeypatch.setattr(training_setups, "run_fit", fail)

    with pytest.raises(RunError, match=r"^repeat 1, fold 2, own b: no hospital sent"):
        run_in(tmp_path)

    assert fitted == FITS[:9]
    assert len(lines_of(tmp_path)) == 1 + 9


# Several processes


@pytest.fixture
def started(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of a study leave their ids."""
    folder = tmp_path_factory.mktemp("started")
    monkeypatch.setenv(awkward_apps.STARTED, str(folder))
    return folder


def processes_in(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def is_alive(process: int) -> bool:
    """And not only waiting for its parent to look."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def wait_until(condition: Any) -> None:
    """However slow the machine is; a test that waits for ever has found something, too."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one_to_the_bit(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()

    one, two = (run_in(folder, jobs=jobs) for folder, jobs in zip(folders, (1, 2), strict=True))

    assert list(one) == list(two) == FITS
    assert one == two  # equal floats, of which Python writes every bit
    assert sorted(lines_of(folders[0])) == sorted(lines_of(folders[1]))


@pytest.mark.slow
def test_a_process_that_dies_is_one_line_and_the_journal_stays(tmp_path: Path, started: Path) -> None:
    keep(tmp_path, 5)
    before = lines_of(tmp_path)

    with pytest.raises(RunError, match="the same command resumes it"):
        run_in(tmp_path, app=awkward_apps.dies, jobs=2)

    assert lines_of(tmp_path) == before
    assert not any(map(is_alive, processes_in(started)))


def run_sleeping_study() -> None:
    """In the folder that the first argument names."""
    try:
        run_in(Path(sys.argv[1]), app=awkward_apps.sleeps, jobs=2)
    except KeyboardInterrupt:
        sys.exit(130)


@pytest.fixture
def sleeping(tmp_path: Path, started: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A study of two processes, both of them amid a fit."""
    command = [sys.executable, "-m", "tests.support.awkward_apps", str(tmp_path)]
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True) as running:
        wait_until(lambda: len(processes_in(started)) == 2 or running.poll() is not None)
        yield running
        if running.poll() is None:
            running.kill()


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["to the study alone", "to all, as a terminal does"])
def test_ctrl_c_leaves_no_process_behind_and_waits_for_no_fit(
    sleeping: "subprocess.Popen[bytes]", started: Path, group: bool
) -> None:
    """The fits would sleep for ten minutes."""
    processes = processes_in(started)
    assert all(map(is_alive, processes))

    os.killpg(sleeping.pid, signal.SIGINT) if group else sleeping.send_signal(signal.SIGINT)

    assert sleeping.wait() == 130
    wait_until(lambda: not any(map(is_alive, processes)))


@pytest.mark.slow
def test_a_study_that_is_killed_leaves_no_process_behind(sleeping: "subprocess.Popen[bytes]", started: Path) -> None:
    processes = processes_in(started)
    assert all(map(is_alive, processes))

    sleeping.kill()

    wait_until(lambda: not any(map(is_alive, processes)))
