"""The apps under Flower's own engines, for benchmarks and tests: the simulation, and a SuperLink with SuperNodes.

Each engine has its own ports and Flower home, and ends all processes that it started.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from scripts import PROJECT

from federated_health.cli.deployment.flower_commands import environment, executable, format_config
from federated_health.processes import free_port, process
from federated_health.security.authority import make_demo_identities
from federated_health.setting_fields import Value

APP = ("server.py", "client.py", "utils.py", "pyproject.toml")

START_TIMEOUT = 60.0
"""Seconds for an engine to start."""

RUN_TIMEOUT = 1800.0
"""Seconds for a run."""


@dataclass(frozen=True)
class Engine:
    """One of Flower's engines, ready for consecutive runs.

    Attributes:
        folder: the folder of its logs and of the checkout from which runs are started.
        superlink: the process to which runs are sent.
        nodes: SuperNode of each hospital; empty in a simulation.
        commands: command that starts each hospital's SuperNode in the checkout, with `env`.
    """

    folder: Path
    connection: str
    env: Mapping[str, str]
    settings: Mapping[str, Value]
    federation: tuple[str, ...]
    superlink: "subprocess.Popen[bytes]"
    nodes: Mapping[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @contextmanager
    def started(self, out: str, settings: Mapping[str, Value]) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a run with `flwr run`; the command ends with the block.

        Args:
            out: name of the run's folder, below the engine's.
            settings: run config in addition to the engine's.
        """
        config = format_config({**self.settings, "out": str(self.folder / out), **settings})
        command = [executable("flwr"), "run", ".", self.connection, "--stream", *self.federation]
        checkout, log = self.folder / "checkout", self.folder / f"{out}.log"
        with process([*command, "--run-config", config], log=log, folder=checkout, env=self.env) as running:
            yield running

    def run(self, out: str, settings: Mapping[str, Value], timeout: float = RUN_TIMEOUT) -> Path:
        """Complete one run.

        Returns:
            The run's folder, with model.keras, metrics.json, rounds.csv and so on.

        Raises:
            RuntimeError: there is no metrics.json; the message holds the log of `flwr run`.
        """
        with self.started(out, settings) as running:
            running.wait(timeout)
        if not (self.folder / out / "metrics.json").exists():
            raise RuntimeError((self.folder / f"{out}.log").read_text(errors="replace"))
        return self.folder / out


@contextmanager
def simulation(
    folder: Path, data: Path, *, hospitals: int, federation: str = "", task: str = "heart-disease"
) -> Iterator[Engine]:
    """Flower's simulation of the hospitals in a folder written by create_dataset.py.

    Args:
        folder: a new folder for the engine.
        federation: additional text for --federation-config, such as "client-resources-num-cpus=1".
    """
    env = _prepare(folder)
    port = free_port()
    connection = f'[superlink.simulated]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (folder / "flower-home" / "config.toml").write_text(connection)
    command = [
        executable("flower-superlink"),
        *("--insecure", "--simulation", "--isolation", "subprocess"),
        *("--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{free_port()}"),
    ]
    config = f"num-supernodes={hospitals} {federation}".strip()
    log = folder / "superlink.log"
    with process(command, log=log, folder=folder / "checkout", env=env) as superlink:
        _wait_for(lambda: _is_healthy(port), superlink, log)
        own: dict[str, Value] = {"data": str(data.absolute()), "hospitals": hospitals, "task": task}
        yield Engine(folder, "simulated", env, own, ("--federation-config", config), superlink)


@contextmanager
def deployment(folder: Path, hospitals: Mapping[str, Path], *, task: str | Path = "heart-disease") -> Iterator[Engine]:
    """A SuperLink, and one SuperNode per hospital with its own key, over TLS, as the project starts them.

    Args:
        folder: a new folder for the engine.
        hospitals: CSV by name.
        task: name of a task of the package, or an absolute path of a task file.
    """
    env = _prepare(folder)
    key = "task-file" if isinstance(task, Path) else "task"
    server, tls = make_demo_identities(folder / "tls", list(hospitals))
    address, checkout = f"127.0.0.1:{free_port()}", folder / "checkout"
    issued = folder / "tls" / "authority" / "issued"
    with ExitStack() as stack:
        command = _subcommand(
            *("superlink", "--tls", server, "--hospitals", issued, "--address", address, "--control-port", free_port())
        )
        log = folder / "superlink.log"
        superlink = stack.enter_context(process(command, log=log, folder=checkout, env=env))
        _wait_for(lambda: "ready: " in log.read_text(errors="replace"), superlink, log)
        nodes, commands = {}, {}
        policy = folder / "policy.toml"
        policy.write_text("")  # allows every run
        for name, path in hospitals.items():
            flags = "--tls", tls[name], "--data", path, "--policy", policy, "--superlink", address, f"--{key}", task
            own, commands[name] = folder / f"{name}.log", _subcommand("supernode", *flags)
            nodes[name] = stack.enter_context(process(commands[name], log=own, folder=checkout, env=env))
        settings: dict[str, Value] = {"hospitals": len(hospitals), key: str(task)}
        yield Engine(folder, "hospitals", env, settings, (), superlink, nodes, commands)


def _prepare(folder: Path) -> dict[str, str]:
    """Copy the app to a folder whose name Flower accepts; the environment of the engine."""
    checkout = folder / "checkout"
    checkout.mkdir(parents=True)
    for name in APP:
        shutil.copy(PROJECT / name, checkout)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "federated_health", checkout / "federated_health", ignore=ignored)
    home = folder / "flower-home"
    home.mkdir()
    return {**environment(), "FLWR_HOME": str(home)}


def _wait_for(is_ready: Callable[[], bool], running: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not is_ready():
        if running.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text(errors="replace"))
        time.sleep(0.1)


def _is_healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _subcommand(name: str, *flags: object) -> list[str]:
    return [sys.executable, "-m", "federated_health", name, *map(str, flags)]
