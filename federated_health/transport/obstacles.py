"""Why a hospital cannot reach its server."""

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from federated_health.errors import JoinError
from federated_health.transport import channels
from federated_health.transport.channels import split_address

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

PREFLIGHT_SECONDS = 2.0
"""Time limit per step of the search for why there is no connection."""

BUSY = "it has too many connections, is stopping or hangs"
"""Why a server that takes a connection may say nothing."""


def find_obstacle(address: str, tls: "Identity | None", left: float) -> str:
    """Why there is no connection, as the end of a line; empty if only the server is missing.

    Args:
        left: seconds until the caller's deadline.

    Raises:
        JoinError: waiting cannot help.
    """
    host, port = split_address(address)
    timeout = min(PREFLIGHT_SECONDS, max(0.05, left / 4))  # there are up to four steps to wait for
    if tls is not None:
        from federated_health import security  # noqa: PLC0415  # optional feature

        connect = proxy.connect if (proxy := channels.proxy_of(address)) else None
        problem = security.load().handshake.find_connection_problem(host, port, tls, timeout, connect)
        if problem and problem.is_final:
            raise JoinError(f"{address}: {problem.reason}")
        return f": {problem.reason}" if problem else ""
    return find_plaintext_obstacle(host, port, address, timeout)


def find_plaintext_obstacle(host: str, port: int, address: str, timeout: float) -> str:
    """Why there is no connection, as `find_obstacle`; JoinError if waiting cannot help."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        return f": it cannot be reached ({getattr(error, 'strerror', None) or 'no such name'})"
    if speaks_tls(host, port, timeout):
        raise JoinError(
            f"{address}: the server speaks TLS: joining needs --tls, the folder of this hospital's key and certificate"
        )
    with suppress(OSError), socket.create_connection((host, port), timeout=timeout) as connection:
        try:
            greeting = connection.recv(1)  # a gRPC server speaks first
        except TimeoutError:
            return f": the server does not answer: {BUSY}"
        except ConnectionResetError:
            greeting = b""
        if not greeting:
            return f": the server closes the connection at once: {BUSY}"
    return ""


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Whether a server completes a TLS handshake, with any certificate."""
    try:
        ssl.get_server_certificate((host, port), timeout=timeout)
    except (OSError, ValueError):  # ValueError: a host name that no DNS can hold
        return False
    return True
