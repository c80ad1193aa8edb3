"""The whole thing on one machine: four hospitals' CSVs, a server and four clients as processes on loopback."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from federated_health.errors import RunError
from federated_health.processes import door, free_port, interrupt, process

POLL_INTERVAL = 0.1


def run_demo(out: Path, extra: Sequence[str] = ()) -> None:
    """Create the hospitals, run the federation, and leave everything in `out`; what an earlier run left there goes.

    The server writes to this terminal, each hospital to a log of its own.

    Args:
        extra: further flags of server.py.

    Raises:
        RunError: a process failed; a hospital's last words are in the message.
    """
    data = out / "data"
    command = door("create_dataset.py", "--out", data, "--force")
    if code := subprocess.run(command, check=False).returncode:
        raise RunError(f"create_dataset.py failed with code {code}")
    hospitals = json.loads((data / "manifest.json").read_text())["hospitals"]
    address = f"127.0.0.1:{free_port()}"
    logs = {entry["name"]: out / "hospitals" / entry["name"] / "console.log" for entry in hospitals}
    print(f"\nA server and {len(hospitals)} hospitals start as processes of their own; each hospital's words are in")
    print(f"{out / 'hospitals'}/NAME/console.log. Most of the time goes into importing TensorFlow.\n", flush=True)
    with ExitStack() as stack:
        count = len(hospitals)
        serve = door("server.py", "--hospitals", count, "--address", address, "--out", out, "--force", *extra)
        server = stack.enter_context(process(serve))
        clients = {}
        for entry in hospitals:
            name = entry["name"]
            own = ("--data", data / entry["file"], "--name", name, "--server", address, "--out", logs[name].parent)
            clients[name] = stack.enter_context(process(door("client.py", *own), log=logs[name]))
        try:
            _watch(server, clients, logs)
        except KeyboardInterrupt:
            interrupt([server, *clients.values()])
            raise
    predict = f"{shlex.quote(sys.executable)} predict.py {out / 'model.keras'} data/example_patients.csv"
    print(f"Everything is in {out}/. Score new patients:\n  {predict}")


def _watch(
    server: "subprocess.Popen[bytes]", clients: dict[str, "subprocess.Popen[bytes]"], logs: dict[str, Path]
) -> None:
    """Return when all have ended well."""
    while server.poll() is None or any(client.poll() is None for client in clients.values()):
        time.sleep(POLL_INTERVAL)
        if server.poll():
            raise RunError(f"server.py ended with code {server.returncode}")
        for name, client in clients.items():
            if client.poll():
                raise RunError(f"{name} ended with code {client.returncode}: {_last_line(logs[name])}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
