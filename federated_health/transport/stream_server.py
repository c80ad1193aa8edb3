"""The server's side of the streams: accepts or rejects hospitals, and carries messages to them.

All streams share one event loop in one thread.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
from flwr.app import Message

from federated_health.data.tasks import find_difference, read_agreement
from federated_health.errors import StorageError
from federated_health.messages.run_terms import hash_of
from federated_health.names import is_hospital_name, node_id_of, printable
from federated_health.transport import channels
from federated_health.transport.announcements import CONNECTIONS, HOSPITALS, Announcements, log_safely
from federated_health.transport.channels import CAN_COUNT, MAX_REPLY_BYTES, PROTOCOL, split_address
from federated_health.transport.framing import Serialised, serialise_content
from federated_health.transport.interface import Problem, ReplyFutures, error_reply
from federated_health.transport.listening import has_strangers, listen, max_connections, max_streams, server_options
from federated_health.transport.stream import Problems, Stream

if TYPE_CHECKING:
    from federated_health.security.identity import Identity
    from federated_health.security.server_checks import ServerChecks
    from federated_health.transport.connection_limits import ConnectionLimits
    from federated_health.transport.rejections import Rejections

logger = logging.getLogger(__name__)

SERVICE = "flwr.proto.FlowerService"

GRACE_SECONDS = 2.0
"""Time within which calls must end by themselves when the server stops."""

MAX_REFUSAL_LENGTH = 500
"""Largest number of characters that a refusal quotes from a hospital."""

SETTLING_SECONDS = 0.05
"""Time to distinguish a broken stream from a closed one: gRPC reports both as closed, then cancels the broken one."""

FLAPPING_SECONDS = 1.0
"""Time after which a hospital joins that has already caused many lines in this minute: it must not slow the others."""

CHECK_SECONDS, MIN_CHECK_SECONDS = 1.0, 0.02
"""Time between two checks of connections and certificate, and the shortest while surplus connections are closed."""


class _Servicer:
    """Accepts or rejects hospitals, and reads their streams."""

    def __init__(
        self,
        agreement: Mapping[str, str],
        on_change: Callable[[str], None],
        max_message_bytes: int = MAX_REPLY_BYTES,
        tls: "Identity | None" = None,
        port: int = 0,
        terms: str = "",
    ) -> None:
        self.terms = terms
        self.streams: dict[int, Stream] = {}
        self.problems = Problems()
        self.announcements = Announcements(on_change)
        self.checking: asyncio.Future[None] | None = None
        self.ending: asyncio.Future[tuple[grpc.StatusCode, str] | None] = asyncio.get_running_loop().create_future()
        self._watching: asyncio.Future[None] | None = None
        self._agreement = agreement
        self._max_message_bytes = max_message_bytes
        self._security: ServerChecks | None = None
        if tls is not None:
            from federated_health import security  # noqa: PLC0415  # optional feature

            self._security = security.load().server_checks.ServerChecks(tls, self.announcements.announce)
        self._rejections: Rejections | None = None
        self._connections: ConnectionLimits | None = None
        self._port = port
        self._room, self._max_connections = max_streams(), max_connections()

    async def Join(self, _requests: Any, context: grpc.aio.ServicerContext) -> None:
        """One hospital's stream, from joining to its end."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        name = metadata.get("hospital", "")
        process = metadata.get("process", "")
        stream = Stream(name, process, context, self.problems, self._max_message_bytes, self.announcements)
        refusal = None
        if self._security:
            # The certificate is checked first: an unknown peer must learn neither the agreement nor who is connected.
            rejection, stream.find_obstacle = self._security.check_hospital(context, name)
            refusal = (grpc.StatusCode.PERMISSION_DENIED, rejection) if rejection else None
        if not refusal and not self.announcements.has_room(name):
            await asyncio.sleep(FLAPPING_SECONDS)
        if refusal := refusal or self._refuse(name, metadata):
            code, reason = refusal
            await self._abort(context, code, reason, "rejected", name)
        node = node_id_of(name)
        previous = self.streams.get(node)
        self.streams[node] = stream
        try:
            if previous is not None:
                previous.replaced.set_result(None)
            if self._rejections:
                self._rejections.forget(name)
            self.announcements.announce(f"{name} {'reconnected' if previous else 'joined'}", name, HOSPITALS)
            self._watching = self._watching or asyncio.ensure_future(self._watch())
            await stream.accept(self._security.prove(context) if self._security else ())
            await self._read(stream)
        except asyncio.CancelledError:
            # gRPC does not report which of the two happened.
            if stream.awaited and not self.ending.done():
                limit = 2 * self._max_message_bytes / 2**20
                stream.fail(f"its connection was lost, or it sent more than {limit:.3g} MiB at once")
            raise
        finally:
            stream.fail("its connection was lost")
            if self.streams.get(node) is stream:
                del self.streams[node]
                if not self.ending.done() and not stream.expelled.done():
                    self.announcements.announce(f"{name} left", name, HOSPITALS)
        if stream.expelled.done():
            reason = stream.expelled.result()
            await self._abort(context, grpc.StatusCode.PERMISSION_DENIED, reason, "disconnected", name)
        if self.ending.done() and (stopped := self.ending.result()):
            await context.abort(*stopped)
        if stream.silent.done():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing arrived for too long")

    async def Prove(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Prove to a hospital who the server is, before it joins."""
        await context.send_initial_metadata(self._security.prove(context) if self._security else ())
        return b""

    async def Terms(self, _request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """State the terms of the run to a hospital, before it joins."""
        if not self.terms:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the run has no terms")
        return self.terms.encode()

    async def _abort(
        self, context: grpc.aio.ServicerContext, code: grpc.StatusCode, reason: str, verb: str, name: str
    ) -> None:
        """End a call, and announce it once."""
        if self._rejections is None:
            from federated_health.transport.rejections import Rejections  # noqa: PLC0415  # rarely needed

            self._rejections = Rejections(self.announcements)
        self._rejections.add(str(context.peer()), name, verb, reason)
        await context.abort(code, reason)

    def _refuse(self, name: str, metadata: Mapping[str, str]) -> tuple[grpc.StatusCode, str] | None:
        """Status and reason with which a hospital is rejected; None if it may join."""
        if not is_hospital_name(name):
            return grpc.StatusCode.INVALID_ARGUMENT, "hospital name: expected lower-case letters, digits and hyphens"
        connected = self.streams.get(node_id_of(name))
        if connected is not None and not connected.is_admitted():  # its name is free again
            del self.streams[node_id_of(name)]
            connected = None
        # The same process may reconnect before the server notices the lost connection; only it knows its token.
        if connected is not None and (not connected.process or connected.process != metadata.get("process")):
            return grpc.StatusCode.ALREADY_EXISTS, f"a hospital called {name} is connected already"
        try:
            agreement = read_agreement(metadata.get("terms", "{}"))
        except ValueError:
            return grpc.StatusCode.INVALID_ARGUMENT, "the hospital's task agreement cannot be read"
        if difference := find_difference(agreement, self._agreement):
            return grpc.StatusCode.FAILED_PRECONDITION, printable(difference, MAX_REFUSAL_LENGTH)
        if (reason := metadata.get("unfit")) is not None:
            reason = f"its own check failed: {printable(reason, MAX_REFUSAL_LENGTH)}"
            return grpc.StatusCode.FAILED_PRECONDITION, reason
        if self.terms and metadata.get(channels.ACCEPTED_TERMS_KEY) != hash_of(self.terms):
            return grpc.StatusCode.UNAVAILABLE, "the run's terms have changed"  # it asks for them and joins again
        if connected is None and len(self.streams) >= self._room:
            return grpc.StatusCode.UNAVAILABLE, f"{self._room} hospitals are connected already"
        return None

    async def _watch(self) -> None:
        """End streams of which no byte has arrived for too long, until the server stops."""
        await asyncio.wait({self.ending}, timeout=channels.KEEPALIVE_SECONDS)
        if CAN_COUNT and not self.ending.done():
            from federated_health.transport.liveness import watch_streams  # noqa: PLC0415  # not before there is a ping

            await watch_streams(self.streams, self.ending)

    async def keep_checking(self) -> None:
        """Check connections and certificates until the server stops."""
        while not self.ending.done():
            began, soon = time.thread_time(), False
            try:
                soon = self._check()
            except Exception as error:
                self.announcements.announce(f"connections could not be checked: {error!r}", CONNECTIONS)
            # The checks take at most a fifth of a processor.
            pause = max(MIN_CHECK_SECONDS, 5 * (time.thread_time() - began)) if soon else CHECK_SECONDS
            await asyncio.wait({self.ending}, timeout=min(pause, CHECK_SECONDS))

    def _check(self) -> bool:
        """Announce what is due, close surplus connections, and return whether there were any just now."""
        self.announcements.end_minute()
        for line in self._security.due_reminders() if self._security else ():
            self.announcements.announce(line)
        rejected = self._rejections.take_persistent() if self._rejections else set()
        if not rejected and not has_strangers(len(self.streams), self._max_connections):
            return False
        if self._connections is None:
            from federated_health.transport.connection_limits import ConnectionLimits  # noqa: PLC0415  # rarely needed

            self._connections = ConnectionLimits(
                self._port, self._max_connections, lambda line: self.announcements.announce(line, CONNECTIONS)
            )
        return self._connections.close_excess([stream.context.peer() for stream in self.streams.values()], rejected)

    async def _read(self, stream: Stream) -> None:
        """Deliver replies until the hospital leaves, reconnects elsewhere or is expelled, or the server stops."""
        reading = asyncio.ensure_future(self._deliver_all(stream))
        ends: set[asyncio.Future[Any]] = {reading, self.ending, stream.replaced, stream.expelled, stream.silent}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()

    async def _deliver_all(self, stream: Stream) -> None:
        while (part := await stream.context.read()) is not grpc.aio.EOF:
            stream.deliver(part)
        if stream.awaited:
            await asyncio.sleep(SETTLING_SECONDS)


class StreamTransport(ReplyFutures):
    """Hospitals over gRPC streams; made by `serve_streams`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, servicer: _Servicer) -> None:
        super().__init__()
        self._loop = loop
        self._servicer = servicer
        self.terms = servicer.terms

    def names(self) -> dict[int, str]:
        return {node: stream.name for node, stream in list(self._servicer.streams.items())}

    def processes(self) -> dict[int, str]:
        return {node: stream.process for node, stream in list(self._servicer.streams.items()) if stream.process}

    def take_problems(self) -> list[Problem]:
        return self._servicer.problems.take()

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        # Messages of a strategy share one content, which is serialised once.
        contents = {id(message.content): message.content for message in messages.values()}
        serialised = {identity: serialise_content(content) for identity, content in contents.items()}
        return {
            key: asyncio.run_coroutine_threadsafe(
                self._deliver(key, message, serialised[id(message.content)]), self._loop
            )
            for key, message in messages.items()
        }

    async def _deliver(self, key: str, message: Message, content: Serialised) -> Message:
        stream = self._servicer.streams.get(message.metadata.dst_node_id)
        if stream is None:
            return error_reply(message, "it is not connected")
        try:
            return await stream.exchange(key, message, content)
        except Exception as error:  # which would end the run, not only this exchange
            log_safely(logger, logging.ERROR, "%s: the exchange failed: %r", stream.name, error)
            return error_reply(message, f"{type(error).__name__} at the server")


@contextmanager
def serve_streams(
    address: str,
    agreement: Mapping[str, str],
    on_change: Callable[[str], None],
    *,
    max_message_bytes: int = MAX_REPLY_BYTES,
    tls: "Identity | None" = None,
    terms: str = "",
) -> Iterator[StreamTransport]:
    """A gRPC server that hospitals join, as a transport.

    When the block ends, hospitals are told that the run is over. If it ends in an exception, they are told that the
    server stopped; after a StorageError they wait for a server that resumes the run.

    Args:
        address: HOST:PORT.
        agreement: what a hospital must agree to when it joins, such as task and schema, by name.
        on_change: called in another thread with one line per hospital that joins, leaves, is rejected or disconnected.
        max_message_bytes: size limit of a hospital's message. A larger message is a problem and not a reply; one of
            more than twice the limit ends the hospital's stream.
        tls: the server's identity. Every hospital then needs a certificate of the same authority; whether it is expired
            or revoked is checked with each message. None for no encryption and no authentication.
        terms: run terms that a hospital must have accepted when it joins (see `RunTerms.text`); empty for none.

    Raises:
        AddressError: the port is taken, or the host is not this machine's.
        CertificateError: a file in the identity's folder cannot be used.
    """
    loop, ended = asyncio.new_event_loop(), threading.Event()

    def run_loop() -> None:
        while not ended.is_set():
            with suppress(BaseException):  # SystemExit would end the loop with all its streams
                loop.run_forever()

    thread = threading.Thread(target=run_loop, name="streams", daemon=True)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, _Servicer]:
        server = grpc.aio.server(options=server_options(max_message_bytes))
        _, port = split_address(address)
        servicer = _Servicer({"protocol": PROTOCOL, **agreement}, on_change, max_message_bytes, tls, port, terms)
        handlers = {
            "Join": grpc.stream_stream_rpc_method_handler(servicer.Join),  # bytes in both directions, see `framing`
            "Prove": grpc.unary_unary_rpc_method_handler(servicer.Prove),
            "Terms": grpc.unary_unary_rpc_method_handler(servicer.Terms),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        listen(server, address, tls)
        await server.start()
        servicer.checking = asyncio.ensure_future(servicer.keep_checking())
        return server, servicer

    async def stop(server: grpc.aio.Server, servicer: _Servicer, status: tuple[grpc.StatusCode, str] | None) -> None:
        servicer.ending.set_result(status)
        await server.stop(grace=GRACE_SECONDS)
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=GRACE_SECONDS)  # asyncio would report calls that are still pending
        servicer.announcements.end_minute(early=True)

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    try:
        server, servicer = run(start())
        status = None
        try:
            yield StreamTransport(loop, servicer)
        except BaseException as error:
            code = grpc.StatusCode.UNAVAILABLE if isinstance(error, StorageError) else grpc.StatusCode.ABORTED
            status = code, "the server stopped before the end of the run"
            raise
        finally:
            run(stop(server, servicer, status))
    finally:
        ended.set()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
