"""The server's end of one hospital's stream, and what hospitals sent that no round gets."""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from flwr.app import Message
from flwr.proto.transport_pb2 import ServerMessage

from federated_health.names import node_id_of
from federated_health.transport.channels import MAX_MESSAGE_KEY, MAX_REPLY_BYTES, wrap_message
from federated_health.transport.decoding import UndecodableError, decode_reply
from federated_health.transport.interface import Incident, error_reply

logger = logging.getLogger(__name__)

MAX_INCIDENTS = 100
"""Of one hospital, between two looks at them."""

MAX_PAST_QUESTIONS = 16
"""Of one stream, that are remembered so that a late or second reply can be called so."""

ANSWERED, GIVEN_UP = "sent a second reply to one question", "sent its reply too late"
UNASKED, PRETENDED = "sent a reply that nobody awaits", "sent a reply in the name of another hospital"


class Incidents:
    """Incidents since they were last taken, bounded for each hospital; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Incident] = []
        self._counts: Counter[str] = Counter()

    def add(self, hospital: str, reason: str) -> None:
        with self._lock:
            if self._counts[hospital] < MAX_INCIDENTS:
                self._counts[hospital] += 1
                self._kept.append(Incident(hospital, reason))

    def take(self) -> list[Incident]:
        with self._lock:
            taken, self._kept = self._kept, []
            self._counts.clear()
        return taken


@dataclass(eq=False)
class Stream:
    """The server's end of one hospital's stream; touched by the event loop's thread only.

    Attributes:
        process: the token of the hospital's process.
        max_message_bytes: bytes of a message that is read.
        replaced: done when the same process came back on another stream.
        awaited: question's id -> its reply.
        find_obstacle: why the hospital must not be dealt with any more; None where it may.
        expelled: done, with the reason, when it must not.
    """

    name: str
    process: str
    context: grpc.aio.ServicerContext
    incidents: Incidents = field(default_factory=Incidents)
    max_message_bytes: int = MAX_REPLY_BYTES
    replaced: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    awaited: dict[str, "asyncio.Future[Message]"] = field(default_factory=dict)
    find_obstacle: Callable[[], str | None] = lambda: None
    expelled: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _past: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one write a stream at a time
    _complained: set[str] = field(default_factory=set)

    async def accept(self) -> None:
        """Tell the hospital that it is in."""
        async with self._writing:
            await self.context.send_initial_metadata(((MAX_MESSAGE_KEY, str(self.max_message_bytes)),))

    async def exchange(self, key: str, message: Message, content: bytes) -> Message:
        """Send a message and return its reply, or an error reply where the stream ends first.

        A hospital that does not read holds up at most one write: a message whose reply is awaited no longer before its
        turn has come is not sent at all.

        Args:
            content: the message's, as `serialise_content` gives it.
        """
        wrapped = ServerMessage(fit_ins=ServerMessage.FitIns(parameters=wrap_message(message, key, content)))
        if not self.is_admitted():
            return error_reply(message, self.expelled.result())
        waiter: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.awaited[key] = waiter
        past = GIVEN_UP
        try:
            await self._writing.acquire()
            # A write that was begun ends, even when its reply is awaited no longer: gRPC cannot take it back.
            if not await asyncio.shield(asyncio.ensure_future(self._write_and_release(wrapped))):
                return error_reply(message, "its connection was lost")
            reply = await waiter
            past = ANSWERED
            return reply
        except _NoReplyError as error:
            return error_reply(message, str(error))
        finally:
            self.awaited.pop(key, None)
            self._past[key] = past
            if len(self._past) > MAX_PAST_QUESTIONS:
                self._past.popitem(last=False)

    def deliver(self, content: bytes) -> None:
        """Hand a reply to whoever awaits it; what nobody awaits is an incident, and so is what is no reply."""
        if not self.is_admitted():
            return
        if len(content) > self.max_message_bytes:
            self._spoil(f"sent a message of more than {self.max_message_bytes} bytes")
            return
        try:
            reply = decode_reply(content)
        except UndecodableError as error:
            self._spoil(str(error))
            return
        key = reply.metadata.reply_to_message_id
        waiter = self.awaited.get(key)
        if waiter is None or waiter.done():
            self.complain(ANSWERED if waiter is not None else self._past.get(key, UNASKED))
        elif reply.metadata.src_node_id != node_id_of(self.name):
            self.complain(PRETENDED)
            _end_wait(waiter, f"it {PRETENDED}")
        else:
            waiter.set_result(reply)

    def is_admitted(self) -> bool:
        """Whether the hospital may still be dealt with; if not, its stream and the wait for its replies end."""
        if not self.expelled.done() and (obstacle := self.find_obstacle()):
            self.expelled.set_result(obstacle)
            self.fail(obstacle)
        return not self.expelled.done()

    def fail(self, reason: str) -> None:
        """End the wait for every reply of this stream."""
        for waiter in self.awaited.values():
            _end_wait(waiter, reason)

    def complain(self, reason: str) -> None:
        """Count an incident; it is logged once a stream and kind, since a stranger could fill the log."""
        self.incidents.add(self.name, reason)
        logger.log(logging.DEBUG if reason in self._complained else logging.WARNING, "%s %s", self.name, reason)
        self._complained.add(reason)

    def _spoil(self, reason: str) -> None:
        """Nobody can say what it should have been a reply to."""
        self.complain(reason)
        self.fail(f"it {reason}")

    async def _write_and_release(self, wrapped: ServerMessage) -> bool:
        try:
            await self.context.write(wrapped)
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            logger.debug("%s: writing failed: %s", self.name, error)
            return False
        finally:
            self._writing.release()
        return True


class _NoReplyError(Exception):
    """There will be no reply, and why."""


def _end_wait(waiter: "asyncio.Future[Message]", reason: str) -> None:
    if not waiter.done():
        waiter.set_exception(_NoReplyError(reason))
        waiter.exception()  # counts as seen, even where its message is still being written
