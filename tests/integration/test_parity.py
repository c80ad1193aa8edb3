"""One app, one seed, two hospitals: the same final weights in every way of running it, even if a hospital leaves.

In process, the Python API, terminals, with mutual TLS too, and Flower's deployment are compared to the bit, and in
test_flower.py its simulation. Each trains by the same compiled arithmetic, and the server sums updates in the order of
hospitals' names. All ways run on one machine, since another processor may round differently.
"""

import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flower_engines import deployment
from flwr.app import Context, Message

import client
import federated_health as fh
from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.manifest import find_hospital
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.task_writing import write_task
from federated_health.ml.model_files import read_description
from federated_health.ml.networks import weights_hash
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security.authority import make_demo_identities
from federated_health.server.plain_run import PlainRun
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from tests.support.forks import forked
from tests.support.scripts import script_command

pytestmark = pytest.mark.slow

NAMES = ("cleveland", "switzerland")
RUN: dict[str, Value] = {"hospitals": 2, "rounds": 2, "local-epochs": 2, "appraisal": False, "min-hospitals": 1}
SETTINGS = Settings.from_config({**RUN})

PATIENCE = 900.0
"""Seconds; Flower's deployment starts a process for every message."""


@pytest.fixture(scope="module")
def data(uci: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    partition = Partition(by="hospital", seed=42)
    hospitals = {name: rows for name, rows in divide(uci, partition).items() if name in NAMES}
    write_hospitals(folder, uci, hospitals, partition=partition.describe())
    return folder


@pytest.fixture(scope="module")
def paths(data: Path) -> dict[str, Path]:
    return {name: path for path, name in (find_hospital(data, number) for number in (1, 2))}


def contexts_of(paths: dict[str, Path]) -> dict[str, Context]:
    return {name: hospital_context(name, {"data": str(path)}) for name, path in paths.items()}


@pytest.fixture(scope="module")
def in_process(paths: dict[str, Path]) -> str:
    """The hash of the final weights without any process or network."""
    federated_run = PlainRun(InProcessTransport(client.app, contexts_of(paths)), SETTINGS)
    federated_run.gather()
    list(federated_run.rounds())
    return weights_hash(federated_run.weights)


def final_weights(run: Path) -> str:
    """The hash that a run's model says its weights have."""
    return str(read_description(run / "model.keras")["weights_sha256"])


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "mutual TLS"])
def test_terminals_give_the_bits_of_a_run_in_process(
    paths: dict[str, Path], in_process: str, tmp_path: Path, with_tls: bool
) -> None:
    address, out = f"127.0.0.1:{free_port()}", tmp_path / "run"
    own, tls = make_demo_identities(tmp_path / "tls", NAMES) if with_tls else (None, {})
    flags = [word for name, value in RUN.items() if name != "appraisal" for word in (f"--{name}", value)]
    policy = tmp_path / "policy.toml"
    policy.touch()
    with ExitStack() as stack:
        serve = script_command("server.py", *flags, "--no-appraisal", "--address", address, "--out", out)
        server = stack.enter_context(forked([*serve, *(["--tls", str(own)] if own else [])], tmp_path / "server.txt"))
        for name, path in paths.items():
            join = script_command("client.py", "--data", path, "--name", name, "--server", address)
            proof = ["--tls", str(tls[name]), "--policy", str(policy)] if own else []
            stack.enter_context(forked([*join, *proof], tmp_path / f"{name}.txt"))
        assert server.wait(PATIENCE) == 0, (tmp_path / "server.txt").read_text()

    assert final_weights(out) == in_process


def test_data_frames_give_the_bits_of_a_run_in_process(paths: dict[str, Path], in_process: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {name.replace("-", "_"): value for name, value in RUN.items() if name != "hospitals"}

    result = fh.federate({name: pd.read_csv(path) for name, path in paths.items()}, HEART_DISEASE, **settings)

    result.model.save(tmp_path / "model.keras")
    assert read_description(tmp_path / "model.keras")["weights_sha256"] == in_process


class LeavingGrid(InProcessTransport):
    """Hospitals in process, one of which is gone when it should train for the second time."""

    trainings = 0

    def get_node_ids(self) -> list[int]:
        gone = {node_id_of("switzerland")} if self.trainings > 1 else set()
        return [node for node in super().get_node_ids() if node not in gone]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        self.trainings += any(message.metadata.message_type == "train" for message in messages)
        connected = self.get_node_ids()
        deliverable = [message for message in messages if message.metadata.dst_node_id in connected]
        return list(super().send_and_receive(deliverable, timeout=timeout))


def test_a_deployment_that_loses_a_node_gives_the_bits_of_such_a_run_in_process(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    """Both hospitals train in round 1. In round 2 a SuperNode is stopped with its message in hand: the run continues.

    The SuperLink answers the messages of a stopped SuperNode at once. Those of a killed one wait for the round timeout,
    which tests/test_flower_engines.py tests. The deployment has the task from a file: the server by its run config, and
    each node by its node config.
    """
    federated_run = PlainRun(LeavingGrid(client.app, contexts_of(paths)), SETTINGS)
    federated_run.gather()
    *_, last = federated_run.rounds()
    assert set(last.hospitals) == {"cleveland"}

    task_file = tmp_path / "own.toml"
    task_file.write_text(write_task(HEART_DISEASE))
    with deployment(tmp_path / "engine", paths, task=task_file) as engine:
        log = engine.folder / "switzerland.log"
        with engine.started("run", RUN) as running:
            deadline = time.monotonic() + PATIENCE
            while log.read_text().count("Receiving: train") < 2:
                assert time.monotonic() < deadline, log.read_text()
                assert running.poll() is None, (engine.folder / "run.log").read_text()
                time.sleep(0.1)
            os.killpg(engine.nodes["switzerland"].pid, signal.SIGTERM)
            running.wait(PATIENCE)
        out = engine.folder / "run"

    assert final_weights(out) == weights_hash(federated_run.weights)
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["hospitals"]) == ["cleveland"]
    assert metrics["rounds"] == 2
    assert (out / "report.html").exists()
