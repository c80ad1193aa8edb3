"""Replies that the server cannot use, and what strangers can cost it: problems, sizes, connections."""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.recorddict_pb2 import ArrayRecord as ProtoArrayRecord

from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.transport import announcements as announcements_of_server
from federated_health.transport import listening, stream_server
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.channels import MAX_MESSAGE_KEY
from federated_health.transport.framing import (
    MAX_DIMENSIONS,
    MAX_ITEMS,
    MAX_RECORDS,
    MAX_VALUES,
    UndecodableError,
    decode_header,
    serialise_content,
)
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import Problem
from federated_health.transport.stream import (
    ANSWERED,
    MAX_PAST_MESSAGES,
    MAX_PROBLEMS,
    OTHER_HOSPITAL,
    TOO_LATE,
    UNKNOWN_MESSAGE,
    Problems,
    Stream,
)
from federated_health.transport.stream_server import StreamTransport
from tests.support.stream_peers import later_answers, peer, peers
from tests.support.streams import (
    LightHospital,
    Proxy,
    RawHospital,
    answer_of,
    app_of,
    echo,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)

NOT_A_MESSAGE = "not a message"
TOO_MUCH = "too many records or values"


class Exchange:
    """Questions that a server sends from a thread, with their replies."""

    def __init__(self, grid: StreamTransport, *questions: Message) -> None:
        self._replies: list[Message] = []
        self._thread = threading.Thread(target=self._send, args=(grid, questions), daemon=True)
        self._thread.start()

    def _send(self, grid: StreamTransport, questions: tuple[Message, ...]) -> None:
        self._replies = grid.send_and_receive(questions, timeout=60)

    def end(self) -> list[Message]:
        """The replies, which must come long before the timeout."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self._replies


def problems_after(grid: StreamTransport, number: int = 1) -> list[Problem]:
    """The next problems, once there are this many."""
    problems: list[Problem] = []

    def are_enough() -> bool:
        problems.extend(grid.take_problems())
        return len(problems) >= number

    wait_until(are_enough)
    return problems


# Problems


def test_a_transport_in_process_has_no_problems() -> None:
    grid = InProcessTransport(app_of(echo), {"a": hospital_context("a", {})})
    assert grid.send_and_receive([question("z")])[0].has_error()
    assert grid.take_problems() == []


def test_a_late_reply_is_a_problem_of_its_own_kind() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        assert grid.send_and_receive([question("a", 1)], timeout=0.2)[0].has_error()
        raw.reply(raw.read())
        assert problems_after(grid) == [Problem("a", TOO_LATE)]
        assert grid.take_problems() == []


def test_a_second_reply_is_a_problem_and_the_first_counts() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        exchange = Exchange(grid, question("a", 1))
        message = raw.read()
        raw.reply(message)
        raw.reply(message)
        assert answer_of(exchange.end()[0]) == ("raw", 1)
        assert problems_after(grid) == [Problem("a", ANSWERED)]


@pytest.mark.parametrize("to", ["", "0123", "x" * 1000, "\n"])
def test_a_reply_to_no_message_is_a_problem_and_the_wait_continues(to: str) -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        exchange = Exchange(grid, question("a", 1))
        message = raw.read()
        raw.reply(message, to=to)
        assert problems_after(grid) == [Problem("a", UNKNOWN_MESSAGE)]
        raw.reply(message)
        assert answer_of(exchange.end()[0]) == ("raw", 1)


def test_a_reply_in_another_hospital_s_name_ends_the_wait_at_once() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address)
        wait_for_hospitals(grid, 2)
        exchange = Exchange(grid, question("a", 1), question("b", 2))
        raw.reply(raw.read(), src="b")
        replies = exchange.end()
        assert replies[0].error.reason == f"it {OTHER_HOSPITAL}"
        assert answer_of(replies[1]) == ("b", 2)
        assert grid.take_problems() == [Problem("a", OTHER_HOSPITAL)]
    assert other.end() is None


def test_a_reply_to_another_hospital_s_message_is_a_problem_and_changes_nothing() -> None:
    with server() as (grid, address), RawHospital("a", address) as cheat, RawHospital("b", address) as other:
        wait_for_hospitals(grid, 2)
        exchange = Exchange(grid, question("b", 1))
        message = other.read()
        cheat.reply(message)
        assert problems_after(grid) == [Problem("a", UNKNOWN_MESSAGE)]
        other.reply(message)
        assert exchange.end()[0].metadata.src_node_id == node_id_of("b")


@pytest.mark.parametrize("content", [b"\xff", b"\x08", b"{}", b"x" * 10_000])
def test_bytes_that_are_no_message_end_the_wait_for_the_reply_and_the_stream_continues(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address)
        wait_for_hospitals(grid, 2)
        exchange = Exchange(grid, question("a", 1), question("b", 2))
        raw.read()
        raw.send(content)
        replies = exchange.end()
        assert NOT_A_MESSAGE in str(replies[0].error.reason)
        assert answer_of(replies[1]) == ("b", 2)
        (problem,) = grid.take_problems()
        assert problem.hospital == "a"
        assert NOT_A_MESSAGE in problem.reason
        exchange = Exchange(grid, question("a", 2))
        raw.reply(raw.read())
        assert answer_of(exchange.end()[0]) == ("raw", 1)
    assert other.end() is None
    assert "Traceback" not in caplog.text


def test_each_kind_of_problem_is_logged_once_per_stream(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        message = Message(RecordDict(), node_id_of("a"), "query")
        for _ in range(3):
            raw.send(b"\xff")
            raw.reply(message, to="unknown")
        assert len(problems_after(grid, 6)) == 6
    first, second = caplog.messages
    assert NOT_A_MESSAGE in first
    assert second == f"a {UNKNOWN_MESSAGE}"


def test_problems_are_limited_per_hospital_until_they_are_taken() -> None:
    problems = Problems()
    for number in range(2 * MAX_PROBLEMS):
        problems.add("noisy", str(number))
    problems.add("quiet", "once")
    taken = problems.take()
    assert [problem.reason for problem in taken] == [*map(str, range(MAX_PROBLEMS)), "once"]
    assert problems.take() == []
    problems.add("noisy", "again")
    assert problems.take() == [Problem("noisy", "again")]


def test_a_stream_remembers_a_limited_number_of_its_latest_messages() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        messages = []
        for number in range(MAX_PAST_MESSAGES + 1):
            exchange = Exchange(grid, question("a", number))
            messages.append(raw.read())
            raw.reply(messages[-1])
            exchange.end()
        raw.reply(messages[0])
        raw.reply(messages[1])
        raw.reply(messages[-1])
        reasons = [problem.reason for problem in problems_after(grid, 3)]
        assert reasons == [UNKNOWN_MESSAGE, ANSWERED, ANSWERED]


@pytest.mark.usefixtures("server_identity")
def test_a_second_reply_is_recognised_before_the_first_was_returned() -> None:
    class Context:
        async def write(self, _: object) -> None: ...

    async def answer_twice() -> list[Problem]:
        stream, message = Stream("a", "", Context()), question("a")
        exchange = asyncio.ensure_future(stream.exchange("1", message, serialise_content(message.content)))
        await asyncio.sleep(0.01)
        reply = message_to_proto(Message(RecordDict(), reply_to=message))
        reply.metadata.reply_to_message_id = "1"
        content = reply.SerializeToString()
        stream.deliver(content)
        stream.deliver(content)
        assert not (await exchange).has_error()
        return stream.problems.take()

    assert asyncio.run(answer_twice()) == [Problem("a", ANSWERED)]


# Sizes


def test_a_message_beyond_the_limit_is_a_problem_and_not_a_reply() -> None:
    with server(max_message_bytes=20_000) as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address)
        wait_for_hospitals(grid, 2)
        for size in (20_001, 39_000):
            exchange = Exchange(grid, question("a", 1), question("b", 2))
            raw.read()
            raw.send(bytes(size))
            replies = exchange.end()
            assert "more than 20000 bytes" in str(replies[0].error.reason)
            assert answer_of(replies[1]) == ("b", 2)
            (problem,) = grid.take_problems()
            assert problem.hospital == "a"
            assert "more than 20000 bytes" in problem.reason
        exchange = Exchange(grid, question("a", 1))
        raw.reply(raw.read())  # the stream goes on
        assert answer_of(exchange.end()[0]) == ("raw", 1)
    assert other.end() is None


@pytest.mark.usefixtures("server_identity")
def test_a_message_of_exactly_the_largest_size_is_read() -> None:
    reply = Message(RecordDict({"answer": ConfigRecord({"padding": bytes(20_000)})}), reply_to=question("a"))
    content = message_to_proto(reply).SerializeToString()
    with server(max_message_bytes=len(content)) as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        raw.send(content)
        raw.send(content + b"\x9a\x06\x01x")  # an unknown field: a message still, but a larger one
        first, second = problems_after(grid, 2)
        assert first.reason == UNKNOWN_MESSAGE
        assert f"more than {len(content)} bytes" in second.reason


def test_a_message_of_over_twice_the_limit_ends_its_stream_and_no_other() -> None:
    with server(max_message_bytes=20_000) as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address)
        wait_for_hospitals(grid, 2)
        exchange = Exchange(grid, question("a", 1), question("b", 2))
        raw.read()
        raw.send(bytes(10_000_000))
        replies = exchange.end()
        assert "more than 0.0381 MiB" in str(replies[0].error.reason)  # 40,000 bytes
        assert answer_of(replies[1]) == ("b", 2)
        assert raw.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert grid.take_problems() == []
        wait_until(lambda: grid.get_node_ids() == [node_id_of("b")])
        with RawHospital("a", address) as again:
            wait_for_hospitals(grid, 2)
            exchange = Exchange(grid, question("a", 1))
            again.reply(again.read())
            assert answer_of(exchange.end()[0]) == ("raw", 1)
    assert other.end() is None


def test_a_hospital_that_leaves_in_order_is_no_problem() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        exchange = Exchange(grid, question("a", 1))
        raw.read()
        raw.leave()
        assert exchange.end()[0].error.reason == "its connection was lost"
        wait_until(lambda: grid.get_node_ids() == [])
        with RawHospital("a", address) as idle:
            wait_for_hospitals(grid)
            idle.leave()
            wait_until(lambda: grid.get_node_ids() == [])
        assert grid.take_problems() == []


def test_an_accepted_hospital_learns_the_size_limit() -> None:
    with server(max_message_bytes=12_345) as (_, address), RawHospital("a", address) as raw:
        assert dict(raw.call.initial_metadata())[MAX_MESSAGE_KEY] == "12345"


@pytest.mark.slow
def test_memory_stays_bounded_when_twenty_hospitals_send_too_much_at_once(tmp_path: Path) -> None:
    """320 MiB in all, to a server that accepts 1 MiB per message."""
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "server.log"

    def peak(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) // 1024

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


# Records and values in a small message


def reply_with(content: RecordDict) -> bytes:
    return message_to_proto(Message(content, reply_to=question("a"))).SerializeToString()


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


@pytest.mark.usefixtures("server_identity")
@pytest.mark.parametrize(("content_of", "limit"), EXTENTS, ids=[content_of.__name__ for content_of, _ in EXTENTS])
def test_a_message_may_hold_as_much_as_the_limit_and_no_more(
    content_of: Callable[[int], RecordDict], limit: int
) -> None:
    assert decode_header(reply_with(content_of(limit))).content == content_of(limit)
    with pytest.raises(UndecodableError, match=TOO_MUCH):
        decode_header(reply_with(content_of(limit + 1)))


def test_a_message_that_holds_too_much_is_a_problem() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        exchange = Exchange(grid, question("a", 1))
        raw.read()
        raw.send(reply_with(metrics(MAX_ITEMS + 1)))
        assert TOO_MUCH in str(exchange.end()[0].error.reason)
        (problem,) = grid.take_problems()
        assert problem.hospital == "a"
        assert TOO_MUCH in problem.reason


@pytest.mark.usefixtures("server_identity")
def test_each_of_several_items_under_one_name_is_counted() -> None:
    """Flower would create all of them and use the last."""
    item = ProtoArrayRecord.Item(key="x")
    proto = message_to_proto(Message(RecordDict({"a": ArrayRecord()}), reply_to=question("a")))
    proto.content.items[0].array_record.items.extend([item] * (MAX_ITEMS + 1))
    with pytest.raises(UndecodableError, match=TOO_MUCH):
        decode_header(proto.SerializeToString())


# Strangers


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
SILENT = {
    "HANDSHAKE_SECONDS": [b"", PREFACE[:10]],
    "IDLE_SECONDS": [
        PREFACE,
        PREFACE + b"\0\0\x20\x01\0\0\0\0\x01\x82",  # half a frame of headers
        PREFACE + b"\0\0\x01\x01\0\0\0\0\x01\x82",  # headers without an end
    ],
}
"""What silent connections have sent, by the limit that ends them."""


@pytest.mark.parametrize("limit", SILENT)
def test_a_connection_that_never_makes_a_call_is_closed(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, limit, 0.5)
    with server() as (grid, address), ExitStack() as stack:
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
        host, port = address.split(":")
        strangers = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in SILENT[limit]
        ]
        for stranger, content in zip(strangers, SILENT[limit], strict=True):
            stranger.sendall(content)
        for stranger in strangers:
            while stranger.recv(4096):
                pass  # ends when the server closes, and fails if it has not closed within 10 s
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
    assert hospital.end() is None


def test_a_connection_may_make_a_hundred_calls_at_a_time() -> None:
    with server() as (_, address):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(PREFACE)
            settings = b""
            while b"\0\x03\0\0\0\x64" not in settings:  # HTTP/2's SETTINGS_MAX_CONCURRENT_STREAMS = 100
                settings += (content := stranger.recv(4096))
                assert content, "the server closed the connection"


def test_each_hospital_of_a_process_has_its_own_connection() -> None:
    with server() as (grid, address), Proxy(address) as proxy:
        for name in "ab":
            LightHospital(name, proxy.address, wait=1.0)
        wait_for_hospitals(grid, 2)
        assert proxy.connections == 2


def test_the_number_of_open_connections_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "max_connections", lambda: 3)
    with server() as (grid, address):
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
        host, port = address.split(":")
        sockets = [socket.create_connection((host, int(port)), timeout=10) for _ in range(4)]
        greetings = [connection.recv(9) for connection in sockets]  # the server's settings, or the end
        assert [bool(greeting) for greeting in greetings] == [True, True, False, False]
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
        for connection in sockets:
            connection.close()
        second = LightHospital("b", address)
        wait_for_hospitals(grid, 2)
    assert hospital.end() is None
    assert second.end() is None


def test_the_number_of_connected_hospitals_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "max_streams", lambda: 2)
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        first = [LightHospital(name, address) for name in "ab"]
        wait_for_hospitals(grid, 2)
        with RawHospital("c", address) as third:
            assert third.end() is grpc.StatusCode.UNAVAILABLE  # after which a hospital tries again
        (refusal,) = announcements[2:]
        assert refusal.startswith("rejected c: 2 hospitals")
    assert [hospital.end() for hospital in first] == [None, None]


def test_a_limited_number_of_refusals_is_announced_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(announcements_of_server.LIMITS, announcements_of_server.REJECTIONS, 3)
    announcements: list[str] = []
    with server(announcements) as (_, address):
        for name in ("a", "b", "a", "b", "c", "d", "e", "a"):
            with RawHospital(name, address, unfit="no") as raw:
                assert raw.end() is grpc.StatusCode.FAILED_PRECONDITION
        assert [line.split(":")[0] for line in announcements] == ["rejected a", "rejected b", "rejected c"]
    assert "2 more such lines" in announcements[-1]  # about d and e


def test_large_replies_of_several_hospitals_at_once_arrive_unchanged() -> None:
    def answer(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.content.config_records["answer"]["padding"] = bytes(900_000)
        return reply

    with server(max_message_bytes=1_000_000) as (grid, address):
        hospitals = [LightHospital(f"h{number}", address, answer) for number in range(8)]
        wait_for_hospitals(grid, 8)
        replies = grid.send_and_receive([question(f"h{number}", number) for number in range(8)], timeout=20)
        assert [answer_of(reply) for reply in replies] == [(f"h{number}", number) for number in range(8)]
        assert grid.take_problems() == []
    assert [hospital.end() for hospital in hospitals] == [None] * 8
