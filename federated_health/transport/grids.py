"""What grids share, and hospitals in process. Every message gets exactly one reply, or an error in its place."""

import logging
import math
import time
import traceback
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federated_health.errors import AnswerError, UserError
from federated_health.names import node_id_of

logger = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE_ID = 1

WORDS_INTERVAL = 15.0
"""Seconds after which a grid that waits for replies says so again."""


def server_context(run_config: UserConfig) -> Context:
    """The context that a ServerApp is called with outside Flower's own runtimes."""
    return Context(RUN_ID, SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config=run_config)


def hospital_context(name: str, node_config: UserConfig) -> Context:
    """The context that a hospital's ClientApp is called with outside Flower's own runtimes."""
    return Context(RUN_ID, node_id_of(name), {"name": name, **node_config}, state=RecordDict(), run_config={})


@dataclass(frozen=True)
class Incident:
    """Something that a hospital sent and no round gets, and why not, in words without values."""

    hospital: str
    reason: str


class FutureGrid(Grid):
    """A grid in which messages become futures of replies, and a hospital's node id follows from its name."""

    def __init__(self) -> None:
        # Flower's Message reads the identity of its process from here.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, RUN_ID, SERVER_NODE_ID
        self._replies: dict[str, Future[Message]] = {}

    def set_run(self, run: Run) -> None:
        """There is one run a grid, and it is set from the start."""

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = {uuid.uuid4().hex: message for message in messages}
        self._replies.update(self._exchange(pushed))
        return list(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        done = [key for key in message_ids if key in self._replies and self._replies[key].done()]
        return [self._replies.pop(key).result() for key in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """A reply for every message; an error reply for a hospital that is gone or does not answer in time."""
        messages = list(messages)
        deadline = None if timeout is None else time.monotonic() + timeout
        keys = self.push_messages(messages)
        replies = []
        self._wait(messages, [self._replies[key] for key in keys], deadline)
        for key, message in zip(keys, messages, strict=True):
            future = self._replies.pop(key)
            try:
                replies.append(future.result(0.0))
            except TimeoutError:
                future.cancel()
                replies.append(error_reply(message, f"it did not answer within {timeout:g} s"))
        return replies

    def _wait(self, messages: list[Message], futures: "list[Future[Message]]", deadline: float | None) -> None:
        """Until all futures are done or the deadline is over; says now and then whose are not."""
        outstanding = set(futures)
        while outstanding:
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return
            _, outstanding = wait(outstanding, timeout=min(left, WORDS_INTERVAL))
            if not outstanding or left <= WORDS_INTERVAL:
                return
            names = self.names()
            late = sorted(
                names.get(message.metadata.dst_node_id, "a hospital that left")
                for message, future in zip(messages, futures, strict=True)
                if future in outstanding
            )
            words = "" if deadline is None else f", for {deadline - time.monotonic():.0f} s at most"
            logger.info("waiting for %s to answer %s%s", ", ".join(late), messages[0].metadata.message_type, words)

    @abstractmethod
    def names(self) -> dict[int, str]:
        """Node id -> the name under which that hospital is connected."""

    def get_node_ids(self) -> list[int]:
        return list(self.names())

    def processes(self) -> dict[int, str]:
        """Node id -> a token of that hospital's process, of those that say one."""
        return {}

    def take_incidents(self) -> list[Incident]:
        """What has happened since this was last asked, in order; beyond a limit a hospital's are counted no longer."""
        return []

    @abstractmethod
    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        """Send messages, by id, and return futures that end in a reply or an error reply, never in an exception."""


class InProcessGrid(FutureGrid):
    """Hospitals as plain calls, one after the other: for tests and for evidence.

    Args:
        app: every hospital's ClientApp.
        contexts: hospital name -> the context that its app is called with.
    """

    def __init__(self, app: ClientApp, contexts: Mapping[str, Context]) -> None:
        super().__init__()
        self._app = app
        self._contexts = {node_id_of(name): context for name, context in contexts.items()}
        self._names = {node_id_of(name): name for name in contexts}

    def names(self) -> dict[int, str]:
        return self._names

    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        replies = {}
        for key, message in messages.items():
            replies[key] = Future[Message]()
            context = self._contexts.get(message.metadata.dst_node_id)
            replies[key].set_result(
                call_app(self._app, message, context) if context else error_reply(message, "it is not connected")
            )
        return replies


def call_app(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply; an exception becomes an error reply.

    The reason that travels is that of an AnswerError, since another exception's words may hold a patient's values.
    """
    try:
        reply = app(message, context)
        if not isinstance(reply, Message):
            raise TypeError
        return reply
    except Exception as raised:
        answer = raised if isinstance(raised, AnswerError) else AnswerError(raised)
        error = answer.error
        if isinstance(error, UserError):
            logger.error("%s", error)
        else:
            # Where it happened, without the exception's words: they may hold values, and a log is a file.
            logger.error("%s failed: %s", message.metadata.message_type, type(error).__name__)
            logger.debug("".join(traceback.format_tb(error.__traceback__)))
        return error_reply(message, str(answer), ErrorCode.CLIENT_APP_RAISED_EXCEPTION)


def error_reply(message: Message, reason: str, code: int = ErrorCode.NODE_UNAVAILABLE) -> Message:
    """A reply that there is none, with the reason in words."""
    return Message(Error(code, reason), reply_to=message)


def is_cut_off(reply: Message) -> bool:
    """Whether there is no reply because the hospital was not there, rather than because it would not answer."""
    return reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE
