"""The transport interface: how the server's messages reach hospitals, and how replies come back.

A transport that knows its hospitals' names subclasses `ReplyFutures` and implements two methods: `names` and `send`.
Every message gets exactly one reply, or an error reply in its place. Over a network, a hospital's side records each
reply in its ledger before it sends it.
"""

import logging
import math
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federated_health.names import RUN_ID

if TYPE_CHECKING:
    from federated_health.settings import Settings

logger = logging.getLogger(__name__)

SERVER_NODE_ID = 1

LOG_INTERVAL = 15.0
"""Seconds between log lines that name the hospitals still awaited."""

MAX_OVERSLEEP = 1.0
"""Seconds by which a wait may end too late before they are added to its deadline."""

LATE = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
"""Code of the error in place of a reply that did not arrive in time."""


@dataclass(frozen=True)
class Problem:
    """A hospital's message that the server did not use, and the reason, without values."""

    hospital: str
    reason: str


class Transport(Grid):
    """A Flower grid of one run that also knows hospitals by name.

    Attributes:
        keeps_processes: whether a hospital's process, and what it remembers, lasts from message to message.
        terms: run terms, as text, that hospitals accept before they join; empty if they get them with the request to
            register.
    """

    keeps_processes = True
    terms = ""

    @property
    def transport(self) -> "Transport":
        """This transport; Flower's own grids have no such attribute (see `transport_of`)."""
        return self

    def set_run(self, run: Run) -> None:
        """Do nothing: a transport has one run from the start."""

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    @abstractmethod
    def names(self) -> dict[int, str]:
        """Name of each connected hospital by node id, where the transport knows it."""

    def processes(self) -> dict[int, str]:
        """Token of each connected hospital's process by node id, where the transport knows it."""
        return {}

    def forget(self, message_ids: Iterable[str]) -> None:
        """Drop the replies to messages, also those that have yet to arrive, where the transport can."""
        list(self.pull_messages(message_ids))

    def take_problems(self) -> list[Problem]:
        """Problems since the last call, in order; their number per hospital is limited."""
        return []

    def check(self, settings: "Settings") -> None:  # most transports suit every run
        """Raise a UserError for settings with which no run can work over this transport."""


class ReplyFutures(Transport):
    """A transport that returns a future reply for each message; a hospital's node id is computed from its name."""

    def __init__(self) -> None:
        # Flower's Message reads the identity of its process from here.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, RUN_ID, SERVER_NODE_ID
        self._replies: dict[str, Future[Message]] = {}

    @abstractmethod
    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        """Send messages by id; each future ends in a reply or an error reply, never in an exception."""

    def get_node_ids(self) -> list[int]:
        return list(self.names())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = {uuid.uuid4().hex: message for message in messages}
        self._replies.update(self.send(pushed))
        return list(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        done = [key for key in message_ids if key in self._replies and self._replies[key].done()]
        return [self._replies.pop(key).result() for key in done]

    def forget(self, message_ids: Iterable[str]) -> None:
        for key in message_ids:
            if future := self._replies.pop(key, None):
                future.cancel()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """One reply per message; an error reply where a hospital is gone or misses the timeout, in seconds."""
        messages = list(messages)
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        futures = [self._replies.pop(key) for key in self.push_messages(messages)]
        expected = dict(zip(futures, messages, strict=True))
        outstanding = set(futures)
        while outstanding and (left := deadline - (began := time.monotonic())) > 0:
            _, outstanding = wait(outstanding, timeout=min(left, LOG_INTERVAL))
            # A process that was stopped has replies to read that arrived in time.
            deadline += max(0.0, time.monotonic() - began - min(left, LOG_INTERVAL) - MAX_OVERSLEEP)
            if outstanding and left > LOG_INTERVAL:
                self._log_late([expected[future] for future in outstanding], deadline)
        replies = []
        for future, message in expected.items():
            if future.done():
                replies.append(future.result())
            else:
                future.cancel()
                replies.append(error_reply(message, f"it did not answer within {timeout:g} s", LATE))
        return replies

    def _log_late(self, messages: list[Message], deadline: float) -> None:
        names = self.names()
        late = sorted(names.get(message.metadata.dst_node_id, "a hospital that left") for message in messages)
        limit = "" if deadline == math.inf else f", at most {deadline - time.monotonic():.0f} s longer"
        logger.info("waiting for %s to answer %s%s", ", ".join(late), messages[0].metadata.message_type, limit)


def transport_of(grid: Grid) -> Transport:
    """The transport behind a ServerApp's grid: one of ours, or a wrapper of one of Flower's engines."""
    if hasattr(grid, "transport"):
        return cast(Transport, grid.transport)
    from federated_health.transport.flower_engines import wrap_engine  # noqa: PLC0415  # needed under `flwr run` only

    return wrap_engine(grid)


def server_context(run_config: UserConfig) -> Context:
    """Context for calling a ServerApp outside Flower's own runtimes."""
    return Context(RUN_ID, SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config=run_config)


def error_reply(message: Message, reason: str, code: int = ErrorCode.NODE_UNAVAILABLE) -> Message:
    """An error in place of a reply, with the reason."""
    return Message(Error(code, reason), reply_to=message)


def has_failed(reply: Message) -> bool:
    """Whether there is no reply because the hospital answered with an error."""
    return reply.has_error() and reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def is_unavailable(reply: Message) -> bool:
    """Whether there is no reply because the hospital was not connected, rather than because it refused."""
    return reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE


def is_late(reply: Message) -> bool:
    """Whether there is no reply because none arrived in time, from a hospital that is connected."""
    return reply.has_error() and reply.error.code == LATE
