"""This process's connections, read from its open files, since gRPC does not show them; Linux only."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from federated_health.transport.channels import OPEN_FILES

MAPPED = "::ffff:"
"""Beginning of an IPv4 address in IPv6's form."""

Peer = tuple[str, int]
"""The other end of a connection: address and port."""


def open_sockets() -> Iterator[tuple[int, int]]:
    """File number and identity of each open socket; numbers are reused, identities are not.

    Raises:
        OSError: the open files cannot be listed, such as where one more would be too many.
    """
    for name in os.listdir(OPEN_FILES):  # noqa: PTH208  # the fastest way
        with suppress(OSError):  # such as a file that was closed meanwhile
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


@contextmanager
def borrowed(file: int) -> Iterator[socket.socket]:
    """An open socket of any family, to be looked at; it stays open, since it is gRPC's."""
    opened = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=file)  # saves asking for the family
    try:
        yield opened
    finally:
        opened.detach()


def read_peer(connection: socket.socket) -> Peer:
    """The other end of a connection; OSError or ValueError if the socket is none of TCP."""
    address, port, *_ = connection.getpeername()
    return str(address).removeprefix(MAPPED), int(port)


def peer_of(text: str) -> Peer:
    """The peer in gRPC's text for it, such as `ipv4:127.0.0.1:54321`; an empty address for other texts."""
    _, _, rest = unquote(text).partition(":")
    address, _, port = rest.rpartition(":")
    return (address.strip("[]").removeprefix(MAPPED), int(port)) if port.isdecimal() else ("", 0)
