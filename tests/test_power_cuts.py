"""No power cut takes what is on disk before its replacement is: writers of files, and runs cut off at every event.

Expected is what `tests.support.power_cuts` rebuilds. A real disk is in tests/integration/test_disks.py.
"""

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federated_health.data.manifest import listed_hashes, read_manifest
from federated_health.errors import DataError, RunError, UserError
from federated_health.files import hash_file, make_folder, replace_file, sync_folder, write_bytes
from federated_health.hospital.ledger import Ledger
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.budget import PrivacyBudget
from federated_health.report import run_page, saved_model
from federated_health.report.page import Page, Section, Table
from federated_health.report.tables_folder import write_tables
from federated_health.server.resuming import read_checkpoint
from tests.support.power_cuts import Record, nothing_lost, recorded
from tests.support.script_calls import RunScript
from tests.support.scripts import PROJECT
from tests.test_runs import ALL, chosen_for, resumed, run_to_end, stop

# The record itself


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


@pytest.fixture
def record(tmp_path: Path, disk: Path) -> Callable[[Callable[[], object]], Record]:
    """Records what a function does to `disk`."""

    def run(act: Callable[[], object]) -> Record:
        shutil.rmtree(tmp_path / "record", ignore_errors=True)
        with recorded(disk, tmp_path / "record"):
            act()
        return Record(tmp_path / "record")

    return run


Recording = Callable[[Callable[[], object]], Record]


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
                assert seed == 42 or situation == "new"  # there is always a run to resume or to extend
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
def test_results_of_another_run_never_stay_beside_later_rounds(disk: Path, record: Recording, tmp_path: Path) -> None:
    """A power cut between the first save of a run with --force and the removal leaves them."""
    out, run = disk / "runs" / "a", tmp_path / "after" / "runs" / "a"
    run_to_end(chosen_for(out, seed=7))
    others = {name: (out / name).read_bytes() for name in ALL}
    stop(chosen_for(out, force=True), 1)
    for name, content in others.items():
        (out / name).write_bytes(content)
    found = record(lambda: run_to_end(resumed(out)))
    final = results_in(out)
    assert len(final) == 3
    for number in range(len(found.events)):
        for keep_names in (True, False):
            found.after_power_cut(number, tmp_path / "after", keep_names=keep_names)
            if completed_rounds(run)[1] >= 2:
                assert results_in(run).items() <= final.items()


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


# Every writer


def test_tables_of_a_page_are_listed_and_whole_after_a_power_cut_at_any_event(
    disk: Path, record: Recording, tmp_path: Path
) -> None:
    def page(*captions: str) -> Page:
        tables = [Table(caption=caption, columns=("x", "y"), rows=(("a", 1),)) for caption in captions]
        return Page(title="t", lead="l", sections=[Section("s", list(tables))])

    after = tmp_path / "after" / "tables"
    write_tables(disk / "tables", page("Old", "Kept"))
    found = record(lambda: write_tables(disk / "tables", page("Kept", "New")))
    assert found.losses() == []
    for number in range(len(found.events)):
        for keep_names in (True, False):
            found.after_power_cut(number, tmp_path / "after", keep_names=keep_names)
            present = {path.name for path in after.iterdir() if not path.name.startswith(".")}
            listed = {entry["name"] for entry in json.loads((after / "index.json").read_text())["tables"]}
            assert {name.split(".")[0] for name in present} <= listed | {"index"}
            assert {f"kept.{extension}" for extension in ("csv", "tex", "json")} <= present
    assert listed == {"kept", "new"}


def test_a_dataset_is_whole_old_or_new_after_a_power_cut_at_any_event(
    run_script: RunScript, in_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, after = tmp_path_factory.mktemp("record"), tmp_path_factory.mktemp("after")
    assert run_script("create_dataset.py", "--plot", "--hospitals", 2, "--by", "iid").succeeded
    old = listed_files(in_folder / "data")
    with recorded(in_folder, store):
        assert run_script("create_dataset.py", "--hospitals", 3, "--by", "iid", "--seed", 7).succeeded
    new = listed_files(in_folder / "data")
    assert len(old) == 2 + 1
    assert len(new) == 3
    record = Record(store)
    assert record.losses() == []
    found = []
    for number in range(len(record.events)):
        for keep_names in (False, True):
            record.after_power_cut(number, after, keep_names=keep_names)
            found.append(listed_files(after / "data"))
    assert found[0] == old
    assert found[-1] == found[-2] == new
    assert all(files in (old, new, {}) for files in found)


def listed_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a folder's manifest lists, none without a manifest; they are as it says."""
    try:
        hashes = dict(listed_hashes(read_manifest(folder)))
    except DataError:
        return {}
    assert {name: hash_file(folder / name) for name in hashes} == hashes
    return hashes


def test_keys_and_certificates_are_on_disk_when_a_line_says_so(run_script: RunScript, in_folder: Path) -> None:
    def certificates(*flags: object) -> None:
        assert run_script("federated-health", "certificates", *flags).succeeded

    with nothing_lost(in_folder):
        certificates("init", "--authority", "a", "--name", "A")
        for party in (("--server", "--host", "fl.example.org"), ("--name", "north")):
            certificates("request", "--tls", party[-1], *party)
            request, certificate = (f"{party[-1]}/{name}.pem" for name in ("request", "certificate"))
            certificates("sign", request, "--authority", "a", "--out", certificate)
        certificates("renew", "--tls", "north")
        certificates("revoke", "north", "--authority", "a")
        certificates("request", "--tls", "north", "--name", "north", "--force")


def test_a_new_ledger_and_a_new_privacy_account_are_on_disk_before_anything_is_sent(disk: Path) -> None:
    plan = PrivacyPlan(
        epsilon=1.0, delta=1e-5, clip=1.0, sampling_rate=0.5, steps=1, learning_rate=0.1, rounds=2, run="0" * 16
    )
    with nothing_lost(disk):  # the record's end counts as an announcement
        Ledger.beside(disk / "a.csv", "a").record_metadata("join", [("hospital", "a")])
        budget = PrivacyBudget.beside(disk / "a.csv", "a")
        budget.spend(plan)
        budget.spend(plan)
    assert {path.name for path in disk.iterdir()} == {"egress-a.jsonl", "privacy-a.jsonl"}


ALLOWED = {
    "files.py": "the functions that the others use",
    "file_access.py": "syncs each line",
    "server/checkpoint.py": "tested above",
    "report/tables_folder.py": "tested above",
    "server/run_folder.py": "tested above",
    "server/checkpoint_removal.py": "tested above",
    "studies/study.py": "removes results of the study that --force replaces",
    "data/dataset_folder.py": "tested above",
    "data/partition_chart.py": "draws in a folder that dataset_folder.py syncs",
    "ml/model_files.py": "tested in test_model_saver.py",
    "ml/rounds.py": "adds to rounds.csv, which is written anew at the end of a run",
    "privacy/budget.py": "removes an incomplete line before it appends and syncs one",
    "cli/console.py": "opens the null device",
    "processes.py": "a log, which is no result",
    "cli/demo.py": "removes privacy accounts of the demo before",
    "security/authority.py": "removes keys of the demo before",
    "cli/deployment/superlink.py": "a folder for Flower, which writes its configuration itself",
    "ml/network_check.py": "a temporary folder",
    "ml/network_file.py": "writes to memory",
    "report/saved_model.py": "writes to memory",
    "report/svg.py": "draws in memory",
    "secure_aggregation/handlers.py": "writes bytes into messages",
}
"""Modules that change files other than through `federated_health.files`, and why a power cut takes no result."""

CHANGING = {
    *("write_text", "write_bytes", "truncate", "to_csv", "to_parquet", "to_excel", "savefig", "savez", "FileHandler"),
    *("unlink", "rmdir", "rename", "mkdir", "touch", "TemporaryDirectory"),
}
"""Methods that change files whatever their arguments; a `to_csv` without a path returns text."""


def changes_files(call: ast.Call) -> bool:
    """Whether a call looks as if it changed a file other than through `federated_health.files`."""
    match call.func:
        case ast.Attribute(attr=name, value=ast.Name(id="os" | "shutil")):
            return name in {"remove", "unlink", "rename", "replace", "mkdir", "makedirs", "rmtree", "move", "copy"}
        case ast.Attribute(attr="open") | ast.Name(id="open"):
            modes = [value.value for value in call.args if isinstance(value, ast.Constant)]
            return any(re.fullmatch(r"[wax]b?\+?b?|rb?\+b?", str(mode)) for mode in modes)
        case ast.Attribute(attr="replace"):  # of a path; that of a text has two arguments
            return len(call.args) == 1 and not call.keywords
        case ast.Attribute(attr=name):
            return name in CHANGING and not (name == "to_csv" and not call.args)
    return False


def test_only_known_modules_change_files() -> None:
    """A new writer uses `federated_health.files`, or is tested here."""
    package = PROJECT / "federated_health"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(changes_files(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    }
    assert found <= ALLOWED.keys()
