"""No power cut takes what is on disk before its replacement is: writers of files, and runs cut off at every event.

Expected is what `tests.support.power_cuts` rebuilds. A real disk is in tests/integration/test_disks.py.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federated_health.errors import RunError, UserError
from federated_health.files import make_folder, replace_file, sync_folder, write_bytes
from federated_health.report import run_page, saved_model
from federated_health.server.resuming import read_checkpoint
from tests.support.power_cuts import Record, recorded
from tests.test_runs import ALL, chosen_for, resumed, run_to_end, stop

# The record itself


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def record(tmp_path: Path, disk: Path) -> Callable[[Callable[[], None]], Record]:
    """Records what a function does to `disk`."""

    def run(act: Callable[[], None]) -> Record:
        shutil.rmtree(tmp_path / "record", ignore_errors=True)
        with recorded(disk, tmp_path / "record"):
            act()
        return Record(tmp_path / "record")

    return run


Recording = Callable[[Callable[[], None]], Record]


def outcomes(record: Record, folder: Path) -> list[dict[str, bytes]]:
    """Files after a power cut before the last event, without and with names that were not synced."""
    found = []
    for keep_names in (False, True):
        record.after_power_cut(len(record.events) - 1, folder, keep_names=keep_names)
        found.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    return found


def test_a_file_that_is_not_synced_is_lost_or_empty(disk: Path, record: Recording, tmp_path: Path) -> None:
    (disk / "old").write_text("old")

    def replace_without_sync() -> None:
        (disk / "new").write_text("new")
        (disk / "new").replace(disk / "old")

    found = record(replace_without_sync)
    assert outcomes(found, tmp_path / "after") == [{"old": b"old"}, {"old": b""}]
    assert len(found.losses()) == 2  # the rename, and the end


def test_a_synced_file_whose_folder_is_not_synced_may_be_lost(disk: Path, record: Recording, tmp_path: Path) -> None:
    def write() -> None:
        with (disk / "new").open("wb") as file:
            file.write(b"new")
            file.flush()
            os.fsync(file.fileno())

    found = record(write)
    assert outcomes(found, tmp_path / "after") == [{}, {"new": b"new"}]
    assert len(found.losses()) == 1


def test_content_is_that_of_the_last_sync(disk: Path, record: Recording, tmp_path: Path) -> None:
    def write() -> None:
        for content in (b"one", b"one two"):
            write_bytes(disk / "a", content)
        with (disk / "a").open("ab") as file:
            file.write(b" three")
        write_bytes(disk / "b", b"one")
        (disk / "b").write_bytes(b"two")

    found = record(write)
    assert outcomes(found, tmp_path / "after") == [{"a": b"one two", "b": b"one"}, {"a": b"one two", "b": b""}]


def test_a_removed_file_returns_unless_its_folder_is_synced(disk: Path, record: Recording, tmp_path: Path) -> None:
    (disk / "old").write_text("old")
    removed = record((disk / "old").unlink)
    assert outcomes(removed, tmp_path / "after") == [{"old": b"old"}, {}]
    assert removed.losses() == []
    (disk / "old").write_text("old")

    def remove_and_sync() -> None:
        (disk / "old").unlink()
        write_bytes(disk / "other", b"other")  # which may get the same inode

    assert outcomes(record(remove_and_sync), tmp_path / "after") == [{"other": b"other"}] * 2


def test_safe_writes_and_new_folders_survive(disk: Path, record: Recording, tmp_path: Path) -> None:
    def write() -> None:
        make_folder(disk / "a" / "b")
        replace_file(disk / "a" / "b" / "c", [b"one", b"two"])

    found = record(write)
    assert found.losses() == []
    assert outcomes(found, tmp_path / "after") == [{"c": b"onetwo"}] * 2
    found = record(lambda: sync_folder(disk))
    assert found.losses() == []


def test_a_file_system_that_cannot_sync_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)


# A run's folder, at every event


@pytest.fixture
def _no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model and a report that are made at once, and name the seed and the rounds."""

    def save(path: Path, _: object, config: Any, *__: object) -> None:
        write_bytes(path, f"model {config.seed} {config.rounds}".encode())

    def write_report(path: Path, summary: Any) -> None:
        write_bytes(path, f"report {summary.config.seed} {summary.config.rounds}".encode())

    monkeypatch.setattr(saved_model.ModelSaver, "prepare", lambda _: None)
    monkeypatch.setattr(saved_model, "save_final_model", save)
    monkeypatch.setattr(run_page, "write_run_report", write_report)


RESULTS = ("metrics.json", "model.keras", "report.html")


def results_in(folder: Path) -> dict[str, bytes]:
    """Content of the results that are there, apart from rounds.csv and settings.json."""
    return {name: (folder / name).read_bytes() for name in RESULTS if (folder / name).exists()}


def completed_rounds(folder: Path) -> tuple[int, int]:
    """Seed and completed rounds of the run that `--resume` continues, or extends; (0, -1) if there is none."""
    try:
        checkpoint = read_checkpoint(folder, {"rounds": 99})
    except UserError:
        return 0, -1
    return int(checkpoint.settings["seed"]), checkpoint.round_number


SITUATIONS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "new": (lambda _: None, lambda out: run_to_end(chosen_for(out))),
    "forced over a finished run": (
        lambda out: run_to_end(chosen_for(out, seed=7)),
        lambda out: run_to_end(chosen_for(out, force=True)),
    ),
    "forced over a stopped run": (
        lambda out: stop(chosen_for(out, seed=7), 2),
        lambda out: run_to_end(chosen_for(out, force=True)),
    ),
    "resumed": (lambda out: stop(chosen_for(out), 2), lambda out: run_to_end(resumed(out))),
    "extended": (lambda out: run_to_end(chosen_for(out)), lambda out: run_to_end(resumed(out, rounds=5))),
}


@pytest.mark.usefixtures("_no_keras")
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_power_cut_at_any_event_leaves_the_earlier_run_or_one_that_resumes(
    situation: str, disk: Path, record: Recording, tmp_path: Path
) -> None:
    prepare, act = SITUATIONS[situation]
    out, run = disk / "runs" / "a", tmp_path / "after" / "runs" / "a"
    prepare(out)
    earlier, earlier_results = completed_rounds(out), results_in(out)
    found = record(lambda: act(out))
    final, final_results = completed_rounds(out), results_in(out)
    assert found.losses("rounds.csv") == []
    least = earlier[1] if earlier[0] == 42 else -1
    for number in range(len(found.events)):
        for keep_names in (True, False):
            found.after_power_cut(number, tmp_path / "after", keep_names=keep_names)
            seed, completed = completed_rounds(run)
            results = results_in(run)
            if seed == 7:
                assert least == -1
                assert ((seed, completed), results) == (earlier, earlier_results)
            else:
                assert completed >= least
                if completed < 1 or situation in ("resumed", "extended"):  # each is the earlier one, or the new one
                    assert earlier_results.keys() <= results.keys()
                    for name, content in results.items():
                        assert content in (earlier_results.get(name), final_results[name])
            if seed == 42 and not keep_names:
                least = completed
    assert (seed, completed) == final
    assert results == final_results
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == {
        name: (out / name).read_bytes() for name in ALL
    }


@pytest.mark.usefixtures("_no_keras")
@pytest.mark.parametrize("kind", ["forced over a finished run", "extended"])
def test_a_run_ends_with_the_same_results_after_a_power_cut_at_any_event(
    kind: str, disk: Path, record: Recording, tmp_path: Path
) -> None:
    prepare, act = SITUATIONS[kind]
    out, run = disk / "runs" / "a", tmp_path / "after" / "runs" / "a"
    prepare(out)
    found = record(lambda: act(out))
    rounds = completed_rounds(out)[1]
    for number in range(0, len(found.events), 3):
        found.after_power_cut(number, tmp_path / "after", keep_names=number % 2 == 0)
        if completed_rounds(run)[0] == 7:
            run_to_end(chosen_for(run, force=True))
        elif completed_rounds(run)[1] < rounds or number < len(found.events) - 1:
            with suppress(RunError):  # it is over
                run_to_end(resumed(run, rounds=rounds))
        for name in ("model.keras", "report.html", "rounds.csv"):
            assert (run / name).read_bytes() == (out / name).read_bytes()
