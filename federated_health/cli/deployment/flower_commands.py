"""Flower's own commands: their path, environment and settings, as `superlink` and `supernode` start them."""

import json
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from federated_health.errors import RunError
from federated_health.files import PUBLIC, write_bytes
from federated_health.security.certificates import read_file
from federated_health.security.identity import Identity
from federated_health.setting_fields import Value
from federated_health.transport.proxies import EXCEPTIONS

DEFAULT_ADDRESS = "127.0.0.1:9092"
"""Address where a SuperLink listens for hospitals' nodes."""

SCRIPTS = Path(sys.executable).parent

LOOPBACK = "localhost,127.0.0.0/8,::1"

VARIABLES = {
    # Flower reports usage to its makers by default; a hospital's node should connect to its server only.
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Seconds between two checks for a message that waits for a process; Flower's default is 1.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


def environment() -> dict[str, str]:
    """Environment for Flower's processes: this process's, Flower's commands on the path, and VARIABLES if not set.

    Loopback is never reached through a proxy.
    """
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    direct = next((os.environ[name] for name in EXCEPTIONS if name in os.environ), "")
    return {**VARIABLES, **os.environ, "PATH": path, "no_grpc_proxy": ",".join(filter(None, [direct, LOOPBACK]))}


def executable(name: str) -> str:
    """Path of one of Flower's commands, preferably of this Python's installation; RunError if there is none."""
    folders = [SCRIPTS, sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    if path := shutil.which(name, path=os.pathsep.join(map(str, folders))):
        return path
    raise RunError(f"{name}: is not installed beside {sys.executable}, nor on the PATH: pip install flwr")


def shell_line(command: Sequence[str]) -> str:
    """A command as one line for a shell, with the program's name instead of its path."""
    return shlex.join([Path(command[0]).name, *command[1:]])


def authority_file(identity: Identity) -> Path:
    """File in the TLS folder with the authority's certificate alone, which Flower's commands trust; written once."""
    path = identity.folder / "authority.pem"
    if not path.exists() or read_file(path) != identity.authority_bytes:
        write_bytes(path, identity.authority_bytes, PUBLIC)
    return path.absolute()


def format_config(config: Mapping[str, Value]) -> str:
    """Settings as the value of `--node-config` or `--run-config`: NAME=VALUE in TOML, separated by spaces."""
    entries = []
    for name, value in config.items():
        if isinstance(value, str) and any(character in value for character in "'\"\n"):
            raise RunError(
                f"{name}: expected no quote or line break, which Flower's settings cannot hold, got {value!r}"
            )
        entries.append(f"{name}='{value}'" if isinstance(value, str) else f"{name}={json.dumps(value)}")
    return " ".join(entries)
