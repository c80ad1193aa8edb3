"""The same two apps under Flower's own simulation, as `flwr run .` starts it in a checkout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federated_health.processes import PROJECT, door, free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which Flower's configuration and its local SuperLink are this test's own."""
    home = tmp_path / "flower-home"
    scripts = Path(sys.executable).parent
    yield {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "FLWR_LOCAL_CONTROL_API_PORT": str(free_port()),
    }
    # `flwr run` leaves its SuperLink running; its command line names its folder, which nobody else's does.
    subprocess.run(["pkill", "-f", str(home)], check=False)


def test_flwr_run_trains_the_same_apps_for_two_rounds(flower: dict[str, str], tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("server.py", "client.py", "utils.py", "create_dataset.py", "pyproject.toml"):
        shutil.copy(PROJECT / name, checkout)
    shutil.copytree(PROJECT / "federated_health", checkout / "federated_health")
    (checkout / "data").mkdir()
    subprocess.run(door("create_dataset.py"), cwd=checkout, check=True, capture_output=True, timeout=300)

    def run(out: str, **settings: object) -> dict[str, Any]:
        config = " ".join(f"{name.replace('_', '-')}={json.dumps(value)}" for name, value in settings.items())
        command = ["flwr", "run", ".", "--federation-config", "num-supernodes=4", "--stream", "--run-config"]
        ended = subprocess.run(
            [*command, f'{config} rounds=2 out="{out}"'],
            cwd=checkout,
            env=flower,
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
        metrics_file = checkout / out / "metrics.json"
        assert metrics_file.exists(), ended.stdout + ended.stderr
        metrics: dict[str, Any] = json.loads(metrics_file.read_text())
        assert metrics["rounds"] == 2
        return metrics

    metrics = run("runs/simulated")
    assert list(metrics["hospitals"]) == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert metrics["federation"]["test_examples"] == 231
    assert (checkout / "runs" / "simulated" / "model.keras").exists()

    private = run("runs/private", dp_epsilon=4.0)
    assert list(private["hospitals"]) == list(metrics["hospitals"])
    assert private["privacy"]["epsilon"] == 4
    for name in private["hospitals"]:
        assert (checkout / "data" / f"privacy-{name}.jsonl").read_bytes().count(b"\n") == 2
