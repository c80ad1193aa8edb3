"""What a hospital does while it is not in: how long it waits, for what, and what it says of it."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from federated_health.errors import JoinError
from federated_health.security import Identity, find_connection_problem
from federated_health.transport import channels
from federated_health.transport.backoff import MAX_DELAY, Backoff
from federated_health.transport.channels import split_address

logger = logging.getLogger(__name__)

PASSING = {
    grpc.StatusCode.UNAVAILABLE: "nobody listens, the connection was lost, or the server is full",
    grpc.StatusCode.CANCELLED: "the server went away in the middle, or said nothing until the wait was over",
    grpc.StatusCode.DEADLINE_EXCEEDED: "something on the way gave up",
    grpc.StatusCode.INTERNAL: "the transport broke",
    grpc.StatusCode.UNKNOWN: "the server failed in its own code, or what answered is no gRPC server",
}
"""Ends of a stream after which a hospital tries again, and what they mean.

OK is the end of the run. ALREADY_EXISTS passes when it was this hospital itself (see `taken_seconds`). All others are
final: the server has decided (INVALID_ARGUMENT, FAILED_PRECONDITION, PERMISSION_DENIED, UNAUTHENTICATED, ABORTED), it
is no server of ours (UNIMPLEMENTED, NOT_FOUND), or the same would happen again (RESOURCE_EXHAUSTED: what one side sends
is larger than the other takes; OUT_OF_RANGE, DATA_LOSS).
"""

TAKEN_MARGIN = 10.0
"""Seconds, beside what a server needs to notice that a hospital is gone, for it to come back under its name."""

PREFLIGHT_SECONDS = 2.0
"""For each step of finding out why there is no connection."""

SILENT_SECONDS = 5.0
"""After which an attempt that has led to nothing yet is spoken of."""


def taken_seconds() -> float:
    """How long a hospital whose name is connected already waits for that to end.

    It may have come back from a power cut, as a new process, before the server has noticed that the old one is gone.
    """
    return 2 * channels.KEEPALIVE_SECONDS + TAKEN_MARGIN


@dataclass(frozen=True)
class StreamEnd:
    """How a stream ended: in which status, with which words, and whether the hospital was in."""

    code: grpc.StatusCode
    reason: str
    was_accepted: bool


class Reconnector:
    """The time in which a hospital is not in: how long it may last, and what is said meanwhile."""

    def __init__(self, address: str, tls: Identity | None, wait: float, announce: Callable[[str], None]) -> None:
        self._address = address
        self._tls = tls
        self._wait = wait
        self._announce = announce
        self._backoff = Backoff()
        self.begin()

    def begin(self, lasted: float = MAX_DELAY) -> None:
        """The stream ended, after so many seconds: all limits begin anew.

        Delays go on growing where streams break off at once, else a server that fails at each joining would be called
        without end.
        """
        self._deadline = time.monotonic() + self._wait
        self._taken_deadline: float | None = None
        self._last_refusal = ""
        self._said: set[str] = set()
        if lasted >= MAX_DELAY:
            self._backoff.reset()

    @contextmanager
    def patience(self, call: grpc.Call) -> Iterator[None]:
        """What accepts connections and says nothing must not hold a hospital in silence, nor past its wait."""
        left = max(0.0, self._deadline - time.monotonic())
        timers = [threading.Timer(left, call.cancel), threading.Timer(SILENT_SECONDS, self._say_waiting)]
        for timer in timers:
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def wait_after(self, ending: StreamEnd) -> None:
        """Wait until it is time for the next attempt.

        Raises:
            JoinError: there will be none.
        """
        deadline = self._deadline
        if ending.code is grpc.StatusCode.ALREADY_EXISTS:
            if self._taken_deadline is None:
                self._taken_deadline = min(self._deadline, time.monotonic() + taken_seconds())
            deadline, self._last_refusal = self._taken_deadline, ending.reason
            left = max(0.0, deadline - time.monotonic())
            patiently = "in case the server has not noticed yet that this one was cut off"
            self._say("taken", f"{ending.reason}; trying again for {left:.0f} s, {patiently}")
        elif ending.code not in PASSING:
            raise JoinError(f"{self._address}: {ending.reason}")
        elif ending.code is not grpc.StatusCode.CANCELLED:  # which may be the end of our own patience
            self._last_refusal = ""
        logger.debug("the stream ended: %s %s", ending.code.name, ending.reason)
        why = "" if self._last_refusal else find_obstacle(self._address, self._tls, deadline - time.monotonic())
        left = deadline - time.monotonic()
        if left <= 0:
            raise JoinError(f"{self._address}: {self._last_refusal or f'no server within {self._wait:g} s{why}'}")
        if not self._last_refusal:
            self._say_waiting(why)
        time.sleep(min(self._backoff.next_delay(), left))

    def _say_waiting(self, why: str = "") -> None:
        self._say("waiting", f"waiting up to {self._wait:g} s for the server at {self._address}{why}")

    def _say(self, kind: str, words: str) -> None:
        """Once in an absence."""
        if kind not in self._said:
            self._said.add(kind)
            self._announce(words)


def find_obstacle(address: str, tls: Identity | None, left: float) -> str:
    """Why there is no connection, as the end of a line; empty where nothing but a server is missing.

    Args:
        left: seconds that may be spent.

    Raises:
        JoinError: waiting does not help.
    """
    host, port = split_address(address)
    timeout = min(PREFLIGHT_SECONDS, max(0.05, left / 4))  # there are up to four steps to wait for
    if tls is not None:
        problem = find_connection_problem(host, port, tls, timeout)
        if problem and problem.is_final:
            raise JoinError(f"{address}: {problem.reason}")
        return f": {problem.reason}" if problem else ""
    if unknown := _find_unknown(host, port):
        return f": it cannot be reached ({unknown})"
    if speaks_tls(host, port, timeout):
        raise JoinError(
            f"{address}: the server speaks TLS: to join it takes --tls, the folder of this hospital's identity"
        )
    return ""


def speaks_tls(host: str, port: int, timeout: float = PREFLIGHT_SECONDS) -> bool:
    """Whether a server completes a TLS handshake, with any certificate."""
    try:
        ssl.get_server_certificate((host, port), timeout=timeout)
    except (OSError, ValueError):  # ValueError: a host name that no DNS can hold
        return False
    return True


def _find_unknown(host: str, port: int) -> str:
    """Why a host's name leads to no address; empty where it does."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        return getattr(error, "strerror", None) or "no such name"
    return ""
