"""The server's side of the streams: accepts or refuses hospitals, and carries messages to them.

It runs in an event loop in a thread of its own, so that a stream costs no thread.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceServicer, add_FlowerServiceServicer_to_server

from federated_health.names import is_hospital_name, node_id_of, printable
from federated_health.security import Identity
from federated_health.streaming.channels import PROTOCOL, SERVER_OPTIONS, listen, unwrap, wrap
from federated_health.streaming.gate import Gate, certificate_of
from federated_health.streaming.grids import FutureGrid, error_reply
from federated_health.terms import find_difference, read_terms

logger = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
"""For calls to end by themselves when the server stops."""

LONGEST_REFUSAL = 500
"""Characters of a refusal, which names what differs."""


@dataclass(eq=False)
class _Stream:
    """The server's end of one hospital's stream; touched by the event loop's thread only."""

    name: str
    process: str
    context: grpc.aio.ServicerContext
    replaced: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    awaited: dict[str, "asyncio.Future[Message]"] = field(default_factory=dict)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # gRPC takes one write a stream at a time
    complained: bool = False
    find_obstacle: Callable[[], str | None] = lambda: None  # why it must not be dealt with any more
    expelled: "asyncio.Future[str]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def accept(self) -> None:
        """Tell the hospital that it is in."""
        async with self.writing:
            await self.context.send_initial_metadata(())

    async def exchange(self, key: str, message: Message) -> Message:
        """Send a message and return its reply, or an error reply where the stream ends first."""
        proto = message_to_proto(message)
        proto.metadata.message_id = key
        wrapped = ServerMessage(fit_ins=ServerMessage.FitIns(parameters=wrap(proto)))
        if not self.is_admitted():
            return error_reply(message, self.expelled.result())
        self.awaited[key] = asyncio.get_running_loop().create_future()
        try:
            # A write that was begun ends, even when its reply is awaited no longer: gRPC cannot take it back.
            if await asyncio.shield(asyncio.ensure_future(self._write(wrapped))):
                return await self.awaited[key]
            return error_reply(message, "its connection was lost")
        except _StreamEndedError as error:
            return error_reply(message, str(error))
        finally:
            self.awaited.pop(key, None)

    def deliver(self, wrapped: ClientMessage) -> None:
        """Hand a reply to whoever awaits it; what nobody awaits, such as a late reply, is dropped."""
        if not self.is_admitted():
            return
        try:
            reply = message_from_proto(unwrap(wrapped.fit_res.parameters))
        except Exception as error:  # whatever a stranger's bytes make protobuf or Flower raise
            self._complain(f"sent bytes that are not a message ({type(error).__name__})")
            self.fail("it sent bytes that are not a message")
            return
        waiter = self.awaited.get(reply.metadata.reply_to_message_id)
        if waiter is None or waiter.done() or reply.metadata.src_node_id != node_id_of(self.name):
            self._complain("sent a reply that nobody awaits")
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
            if not waiter.done():
                waiter.set_exception(_StreamEndedError(reason))
                waiter.exception()  # counts as seen, even where its message is still being written

    async def _write(self, wrapped: ServerMessage) -> bool:
        async with self.writing:
            try:
                await self.context.write(wrapped)
            except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
                logger.debug("%s: writing failed: %s", self.name, error)
                return False
        return True

    def _complain(self, words: str) -> None:
        """Say it once a stream: a stranger could fill the log."""
        logger.log(logging.DEBUG if self.complained else logging.WARNING, "%s %s", self.name, words)
        self.complained = True


class _StreamEndedError(Exception):
    """There will be no reply, and why."""


class _Servicer(FlowerServiceServicer):
    """Accepts or refuses hospitals, and reads their streams."""

    def __init__(self, terms: Mapping[str, str], on_change: Callable[[str], None], tls: Identity | None = None) -> None:
        self.streams: dict[int, _Stream] = {}
        self.ending: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._terms = terms
        self._on_change = on_change
        self._gate = Gate(tls, on_change)

    async def Join(  # type: ignore[override]  # the generated stub knows iterators only, not reading and writing
        self, _requests: Any, context: grpc.aio.ServicerContext
    ) -> None:
        """One hospital's stream, from joining to its end."""
        said = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        name = said.get("hospital", "")
        certificate = certificate_of(context)
        # First who it is: a stranger must not learn who is connected, or what was agreed on.
        if refusal := self._gate.refuse(certificate, name) or self._refuse(name, said):
            code, reason = refusal
            self._gate.tell(f"refused {printable(name, 63) or 'a stranger'}: {reason}", context)
            await context.abort(code, reason)
        node = node_id_of(name)
        before = self.streams.get(node)
        stream = self.streams[node] = _Stream(name, said.get("process", ""), context)
        stream.find_obstacle = partial(self._gate.find_end, certificate)
        try:
            if before is not None:
                before.replaced.set_result(None)
            self._gate.forget()
            self._on_change(f"{name} {'came back' if before else 'joined'}")
            await stream.accept()
            await self._read(stream)
        finally:
            stream.fail("its connection was lost")
            if self.streams.get(node) is stream:
                del self.streams[node]
                if not self.ending.done() and not stream.expelled.done():
                    self._on_change(f"{name} left")
        if stream.expelled.done():
            self._gate.tell(f"cut {name} off: {stream.expelled.result()}", context)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, stream.expelled.result())
        if self.ending.done() and (stopped := self.ending.result()):
            await context.abort(grpc.StatusCode.ABORTED, stopped)

    def _refuse(self, name: str, said: Mapping[str, str]) -> tuple[grpc.StatusCode, str] | None:
        if not is_hospital_name(name):
            return grpc.StatusCode.INVALID_ARGUMENT, "a hospital's name is lower-case letters, digits and hyphens"
        connected = self.streams.get(node_id_of(name))
        if connected is not None and not connected.is_admitted():  # its name is free from now on
            del self.streams[node_id_of(name)]
            connected = None
        # The same process comes back from a cut of which the server knows nothing yet; only it can know its token.
        if connected is not None and (not connected.process or connected.process != said.get("process")):
            return grpc.StatusCode.ALREADY_EXISTS, f"a hospital called {name} is connected already"
        try:
            theirs = read_terms(said.get("terms", "{}"))
        except ValueError:
            return grpc.StatusCode.INVALID_ARGUMENT, "the hospital's terms cannot be read"
        if difference := find_difference(theirs, self._terms):
            return grpc.StatusCode.FAILED_PRECONDITION, printable(difference, LONGEST_REFUSAL)
        if (reason := said.get("unfit")) is not None:
            return grpc.StatusCode.FAILED_PRECONDITION, f"its own check says no: {printable(reason, LONGEST_REFUSAL)}"
        return None

    async def _read(self, stream: _Stream) -> None:
        """Deliver replies until the hospital leaves, comes back on another stream, or the server ends."""
        while True:
            reading = asyncio.ensure_future(stream.context.read())
            ends: set[asyncio.Future[Any]] = {self.ending, stream.replaced, stream.expelled}
            await asyncio.wait({reading, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if any(end.done() for end in ends):
                reading.cancel()
                return
            try:
                wrapped = reading.result()
            except Exception as error:  # whatever a stranger's bytes make protobuf raise
                logger.warning("%s sent bytes that are not Flower's (%s)", stream.name, type(error).__name__)
                return
            if wrapped is grpc.aio.EOF:
                return
            stream.deliver(wrapped)


class StreamGrid(FutureGrid):
    """Hospitals over gRPC streams; made by `serve_streams`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, servicer: _Servicer) -> None:
        super().__init__()
        self._loop = loop
        self._servicer = servicer

    def names(self) -> dict[int, str]:
        return {node: stream.name for node, stream in list(self._servicer.streams.items())}

    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        return {
            key: asyncio.run_coroutine_threadsafe(self._deliver(key, message), self._loop)
            for key, message in messages.items()
        }

    async def _deliver(self, key: str, message: Message) -> Message:
        stream = self._servicer.streams.get(message.metadata.dst_node_id)
        if stream is None:
            return error_reply(message, "it is not connected")
        return await stream.exchange(key, message)


@contextmanager
def serve_streams(
    address: str, terms: Mapping[str, str], on_change: Callable[[str], None], *, tls: Identity | None = None
) -> Iterator[StreamGrid]:
    """A gRPC server that hospitals join, as a grid.

    When the block ends, every hospital is told that the run is over; when it ends in an exception, that it was stopped.

    Args:
        address: HOST:PORT.
        terms: what a hospital must agree to when it joins, such as task and schema.
        on_change: told, in words and from another thread, who joined, left, was refused or cut off.
        tls: who the server is; every hospital then shows a certificate of the same authority, at every call, and is
            dealt with only as long as it is valid and not revoked. None to go without encryption and without proof.

    Raises:
        AddressError: the address is taken or cannot be listened on.
        CertificateError: what is in the identity's folder cannot be used.
    """
    if tls is not None and (remark := tls.remark()):
        on_change(remark)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="streams", daemon=True)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, _Servicer]:
        server = grpc.aio.server(options=SERVER_OPTIONS)
        servicer = _Servicer({"protocol": PROTOCOL, **terms}, on_change, tls)
        add_FlowerServiceServicer_to_server(servicer, server)
        listen(server, address, tls)
        await server.start()
        return server, servicer

    async def stop(server: grpc.aio.Server, servicer: _Servicer, reason: str | None) -> None:
        servicer.ending.set_result(reason)
        await server.stop(grace=GRACE_SECONDS)
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=GRACE_SECONDS)  # cancelled calls end, else asyncio complains about them

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    try:
        server, servicer = run(start())
        try:
            yield StreamGrid(loop, servicer)
        except BaseException:
            run(stop(server, servicer, "the server stopped before the end of the run"))
            raise
        run(stop(server, servicer, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
