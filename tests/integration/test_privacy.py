"""Hospitals as processes under differential privacy: what they spent before they were killed still counts."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from federated_health.privacy.budget import PrivacyBudget
from federated_health.processes import free_port
from tests.support.forks import forked
from tests.support.scripts import script_command
from tests.support.wire import read_lines

pytestmark = pytest.mark.slow

ROUNDS, SPARE = 60, 6
HOSPITALS = {"cleveland": "client_1.csv", "hungary": "client_2.csv"}


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(is_so: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def test_a_hospital_that_is_killed_continues_with_its_remaining_budget_and_rejects_another_run(
    hospitals_folder: Path, tmp_path: Path
) -> None:
    data = {name: tmp_path / name / file for name, file in HOSPITALS.items()}
    for name, file in HOSPITALS.items():
        data[name].parent.mkdir()
        shutil.copy(hospitals_folder / file, data[name])
    budget_files = {name: tmp_path / name / f"privacy-{name}.jsonl" for name in HOSPITALS}
    address = f"127.0.0.1:{free_port()}"

    def serve(out: str, *flags: object) -> list[str]:
        settings = ("--hospitals", 2, "--dp-epsilon", 2, "--dp-spare-rounds", SPARE, "--model", "logistic")
        return script_command("server.py", *settings, "--address", address, "--out", tmp_path / out, *flags)

    def join(name: str) -> list[str]:
        return script_command(
            "client.py", "--data", data[name], "--name", name, "--server", address, "--out", tmp_path / name
        )

    with ExitStack() as stack:
        first = serve("first", "--rounds", ROUNDS, "--min-hospitals", 2)
        server = stack.enter_context(forked(first, log=tmp_path / "server.txt"))
        cleveland = stack.enter_context(forked(join("cleveland"), log=tmp_path / "cleveland.txt"))
        killed = stack.enter_context(forked(join("hungary"), log=tmp_path / "killed.txt"))
        wait_for(lambda: lines_of(budget_files["hungary"]) >= 5, tmp_path / "server.txt")
        killed.kill()
        killed.wait(120)
        spent = lines_of(budget_files["hungary"])
        again = stack.enter_context(forked(join("hungary"), log=tmp_path / "again.txt"))
        assert server.wait(600) == 0, (tmp_path / "server.txt").read_text()
        assert [cleveland.wait(120), again.wait(120)] == [0, 0]

    assert 5 <= spent < ROUNDS
    metrics = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert (metrics["rounds"], metrics["privacy"]["epsilon"], metrics["threshold"]) == (ROUNDS, 2.0, 0.5)
    for name, path in budget_files.items():
        summary = PrivacyBudget(path).summary()
        assert ROUNDS <= summary.rounds <= ROUNDS + SPARE, name
        assert 1.8 < summary.epsilon_of_side("training") <= 2.0  # 1.8976 where no round was repeated
        assert summary.epsilon <= 2.0
        assert all(run.is_evaluated for run in summary.runs.values())
        assert summary.describe() in (tmp_path / name / f"{name}.log").read_text()
        own = (tmp_path / name / "report.html").read_text()
        assert summary.describe() in own
        assert [other in own for other in HOSPITALS if other != name] == [False]
        updates = [line for line in read_lines(path.with_name(f"egress-{name}.jsonl")) if line["kind"] == "train"]
        metrics_sent = {value["name"] for line in updates for value in line["records"] if value["record"] == "metrics"}
        assert metrics_sent == {"num-examples"}
    report = (tmp_path / "first" / "report.html").read_text()
    assert "Differential privacy" in report
    assert "loss on training patients" not in report

    before = {name: path.read_bytes() for name, path in budget_files.items()}
    with ExitStack() as stack:
        second = serve("second", "--rounds", 2)
        stack.enter_context(forked(second, log=tmp_path / "server2.txt"))
        for name in HOSPITALS:
            stack.enter_context(forked(join(name), log=tmp_path / f"{name}2.txt"))
        rejection = "cleveland is left out: its privacy budget does not allow the run"
        wait_for(lambda: rejection in (tmp_path / "server2.txt").read_text(), tmp_path / "server2.txt")
    assert {name: path.read_bytes() for name, path in budget_files.items()} == before
    assert "--dp-budget" in (tmp_path / "cleveland2.txt").read_text()
    assert not (tmp_path / "second").exists()
