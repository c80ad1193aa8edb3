"""The commands of docs/runtimes.md for Flower's simulation: `flwr run .` in a fresh checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import client
from federated_health.cli.deployment.flower_commands import environment
from federated_health.data.manifest import find_hospital
from federated_health.errors import SettingsError
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import weights_hash
from federated_health.processes import free_port
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.flower_engines import wrap_engine
from federated_health.transport.in_process import InProcessTransport
from tests.support.scripts import PROJECT
from tests.test_flower_engines import Simulation

pytestmark = pytest.mark.slow

PAGE = PROJECT / "docs" / "runtimes.md"


def block_of(mark: str) -> str:
    """The commands that stand below a comment with that mark."""
    (block,) = re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment in which Flower's configuration and its local SuperLink are this test's own."""
    home = tmp_path_factory.mktemp("flower") / "flower-home"
    yield {
        **environment(),
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
    }
    for process in Path("/proc").iterdir():  # `flwr run` leaves its SuperLink running, which names its folder
        if process.name.isdigit() and str(home) in _command_of(process):
            os.kill(int(process.name), signal.SIGTERM)


def _command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:  # it has ended meanwhile, or is another user's
        return ""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh copy of the project, as a clone has it."""
    folder = tmp_path_factory.mktemp("clone") / "federated-health"
    ignored = shutil.ignore_patterns(
        ".venv", ".git", "runs", "client_*.csv", "manifest.json", "partition.png", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, folder, ignore=ignored)
    return folder


def run(script: str, checkout: Path, flower: dict[str, str]) -> str:
    """The output of a shell that runs these lines."""
    ended = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=checkout,
        env=flower,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return ended.stdout


def test_four_hospitals_as_the_page_says_give_the_bits_of_a_run_in_process(
    hospitals_folder: Path, checkout: Path, flower: dict[str, str]
) -> None:
    output = run(block_of("simulation"), checkout, flower)

    run_folder = checkout / "runs" / "simulated"
    assert (run_folder / "model.keras").exists(), output
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert list(metrics["hospitals"]) == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert metrics["federation"]["test_examples"] == 231

    files = [find_hospital(hospitals_folder, number) for number in range(1, 5)]
    contexts = {name: hospital_context(name, {"data": str(path)}) for path, name in files}
    settings = replace(Settings(), rounds=5)
    federated_run = PlainRun(InProcessTransport(client.app, contexts), settings)
    federated_run.gather()
    list(federated_run.rounds())
    weights_sha256 = read_description(run_folder / "model.keras")["weights_sha256"]
    assert weights_sha256 == weights_hash(federated_run.weights)


def test_virtual_hospitals_as_the_page_says_but_fewer_and_each_records_what_its_privacy_costs(
    checkout: Path, flower: dict[str, str]
) -> None:
    page_commands = block_of("virtual hospitals")
    assert page_commands.count("100 ") == 3
    commands = (
        re.sub(r"\b100\b", "10", page_commands).replace("10000", "1000").replace("rounds=3", "rounds=3 dp-epsilon=4.0")
    )
    output = run(commands, checkout, flower)

    run_folder = checkout / "runs" / "virtual"
    assert (run_folder / "metrics.json").exists(), output
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert len(metrics["hospitals"]) == 10
    assert metrics["rounds"] == 3
    assert metrics["privacy"]["epsilon"] == 4
    for name in metrics["hospitals"]:
        assert (checkout / "data" / "virtual" / f"privacy-{name}.jsonl").read_bytes().count(b"\n") == 4


def test_an_own_task_as_the_page_says(checkout: Path, flower: dict[str, str]) -> None:
    output = run(block_of("own task"), checkout, flower)

    run_folder = checkout / "runs" / "stroke"
    assert (run_folder / "metrics.json").exists(), output
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert list(metrics["hospitals"]) == ["hospital-1", "hospital-2"]
    assert read_description(run_folder / "model.keras")["task"] == "stroke-mortality"


@pytest.mark.usefixtures("server_identity")
def test_a_run_with_another_number_of_nodes_is_rejected_before_it_starts(hospitals_folder: Path) -> None:
    settings = replace(Settings(), data=str(hospitals_folder))

    with pytest.raises(SettingsError, match="simulation has 2 nodes"):
        PlainRun(wrap_engine(Simulation(2)), settings)
