"""Why a hospital without TLS cannot reach its server."""

import socket
import ssl
from contextlib import suppress

from federated_health.errors import JoinError

BUSY = "it has too many connections, is stopping or hangs"
"""Why a server that takes a connection may say nothing."""


def find_plaintext_obstacle(host: str, port: int, address: str, timeout: float) -> str:
    """Why there is no connection, as `reconnect.find_obstacle`; JoinError if waiting cannot help."""
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
