"""Without dp-accounting, other runs work, and a run that needs one ends at its start."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

import client
import server
from federated_health import ml, privacy
from federated_health.cli import demo
from federated_health.cli.client import run_client
from federated_health.cli.server import serve
from federated_health.data.hospital import load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.errors import MissingLibraryError
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.server.plain_run import make_run
from federated_health.settings import Settings
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from tests.support.scripts import PROJECT
from tests.support.wire import UNWRITTEN

LIBRARIES = {"dp_accounting": "pip install dp-accounting"}
"""The command that installs each library, by the name of its module."""

WITHOUT = """
import importlib, pkgutil, runpy, sys

sys.modules |= dict.fromkeys(("dp_accounting",))  # what is None cannot be imported
"""
"""A program begins with this to run as where no such library is installed."""

IMPORT_EVERYTHING = """
import client, create_dataset, federated_health, predict, server
for module in pkgutil.walk_packages(federated_health.__path__, "federated_health."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

RUN_SCRIPT = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without(program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", WITHOUT + program, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.fixture(params=LIBRARIES)
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a library that is not installed."""
    module = str(request.param)
    monkeypatch.setitem(sys.modules, module, None)
    return module


@pytest.fixture
def cleveland(hospitals_folder: Path) -> InMemoryHospital:
    return InMemoryHospital(load_hospital(hospitals_folder / "client_1.csv", HEART_DISEASE, "cleveland", 42))


def request() -> Message:
    """The first message of a run that needs the library."""
    config = ConfigRecord({"task": HEART_DISEASE.name, "schema": HEART_DISEASE.schema_hash, "dp-epsilon": 1.0})
    return Message(RecordDict({"config": config}), node_id_of("cleveland"), "query.statistics")


# Runs that do not need it


@pytest.mark.slow
def test_every_module_is_imported_without_the_libraries() -> None:
    finished = run_without(IMPORT_EVERYTHING)

    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_a_plain_run_needs_no_library(missing: str, cleveland: InMemoryHospital) -> None:
    settings = Settings.from_config({"hospitals": 1, "rounds": 1, "model": "logistic"})

    figures = make_run(InProcessTransport(client.app, {"cleveland": cleveland}), settings).run()

    assert figures["federation"]["roc_auc"] > 0.5
    assert sys.modules[missing] is None


# Runs that need it


@pytest.mark.parametrize(
    ("module", "load"),
    [
        ("dp_accounting", ml.load_privacy_plan),
        ("dp_accounting", privacy.load),
        ("dp_accounting", privacy.load_page),
    ],
)
def test_the_error_names_the_library_and_the_command_that_installs_it(
    module: str, load: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(MissingLibraryError, match="is not installed") as caught:
        load()

    assert LIBRARIES[module] in str(caught.value)
    assert "pip" not in caught.value.reason  # what the server receives
    assert caught.value.exit_code != 0
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("missing")
def test_a_server_ends_before_it_listens_or_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["server.py", "--out", tmp_path / "run", "--address", f"127.0.0.1:{free_port()}", "--dp-epsilon", 2]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    monkeypatch.setattr("federated_health.cli.server.serve_streams", lambda *_, **__: pytest.fail("it listens"))

    with pytest.raises(MissingLibraryError):
        serve(server.app)

    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("missing")
def test_a_demo_ends_before_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path / "demo"), "--dp-epsilon", "2"])

    with pytest.raises(MissingLibraryError):
        demo.main()

    assert list(tmp_path.iterdir()) == []


def test_a_run_under_flower_s_own_runtime_ends_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)

    with pytest.raises(MissingLibraryError):
        Settings.from_config({"dp-epsilon": 2.0})


@pytest.mark.usefixtures("missing")
def test_a_hospital_whose_conditions_need_a_library_ends_before_it_connects_or_writes(
    hospitals_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "patients.csv"
    data.write_bytes((hospitals_folder / "client_1.csv").read_bytes())
    command = ["client.py", "--data", data, "--name", "cleveland", "--out", tmp_path / "results", "--dp-budget", 2]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    monkeypatch.setattr("federated_health.cli.client.join_run", lambda *_, **__: pytest.fail("it connects"))

    with pytest.raises(MissingLibraryError):
        run_client(client.app)

    assert list(tmp_path.iterdir()) == [data]


def test_a_hospital_ends_when_the_server_s_run_needs_a_library_and_the_server_gets_the_reason(
    missing: str, cleveland: InMemoryHospital
) -> None:
    address, agreement, errors = f"127.0.0.1:{free_port()}", {"task": "heart-disease"}, list[Exception]()

    def join() -> None:
        try:
            join_run(
                client.app,
                cleveland,
                name="cleveland",
                address=address,
                agreement=agreement,
                wait=10.0,
                announce=lambda _: None,
                prepare=nullcontext,
                ledger=UNWRITTEN,
            )
        except MissingLibraryError as error:
            errors.append(error)

    with serve_streams(address, agreement, lambda _: None) as transport:
        hospital = Thread(target=join)
        hospital.start()
        while not transport.names():
            hospital.join(0.01)
        (reply,) = transport.send_and_receive([request()], timeout=30.0)
        hospital.join(30.0)

    (error,) = errors
    assert LIBRARIES[missing] in str(error)
    assert reply.has_error()
    assert isinstance(error, MissingLibraryError)
    assert reply.error.reason == error.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["server.py", "--dp-epsilon", 2, "--out", "{folder}/run"], "privacy"),
        (["client.py", "--data", "{folder}/client_1.csv", "--name", "a", "--dp-budget", 2], "privacy"),
    ],
)
def test_a_script_ends_in_one_line_and_a_non_zero_exit_code(
    command: list[object], extra: str, hospitals_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "client_1.csv").write_bytes((hospitals_folder / "client_1.csv").read_bytes())

    finished = run_without(RUN_SCRIPT, *(str(word).format(folder=tmp_path) for word in command))

    assert finished.returncode == MissingLibraryError.exit_code != 0
    assert finished.stdout == ""
    (line,) = finished.stderr.splitlines()
    assert f"extra {extra!r}" in line
    assert [path.name for path in tmp_path.iterdir()] == ["client_1.csv"]
