"""Closes connections to the server's port that keep hospitals out; loaded once there are many without a hospital.

gRPC limits the number of all connections and closes new ones beyond it, so that anyone who holds enough of them keeps
every hospital out. Here those on which a hospital has joined are spared. Linux only (see `connections`): other systems
have gRPC's limits (see `listening`) alone.
"""

import math
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from federated_health.transport.connections import Peer, borrowed, open_sockets, peer_of, read_peer

JOIN_SECONDS = 30.0
"""Time within which a hospital must have joined on a connection."""


class Connection(NamedTuple):
    """An accepted connection.

    Attributes:
        file: number of the open file.
        socket: identity of the socket, which no later one gets; numbers of files are reused.
    """

    file: int
    socket: int
    peer: Peer

    @property
    def network(self) -> bytes | str:
        """The peer's address; of an IPv6 address the first half, since one machine has all the addresses of a half."""
        address = self.peer[0]
        return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8] if ":" in address else address


class ConnectionLimits:
    """Limits connections to a port on which no hospital has joined.

    Together they may take half of the room that hospitals leave. Beyond it, those of the address with the most
    connections are closed first, and the oldest first among them: a new one has until the next call to join.

    Args:
        port: the server's port.
        room: number of connections that the process can hold open.
        announce: receives a line whenever connections are closed.
    """

    def __init__(self, port: int, room: int, announce: Callable[[str], None]) -> None:
        self._port = port
        self._room = room
        self._announce = announce
        self._peers: dict[int, Peer | None] = {}  # by socket; None for one that is no connection to the port
        self._first_seen: dict[int, float] = {}  # by socket, of connections without a hospital
        self._last_closed = -math.inf

    def close_excess(self, joined: Iterable[str], rejected: Iterable[str] = ()) -> bool:
        """Close connections without a hospital that are too many or too old, and those of rejected peers.

        Returns whether any was closed within the last second, so that the next call should follow soon.

        Args:
            joined: gRPC's text for the peer of each joined hospital.
            rejected: the same for each peer whose connection must end.
        """
        now, peers = time.monotonic(), {peer_of(text) for text in joined}
        waiting = [connection for connection in self._connections() if connection.peer not in peers]
        self._first_seen = {one.socket: self._first_seen.get(one.socket, now) for one in waiting}
        waiting.sort(key=lambda one: (self._first_seen[one.socket], one.socket))
        counts: Counter[bytes | str] = Counter()
        ranks = {}  # 1 is the newest connection of an address
        for connection in reversed(waiting):
            counts[connection.network] += 1
            ranks[connection] = counts[connection.network]
        waiting.sort(key=ranks.__getitem__, reverse=True)  # the oldest stay first among equals
        excess = max(0, len(waiting) - max(0, self._room - len(peers)) // 2)
        ended, others = waiting[:excess], waiting[excess:]
        unwanted = {peer_of(text) for text in rejected}
        ended += [one for one in others if one.peer in unwanted or now - self._first_seen[one.socket] > JOIN_SECONDS]
        for connection in ended:
            _close(connection)
        if excess:
            most = max(waiting, key=lambda one: counts[one.network])
            self._announce(
                f"the port has {len(peers) + len(waiting):,} of at most {self._room:,} connections; "
                f"{len(waiting):,} have no hospital, {counts[most.network]:,} of these from {most.peer[0]}: "
                f"closed the oldest {len(ended):,}"
            )
        if ended:
            self._last_closed = now
        return now - self._last_closed < 1.0

    def _connections(self) -> Iterator[Connection]:
        """The open connections to the port."""
        known, self._peers = self._peers, {}
        with suppress(OSError):
            for file, number in open_sockets():
                with suppress(OSError, ValueError):  # such as a socket that was closed meanwhile
                    peer = self._peers[number] = known[number] if number in known else self._read_peer(file)
                    if peer is not None:
                        yield Connection(file, number, peer)

    def _read_peer(self, file: int) -> Peer | None:
        """The other end of an open socket that is a connection to the port; None if it is none."""
        with borrowed(file) as connection:
            own = connection.getsockname()
            is_to_port = isinstance(own, tuple) and own[1:2] == (self._port,)
            return read_peer(connection) if is_to_port else None


def _close(connection: Connection) -> None:
    """End a connection in both directions; gRPC then closes its file. A file that is another one by now is left."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.file)) as duplicate:
        if os.fstat(duplicate.fileno()).st_ino == connection.socket:
            duplicate.shutdown(socket.SHUT_RDWR)
