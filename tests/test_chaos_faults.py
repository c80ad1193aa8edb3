"""The faults of `make chaos` come as they are meant to, and its judges find what is not handled."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos_blame import find_wrong_blame
from chaos_conditions import ASCII, CLOSED, CLOSED_PIPE, FULL_DISK, Conditions, proxy_variables
from chaos_hangs import MAX_UNANSWERED, Hang, HangingApp
from chaos_hospital import light_app
from chaos_hostile import HOSTILITIES, find_answers, serve_hostile
from chaos_liars import LIES, LyingApp
from chaos_power import Disk, RecordedDisk, open_disk
from chaos_processes import Process
from chaos_trials import Fault, Trial, plan_trials
from chaos_verdict import Verdict, find_tracebacks
from flwr.app import Message

from federated_health.files import sync_folder
from federated_health.processes import free_port
from federated_health.transport.app_calls import hospital_context
from tests.support.forks import forked_call, start_fork_server
from tests.test_chaos import NAMES, train_message

# Power cuts


def write_two_files(folder: Path) -> None:
    """One file as it should be, and one that is in memory only."""
    for name in ("synced", "unsynced"):
        with (folder / "run" / name).open("w") as file:
            file.write("content")
            file.flush()
            if name == "synced":
                os.fsync(file.fileno())
    sync_folder(folder / "run")


def test_a_recorded_disk_loses_what_was_not_synced(tmp_path: Path) -> None:
    from tests.support.power_cuts import recorded

    disk = RecordedDisk(tmp_path / "disk", tmp_path / "record")
    disk.path.mkdir()
    with recorded(disk.path, disk.record):
        (disk.path / "run").mkdir()
        sync_folder(disk.path)
        write_two_files(disk.path)
    check_what_is_left(disk, tmp_path / "left")


@pytest.mark.slow
def test_a_copied_image_loses_what_was_not_synced(tmp_path: Path) -> None:
    with open_disk(tmp_path) as disk:
        if isinstance(disk, RecordedDisk):
            pytest.skip("no image can be mounted here")
        (disk.seen / "run").mkdir()
        write_two_files(disk.seen)
        check_what_is_left(disk, tmp_path / "left")


def check_what_is_left(disk: Disk, left: Path) -> None:
    disk.recover("nothing", left)
    assert not left.exists()
    disk.recover("run", left)
    files = {path.name: path.read_text() for path in left.iterdir()}
    assert files["synced"] == "content"
    assert files.get("unsynced", "") == ""


# Hangs and lies


def replies_of(app: Any, path: Path, rounds: list[int]) -> list[Message]:
    context = hospital_context("hungary", {"data": str(path)})
    return [app(train_message(context, number), context) for number in rounds]


@pytest.mark.parametrize("part", ["handler", "disk"])
def test_a_hospital_hangs_once_and_from_its_round_on(
    hospitals_folder: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    app = HangingApp(light_app(0.0), Hang(part, is_lasting=False), first=2, seconds=7.0)
    context = hospital_context("hungary", {"data": str(hospitals_folder / "client_2.csv")})
    waits_after = []
    for number in (1, 2, 3):
        app(train_message(context, number), context)
        with (hospitals_folder / "client_2.csv").open() as file:
            os.fsync(file.fileno())
        waits_after.append(waits.count(7.0))
    assert waits_after == [0, 1, 1]


def test_exaggerated_updates_point_where_they_should(hospitals_folder: Path) -> None:
    path = hospitals_folder / "client_2.csv"
    context = hospital_context("hungary", {"data": str(path)})
    sent = train_message(context, 3).content.array_records["arrays"]
    honest, opposite, long = (
        next(iter(replies_of(app, path, [3]))).content.array_records["arrays"]
        for app in (
            light_app(0.0),
            LyingApp(light_app(0.0), LIES["an update in the opposite direction"]),
            LyingApp(light_app(0.0), LIES["an update of 20 times the norm"]),
        )
    )
    for name, array in honest.items():
        move = array.numpy() - sent[name].numpy()
        np.testing.assert_allclose(opposite[name].numpy() - sent[name].numpy(), -move, atol=1e-6)
        np.testing.assert_allclose(long[name].numpy() - sent[name].numpy(), 20 * move, rtol=1e-4, atol=1e-5)


# Blame


def trial_of(fault: Fault, kind: str = "") -> Trial:
    found = next(trial for trial in plan_trials(1, 200, 0, 1.0) if trial.fault is fault and kind in ("", trial.kind))
    return replace(found, victim=0)


def problems_of(trial: Trial, output: str = "", auc: float = 0.9, **faults: Any) -> list[str]:
    verdict = Verdict(metrics={"faults": faults, "federation": {"roc_auc": auc}})
    liars = [NAMES[0]] if trial.fault is Fault.LIAR else []
    return find_wrong_blame(trial, verdict, victim=NAMES[0], liars=liars, output=output, undisturbed_auc=0.9)


def test_a_hospital_may_leave_few_messages_unanswered_while_it_hangs() -> None:
    for times in (MAX_UNANSWERED, MAX_UNANSWERED + 1):
        unanswered = {NAMES[0]: {"it did not answer within 2 s": times, "its connection was lost": 9}}
        assert len(problems_of(trial_of(Fault.HANG), unanswered=unanswered)) == times - MAX_UNANSWERED


def test_a_liar_must_be_named_in_the_log_or_in_the_last_line() -> None:
    trial = trial_of(Fault.LIAR, "10^12 rows")
    assert len(problems_of(trial, absent={NAMES[0]: 1})) == 1
    assert problems_of(trial, data_warnings={NAMES[0]: ["declares many rows"]}) == []
    assert problems_of(trial, output=f"{NAMES[0]} joined\nerror: too few; left out: {NAMES[0]}") == []
    assert len(problems_of(trial, output=f"{NAMES[0]} joined")) == 1


def test_wrong_updates_must_be_named_if_they_did_harm_and_no_honest_hospital_may_be() -> None:
    trial = trial_of(Fault.LIAR, "an update in the opposite direction")
    opposed = "its updates are opposed to the others'"
    assert problems_of(trial, auc=0.88) == []
    assert len(problems_of(trial, auc=0.5)) == 1
    assert problems_of(trial, auc=0.5, data_warnings={NAMES[0]: [opposed]}) == []
    assert len(problems_of(trial, auc=0.5, data_warnings={NAMES[0]: [opposed], NAMES[1]: [opposed]})) == 1


def test_only_hospitals_at_fault_may_have_rejected_replies() -> None:
    rejected = {NAMES[1]: {"its weights are not finite": 1, "sent its reply too late": 2}}
    assert len(problems_of(trial_of(Fault.PROXY), rejected=rejected)) == 1
    assert problems_of(trial_of(Fault.PROXY), rejected={NAMES[1]: {"sent its reply too late": 2}}) == []


# Hostile servers


@pytest.mark.slow
def test_a_hospital_that_answers_every_message_is_found(tmp_path: Path, hospitals_folder: Path) -> None:
    from chaos_run import run_hospital

    start_fork_server()
    address, hostility = f"127.0.0.1:{free_port()}", HOSTILITIES["evaluations without training"]
    report, data = tmp_path / "report.json", tmp_path / "hungary.csv"
    data.write_bytes((hospitals_folder / "client_2.csv").read_bytes())
    flags = ["--data", str(data), "--name", "hungary", "--server", address]
    with (
        forked_call(tmp_path / "server.txt", serve_hostile, address, hostility, report) as server,
        forked_call(tmp_path / "hungary.txt", run_hospital, flags, False, None) as hospital,
    ):
        assert server.wait(60) == 0, (tmp_path / "server.txt").read_text()
        assert hospital.wait(60) == 0
    asked = len(hostility.questions) - 1  # a light hospital answers all, and registering is allowed
    assert find_answers(report, hostility) == [f"a hostile server got {asked} answers: expected at most 5"]


def test_answers_and_silences_are_judged(tmp_path: Path) -> None:
    report, hostility = tmp_path / "report.json", HOSTILITIES["a learning rate of NaN"]
    assert find_answers(report, hostility) == ["the hostile server did not end"]
    report.write_text(json.dumps({"answers": [], "silences": 0}))
    assert find_answers(report, hostility) == []
    report.write_text(json.dumps({"answers": ["train"], "silences": 2}))
    assert len(find_answers(report, hostility)) == 2


# Output


def print_and_note(note: str, seconds: float) -> None:
    """Print until it fails, and write what it fails with into a file."""
    result = "printed"
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            if sys.stdout is None:
                raise ValueError("closed")
            sys.stdout.write("Zürich\n")
            sys.stdout.flush()
            time.sleep(0.01)
    except (OSError, ValueError) as error:
        result = type(error).__name__ + (f" {error.errno}" if isinstance(error, OSError) else "")
    Path(note).write_text(result)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "result"),
    [
        (FULL_DISK, "OSError 28"),
        (CLOSED_PIPE, "BrokenPipeError 32"),
        (CLOSED, "ValueError"),
        (ASCII, "UnicodeEncodeError"),
    ],
)
def test_output_fails_as_the_conditions_say(tmp_path: Path, output: str, result: str) -> None:
    start_fork_server()
    note, conditions = tmp_path / "note", Conditions(output=output, seconds=0.1)
    process = Process(tmp_path / "log.txt", print_and_note, str(note), 30.0, conditions=conditions)
    deadline = time.monotonic() + 60
    while process.code is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.code == 0
    assert note.read_text() == result


def test_a_traceback_in_any_log_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine\n")
    assert find_tracebacks(tmp_path) == []
    (tmp_path / "b.txt").write_text("Traceback (most recent call last):\n")
    assert find_tracebacks(tmp_path) == ["a traceback in b.txt"]


def test_proxies_are_named_in_both_spellings() -> None:
    variables = proxy_variables("127.0.0.1:1")
    assert variables["http_proxy"] == variables["HTTPS_PROXY"] == variables["grpc_proxy"] == "http://127.0.0.1:1"
    assert variables["no_proxy"] == ""
