"""What Flower's own commands need: their place, their environment, an elliptic key as they read it, a connection."""

import json
import os
import shlex
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from federated_health.errors import AddressError, RunError
from federated_health.files import PRIVATE, PUBLIC, write_bytes
from federated_health.security.certificates import PublicKey, read_key
from federated_health.security.files import read_file
from federated_health.security.identity import KEY, Identity
from federated_health.settings import Value

NODE_KEY = "supernode.key"
"""In a hospital's TLS folder: its key.pem in OpenSSH's form, the only one that a SuperNode reads."""

TASK_POLL_INTERVAL = "0.1"
"""Seconds between two looks for a message that waits for a process; Flower's default is one."""

SCRIPTS = Path(sys.executable).parent


def environment() -> dict[str, str]:
    """This process's environment for Flower's: its commands on the path, no telemetry, no look for updates.

    Flower sends usage events to its makers unless it is told not to; a hospital's node should call its server alone.
    """
    return {
        **os.environ,
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "FLWR_TELEMETRY_ENABLED": os.environ.get("FLWR_TELEMETRY_ENABLED", "0"),
        "FLWR_DISABLE_UPDATE_CHECK": os.environ.get("FLWR_DISABLE_UPDATE_CHECK", "1"),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", TASK_POLL_INTERVAL),
    }


def executable(name: str) -> str:
    """The path of one of Flower's commands, of the same installation as this Python.

    Raises:
        RunError: it is not there.
    """
    for path in (SCRIPTS / name, SCRIPTS / f"{name}.exe"):
        if path.exists():
            return str(path)
    raise RunError(f"{SCRIPTS / name}: is not there; install what requirements.txt says with this Python")


def announce(command: Sequence[str]) -> str:
    """A command in words that a shell takes as they are, with the name of the program for its path."""
    return shlex.join([Path(command[0]).name, *command[1:]])


def write_node_key(identity: Identity) -> Path:
    """A hospital's private key in OpenSSH's form, beside key.pem and as private; the same key, so no second secret.

    Raises:
        CertificateError: the key cannot be read, or the file not written.
    """
    path = identity.folder / NODE_KEY
    key = read_key(identity.folder / KEY)
    content = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_bytes(path, content, PRIVATE)
    return path


def public_line(key: PublicKey) -> bytes:
    """A public key as `flwr supernode register` reads it: ecdsa-sha2-nistp256 and base64."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def authority_file(identity: Identity) -> Path:
    """A file with the authority's certificate alone, beside the party's own, whom Flower's commands are to trust."""
    path = identity.folder / "authority.pem"
    if not path.exists() or read_file(path) != identity.authority_bytes:
        write_bytes(path, identity.authority_bytes, PUBLIC)
    return path.absolute()


def flower_home() -> Path:
    """Where Flower keeps its connections and installed apps: FLWR_HOME, or .flwr in the user's folder."""
    from flwr.supercore.utils import get_flwr_home

    return get_flwr_home()


def write_connection(name: str, address: str, authority: Path) -> Path:
    """Make `flwr run . NAME` find a SuperLink: an entry in Flower's own configuration, in place of one of that name.

    Returns:
        The configuration's file.

    Raises:
        RunError: it cannot be read or written.
    """
    from flwr.cli.flower_config import init_flwr_config, write_superlink_connection
    from flwr.cli.typing import SuperLinkConnection

    path = flower_home() / "config.toml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            tomllib.loads(path.read_text())
        else:
            init_flwr_config()
        write_superlink_connection(
            SuperLinkConnection(name=name, address=address, root_certificates=str(authority), insecure=False)
        )
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
    except ValueError:
        raise RunError(f"{path}: is not TOML; Flower's configuration is to be mended by hand") from None
    return path


def check_connection_name(name: str) -> None:
    """Refuse a name that Flower's own entries have, or that is none.

    Raises:
        RunError: it is.
    """
    if name in ("default", "local", "supergrid") or not name.replace("-", "").isalnum():
        raise RunError(f"--name {name!r}: expected letters, digits and hyphens, and none of default, local, supergrid")


def check_free(host: str, port: int) -> None:
    """Refuse a port that somebody listens on: gRPC would share it, and hospitals would reach now one, now the other.

    Raises:
        AddressError: it is taken, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a server that just ended is in the way
            probe.bind(address)
    except OSError as error:
        raise AddressError(f"{host}:{port}: cannot be listened on ({error.strerror})") from None


def config_words(config: Mapping[str, Value]) -> str:
    """Settings as `--node-config` and `--run-config` take them: NAME=VALUE in TOML, a space between two.

    Raises:
        RunError: a text holds a quote, which Flower's own reading of them knows no way to write.
    """
    words = []
    for name, value in config.items():
        if isinstance(value, str) and any(character in value for character in "'\"\n"):
            raise RunError(f"{name}: {value!r} holds a quote, which Flower's settings cannot hold; use another name")
        words.append(f"{name}='{value}'" if isinstance(value, str) else f"{name}={json.dumps(value)}")
    return " ".join(words)
