"""Shared fixtures, and the order of the tests.

Fast tests run first; those marked slow import TensorFlow or start processes. Of these, tests/integration comes first,
whose tests take longest, and then the files with the most slow tests: workers that share the tests (`make test`) end at
about the same time if the last files are short.
"""

import federated_health  # noqa: F401  # isort: skip  # first, for what the package says to gRPC

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source, read_uci
from tests.support.interrupts import sigint_enabled
from tests.support.scripts import PROJECT as PROJECT  # other tests import it from here, too

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

    from tests.support.script_calls import RunScript

# The same examples every time, and none fails because a machine is slow.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow_tests = Counter(item.path for item in items if is_slow(item))

    def rank(item: pytest.Item) -> tuple[int, int]:
        if not is_slow(item):
            return 0, 0
        return (1, 0) if PROJECT / "tests" / "integration" in item.path.parents else (2, -slow_tests[item.path])

    items.sort(key=rank)


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist there is nothing to share out
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    from tests.support.sharing import InOrder

    return InOrder(config, log)


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> Iterator[None]:
    with sigint_enabled():
        yield


@pytest.fixture(scope="session")
def uci() -> Source:
    return read_uci()


@pytest.fixture(scope="session")
def hospitals_folder(uci: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """client_1.csv ... client_4.csv and manifest.json of the four real hospitals."""
    folder = tmp_path_factory.mktemp("data")
    partition = Partition(by="hospital", seed=42)
    write_hospitals(folder, uci, divide(uci, partition), partition=partition.describe())
    return folder


@pytest.fixture
def patients(hospitals_folder: Path) -> pd.DataFrame:
    """Cleveland's rows as text, to be spoiled by a test."""
    return pd.read_csv(hospitals_folder / "client_1.csv", dtype=str, keep_default_na=False)


@pytest.fixture
def in_folder(tmp_path: Path) -> Iterator[Path]:
    """A test that runs in a folder of its own."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_folder: Path) -> "RunScript":
    """Runs a script, or `federated-health`, with arguments, in this process and in a folder of its own."""
    import signal
    import sys

    import utils
    from tests.support.script_calls import COMMANDS, ScriptResult

    assert in_folder.is_dir()
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test runner's own handlers stay

    def call(name: str, *arguments: object) -> ScriptResult:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            utils.run_script(COMMANDS[name])
        return ScriptResult(int(ended.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def tls(in_folder: Path) -> dict[str, Path]:
    """TLS folders of a server, and of the hospitals a and cleveland."""
    from federated_health.security.authority import make_demo_identities

    own, hospitals = make_demo_identities(in_folder / "tls", ("a", "cleveland"))
    return {"server": own, **hospitals}


@pytest.fixture
def server_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's Message reads the identity of its process from here."""
    for name, value in (("_task_id", 0), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)
