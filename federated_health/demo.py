"""The whole thing on one machine: four hospitals' CSVs, a server and four clients as processes on loopback."""

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from federated_health.errors import RunError
from federated_health.settings import PROJECT_FILE

PROJECT = PROJECT_FILE.parent
POLL_INTERVAL = 0.1
PATIENCE = 30.0
"""Seconds that processes get to end by themselves."""


def run_demo(out: Path, extra: Sequence[str] = ()) -> None:
    """Create the hospitals, run the federation, and leave everything in `out`.

    The server writes to this terminal, each hospital to a log of its own.

    Args:
        extra: further flags of server.py.

    Raises:
        RunError: a process failed; its last words are in the message.
    """
    data = out / "data"
    # The folder belongs to the demo, so an earlier demo's files go without asking.
    command = door("create_dataset.py", "--out", data, "--force")
    if code := subprocess.run(command, check=False).returncode:
        raise RunError(f"create_dataset.py failed with code {code}")
    hospitals = json.loads((data / "manifest.json").read_text())["hospitals"]
    address = f"127.0.0.1:{free_port()}"
    logs = {entry["name"]: out / "hospitals" / entry["name"] / "console.log" for entry in hospitals}
    print(f"\nA server and {len(hospitals)} hospitals start as processes of their own; each hospital's words are in")
    print(f"{out / 'hospitals'}/NAME/console.log. Most of the time goes into importing TensorFlow.\n", flush=True)
    with ExitStack() as stack:
        server = stack.enter_context(
            process(
                door("server.py", "--hospitals", len(hospitals), "--address", address, "--out", out, "--force", *extra)
            )
        )
        clients = {
            entry["name"]: stack.enter_context(
                process(
                    door(
                        *("client.py", "--data", data / entry["file"], "--name", entry["name"]),
                        *("--server", address, "--out", logs[entry["name"]].parent),
                    ),
                    log=logs[entry["name"]],
                )
            )
            for entry in hospitals
        }
        while server.poll() is None or any(client.poll() is None for client in clients.values()):
            time.sleep(POLL_INTERVAL)
            if server.poll():
                raise RunError(f"server.py ended with code {server.returncode}")
            for name, client in clients.items():
                if client.poll():
                    raise RunError(f"{name} ended with code {client.returncode}: {last_line(logs[name])}")
    predict = f"{shlex.quote(sys.executable)} predict.py {out / 'model.keras'} data/example_patients.csv"
    print(f"Everything is in {out}/. Score new patients:\n  {predict}")


def door(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the project's doors with this Python."""
    return [sys.executable, str(PROJECT / name), *map(str, arguments)]


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(
    command: Sequence[str], log: Path | None = None, folder: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does not outlive the block: asked to end, given some time, then killed."""
    with ExitStack() as stack:
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log.open("wb"))
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None, cwd=folder)
        try:
            yield running
        except KeyboardInterrupt:
            wait_or(running, running.terminate)  # Ctrl-C reached it as well, and it is saving what it has
            raise
        finally:
            if running.poll() is None:
                running.terminate()
            wait_or(running, running.kill)


def wait_or(running: "subprocess.Popen[bytes]", last_resort: Callable[[], None]) -> None:
    """Wait for a process; after PATIENCE seconds use the last resort."""
    try:
        running.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        last_resort()
        running.wait()


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
