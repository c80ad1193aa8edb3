"""Liveness of connections: whether bytes still arrive, whatever they are. Loaded once a connection has lasted a while.

gRPC waits for the answer to a ping, which on a slow link queues behind a large message. Each end therefore counts the
bytes that arrive, in Linux's figures of the process's connections.
"""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from federated_health.transport import channels
from federated_health.transport.channels import RECEIVED
from federated_health.transport.connections import Peer, borrowed, open_sockets, peer_of, read_peer

if TYPE_CHECKING:
    from federated_health.transport.stream import Stream

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


_last_count: tuple[float, dict[Peer, int]] = (0.0, {})


def count_received(max_age: float = 0.0) -> dict[Peer, int]:
    """Number of bytes that each TCP connection of this process has received, by its peer.

    Args:
        max_age: seconds that the count may be old, for a process of many hospitals.
    """
    global _last_count
    if time.monotonic() - _last_count[0] < max_age:
        return _last_count[1]
    received = {}
    try:
        for file, _ in open_sockets():
            # Not a connection, or closed meanwhile.
            with suppress(OSError, ValueError), borrowed(file) as connection:
                facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)
                received[read_peer(connection)] = int.from_bytes(facts[RECEIVED], sys.byteorder)
    except OSError:  # too many open files: nothing new is known
        return _last_count[1]
    _last_count = time.monotonic(), received
    return received


def max_silence() -> float:
    """Seconds without a byte after which either end closes a stream."""
    return channels.MAX_SILENCE * channels.KEEPALIVE_SECONDS


async def watch_streams(streams: Mapping[int, "Stream"], ending: "asyncio.Future[Any]") -> None:
    """Mark streams of which no byte arrives for too long as silent, until the server stops."""
    traffic: dict[Stream, Traffic] = {}
    signals: set[asyncio.Task[None]] = set()
    while not ending.done():
        received = count_received()
        traffic = {stream: traffic.get(stream) or Traffic() for stream in streams.values()}
        for stream, seen in traffic.items():
            seen.look(received.get(peer_of(str(stream.context.peer())), 0), stream.sent)
            if seen.needs_signal:
                signals.add(asyncio.create_task(stream.signal()))
            if seen.silence > max_silence() and not stream.silent.done():
                stream.silent.set_result(None)
        signals = {signal for signal in signals if not signal.done()}
        await asyncio.wait({ending}, timeout=max_silence() / LOOKS)


class Sender(Protocol):
    """The sending end of a stream: the number of messages so far, and a way to send a part without content."""

    sent: int

    def signal(self) -> None: ...


def watch_connections(port: int, stream: Sender, on_silence: Callable[[], None], ended: threading.Event) -> None:
    """Watch this process's connections to a server's port until `ended` is set.

    Args:
        stream: is asked for a signal while a message keeps arriving.
        on_silence: called once nothing has arrived for too long; the watch then ends.
    """
    traffic, pause = Traffic(), max_silence() / LOOKS
    while not ended.wait(pause):
        received = count_received(pause / 2)
        traffic.look(sum(count for peer, count in received.items() if peer[1] == port), stream.sent)
        if traffic.needs_signal:
            stream.signal()
        if traffic.silence > max_silence():
            on_silence()
            return
