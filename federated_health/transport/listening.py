"""The server's port: gRPC options, credentials, and the largest number of hospitals per server.

Each connection is an open file, and the system limits how many a process may have.
"""

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc

from federated_health.errors import AddressError, SettingsError
from federated_health.transport import channels
from federated_health.transport.channels import OPEN_FILES, split_address

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

HANDSHAKE_SECONDS = 20.0
"""Time within which a new connection must start to speak gRPC."""

IDLE_SECONDS = 60.0
"""Time that a connection may stay open without a call; a hospital's call lasts as long as the hospital is connected."""

PORT_TAKEN = "another server may be using the port"

OBSTACLES = {
    errno.EADDRINUSE: PORT_TAKEN,
    errno.EADDRNOTAVAIL: "its host is not this machine's",
    errno.EACCES: "this user has no permission to open the port",
}
"""Why a port cannot be opened, by the number of the system's error."""

MAX_STREAMS = 2_000
"""Largest number of connected hospitals."""

MAX_CONNECTIONS = MAX_STREAMS + 500
"""Largest number of open connections; the server closes further ones at once.

The reserve beyond MAX_STREAMS is for callers that are not hospitals, and for hospitals that reconnect before the
server notices that their old connection broke.
"""

OTHER_FILES = 100
"""Reserve of open files for everything but connections."""

OWN_FILES = 20
"""Number of open files of a server without connections."""


def open_files(wanted: int) -> int:
    """Raise this process's limit on open files towards the wanted number, and return the new limit."""
    try:
        import resource  # noqa: PLC0415  # Windows has neither the module nor such a limit
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < target:
        with suppress(OSError, ValueError):  # some systems allow less than their hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            return target
    return soft


def max_connections() -> int:
    """Number of connections that this process can hold open."""
    return max(1, min(MAX_CONNECTIONS, open_files(MAX_CONNECTIONS + OTHER_FILES) - OTHER_FILES))


def has_strangers(hospitals: int, room: int) -> bool:
    """Whether this process has many more open files than hospitals; False where that is unknown.

    Args:
        room: number of connections that the process can hold open.
    """
    try:
        others = len(os.listdir(OPEN_FILES)) - hospitals  # noqa: PTH208  # the fastest way
    except OSError:
        return False
    return others > min(OTHER_FILES, OWN_FILES + room // 4)


def max_streams() -> int:
    """Number of hospitals that this process has room for; the other connections are a reserve."""
    return max(1, max_connections() * MAX_STREAMS // MAX_CONNECTIONS)


def check_room(hospitals: int) -> None:
    """Raise SettingsError, with the limit and its cause, for more hospitals than one server can serve."""
    room = max_streams()
    if hospitals <= room:
        return
    cause = "" if room == MAX_STREAMS else f"; this process may open {open_files(0)} files (see `ulimit -n`)"
    raise SettingsError(f"hospitals: expected at most {room} per server, got {hospitals}{cause}")


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """gRPC options of the server's end.

    Args:
        max_message_bytes: size limit of a hospital's message. gRPC ends the stream of a hospital that sends more than
            twice as much, and does not report it to the server's code; sizes between the two limits are reported.
    """
    return [
        *(option for option in channels.CHANNEL_OPTIONS if option[0] != "grpc.max_receive_message_length"),
        ("grpc.max_receive_message_length", 2 * max_message_bytes),
        ("grpc.so_reuseport", 0),  # otherwise two servers could share a port
        ("grpc.max_concurrent_streams", 100),  # per connection; a hospital needs one
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", round(IDLE_SECONDS * 1000)),
    ]


def listen(server: grpc.aio.Server, address: str, tls: "Identity | None" = None) -> None:
    """Open the server's port; with an identity, only for clients with a certificate of the same authority.

    gRPC's TLS is at least 1.2. It checks the client's authority and purpose (extended key usage, RFC 5280).

    Raises:
        AddressError: the port is taken, or the host is not this machine's.
        CertificateError: the identity's key cannot be read.
    """
    host, port = split_address(address)
    # `localhost` has two addresses, and gRPC accepts either one: a second server could open the other.
    host = "127.0.0.1" if host.lower() == "localhost" else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = PORT_TAKEN
    try:
        # gRPC prints the reason to stderr only, so a plain socket tries first.
        socket.create_server((host, port), family=family).close()
        if tls is None:
            opened = server.add_insecure_port(where)
        else:
            own = [(tls.read_key(), tls.certificate_bytes)]
            credentials = grpc.ssl_server_credentials(own, tls.authority_bytes, require_client_auth=True)
            opened = server.add_secure_port(where, credentials)
        if opened:
            return
    except (socket.gaierror, UnicodeError):  # UnicodeError: a host that no DNS can hold
        reason = "its host is not known"
    except OSError as error:
        reason = OBSTACLES.get(error.errno or 0) or error.strerror or PORT_TAKEN
    except RuntimeError:  # raised by gRPC where another server was faster
        pass
    raise AddressError(f"address {address}: the server cannot open this port: {reason}")
