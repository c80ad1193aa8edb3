"""The server's end of one hospital's stream: exchanges, decoding, and problems (messages that it cannot use)."""

import asyncio
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from federated_health.names import node_id_of
from federated_health.transport.channels import MAX_MESSAGE_KEY, MAX_REPLY_BYTES, serialise, unwrap, wrap
from federated_health.transport.interface import Problem, error_reply

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 100
"""Largest number of problems per hospital between two calls of `Problems.take`."""

MAX_PAST_MESSAGES = 16
"""Number of past messages that a stream remembers, to recognise a late or a second reply."""

MAX_RECORDS = 16
"""Largest number of records in a message; this project's messages have at most three."""

MAX_ITEMS = 1_000
"""Largest number of named arrays and values in all records of a message."""

MAX_VALUES = 100_000
"""Largest number of values in all lists of a message, such as one per column. Arrays are not counted."""

MAX_DIMENSIONS = 64
"""Largest number of dimensions of an array: NumPy's own limit."""

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
        replaced: done once the same process has reconnected on another stream.
        awaited: message id -> its reply, or the reason why there is none.
        find_obstacle: returns why the hospital is no longer admitted, or None while it is.
        expelled: done, with the reason, once the hospital is no longer admitted.
    """

    name: str
    process: str
    context: grpc.aio.ServicerContext
    problems: Problems = field(default_factory=Problems)
    max_message_bytes: int = MAX_REPLY_BYTES
    replaced: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    awaited: dict[str, "asyncio.Future[Message | str]"] = field(default_factory=dict)
    find_obstacle: Callable[[], str | None] = lambda: None
    expelled: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _past: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one write per stream at a time
    _logged: set[str] = field(default_factory=set)

    async def accept(self) -> None:
        """Tell the hospital that it is accepted."""
        async with self._writing:
            await self.context.send_initial_metadata(((MAX_MESSAGE_KEY, str(self.max_message_bytes)),))

    async def exchange(self, key: str, message: Message, content: bytes) -> Message:
        """Send a message and return its reply, or an error reply if the stream ends first.

        A hospital that does not read blocks at most one write. A message that is cancelled before its turn is not sent.

        Args:
            content: content of the message (see `serialise_content`).
        """
        wrapped = ServerMessage(fit_ins=ServerMessage.FitIns(parameters=wrap(serialise(message, key, content))))
        if not self.is_admitted():
            return error_reply(message, self.expelled.result())
        waiter: asyncio.Future[Message | str] = asyncio.get_running_loop().create_future()
        self.awaited[key] = waiter
        past = TOO_LATE
        try:
            await self._writing.acquire()
            # A write that has begun ends even if the exchange is cancelled: gRPC cannot cancel it.
            if not await asyncio.shield(asyncio.ensure_future(self._write_and_release(wrapped))):
                return error_reply(message, "its connection was lost")
            reply = await waiter
            if isinstance(reply, str):
                return error_reply(message, reply)
            past = ANSWERED
            return reply
        finally:
            self.awaited.pop(key, None)
            self._past[key] = past
            if len(self._past) > MAX_PAST_MESSAGES:
                self._past.popitem(last=False)

    def deliver(self, content: bytes) -> None:
        """Deliver a reply to the message that awaits it; anything else that the hospital sends is a problem."""
        if not self.is_admitted():
            return
        try:
            if len(content) > self.max_message_bytes:
                raise UndecodableError(f"sent a message of more than {self.max_message_bytes} bytes")
            reply = decode_reply(content)
        except UndecodableError as error:
            self.report(str(error))
            self.fail(f"it {error}")  # every wait, since the answered message is unknown
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
        """Count a problem. Each kind is logged once per stream, so that no hospital can fill the log."""
        self.problems.add(self.name, reason)
        logger.log(logging.DEBUG if reason in self._logged else logging.WARNING, "%s %s", self.name, reason)
        self._logged.add(reason)

    async def _write_and_release(self, wrapped: ServerMessage) -> bool:
        try:
            await self.context.write(wrapped)
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            logger.debug("%s: writing failed: %s", self.name, error)
            return False
        finally:
            self._writing.release()
        return True


class UndecodableError(ValueError):
    """Bytes are not a message, or hold too much; the text says which, and quotes no value."""


def decode_reply(content: bytes) -> Message:
    """The message in the bytes that a hospital sent.

    Its arrays stay bytes until `weights_from_record` validates them.

    Raises:
        UndecodableError: the bytes are not a message, or the message has too many records, items, values or dimensions.
    """
    try:
        proto = unwrap(ClientMessage.FromString(content).fit_res.parameters)
        # One byte of a list can become many in Python, so a limit on the size in bytes is not enough.
        holds_too_much = _holds_too_much(proto)
        if not holds_too_much:
            # Of two records with one name, Flower would use the last, and write the name to its log.
            if len({record.key for record in proto.content.items}) < len(proto.content.items):
                raise ValueError
            return message_from_proto(proto)
    except Exception:  # protobuf and Flower raise many types
        raise UndecodableError("sent bytes that are not a message") from None
    raise UndecodableError("sent a message that holds too many records or values")


def _holds_too_much(proto: ProtoMessage) -> bool:
    if len(proto.content.items) > MAX_RECORDS:
        return True
    kinds = [(record, record.WhichOneof("value")) for record in proto.content.items]
    records = [(kind, getattr(record, kind).items) for record, kind in kinds if kind]
    if sum(len(items) for _, items in records) > MAX_ITEMS:
        return True
    values = 0
    for kind, items in records:
        for item in items:
            if kind == "array_record":
                if len(item.value.shape) > MAX_DIMENSIONS:
                    return True
            elif (field := item.value.WhichOneof("value") or "").endswith("_list"):
                values += len(getattr(item.value, field).vals)
    return values > MAX_VALUES
