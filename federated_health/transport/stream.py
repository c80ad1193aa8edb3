"""The server's end of one hospital's stream: exchanges, and problems (messages that it cannot use)."""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from flwr.app import Message

from federated_health.names import node_id_of
from federated_health.transport.announcements import Announcements, log_safely
from federated_health.transport.channels import MAX_MESSAGE_KEY, MAX_REPLY_BYTES
from federated_health.transport.framing import Receiver, Serialised, UndecodableError, serialise_message
from federated_health.transport.interface import Problem, error_reply

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 100
"""Largest number of problems per hospital between two calls of `Problems.take`."""

MAX_PAST_MESSAGES = 16
"""Number of past messages that a stream remembers, to recognise a late or a second reply."""

ANSWERED, TOO_LATE = "sent a second reply to one message", "sent its reply too late"
UNKNOWN_MESSAGE, OTHER_HOSPITAL = "sent a reply that no message awaits", "sent a reply in the name of another hospital"


class Problems:
    """Problems since the last `take`, limited per hospital. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problems: list[Problem] = []
        self._counts: Counter[str] = Counter()

    def add(self, hospital: str, reason: str) -> None:
        with self._lock:
            if self._counts[hospital] < MAX_PROBLEMS:
                self._counts[hospital] += 1
                self._problems.append(Problem(hospital, reason))

    def take(self) -> list[Problem]:
        with self._lock:
            taken, self._problems = self._problems, []
            self._counts.clear()
        return taken


@dataclass(eq=False)
class Stream:
    """The server's end of one hospital's stream. Only the event loop's thread may use it.

    Attributes:
        process: token of the hospital's process.
        max_message_bytes: size limit of a message.
        announcements: count the lines about this hospital over all its streams.
        replaced: done once the same process has reconnected on another stream.
        awaited: message id -> its reply, or the reason why there is none.
        find_obstacle: returns why the hospital is no longer admitted, or None while it is.
        expelled: done, with the reason, once the hospital is no longer admitted.
        silent: done once no byte of the hospital has arrived for too long.
        sent: number of messages sent so far.
    """

    name: str
    process: str
    context: grpc.aio.ServicerContext
    problems: Problems = field(default_factory=Problems)
    max_message_bytes: int = MAX_REPLY_BYTES
    announcements: Announcements = field(default_factory=lambda: Announcements(logger.warning))
    replaced: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    awaited: dict[str, "asyncio.Future[Message | str]"] = field(default_factory=dict)
    find_obstacle: Callable[[], str | None] = lambda: None
    expelled: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    silent: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    sent: int = 0
    _past: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one write per stream at a time
    _logged: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._receiver = Receiver(self.max_message_bytes)

    async def accept(self, proof: Sequence[tuple[str, str | bytes]] = ()) -> None:
        """Tell the hospital that it is accepted, and prove to it who the server is."""
        async with self._writing:
            await self.context.send_initial_metadata(((MAX_MESSAGE_KEY, str(self.max_message_bytes)), *proof))

    async def signal(self) -> None:
        """Send a part without content, unless a message is on its way."""
        if not self._writing.locked():
            await self._write(Serialised(b""), asyncio.get_running_loop().create_future())

    async def exchange(self, key: str, message: Message, content: Serialised) -> Message:
        """Send a message and return its reply, or an error reply if the stream ends first.

        A hospital that does not read blocks at most one write. A message that is cancelled before its turn is not sent.

        Args:
            content: content of the message.
        """
        serialised = serialise_message(message, key, content)
        if not self.is_admitted():
            return error_reply(message, self.expelled.result())
        waiter: asyncio.Future[Message | str] = asyncio.get_running_loop().create_future()
        self.awaited[key] = waiter
        past = TOO_LATE
        self.sent += 1
        # A write that has begun ends even if the exchange is cancelled: gRPC cannot cancel it.
        writing = asyncio.ensure_future(self._write(serialised, waiter))
        try:
            ends: set[asyncio.Future[Any]] = {writing, waiter}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and not writing.result():
                return error_reply(message, "its connection was lost")
            reply = await waiter
            if isinstance(reply, str):
                return error_reply(message, reply)
            past = ANSWERED
            return reply
        finally:
            waiter.cancel()
            self.awaited.pop(key, None)
            self._past[key] = past
            if len(self._past) > MAX_PAST_MESSAGES:
                self._past.popitem(last=False)

    def deliver(self, part: bytes) -> None:
        """Take a part of a message from the hospital, and deliver a reply to the message that awaits it.

        Anything else that the hospital sends is a problem.
        """
        if not self.is_admitted():
            return
        try:
            reply = self._receiver.add(part)
        except UndecodableError as error:
            self.report(str(error))
            self.fail(f"it {error}")  # every wait, since the answered message is unknown
            return
        if reply is None:
            return
        key = reply.metadata.reply_to_message_id
        waiter = self.awaited.get(key)
        if waiter is None or waiter.done():
            self.report(ANSWERED if waiter is not None else self._past.get(key, UNKNOWN_MESSAGE))
        elif reply.metadata.src_node_id != node_id_of(self.name):
            self.report(OTHER_HOSPITAL)
            waiter.set_result(f"it {OTHER_HOSPITAL}")
        else:
            waiter.set_result(reply)

    def is_admitted(self) -> bool:
        """Whether the hospital is still admitted; if not, its stream ends, and so does the wait for its replies."""
        if not self.expelled.done() and (obstacle := self.find_obstacle()):
            self.expelled.set_result(obstacle)
            self.fail(obstacle)
        return not self.expelled.done()

    def fail(self, reason: str) -> None:
        """End the wait for every reply of this stream."""
        for waiter in self.awaited.values():
            if not waiter.done():
                waiter.set_result(reason)

    def report(self, reason: str) -> None:
        """Count a problem. Each kind is logged once per stream, and few per minute: no hospital can fill the log."""
        self.problems.add(self.name, reason)
        is_shown = reason not in self._logged and self.announcements.allows(self.name)
        log_safely(logger, logging.WARNING if is_shown else logging.DEBUG, "%s %s", self.name, reason)
        self._logged.add(reason)

    async def _write(self, message: Serialised, waiter: "asyncio.Future[Message | str]") -> bool:
        """Write a message, unless nobody waits for its reply any more; returns whether the connection is there."""
        async with self._writing:
            try:
                for part in message.parts() if not waiter.done() else ():
                    await self.context.write(part)
            except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                log_safely(logger, logging.DEBUG, "%s: writing failed: %s", self.name, error)
                return False
        return True
