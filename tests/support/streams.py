"""A server and hospitals in this process, without Keras, and faults between them: for tests of the streams."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import Self

import grpc
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from grpc import StatusCode

from federated_health.data.tasks import write_agreement
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security.identity import Identity
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.channels import (
    CHANNEL_OPTIONS,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_KEY,
    MAX_REPLY_BYTES,
    PROTOCOL,
)
from federated_health.transport.framing import Receiver
from federated_health.transport.stream_client import Consent, join_run
from federated_health.transport.stream_server import SERVICE, StreamTransport, serve_streams
from tests.support.wire import UNWRITTEN

AGREEMENT = {"task": "heart-disease", "column sex": "sex: 0 female, 1 male"}
GOOD_TERMS = write_agreement({"protocol": PROTOCOL, **AGREEMENT})
"""The agreement as a hospital sends it."""

Answer = Callable[[Message, Context], Message]


def app_of(answer: Answer) -> ClientApp:
    app = ClientApp()
    app.query()(answer)
    return app


def echo(message: Message, context: Context) -> Message:
    """Answer with the number of the question and the hospital's name."""
    number = message.content.config_records["question"]["number"]
    record = ConfigRecord({"number": number, "name": context.node_config["name"]})
    return Message(RecordDict({"answer": record}), reply_to=message)


def question(name: str, number: int = 0) -> Message:
    return Message(RecordDict({"question": ConfigRecord({"number": number})}), node_id_of(name), "query")


def answer_of(reply: Message) -> tuple[object, object]:
    record = reply.content.config_records["answer"]
    return record["name"], record["number"]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.005)


def await_reply(grid: StreamTransport, key: str) -> Message:
    """The reply to a pushed message."""
    replies: list[Message] = []

    def has_arrived() -> bool:
        replies.extend(grid.pull_messages([key]))
        return bool(replies)

    wait_until(has_arrived, 20.0)
    return replies[0]


def wait_for_hospitals(grid: StreamTransport, number: int = 1) -> None:
    wait_until(lambda: len(grid.get_node_ids()) == number)


class LightHospital:
    """A hospital in a thread.

    Attributes:
        announcements: lines for its user.
        error: the error that ended its side of the stream.
    """

    def __init__(
        self,
        name: str,
        address: str,
        answer: Answer = echo,
        agreement: dict[str, str] = AGREEMENT,
        wait: float = 5.0,
        tls: Identity | None = None,
        app: Answer | None = None,
        consent: Consent | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.announcements: list[str] = []
        self._run = partial(
            join_run,
            app or app_of(answer),
            hospital_context(name, {}),
            name=name,
            address=address,
            agreement=agreement,
            wait=wait,
            announce=self.announcements.append,
            prepare=lambda: None,
            ledger=UNWRITTEN,
            tls=tls,
            consent=consent,
        )
        self._thread = threading.Thread(target=self._join, daemon=True)
        self._thread.start()

    def _join(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def end(self) -> BaseException | None:
        """Wait for the end of the run, and return the error that ended it."""
        self._thread.join(10.0)
        assert not self._thread.is_alive()
        return self.error


class Proxy:
    """Forwards bytes between hospitals and a server on loopback, until it is cut."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []  # a hospital's end and the server's
        self._flows = threading.Event()
        self._flows.set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._flows.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing would not end the wait in accept
        self._accepting.join(10)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    @property
    def connections(self) -> int:
        """Number of connections that were forwarded so far."""
        return len(self._pairs)

    def cut(self, *, tell_server: bool = True) -> None:
        """Close the hospitals' ends, and the server's ends too unless `tell_server` is False."""
        for hospital, server in self._pairs:
            for end in (hospital, server) if tell_server else (hospital,):
                with suppress(OSError):  # it is closed already
                    end.shutdown(socket.SHUT_RDWR)
        if tell_server:
            self._listener.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Forward nothing and close nothing, like a network that drops all packets."""
        self._flows.clear()

    def flow(self) -> None:
        """Forward again, beginning with what was held back."""
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                hospital, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    hospital.close()
                    continue
                self._pairs.append((hospital, server))
                threading.Thread(target=self._forward, args=(hospital, server), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, hospital), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                self._flows.wait()
                target.sendall(content)


@contextmanager
def server(
    announcements: list[str] | None = None,
    port: int | None = None,
    tls: Identity | None = None,
    max_message_bytes: int = MAX_REPLY_BYTES,
) -> Iterator[tuple[StreamTransport, str]]:
    """A server on loopback and its address. It appends a line to the announcements for each event."""
    address = f"127.0.0.1:{port or free_port()}"
    announce = (announcements if announcements is not None else []).append
    with serve_streams(address, AGREEMENT, announce, max_message_bytes=max_message_bytes, tls=tls) as grid:
        yield grid, address


class RawHospital:
    """A hospital that sends whatever a test wants."""

    def __init__(self, name: str, address: str, **metadata: str) -> None:
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        metadata = {"hospital": name, "terms": GOOD_TERMS, **metadata}
        join = self._channel.stream_stream(f"/{SERVICE}/Join")
        self.call = join(iter(self._outbox.get, None), metadata=tuple(metadata.items()))

    def __enter__(self) -> "RawHospital":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.leave()
        self.call.cancel()
        self._channel.close()

    def leave(self) -> None:
        """End the stream in order: nothing more is sent."""
        self._outbox.put(None)

    def read(self) -> Message:
        receiver = Receiver(MAX_MESSAGE_BYTES)
        while (message := receiver.add(next(self.call))) is None:
            pass
        return message

    def end(self) -> grpc.StatusCode:
        """Status with which the server ends the stream; gRPC reports it after everything else was read."""
        with suppress(grpc.RpcError):
            for _ in self.call:
                pass
        code: grpc.StatusCode = self.call.code()
        return code

    def send(self, content: bytes) -> None:
        self._outbox.put(content)

    def reply(self, message: Message, src: str | None = None, to: str | None = None) -> None:
        """Send a valid reply, in the name of another hospital or to another message if given."""
        reply = Message(RecordDict({"answer": ConfigRecord({"name": "raw", "number": 1})}), reply_to=message)
        proto = message_to_proto(reply)
        proto.metadata.src_node_id = node_id_of(src) if src else proto.metadata.src_node_id
        proto.metadata.reply_to_message_id = proto.metadata.reply_to_message_id if to is None else to
        self.send(proto.SerializeToString())


SCRIPTED_REASON = "a scripted reason"


class _SmallServer:
    """A gRPC server on a free port of this machine, with methods of its own, for as long as the `with` block lasts."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler], threads: int) -> None:
        self._server = grpc.server(ThreadPoolExecutor(threads))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


class ScriptedServer(_SmallServer):
    """Ends each call with the next of some statuses, and further calls with OK.

    Attributes:
        calls: number of calls so far.
        received: all bytes that came; only a server that reads waits for them.
    """

    def __init__(
        self, *codes: StatusCode, accepts: bool = False, reads: bool = False, sends: Sequence[bytes] = ()
    ) -> None:
        self.calls = 0
        self.received: list[bytes] = []
        self._codes, self._accepts, self._reads, self._sends = codes, accepts, reads, sends
        super().__init__({"Join": grpc.stream_stream_rpc_method_handler(self._join)}, threads=2)

    def _join(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        number = self.calls
        self.calls += 1
        if self._accepts:
            context.send_initial_metadata(((MAX_MESSAGE_KEY, "1000"),))
        yield from self._sends
        if self._reads:
            self.received.extend(messages)
        if number < len(self._codes):
            context.abort(self._codes[number], SCRIPTED_REASON)


class TermsServer(_SmallServer):
    """States run terms, and ends each stream in order, or as a server that states others.

    Args:
        texts: stated one after the other, and the last one again and again.

    Attributes:
        received: method and metadata of each call, in order, without gRPC's own.
    """

    def __init__(self, *texts: bytes) -> None:
        self.received: list[tuple[str, dict[str, str]]] = []
        self._texts = list(texts)
        handlers = {
            "Terms": grpc.unary_unary_rpc_method_handler(self._terms),
            "Join": grpc.stream_stream_rpc_method_handler(self._join),
        }
        super().__init__(handlers, threads=4)

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.received]

    def _note(self, method: str, context: grpc.ServicerContext) -> None:
        own = {key: value for key, value in context.invocation_metadata() if key != "user-agent"}
        self.received.append((method, own))

    def _terms(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        assert request == b""
        self._note("Terms", context)
        return self._texts.pop(0) if len(self._texts) > 1 else self._texts[0]

    def _join(self, _: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._note("Join", context)
        context.send_initial_metadata(((MAX_MESSAGE_KEY, "1000"),))
        yield from ()


class LargestDelays(random.Random):
    """Draws the upper end of every range, and remembers the lower ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lower: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.lower.append(a)
        return b
