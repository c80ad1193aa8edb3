"""Two grids that carry Flower's Message API: hospitals over long-lived gRPC streams, and hospitals in process.

Flower's own SuperNode starts a process for every message, which imports TensorFlow every time. Here a hospital's
process stays, and messages travel over one stream of Flower's gRPC service `FlowerService.Join`, each as the one tensor
of a `FitIns` or `FitRes`. Only this module touches Flower's internals; apps and strategies do not know it.

A stream begins with metadata: the hospital's name and the terms that both sides must share (task, schema). The server
accepts by sending its initial metadata, or refuses with a status that says why. It ends the stream with OK when the run
is over.
"""

import asyncio
import ipaddress
import logging
import threading
import time
import traceback
import uuid
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from queue import SimpleQueue
from typing import Any

import grpc
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import ClientMessage, Parameters, ServerMessage
from flwr.proto.transport_pb2_grpc import (
    FlowerServiceServicer,
    FlowerServiceStub,
    add_FlowerServiceServicer_to_server,
)
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federated_health.errors import AddressError, JoinError, UserError

logger = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE_ID = 1
PROTOCOL = "1"

MAX_MESSAGE_BYTES = 512 * 1024 * 1024
KEEPALIVE_SECONDS = 20
JOIN_INTERVAL = 1.0
"""Seconds between a hospital's attempts to reach its server."""

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_SECONDS * 500),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]
_SERVER_OPTIONS = [*_CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)]  # else two servers share a port, and its hospitals


def node_id_of(name: str) -> int:
    """A hospital's node id: a function of its name, so that it is the same in every run."""
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big") >> 1 | 2


def server_context(run_config: UserConfig) -> Context:
    """The context that a ServerApp is called with outside Flower's own runtimes."""
    return Context(RUN_ID, SERVER_NODE_ID, node_config={}, state=RecordDict(), run_config=run_config)


def hospital_context(name: str, node_config: UserConfig) -> Context:
    """The context that a hospital's ClientApp is called with outside Flower's own runtimes."""
    return Context(RUN_ID, node_id_of(name), {"name": name, **node_config}, state=RecordDict(), run_config={})


def check_address(address: str, *, insecure: bool) -> None:
    """Refuse what is not HOST:PORT, and what would carry messages unencrypted past this machine.

    Raises:
        AddressError: says what is wrong.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise AddressError(f"address: expected HOST:PORT with a port from 1 to 65535, got {address!r}")
    host = host.removeprefix("[").removesuffix("]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback and not insecure:
        raise AddressError(
            f"address {address}: is not loopback, and messages are not encrypted yet: anyone on the way could read and "
            "change them; --insecure allows it all the same"
        )


class _FutureGrid(Grid):
    """What both grids share: messages become futures of replies; every message gets exactly one reply or error."""

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
        for key, message in zip(keys, messages, strict=True):
            future = self._replies.pop(key)
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                replies.append(future.result(left))
            except TimeoutError:
                future.cancel()
                replies.append(_error_reply(message, f"it did not answer within {timeout:g} s"))
        return replies

    @abstractmethod
    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        """Send messages, by id, and return futures that end in a reply or an error reply, never in an exception."""


class InProcessGrid(_FutureGrid):
    """Hospitals as plain calls, one after the other: for tests and for evidence.

    Args:
        app: every hospital's ClientApp.
        contexts: hospital name -> the context that its app is called with.
    """

    def __init__(self, app: ClientApp, contexts: Mapping[str, Context]) -> None:
        super().__init__()
        self._app = app
        self._contexts = {node_id_of(name): context for name, context in contexts.items()}

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        replies = {}
        for key, message in messages.items():
            replies[key] = Future[Message]()
            context = self._contexts.get(message.metadata.dst_node_id)
            replies[key].set_result(
                call_app(self._app, message, context) if context else _error_reply(message, "it is not connected")
            )
        return replies


def call_app(app: ClientApp, message: Message, context: Context) -> Message:
    """The app's reply; an exception becomes an error reply.

    The reason that travels is a UserError's own words or an exception's type, since another exception's words may hold
    a patient's values.
    """
    try:
        return app(message, context)
    except UserError as error:
        return _error_reply(message, str(error), ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
    except Exception as error:
        # Where it happened, without the exception's words: they may hold values, and a log is a file.
        logger.error("%s failed: %s", message.metadata.message_type, type(error).__name__)
        logger.debug("".join(traceback.format_tb(error.__traceback__)))
        return _error_reply(message, f"{type(error).__name__} at the hospital", ErrorCode.CLIENT_APP_RAISED_EXCEPTION)


@dataclass(eq=False)
class _Stream:
    """The server's end of one hospital's stream; touched by the event loop's thread only."""

    name: str
    context: grpc.aio.ServicerContext
    awaited: dict[str, "asyncio.Future[Message]"] = field(default_factory=dict)

    async def exchange(self, key: str, message: Message) -> Message:
        proto = message_to_proto(message)
        proto.metadata.message_id = key
        self.awaited[key] = asyncio.get_running_loop().create_future()
        try:
            await self.context.write(_wrap_for_hospital(proto))
            return await self.awaited[key]
        except (grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            logger.debug("%s: writing failed: %s", self.name, error)
            return _error_reply(message, "its connection was lost")
        except _ConnectionLostError:
            return _error_reply(message, "its connection was lost")
        finally:
            self.awaited.pop(key, None)

    def deliver(self, wrapped: ClientMessage) -> None:
        """Hand a reply to whoever awaits it; what nobody awaits, such as a late reply, is dropped."""
        try:
            reply = message_from_proto(_unwrap(wrapped.fit_res.parameters))
        except Exception as error:  # whatever a stranger's bytes make protobuf or Flower raise
            logger.warning("%s sent bytes that are not a message (%s)", self.name, type(error).__name__)
            return
        waiter = self.awaited.get(reply.metadata.reply_to_message_id)
        if waiter is None or waiter.done() or reply.metadata.src_node_id != node_id_of(self.name):
            logger.warning("%s sent a reply that nobody awaits", self.name)
        else:
            waiter.set_result(reply)

    def fail(self) -> None:
        for waiter in self.awaited.values():
            if not waiter.done():
                waiter.set_exception(_ConnectionLostError())


class _ConnectionLostError(Exception):
    """The stream ended while a reply was awaited."""


class _Servicer(FlowerServiceServicer):
    """Accepts or refuses hospitals, and reads their streams."""

    def __init__(self, terms: Mapping[str, str], on_change: Callable[[str], None]) -> None:
        self.streams: dict[int, _Stream] = {}
        self.ending: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._terms = terms
        self._on_change = on_change

    async def Join(  # type: ignore[override]  # the generated stub knows iterators only, not reading and writing
        self, _requests: Any, context: grpc.aio.ServicerContext
    ) -> None:
        """One hospital's stream, from joining to its end."""
        said = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        name = said.get("hospital", "")
        if refusal := self._refuse(name, said):
            code, reason = refusal
            self._on_change(f"refused {name or 'a stranger'}: {reason}")
            await context.abort(code, reason)
        stream = self.streams[node_id_of(name)] = _Stream(name, context)
        self._on_change(f"{name} joined")
        try:
            await context.send_initial_metadata(())
            await self._read(stream)
        finally:
            del self.streams[node_id_of(name)]
            stream.fail()
            if not self.ending.done():
                self._on_change(f"{name} left")
        if self.ending.done() and (stopped := self.ending.result()):
            await context.abort(grpc.StatusCode.ABORTED, stopped)

    def _refuse(self, name: str, said: Mapping[str, str]) -> tuple[grpc.StatusCode, str] | None:
        if not name:
            return grpc.StatusCode.INVALID_ARGUMENT, "a hospital must say its name"
        if node_id_of(name) in self.streams:
            return grpc.StatusCode.ALREADY_EXISTS, f"a hospital called {name} is connected already"
        for term, ours in self._terms.items():
            if said.get(term) != ours:
                theirs = said.get(term, "nothing")
                return grpc.StatusCode.FAILED_PRECONDITION, f"its {term} is {theirs}, the server's is {ours}"
        return None

    async def _read(self, stream: _Stream) -> None:
        """Deliver replies until the hospital leaves or the server ends."""
        while True:
            reading = asyncio.ensure_future(stream.context.read())
            await asyncio.wait({reading, self.ending}, return_when=asyncio.FIRST_COMPLETED)
            if self.ending.done():
                reading.cancel()
                return
            wrapped = reading.result()
            if wrapped is grpc.aio.EOF:
                return
            stream.deliver(wrapped)


class StreamGrid(_FutureGrid):
    """Hospitals over gRPC streams; made by `serve_streams`. The event loop runs in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, servicer: _Servicer) -> None:
        super().__init__()
        self._loop = loop
        self._servicer = servicer

    def get_node_ids(self) -> list[int]:
        return list(self._servicer.streams)

    def _exchange(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        return {
            key: asyncio.run_coroutine_threadsafe(self._deliver(key, message), self._loop)
            for key, message in messages.items()
        }

    async def _deliver(self, key: str, message: Message) -> Message:
        stream = self._servicer.streams.get(message.metadata.dst_node_id)
        if stream is None:
            return _error_reply(message, "it is not connected")
        return await stream.exchange(key, message)


@contextmanager
def serve_streams(address: str, terms: Mapping[str, str], on_change: Callable[[str], None]) -> Iterator[StreamGrid]:
    """A gRPC server that hospitals join, as a grid.

    When the block ends, every hospital is told that the run is over; when it ends in an exception, that it was stopped.

    Args:
        address: HOST:PORT.
        terms: what a hospital must agree to when it joins, such as task and schema.
        on_change: told, in words and from another thread, who joined, left or was refused.

    Raises:
        AddressError: the address is taken or cannot be listened on.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="streams", daemon=True)
    thread.start()

    async def start() -> tuple[grpc.aio.Server, _Servicer]:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        servicer = _Servicer({"protocol": PROTOCOL, **terms}, on_change)
        add_FlowerServiceServicer_to_server(servicer, server)
        _listen(server, address)
        await server.start()
        return server, servicer

    async def stop(server: grpc.aio.Server, servicer: _Servicer, reason: str | None) -> None:
        servicer.ending.set_result(reason)
        await server.stop(grace=2.0)

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
    """A hospital's side: join the server, answer its messages with the app, and return when the run is over.

    A server that is not up yet, or goes away, is waited for.

    Args:
        app: answers messages; its process and memory stay from message to message.
        terms: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached.
        announce: told, in words, what happens.
        prepare: called once the server has accepted the hospital, before the first message is answered.

    Raises:
        JoinError: no server within the wait, or it refused or stopped.
    """
    metadata = (("hospital", name), ("protocol", PROTOCOL), *terms.items())
    deadline = time.monotonic() + wait
    said = False
    while True:
        with _open_channel(address) as channel:
            outbox: SimpleQueue[ClientMessage | None] = SimpleQueue()
            call = FlowerServiceStub(channel).Join(iter(outbox.get, None), metadata=metadata)
            try:
                call.initial_metadata()  # blocks until the server accepts; refused or unreachable, code() is set
                if not call.done():
                    announce(f"joined {address} as {name}; loading Keras")
                    prepare()
                for wrapped in call:
                    deadline, said = time.monotonic() + wait, False
                    outbox.put(_answer(app, context, wrapped))
                return
            except grpc.RpcError:
                code, reason = call.code(), call.details()
            finally:
                outbox.put(None)
        if code is not grpc.StatusCode.UNAVAILABLE:
            raise JoinError(f"{address}: {reason}")
        if time.monotonic() > deadline:
            raise JoinError(f"{address}: no server within {wait:g} s")
        if not said:
            announce(f"waiting up to {wait:g} s for the server at {address}")
            said = True
        time.sleep(JOIN_INTERVAL)


def _answer(app: ClientApp, context: Context, wrapped: ServerMessage) -> ClientMessage:
    message = message_from_proto(_unwrap(wrapped.fit_ins.parameters))
    reply = call_app(app, message, context)
    return ClientMessage(fit_res=ClientMessage.FitRes(parameters=_wrap(message_to_proto(reply))))


def _wrap_for_hospital(proto: ProtoMessage) -> ServerMessage:
    return ServerMessage(fit_ins=ServerMessage.FitIns(parameters=_wrap(proto)))


def _wrap(proto: ProtoMessage) -> Parameters:
    return Parameters(tensors=[proto.SerializeToString()], tensor_type="flwr.proto.Message")


def _unwrap(parameters: Parameters) -> ProtoMessage:
    (content,) = parameters.tensors
    return ProtoMessage.FromString(content)


def _error_reply(message: Message, reason: str, code: int = ErrorCode.NODE_UNAVAILABLE) -> Message:
    return Message(Error(code, reason), reply_to=message)


# The two places where credentials are made. Both are without encryption until mutual TLS joins.


def _listen(server: grpc.aio.Server, address: str) -> None:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        port = 0
    if port == 0:
        raise AddressError(f"address {address}: cannot be listened on; another server may be using the port")


def _open_channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
