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
from typing import Protocol

OPEN_FILES, RECEIVED = Path("/proc/self/fd"), slice(128, 136)


def _can_count() -> bool:
    if sys.platform != "linux" or not OPEN_FILES.is_dir():
        return False
    with suppress(OSError), socket.socket() as unconnected:
        return len(unconnected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)) == RECEIVED.stop
    return False


CAN_COUNT = _can_count()
"""Whether this system counts bytes; without, gRPC's pings decide alone."""


LOOKS = 16
"""Looks at a connection within the longest silence."""

SIGNAL_BYTES = 256
"""Bytes per look that are more than pings: a message is arriving."""


class Traffic:
    """What a connection has received, looked at from time to time.

    Attributes:
        silence: seconds since something arrived; 0 where there is no connection.
        needs_signal: whether a message keeps arriving while this end sends nothing, which the other end needs to see.
    """

    def __init__(self) -> None:
        self.silence = 0.0
        self.needs_signal = False
        self._received = self._sent = self._arrivals = 0
        self._since = time.monotonic()

    def look(self, received: int, sent: int) -> None:
        """Compare with the last look: the bytes received so far, and the messages sent so far."""
        if received != self._received or not received:
            self._since = time.monotonic()
        arriving = received - self._received >= SIGNAL_BYTES
        self._arrivals = arriving + (self._arrivals if sent == self._sent else 0)
        self._received, self._sent = received, sent
        self.silence = time.monotonic() - self._since
        self.needs_signal = arriving and self._arrivals > 1  # once may be a short message, which will be answered


_last_count: tuple[float, dict[str, int]] = (0.0, {})


def count_received(max_age: float = 0.0) -> dict[str, int]:
    """Number of bytes that each TCP connection of this process has received, by its peer as gRPC writes it.

    Args:
        max_age: seconds that the count may be old, for a process of many hospitals.
    """
    global _last_count
    if time.monotonic() - _last_count[0] < max_age:
        return _last_count[1]
    received = {}
    try:
        files = list(OPEN_FILES.iterdir())
    except OSError:  # too many open files: nothing new is known
        return _last_count[1]
    for file in files:
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
    _last_count = time.monotonic(), received
    return received


class Sender(Protocol):
    """The sending end of a stream: the number of messages so far, and a way to send a part without content."""

    sent: int

    def signal(self) -> None: ...


@contextmanager
def watched(port: int, limit: float, stream: Sender, on_silence: Callable[[], None]) -> Iterator[None]:
    """Watch this process's connections to a server's port during the block.

    Args:
        limit: seconds of silence after which `on_silence` is called once.
        stream: is asked for a signal while a message keeps arriving.
    """
    ended = threading.Event()

    def watch() -> None:
        traffic = Traffic()
        while not ended.wait(limit / LOOKS):
            counts = count_received(limit / LOOKS / 2)
            traffic.look(sum(count for peer, count in counts.items() if peer.endswith(f":{port}")), stream.sent)
            if traffic.needs_signal:
                stream.signal()
            if traffic.silence > limit:
                on_silence()
                return

    if CAN_COUNT:
        threading.Thread(target=watch, name="liveness", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
