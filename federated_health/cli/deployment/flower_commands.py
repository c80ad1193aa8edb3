"""Flower's own commands: their path, environment and settings, as `superlink` and `supernode` start them."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from federated_health.errors import RunError
from federated_health.files import PUBLIC, write_bytes
from federated_health.security.certificates import read_file
from federated_health.security.identity import Identity
from federated_health.setting_fields import Value

DEFAULT_ADDRESS = "127.0.0.1:9092"
"""Where a SuperLink listens for hospitals' nodes."""

SCRIPTS = Path(sys.executable).parent

VARIABLES = {
    # Flower reports usage to its makers unless it is told not to; a hospital's node should call its server only.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Seconds between two looks for a message that waits for a process; Flower's default is one.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


def environment() -> dict[str, str]:
    """Environment for Flower's processes: this process's, Flower's commands on the path, and VARIABLES unless set."""
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**VARIABLES, **os.environ, "PATH": path}


def executable(name: str) -> str:
    """Path of one of Flower's commands, of the same installation as this Python; RunError if it is not installed."""
    for path in (SCRIPTS / name, SCRIPTS / f"{name}.exe"):
        if path.exists():
            return str(path)
    raise RunError(f"{SCRIPTS / name}: is not installed: pip install flwr, with this Python")


def shell_line(command: Sequence[str]) -> str:
    """A command as a shell takes it, with the program's name in place of its path."""
    return shlex.join([Path(command[0]).name, *command[1:]])


def authority_file(identity: Identity) -> Path:
    """File with the authority's certificate alone, in the TLS folder, for Flower's commands to trust; written once."""
    path = identity.folder / "authority.pem"
    if not path.exists() or read_file(path) != identity.authority_bytes:
        write_bytes(path, identity.authority_bytes, PUBLIC)
    return path.absolute()


def format_config(config: Mapping[str, Value]) -> str:
    """Settings as `--node-config` and `--run-config` take them: NAME=VALUE in TOML, separated by spaces."""
    entries = []
    for name, value in config.items():
        if isinstance(value, str) and any(character in value for character in "'\"\n"):
            raise RunError(f"{name}: {value!r} holds a quote, which Flower's settings cannot hold; use another name")
        entries.append(f"{name}='{value}'" if isinstance(value, str) else f"{name}={json.dumps(value)}")
    return " ".join(entries)
