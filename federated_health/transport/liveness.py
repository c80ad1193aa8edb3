"""Liveness of connections: whether bytes still arrive, whatever they are.

gRPC waits for the answer to a ping, which on a slow link queues behind a large message. Each end therefore counts the
bytes that arrive, in Linux's figures of the process's connections (`tcpi_bytes_received` in TCP_INFO, `linux/tcp.h`).
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPEN_FILES, RECEIVED = Path("/proc/self/fd"), slice(128, 136)

CAN_COUNT = sys.platform == "linux" and OPEN_FILES.is_dir()
"""Whether this system counts bytes; without, gRPC's pings decide alone."""


class Silence:
    """The time since what a connection has received last changed."""

    def __init__(self) -> None:
        self._received: object = None
        self._since = time.monotonic()

    def seconds(self, received: object) -> float:
        """Seconds of silence, given what has been received so far; 0 where there is no connection."""
        if received != self._received or not received:
            self._received, self._since = received, time.monotonic()
        return time.monotonic() - self._since


def count_received() -> dict[str, int]:
    """Number of bytes that each TCP connection of this process has received, by its peer as gRPC writes it."""
    received = {}
    for file in OPEN_FILES.iterdir():
        with suppress(OSError, ValueError):  # not a connection, or closed meanwhile
            connection = socket.socket(fileno=int(file.name))
            try:
                host, port = connection.getpeername()[:2]
                facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)
            finally:
                connection.detach()  # otherwise Python would close gRPC's connection
            host = host.removeprefix("::ffff:")
            peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
            received[peer] = int.from_bytes(facts[RECEIVED], sys.byteorder)
    return received


@contextmanager
def watched(port: int, limit: float, on_silence: Callable[[], None]) -> Iterator[None]:
    """Call `on_silence` once connections to a server's port have been silent for `limit` seconds within the block."""
    ended = threading.Event()

    def watch() -> None:
        silence = Silence()
        while not ended.wait(limit / 8):
            received = [item for item in sorted(count_received().items()) if item[0].endswith(f":{port}")]
            if silence.seconds(received) > limit:
                on_silence()
                return

    if CAN_COUNT:
        threading.Thread(target=watch, name="liveness", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
