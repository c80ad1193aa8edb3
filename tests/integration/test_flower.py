"""Flower's simulation as docs/runtimes.md says it: `flwr run .` in a fresh checkout, after the README's set-up."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from federated_health.cli.deployment.flower_commands import environment
from federated_health.processes import free_port
from tests.support.scripts import PROJECT

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
    """What a shell says that runs these lines."""
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


def test_four_hospitals_as_the_page_says(checkout: Path, flower: dict[str, str]) -> None:
    said = run(block_of("simulation"), checkout, flower)

    run_folder = checkout / "runs" / "simulated"
    assert (run_folder / "model.keras").exists(), said
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert list(metrics["hospitals"]) == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert metrics["federation"]["test_examples"] == 231


def test_a_hundred_virtual_hospitals_as_the_page_says(checkout: Path, flower: dict[str, str]) -> None:
    said = run(block_of("virtual hospitals"), checkout, flower)

    run_folder = checkout / "runs" / "virtual"
    assert (run_folder / "metrics.json").exists(), said
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert len(metrics["hospitals"]) == 100
    assert metrics["rounds"] == 3


def test_a_private_run_is_charged_to_each_hospital(checkout: Path, flower: dict[str, str]) -> None:
    private = block_of("simulation").replace("runs/simulated", "runs/private").replace("rounds=5", "rounds=2")
    said = run(private.replace("rounds=2", "rounds=2 dp-epsilon=4.0"), checkout, flower)

    assert (checkout / "runs" / "private" / "metrics.json").exists(), said
    metrics = json.loads((checkout / "runs" / "private" / "metrics.json").read_text())
    assert metrics["privacy"]["epsilon"] == 4
    for name in metrics["hospitals"]:
        assert (checkout / "data" / f"privacy-{name}.jsonl").read_bytes().count(b"\n") == 2


def test_a_wrong_number_is_told_at_once(checkout: Path, flower: dict[str, str]) -> None:
    said = run(f"flwr run . --stream --run-config \"data='{checkout / 'data'}'\"", checkout, flower)

    assert "holds 4 hospitals; the simulation has 2 nodes, and hospitals is 4: use " in " ".join(said.split())
