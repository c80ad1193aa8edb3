"""Reconnecting: how long a hospital waits for its server, and what it reports meanwhile."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from federated_health.errors import JoinError
from federated_health.transport import channels
from federated_health.transport.backoff import MAX_DELAY, Backoff

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

logger = logging.getLogger(__name__)

RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE: "no server listens, the connection was lost, or the server is full",
    grpc.StatusCode.CANCELLED: "the server ended, or did not answer within the wait",
    grpc.StatusCode.DEADLINE_EXCEEDED: "a proxy or the network timed out",
    grpc.StatusCode.INTERNAL: "gRPC or the network failed",
    grpc.StatusCode.UNKNOWN: "the server's code failed, or the peer is not a gRPC server",
}
"""Statuses after which a hospital tries again, and their causes.

OK is the end of the run. ALREADY_EXISTS is retried while the connected hospital may be this one (see
`name_taken_seconds`). All others are final: the server has decided (INVALID_ARGUMENT, FAILED_PRECONDITION,
PERMISSION_DENIED, UNAUTHENTICATED, ABORTED), it is of another kind (OTHER_SERVER), or the same would happen again
(RESOURCE_EXHAUSTED: a message is larger than the other side accepts; OUT_OF_RANGE, DATA_LOSS).
"""

OTHER_SERVER = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND
"""Statuses with which a server of another kind answers."""

SILENT_SECONDS = 5.0
"""Seconds after which an unanswered attempt is announced."""


def name_taken_seconds() -> float:
    """Seconds for which a hospital retries while its name is connected already.

    After a power cut, a new process may connect before the server notices that the old one is gone.
    """
    return 2 * channels.KEEPALIVE_SECONDS + 10.0  # the server needs twice the keepalive; the rest is a margin


class Reconnector:
    """Waits between attempts to join, within limits, and announces each kind of delay once."""

    def __init__(self, address: str, tls: "Identity | None", wait: float, announce: Callable[[str], None]) -> None:
        self._address = address
        self._tls = tls
        self._wait = wait
        self._announce = announce
        self._backoff = Backoff()
        self.restart()

    def restart(self, lasted: float = MAX_DELAY) -> None:
        """Restart all limits after a stream that lasted `lasted` seconds.

        Delays keep growing while streams break soon after they begin, so that a failing server is not flooded.
        """
        self._deadline = time.monotonic() + self._wait
        self._name_taken_deadline: float | None = None
        self._refusal = ""
        self._announced: set[str] = set()
        if lasted >= MAX_DELAY:
            self._backoff.reset()

    @contextmanager
    def limited(self, call: grpc.Call) -> Iterator[None]:
        """Cancel a call that is not answered within the wait, and announce a long silence."""
        left = max(0.0, self._deadline - time.monotonic())
        timers = [threading.Timer(left, call.cancel), threading.Timer(SILENT_SECONDS, self._announce_waiting)]
        for timer in timers:
            timer.start()
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    def wait_after(self, code: grpc.StatusCode, reason: str) -> None:
        """Wait before the next attempt after a stream that ended with this status and reason.

        Raises:
            JoinError: the status is final, or the wait is over.
        """
        deadline = self._deadline
        if code is grpc.StatusCode.ALREADY_EXISTS:
            if self._name_taken_deadline is None:
                self._name_taken_deadline = min(self._deadline, time.monotonic() + name_taken_seconds())
            deadline, self._refusal = self._name_taken_deadline, reason
            left = max(0.0, deadline - time.monotonic())
            note = "in case the server has not noticed yet that this hospital lost its connection"
            self._announce_once("taken", f"{reason}; trying again for {left:.0f} s, {note}")
        elif code in OTHER_SERVER:
            raise JoinError(f"{self._address}: is not a server of this project and version ({code.name})")
        elif code not in RETRYABLE:
            raise JoinError(f"{self._address}: {reason}")
        elif code is not grpc.StatusCode.CANCELLED:  # which may come from `limited`
            self._refusal = ""
        logger.debug("the stream ended: %s %s", code.name, reason)
        obstacle = "" if self._refusal else self._find_obstacle(deadline - time.monotonic())
        left = deadline - time.monotonic()
        if left <= 0:
            raise JoinError(
                f"{self._address}: {self._refusal or f'no server within {self._wait:g} s{self._route()}{obstacle}'}"
            )
        if not self._refusal:
            self._announce_waiting(obstacle)
        time.sleep(min(self._backoff.next_delay(), left))

    def _find_obstacle(self, left: float) -> str:
        from federated_health.transport.obstacles import find_obstacle  # noqa: PLC0415  # only without a connection

        return find_obstacle(self._address, self._tls, left)

    def _route(self) -> str:
        proxy = channels.proxy_of(self._address)
        return f" through {proxy}" if proxy else ""

    def _announce_waiting(self, obstacle: str = "") -> None:
        server = f"the server at {self._address}{self._route()}"
        self._announce_once("waiting", f"waiting up to {self._wait:g} s for {server}{obstacle}")

    def _announce_once(self, kind: str, message: str) -> None:
        """Announce the first message of a kind since the last restart."""
        if kind not in self._announced:
            self._announced.add(kind)
            self._announce(message)
