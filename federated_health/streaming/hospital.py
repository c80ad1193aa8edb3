"""The hospital's side of a stream: joins, answers with its app, and comes back when the connection was lost."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from uuid import uuid4

import grpc
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from federated_health.errors import JoinError
from federated_health.streaming import channels
from federated_health.streaming.backoff import LONGEST_DELAY, Backoff
from federated_health.streaming.channels import LARGEST_KEY, LARGEST_REPLY, PROTOCOL, open_channel, unwrap, wrap
from federated_health.streaming.grids import call_app, error_reply
from federated_health.terms import write_terms

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

SILENT_SECONDS = 5.0
"""After which an attempt that has led to nothing yet is spoken of."""

UNFIT_SECONDS = 3.0
"""For telling the server that a hospital may not join."""


def taken_seconds() -> float:
    """How long a hospital whose name is connected already waits for that to end.

    It may have come back from a power cut, as a new process, before the server has noticed that the old one is gone.
    """
    return 2 * channels.KEEPALIVE_SECONDS + TAKEN_MARGIN


def join_federation(
    app: ClientApp,
    context: Context,
    *,
    name: str,
    address: str,
    terms: Mapping[str, str],
    wait: float,
    announce: Callable[[str], None],
    prepare: Callable[[], object],
) -> None:
    """Join the server, answer its messages with the app, and return when the run is over.

    A server that is not up yet, or goes away, is waited for, and tried again with growing, random delays. A hospital
    that comes back goes on in the same run: its process, its context and what its app remembers stay.

    Args:
        app: answers messages; its process and memory stay from message to message.
        terms: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached, anew each time that it was lost.
        announce: told, in words, what happens.
        prepare: called once the server has accepted the hospital, before the first message is answered.

    Raises:
        JoinError: no server within the wait, or it refused, stopped, or sent what is not a message.
    """
    # The token lets this process, and no other, take the place of a stream of its own that was cut.
    metadata = (*_introduction(name, terms), ("process", uuid4().hex))
    absence = _Absence(address, wait, announce)

    was_in = False

    def enter() -> None:
        nonlocal was_in
        announce(f"joined {address} as {name}{' again' if was_in else '; loading Keras'}")
        was_in = True
        prepare()

    while True:
        began = time.monotonic()
        ending = _take_part(app, context, address, metadata, absence, enter)
        if ending.code is grpc.StatusCode.OK:
            return
        if ending.was_accepted:
            absence.begin(lasted=time.monotonic() - began)
        absence.wait_after(ending)


@dataclass(frozen=True)
class _Ending:
    """How a stream ended: in which status, with which words, and whether the hospital was in."""

    code: grpc.StatusCode
    reason: str
    was_accepted: bool


class _Absence:
    """The time in which a hospital is not in: how long it may last, and what is said meanwhile."""

    def __init__(self, address: str, wait: float, announce: Callable[[str], None]) -> None:
        self._address = address
        self._wait = wait
        self._announce = announce
        self._backoff = Backoff()
        self.begin()

    def begin(self, lasted: float = LONGEST_DELAY) -> None:
        """The stream ended, after so many seconds: all limits begin anew.

        Delays go on growing where streams break off at once, else a server that fails at each joining would be called
        without end.
        """
        self._deadline = time.monotonic() + self._wait
        self._taken_deadline: float | None = None
        self._last_refusal = ""
        self._said: set[str] = set()
        if lasted >= LONGEST_DELAY:
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

    def wait_after(self, ending: _Ending) -> None:
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
        left = deadline - time.monotonic()
        if left <= 0:
            raise JoinError(f"{self._address}: {self._last_refusal or f'no server within {self._wait:g} s'}")
        if not self._last_refusal:
            self._say_waiting()
        time.sleep(min(self._backoff.next_delay(), left))

    def _say_waiting(self) -> None:
        self._say("waiting", f"waiting up to {self._wait:g} s for the server at {self._address}")

    def _say(self, kind: str, words: str) -> None:
        """Once in an absence."""
        if kind not in self._said:
            self._said.add(kind)
            self._announce(words)


def _take_part(
    app: ClientApp,
    context: Context,
    address: str,
    metadata: tuple[tuple[str, str], ...],
    absence: _Absence,
    enter: Callable[[], None],
) -> _Ending:
    """One stream, from the attempt to join to its end."""
    with open_channel(address) as channel:
        outbox: SimpleQueue[ClientMessage | None] = SimpleQueue()
        call = FlowerServiceStub(channel).Join(iter(outbox.get, None), metadata=metadata)
        largest = None
        try:
            with absence.patience(call):
                # Blocks until the server accepts; refused or unreachable, there is none, and the call ends.
                largest = _largest_of(call.initial_metadata())
            if largest is not None:
                enter()
            for wrapped in call:
                outbox.put(_answer(app, context, wrapped, largest or LARGEST_REPLY))
        except grpc.RpcError:
            pass
        except _NotAMessageError:
            raise JoinError(f"{address}: the server sent what is not a message") from None
        finally:
            outbox.put(None)
        return _Ending(call.code(), call.details() or "", was_accepted=largest is not None)


def report_unfit(name: str, address: str, terms: Mapping[str, str], reason: str) -> None:
    """Tell a server, if it is there, that this hospital may not join, and why, without joining or waiting.

    Args:
        reason: words without values.
    """
    metadata = (*_introduction(name, terms), ("unfit", reason))
    with open_channel(address) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=metadata, timeout=UNFIT_SECONDS)
        call.code()  # blocks until the server has refused; whether it is there at all does not matter


def _introduction(name: str, terms: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a stream's metadata begins with."""
    return ("hospital", name), ("terms", write_terms({"protocol": PROTOCOL, **terms}))


def _largest_of(initial_metadata: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """Bytes that a reply may have, which a server says when it accepts a hospital; None where it has not."""
    said = str(dict(initial_metadata or ()).get(LARGEST_KEY, ""))
    return int(said) if re.fullmatch("[0-9]{1,12}", said) else None


class _NotAMessageError(Exception):
    """The server sent it."""


def _answer(app: ClientApp, context: Context, wrapped: ServerMessage, largest: int) -> ClientMessage:
    """The app's reply, or an error reply where that cannot be sent."""
    try:
        message = message_from_proto(unwrap(wrapped.fit_ins.parameters))
    except Exception:  # whatever another server's bytes make protobuf or Flower raise
        raise _NotAMessageError from None
    reply = call_app(app, message, context)
    try:
        wrapped_reply = _wrap_reply(reply)
    except Exception as error:  # such as whole numbers of more than 64 bits
        logger.error("the reply to %s cannot be sent: %s", message.metadata.message_type, type(error).__name__)
        reason = f"{type(error).__name__} at the hospital"
        return _wrap_reply(error_reply(message, reason, ErrorCode.CLIENT_APP_RAISED_EXCEPTION))
    if (size := wrapped_reply.ByteSize()) > largest:
        reason = f"its reply of {size} bytes is larger than the {largest} bytes that the server takes"
        logger.error("%s: %s", message.metadata.message_type, reason)
        return _wrap_reply(error_reply(message, reason, ErrorCode.CLIENT_APP_RAISED_EXCEPTION))
    return wrapped_reply


def _wrap_reply(reply: Message) -> ClientMessage:
    return ClientMessage(fit_res=ClientMessage.FitRes(parameters=wrap(message_to_proto(reply))))
