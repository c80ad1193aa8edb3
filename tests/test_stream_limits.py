"""What hospitals send that no round gets, and what strangers can cost: problems, sizes, connections."""

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import grpc
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.recorddict_pb2 import ArrayRecord as ProtoArrayRecord
from flwr.proto.transport_pb2 import ClientMessage, Parameters, ServerMessage

from federated_health.data.tasks import write_agreement
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.transport import listening, stream_server
from federated_health.transport.channels import CHANNEL_OPTIONS, MAX_MESSAGE_KEY, PROTOCOL, serialise_content, unwrap
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import Problem, hospital_context
from federated_health.transport.stream import (
    MAX_DIMENSIONS,
    MAX_ITEMS,
    MAX_PAST_MESSAGES,
    MAX_PROBLEMS,
    MAX_RECORDS,
    MAX_VALUES,
    Problems,
    Stream,
    UndecodableError,
    decode_reply,
)
from federated_health.transport.stream_server import SERVICE, StreamTransport, serve_streams
from tests.test_stream_faults import later_answers, peer, peers
from tests.test_streaming import TERMS, LightHospital, answer_of, app_of, echo, question, server, wait_until

NOT_A_MESSAGE = "sent bytes that are not a message"
TOO_MUCH = "sent a message that holds too many records or values"


class RawHospital:
    """A hospital that has its own mind about what it sends."""

    def __init__(self, name: str, address: str, **more: str) -> None:
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        agreement = write_agreement({"protocol": PROTOCOL, **TERMS})
        join = self._channel.stream_stream(f"/{SERVICE}/Join", response_deserializer=ServerMessage.FromString)
        self.call = join(
            iter(self._outbox.get, None), metadata=(("hospital", name), ("terms", agreement), *more.items())
        )

    def __enter__(self) -> "RawHospital":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._outbox.put(None)
        self.call.cancel()
        self._channel.close()

    def read(self) -> Message:
        return message_from_proto(unwrap(next(self.call).fit_ins.parameters))

    def end(self) -> grpc.StatusCode:
        """What the server ends the stream in; gRPC tells only who has read all that came before."""
        with pytest.raises(grpc.RpcError):
            for _ in self.call:
                pass
        code: grpc.StatusCode = self.call.code()
        return code

    def send(self, content: bytes) -> None:
        self._outbox.put(content)

    def reply(self, message: Message, src: str | None = None, to: str | None = None) -> None:
        """A good reply, but for who it says that it is from, and to which question."""
        reply = Message(RecordDict({"answer": ConfigRecord({"name": "raw", "number": 1})}), reply_to=message)
        proto = message_to_proto(reply)
        proto.metadata.src_node_id = node_id_of(src) if src else proto.metadata.src_node_id
        proto.metadata.reply_to_message_id = proto.metadata.reply_to_message_id if to is None else to
        self.send(wrapped(proto.SerializeToString()))


def wrapped(content: bytes) -> bytes:
    """Bytes as a stream carries a message's."""
    return ClientMessage(fit_res=ClientMessage.FitRes(parameters=Parameters(tensors=[content]))).SerializeToString()


class Asking:
    """A question that is asked in a thread."""

    def __init__(self, grid: StreamTransport, *questions: Message, timeout: float = 10.0) -> None:
        self.replies: list[Message] = []
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._ask, args=(grid, questions, timeout), daemon=True)
        self._thread.start()

    def _ask(self, grid: StreamTransport, questions: tuple[Message, ...], timeout: float) -> None:
        started = time.monotonic()
        self.replies = grid.send_and_receive(questions, timeout=timeout)
        self.seconds = time.monotonic() - started

    def end(self) -> list[Message]:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.replies


@contextmanager
def limited_server(max_message_bytes: int) -> Iterator[tuple[StreamTransport, str]]:
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, TERMS, lambda _: None, max_message_bytes=max_message_bytes) as grid:
        yield grid, address


def problems_after(grid: StreamTransport, number: int = 1) -> list[Problem]:
    """The next problems, waited for."""
    found: list[Problem] = []

    def enough() -> bool:
        found.extend(grid.take_problems())
        return len(found) >= number

    wait_until(enough)
    return found


# Problems


def test_a_grid_in_process_has_none() -> None:
    grid = InProcessTransport(app_of(echo), {"a": hospital_context("a", {})})
    assert grid.send_and_receive([question("z")])[0].has_error()
    assert grid.take_problems() == []


def test_a_late_reply_is_a_problem_of_its_own_kind() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert grid.send_and_receive([question("a", 1)], timeout=0.2)[0].has_error()
        raw.reply(raw.read())
        assert problems_after(grid) == [Problem("a", "sent its reply too late")]
        assert grid.take_problems() == []


def test_a_second_reply_to_one_question_is_a_problem_and_the_first_counts() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        asking = Asking(grid, question("a", 1))
        message = raw.read()
        raw.reply(message)
        raw.reply(message)
        assert answer_of(asking.end()[0]) == ("raw", 1)
        assert problems_after(grid) == [Problem("a", "sent a second reply to one message")]


@pytest.mark.parametrize("to", ["", "0123", "x" * 1000, "\n"])
def test_a_reply_to_no_question_is_a_problem_and_the_wait_goes_on(to: str) -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        asking = Asking(grid, question("a", 1))
        message = raw.read()
        raw.reply(message, to=to)
        assert problems_after(grid) == [Problem("a", "sent a reply that no message awaits")]
        raw.reply(message)
        assert answer_of(asking.end()[0]) == ("raw", 1)


def test_a_reply_in_another_hospital_s_name_ends_the_wait_at_once() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        good = LightHospital("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        asking = Asking(grid, question("a", 1), question("b", 2))
        raw.reply(raw.read(), src="b")
        reason = "sent a reply in the name of another hospital"
        replies = asking.end()
        assert replies[0].error.reason == f"it {reason}"
        assert answer_of(replies[1]) == ("b", 2)
        assert asking.seconds < 5
        assert grid.take_problems() == [Problem("a", reason)]
    assert good.end() is None


def test_a_reply_to_another_hospital_s_question_is_nobody_s() -> None:
    with server() as (grid, address), RawHospital("a", address) as liar, RawHospital("b", address) as other:
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        asking = Asking(grid, question("b", 1))
        message = other.read()
        liar.reply(message)
        assert problems_after(grid) == [Problem("a", "sent a reply that no message awaits")]
        other.reply(message)
        assert asking.end()[0].metadata.src_node_id == node_id_of("b")


@pytest.mark.parametrize("content", [b"", b"\xff", wrapped(b""), wrapped(b"\x08"), wrapped(b"{}"), b"x" * 10_000])
def test_bytes_that_are_no_message_cost_the_reply_at_once_and_the_stream_goes_on(content: bytes) -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        asking = Asking(grid, question("a", 1))
        raw.read()
        raw.send(content)
        assert asking.end()[0].error.reason == f"it {NOT_A_MESSAGE}"
        assert asking.seconds < 5
        assert grid.take_problems() == [Problem("a", NOT_A_MESSAGE)]
        asking = Asking(grid, question("a", 2))
        raw.reply(raw.read())
        assert answer_of(asking.end()[0]) == ("raw", 1)


def test_problems_are_logged_once_a_stream_and_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        message = Message(RecordDict(), node_id_of("a"), "query")
        for _ in range(3):
            raw.send(b"\xff")
            raw.reply(message, to="unknown")
        assert len(problems_after(grid, 6)) == 6
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"a {NOT_A_MESSAGE}", "a sent a reply that no message awaits"]


def test_problems_are_bounded_for_each_hospital_and_begin_anew() -> None:
    problems = Problems()
    for number in range(2 * MAX_PROBLEMS):
        problems.add("noisy", str(number))
    problems.add("quiet", "once")
    taken = problems.take()
    assert [one.reason for one in taken] == [*map(str, range(MAX_PROBLEMS)), "once"]
    assert problems.take() == []
    problems.add("noisy", "again")
    assert problems.take() == [Problem("noisy", "again")]


def test_what_a_stream_remembers_of_its_questions_is_bounded() -> None:
    with server() as (grid, address):
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        (stream,) = grid._servicer.streams.values()
        for number in range(MAX_PAST_MESSAGES // 50 + 2):
            grid.send_and_receive([question("a", number)] * 50, timeout=10)
        wait_until(lambda: not stream.awaited)
        assert len(stream._past) == MAX_PAST_MESSAGES
    assert hospital.end() is None


def test_the_latest_questions_are_the_ones_that_are_remembered() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        messages = []
        for number in range(MAX_PAST_MESSAGES + 1):
            asking = Asking(grid, question("a", number))
            messages.append(raw.read())
            raw.reply(messages[-1])
            asking.end()
        raw.reply(messages[0])
        raw.reply(messages[1])
        raw.reply(messages[-1])
        reasons = [one.reason for one in problems_after(grid, 3)]
        assert reasons == ["sent a reply that no message awaits", *["sent a second reply to one message"] * 2]


def test_a_second_reply_is_called_so_before_the_first_was_fetched() -> None:
    class Context:
        async def write(self, _: object) -> None: ...

    async def answer_twice() -> list[Problem]:
        stream = Stream("a", "", Context())
        asking = asyncio.ensure_future(stream.exchange("1", asked := question("a"), serialise_content(asked.content)))
        await asyncio.sleep(0.01)
        reply = Message(RecordDict(), reply_to=question("a"))
        reply.metadata.__dict__["_reply_to_message_id"] = "1"
        content = wrapped(message_to_proto(reply).SerializeToString())
        stream.deliver(content)
        stream.deliver(content)
        assert not (await asking).has_error()
        return stream.problems.take()

    InProcessTransport(app_of(echo), {})  # gives this process the identity that messages need
    assert asyncio.run(answer_twice()) == [Problem("a", "sent a second reply to one message")]


# Sizes


def test_a_message_that_is_too_large_costs_its_reply_and_is_named_with_the_limit() -> None:
    with limited_server(20_000) as (grid, address), RawHospital("a", address) as raw:
        good = LightHospital("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        reason = "sent a message of more than 20000 bytes"
        for size in (20_001, 39_000):
            asking = Asking(grid, question("a", 1), question("b", 2))
            raw.read()
            raw.send(bytes(size))
            replies = asking.end()
            assert replies[0].error.reason == f"it {reason}"
            assert answer_of(replies[1]) == ("b", 2)
            assert grid.take_problems() == [Problem("a", reason)]
        asking = Asking(grid, question("a", 1))
        raw.reply(raw.read())  # the stream goes on
        assert answer_of(asking.end()[0]) == ("raw", 1)
    assert good.end() is None


def test_a_message_of_just_the_largest_size_is_read() -> None:
    with server() as (_, address):
        LightHospital("a", address)  # gives this process the identity that messages need
    reply = Message(RecordDict({"answer": ConfigRecord({"padding": b""})}), reply_to=question("a"))
    reply.metadata.__dict__["_reply_to_message_id"] = "1"
    reply.content.config_records["answer"]["padding"] = bytes(
        20_000 - len(wrapped(message_to_proto(reply).SerializeToString())) - 11
    )
    content = wrapped(message_to_proto(reply).SerializeToString())
    with limited_server(len(content)) as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        raw.send(content)
        raw.send(content + b"\x9a\x06\x01x")  # an unknown field: a message still, but a larger one
        reasons = [one.reason for one in problems_after(grid, 2)]
        assert reasons == ["sent a reply that no message awaits", f"sent a message of more than {len(content)} bytes"]


def test_a_message_of_over_twice_the_limit_costs_the_stream_and_disturbs_nobody() -> None:
    with limited_server(20_000) as (grid, address), RawHospital("a", address) as raw:
        good = LightHospital("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        asking = Asking(grid, question("a", 1), question("b", 2))
        raw.read()
        raw.send(bytes(10_000_000))
        replies = asking.end()
        # gRPC does not say which of the two it was.
        reason = "its connection was lost, or it sent more than 0.0381 MiB at once"  # 40,000 bytes
        assert replies[0].error.reason == reason
        assert answer_of(replies[1]) == ("b", 2)
        assert asking.seconds < 5
        assert raw.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert grid.take_problems() == []
        wait_until(lambda: grid.get_node_ids() == [node_id_of("b")])
        with RawHospital("a", address) as again:
            wait_until(lambda: len(grid.get_node_ids()) == 2)
            asking = Asking(grid, question("a", 1))
            again.reply(again.read())
            assert answer_of(asking.end()[0]) == ("raw", 1)
    assert good.end() is None


def test_a_hospital_that_leaves_in_order_broke_nothing_off() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        asking = Asking(grid, question("a", 1))
        raw.read()
        raw._outbox.put(None)
        assert asking.end()[0].error.reason == "its connection was lost"
        wait_until(lambda: grid.get_node_ids() == [])
        assert grid.take_problems() == []


def test_the_server_says_what_it_takes_when_it_accepts_a_hospital() -> None:
    with limited_server(12_345) as (_, address), RawHospital("a", address) as raw:
        assert dict(raw.call.initial_metadata())[MAX_MESSAGE_KEY] == "12345"


@pytest.mark.slow
def test_memory_stays_bounded_when_twenty_hospitals_send_far_too_much_at_once(tmp_path: Path) -> None:
    """320 MiB in all, to a server that takes 1 MiB a message."""
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "server.log"

    def peak(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) // 1024

    with peers() as running:
        running.append(serving := peer(log, "serve", address))
        running.append(peer(tmp_path / "good.log", "join", address, "good"))
        wait_until(later_answers(log), 30.0)
        before = peak(serving.pid)
        content = bytes(16 * 1024 * 1024)
        raws = [RawHospital(f"h{number}", address) for number in range(20)]
        for raw in raws:
            raw.call.initial_metadata()
        for raw in raws:
            raw.send(content)
        assert [raw.end() for raw in raws] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 20
        assert peak(serving.pid) - before < 20 * 2 + 40  # MiB
        wait_until(later_answers(log), 30.0)
        for raw in raws:
            raw.close()


# What a small message may hold


def handler(content: RecordDict) -> bytes:
    InProcessTransport(app_of(echo), {})  # gives this process the identity that messages need
    return wrapped(message_to_proto(Message(content, reply_to=question("a"))).SerializeToString())


def array() -> Array:
    return Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"")


def records(number: int) -> RecordDict:
    return RecordDict({str(i): MetricRecord() for i in range(number)})


def metrics(number: int) -> RecordDict:
    return RecordDict({"a": MetricRecord({str(i): i for i in range(number)})})


def arrays(number: int) -> RecordDict:
    return RecordDict({"a": ArrayRecord({str(i): array() for i in range(number)})})


def configs(number: int) -> RecordDict:
    return RecordDict(
        {"a": ConfigRecord({str(i): i for i in range(number // 2)}), "b": metrics(number - number // 2)["a"]}
    )


def floats(number: int) -> RecordDict:
    return RecordDict({"a": MetricRecord({"x": [0.5] * number})})


def integers_in_parts(number: int) -> RecordDict:
    parts = [number // 3, number // 3, number - 2 * (number // 3)]
    return RecordDict({str(i): MetricRecord({"x": [1] * part}) for i, part in enumerate(parts)})


def empty_strings(number: int) -> RecordDict:
    return RecordDict({"a": ConfigRecord({"x": [""] * number})})


def dimensions(number: int) -> RecordDict:
    return RecordDict({"a": ArrayRecord({"x": Array(dtype="", shape=(1,) * number, stype="", data=b"")})})


EXTENTS: list[tuple[Callable[[int], RecordDict], int]] = [
    (records, MAX_RECORDS),
    (metrics, MAX_ITEMS),
    (arrays, MAX_ITEMS),
    (configs, MAX_ITEMS),
    (floats, MAX_VALUES),
    (integers_in_parts, MAX_VALUES),
    (empty_strings, MAX_VALUES),
    (dimensions, MAX_DIMENSIONS),
]


@pytest.mark.parametrize(("content_of", "most"), EXTENTS, ids=[one[0].__name__ for one in EXTENTS])
def test_a_message_may_hold_so_much_and_no_more(content_of: Callable[[int], RecordDict], most: int) -> None:
    assert decode_reply(handler(content_of(most))).content == content_of(most)
    with pytest.raises(UndecodableError, match=TOO_MUCH):
        decode_reply(handler(content_of(most + 1)))


def test_a_message_that_holds_too_much_is_a_problem() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        asking = Asking(grid, question("a", 1))
        raw.read()
        raw.send(handler(metrics(MAX_ITEMS + 1)))
        assert asking.end()[0].error.reason == f"it {TOO_MUCH}"
        assert grid.take_problems() == [Problem("a", TOO_MUCH)]


def test_items_under_one_name_count_each() -> None:
    """Flower would make one of them, after it has made all."""
    item = ProtoArrayRecord.Item(key="x")
    InProcessTransport(app_of(echo), {})
    proto = message_to_proto(Message(RecordDict({"a": ArrayRecord()}), reply_to=question("a")))
    proto.content.items[0].array_record.items.extend([item] * (MAX_ITEMS + 1))
    with pytest.raises(UndecodableError, match=TOO_MUCH):
        decode_reply(wrapped(proto.SerializeToString()))


# Strangers


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
SILENT: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "HANDSHAKE_SECONDS"),
    "half a preface": (PREFACE[:10], "HANDSHAKE_SECONDS"),
    "no call": (PREFACE, "IDLE_SECONDS"),
    "half a frame of headers": (PREFACE + b"\0\0\x20\x01\0\0\0\0\x01\x82", "IDLE_SECONDS"),
    "headers without an end": (PREFACE + b"\0\0\x01\x01\0\0\0\0\x01\x82", "IDLE_SECONDS"),
}


@pytest.mark.parametrize("said", SILENT)
def test_a_connection_that_never_makes_a_call_is_closed(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, limit = SILENT[said]
    monkeypatch.setattr(listening, limit, 0.5)
    with server() as (grid, address):
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(content)
            while stranger.recv(4096):
                pass  # ends when the server closes, and fails when it does not within 10 s
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
    assert hospital.end() is None


def test_one_connection_may_make_a_hundred_calls_at_a_time() -> None:
    with server() as (_, address):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(PREFACE)
            settings = b""
            while b"\0\x03\0\0\0\x64" not in settings:  # HTTP/2's SETTINGS_MAX_CONCURRENT_STREAMS = 100
                settings += (more := stranger.recv(4096))
                assert more, "the server closed"


def test_hospitals_in_one_process_have_connections_of_their_own() -> None:
    with server() as (grid, address):
        hospitals = [LightHospital(name, address) for name in "ab"]
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        assert len({stream.context.peer() for stream in grid._servicer.streams.values()}) == 2
    assert [hospital.end() for hospital in hospitals] == [None, None]


def test_there_is_an_end_to_the_connections_that_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "max_connections", lambda: 3)
    with server() as (grid, address):
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        host, port = address.split(":")
        sockets = [socket.create_connection((host, int(port)), timeout=10) for _ in range(4)]
        assert [bool(one.recv(9)) for one in sockets] == [True, True, False, False]  # its settings, or the end
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
        for one in sockets:
            one.close()
        second = LightHospital("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 2)
    assert hospital.end() is None
    assert second.end() is None


def test_there_is_an_end_to_the_hospitals_that_a_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "max_streams", lambda: 2)
    words: list[str] = []
    with server(words) as (grid, address):
        first = [LightHospital(name, address) for name in "ab"]
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        third = LightHospital("c", address, wait=0.5)
        assert "no server within 0.5 s" in str(third.end())
        assert words[2:] == ["refused c: 2 hospitals are connected already (from 127.0.0.1)"]
    assert [one.end() for one in first] == [None, None]


def test_refusals_are_told_once_and_so_many_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "MAX_REFUSALS", 3)
    words: list[str] = []
    with server(words) as (_, address):
        for name in ("a", "b", "a", "b", "c", "d", "e", "a"):
            with RawHospital(name, address, unfit="no") as raw:
                assert raw.end() is grpc.StatusCode.FAILED_PRECONDITION
        assert words == [f"refused {name}: its own check says no: no (from 127.0.0.1)" for name in "abc"]


def test_a_large_reply_of_many_is_not_mixed_up() -> None:
    """Messages below the limit pass as they are, at once and from many hospitals."""

    def answer(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.content.config_records["answer"]["padding"] = bytes(900_000)
        return reply

    with limited_server(1_000_000) as (grid, address):
        hospitals = [LightHospital(f"h{number}", address, answer) for number in range(8)]
        wait_until(lambda: len(grid.get_node_ids()) == 8)
        replies = grid.send_and_receive([question(f"h{number}", number) for number in range(8)], timeout=20)
        assert [answer_of(reply) for reply in replies] == [(f"h{number}", number) for number in range(8)]
        assert grid.take_problems() == []
    assert [hospital.end() for hospital in hospitals] == [None] * 8
