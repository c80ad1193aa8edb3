"""Liveness of connections: whether bytes still arrive, whatever they are.

gRPC waits for the answer to a ping, which on a slow link queues behind a large message. Each end therefore counts the
bytes that arrive, in Linux's own figures of the process's connections (TCP_INFO, `linux/tcp.h`).
"""

import ipaddress
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPEN_FILES = Path("/proc/self/fd")
RECEIVED = slice(128, 136)
"""Place of `tcpi_bytes_received` in TCP_INFO."""

CAN_COUNT = sys.platform == "linux" and OPEN_FILES.is_dir()
"""Whether this system counts bytes; without, gRPC's pings decide alone."""

Peer = tuple[str, int]
"""Address and port of the other end of a connection."""


class Silence:
    """The time since the bytes that one connection, or one set of them, has received last changed."""

    def __init__(self) -> None:
        self._received: object = None
        self._since = time.monotonic()

    def seconds(self, received: object) -> float:
        """Seconds of silence, given what has been received so far; none where there is no connection."""
        if received != self._received or not received:
            self._received, self._since = received, time.monotonic()
        return time.monotonic() - self._since


def count_received() -> dict[Peer, int]:
    """Number of bytes that each TCP connection of this process has received, by its peer."""
    received = {}
    for file in OPEN_FILES.iterdir():
        with suppress(OSError, ValueError):  # not a connection, or closed meanwhile
            connection = socket.socket(fileno=int(file.name))
            try:
                host, port = connection.getpeername()[:2]
                facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)
                received[_normalise(host), port] = int.from_bytes(facts[RECEIVED], sys.byteorder)
            finally:
                connection.detach()  # otherwise Python would close gRPC's connection
    return received


def parse_peer(text: str) -> Peer | None:
    """The peer of a call as gRPC writes it, such as `ipv4:192.0.2.7:50000` or `ipv6:[2001:db8::1]:50000`."""
    host, _, port = text.partition(":")[2].rpartition(":")
    try:
        return _normalise(host.strip("[]")), int(port)
    except ValueError:
        return None


def _normalise(host: str) -> str:
    address = ipaddress.ip_address(host)
    return str(getattr(address, "ipv4_mapped", None) or address)


@contextmanager
def watched(port: int, limit: float, on_silence: Callable[[], None]) -> Iterator[None]:
    """Call `on_silence` once connections to a server's port have been silent for `limit` seconds within the block."""
    ended = threading.Event()

    def watch() -> None:
        silence = Silence()
        while not ended.wait(limit / 8):
            received = sorted(item for item in count_received().items() if item[0][1] == port)
            if silence.seconds(received) > limit:
                on_silence()
                return

    if CAN_COUNT:
        threading.Thread(target=watch, name="liveness", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
