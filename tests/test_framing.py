"""Messages as parts of a stream: what is sent, what is put together again, and large weights over real streams."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from federated_health.messages.records import NumpyArray, elements_of, weights_to_record
from federated_health.names import node_id_of
from federated_health.transport.framing import (
    CHUNK_BYTES,
    MAX_INLINE_BYTES,
    Receiver,
    Serialised,
    UndecodableError,
    serialise_content,
    serialise_message,
    serialise_reply,
)
from tests.support.streams import (
    LightHospital,
    Proxy,
    RawHospital,
    answer_of,
    await_reply,
    echo,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)

INLINE = MAX_INLINE_BYTES // 4
CHUNK = CHUNK_BYTES // 4
"""Numbers of float32 elements."""

Weights = dict[str, npt.NDArray[np.float32]]

pytestmark = pytest.mark.usefixtures("server_identity")


def weights_of(*sizes: int) -> Weights:
    generator = np.random.default_rng(5)
    return {f"w{place}": generator.standard_normal(size).astype(np.float32) for place, size in enumerate(sizes)}


def message_with(weights: Weights) -> Message:
    content = RecordDict({"before": ConfigRecord({"x": 1})})
    content["arrays"] = weights_to_record(weights)
    content["metrics"] = MetricRecord({"y": 2.0})
    return Message(content, node_id_of("a"), "train")


def received(parts: Iterator[bytes], limit: int = 2**30) -> Message:
    """The message that these parts make, the last of which completes it."""
    receiver = Receiver(limit)
    *unfinished, message = [receiver.add(part) for part in parts]
    assert unfinished == [None] * len(unfinished)
    assert message is not None
    return message


def assert_holds(message: Message, weights: Weights) -> None:
    record = message.content.array_records["arrays"]
    assert list(record) == list(weights)
    for name, array in weights.items():
        assert isinstance(record[name], NumpyArray)
        np.testing.assert_array_equal(record[name].numpy(), array)


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], []),
        ([1, 3], []),
        ([INLINE], []),
        ([INLINE + 1], [4 * INLINE + 4]),
        ([INLINE, CHUNK, 5], [4 * CHUNK]),
        ([2 * CHUNK + 1, 7, INLINE + 2], [4 * CHUNK, 4 * CHUNK, 4, 4 * INLINE + 8]),
    ],
)
def test_large_arrays_follow_the_header_in_chunks_and_small_ones_are_in_it(sizes: list[int], chunks: list[int]) -> None:
    weights = weights_of(*sizes)
    _, serialised = serialise_reply(message_with(weights))
    header, *following = serialised.parts()
    assert [len(chunk) for chunk in following] == chunks
    assert serialised.size == len(header) + sum(chunks)
    message = received(serialised.parts())
    assert_holds(message, weights)
    assert list(message.content) == ["before", "arrays", "metrics"]
    assert message.content.metric_records["metrics"]["y"] == 2.0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3, 4), (300, 200)])
def test_every_shape_arrives_unchanged(shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(1).standard_normal(shape), np.float32)
    message = received(serialise_reply(message_with({"w": array}))[1].parts())
    copy = elements_of(message.content.array_records["arrays"]["w"])
    assert copy.shape == shape
    assert copy.dtype == np.float32
    np.testing.assert_array_equal(copy, array)


def test_elements_are_sent_as_they_are_in_memory() -> None:
    weights = weights_of(CHUNK + 3)
    _, *chunks = serialise_reply(message_with(weights))[1].parts()
    assert b"".join(chunks) == weights["w0"].tobytes()


def test_messages_to_several_hospitals_share_one_content() -> None:
    weights = weights_of(3, 2 * INLINE)
    message = message_with(weights)
    content = serialise_content(message.content)
    sent = [serialise_message(message, key, content) for key in ("first", "second")]
    assert all(one.arrays is content.arrays for one in sent)
    assert np.shares_memory(sent[0].arrays[0].elements, weights["w1"])
    for one, key in zip(sent, ("first", "second"), strict=True):
        arrived = received(one.parts())
        assert arrived.metadata.message_id == key
        assert_holds(arrived, weights)


def test_arrays_of_other_kinds_stay_in_the_header_as_flower_writes_them() -> None:
    arrays = ArrayRecord({"a": Array(np.arange(2 * INLINE)), "b": Array("float16", (3,), "torch.Tensor", b"123456")})
    message = Message(RecordDict({"arrays": arrays}), node_id_of("a"), "train")
    (header,) = serialise_reply(message)[1].parts()
    assert message_from_proto(ProtoMessage.FromString(header)).content == message.content
    assert received(iter([header])).content == message.content


def test_a_message_of_exactly_the_limit_is_received_and_a_larger_one_is_not() -> None:
    weights = weights_of(3, 2 * INLINE, 3 * INLINE)
    _, serialised = serialise_reply(message_with(weights))
    assert_holds(received(serialised.parts(), serialised.size), weights)
    receiver = Receiver(serialised.size - 1)
    with pytest.raises(UndecodableError, match=f"more than {serialised.size - 1} bytes"):
        receiver.add(serialised.header)


# Over streams


def add_one(message: Message, context: Context) -> Message:
    """Answer with the weights of the message, if there are any, plus one."""
    if "arrays" not in message.content:
        return echo(message, context)
    arrays = message.content.array_records["arrays"]
    weights = {name: array.numpy() + np.float32(1) for name, array in arrays.items()}
    return Message(RecordDict({"arrays": weights_to_record(weights)}), reply_to=message)


def train_message(name: str, weights: Weights) -> Message:
    content = RecordDict({"arrays": weights_to_record(weights)})
    return Message(content, node_id_of(name), "query")


def test_large_weights_travel_to_several_hospitals_and_back() -> None:
    weights = weights_of(2 * CHUNK + 1, 7, INLINE + 2)
    with server() as (grid, address):
        hospitals = [LightHospital(name, address, add_one) for name in "abc"]
        wait_for_hospitals(grid, 3)
        for _ in range(3):
            replies = grid.send_and_receive([train_message(name, weights) for name in "abc"], timeout=20)
            for reply in replies:
                assert_holds(reply, {name: array + np.float32(1) for name, array in weights.items()})
        assert grid.take_problems() == []
    assert [hospital.end() for hospital in hospitals] == [None] * 3


def parts_of(message: Message, weights: Weights) -> list[bytes]:
    """The parts of a reply with these weights."""
    reply = Message(RecordDict({"arrays": weights_to_record(weights)}), reply_to=message)
    return list(serialise_reply(reply)[1].parts())


def send(raw: RawHospital, parts: list[bytes]) -> None:
    for part in parts:
        raw.send(part)


def test_a_hospital_that_stops_in_the_middle_of_its_weights_delays_no_other() -> None:
    weights = weights_of(2 * CHUNK)
    with server() as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address, add_one)
        wait_for_hospitals(grid, 2)
        stalled, answered = grid.push_messages([train_message("a", weights), train_message("b", weights)])
        parts = parts_of(raw.read(), weights)
        send(raw, parts[:-1])
        began = time.monotonic()
        assert not await_reply(grid, answered).has_error()
        assert time.monotonic() - began < 5
        send(raw, parts[-1:])
        assert_holds(await_reply(grid, stalled), weights)
    assert other.end() is None


def test_a_chunk_that_does_not_fit_ends_the_wait_and_the_stream_continues() -> None:
    weights = weights_of(CHUNK)
    with server() as (grid, address), RawHospital("a", address) as raw:
        other = LightHospital("b", address, add_one)
        wait_for_hospitals(grid, 2)
        keys = grid.push_messages([train_message("a", weights), train_message("b", weights)])
        header, *_ = parts_of(raw.read(), weights)
        send(raw, [header, bytes(4 * CHUNK + 1)])
        assert "chunk" in str(await_reply(grid, keys[0]).error.reason)
        assert not await_reply(grid, keys[1]).has_error()
        (problem,) = grid.take_problems()
        assert (problem.hospital, "chunk" in problem.reason) == ("a", True)
        (key,) = grid.push_messages([train_message("a", weights)])
        send(raw, parts_of(raw.read(), weights))
        assert_holds(await_reply(grid, key), weights)
    assert other.end() is None


def test_weights_that_declare_more_than_the_limit_are_a_problem() -> None:
    weights = weights_of(CHUNK)
    with server(max_message_bytes=4 * CHUNK) as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        (key,) = grid.push_messages([question("a", 1)])
        raw.send(parts_of(raw.read(), weights)[0])
        assert f"more than {4 * CHUNK} bytes" in str(await_reply(grid, key).error.reason)
        (problem,) = grid.take_problems()
        assert f"more than {4 * CHUNK} bytes" in problem.reason


def test_a_hospital_does_not_send_weights_beyond_the_limit() -> None:
    weights = weights_of(CHUNK)
    with server(max_message_bytes=4 * CHUNK) as (grid, address):
        hospital = LightHospital("a", address, add_one)
        wait_for_hospitals(grid)
        (reply,) = grid.send_and_receive([train_message("a", weights)], timeout=10)
        assert f"too large: the server accepts {4 * CHUNK} bytes" in str(reply.error.reason)
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)
    assert hospital.end() is None


def test_a_connection_that_is_lost_within_weights_costs_that_reply_only() -> None:
    weights = weights_of(4 * CHUNK)
    with server() as (grid, address):
        with RawHospital("a", address) as raw:
            wait_for_hospitals(grid)
            (key,) = grid.push_messages([train_message("a", weights)])
            send(raw, parts_of(raw.read(), weights)[:-1])
            time.sleep(0.1)
            raw.call.cancel()
            assert "its connection was lost" in str(await_reply(grid, key).error.reason)
        wait_until(lambda: not grid.get_node_ids())
        again = LightHospital("a", address, add_one)
        wait_for_hospitals(grid)
        (reply,) = grid.send_and_receive([train_message("a", weights)], timeout=10)
        assert_holds(reply, {name: array + np.float32(1) for name, array in weights.items()})
        assert grid.take_problems() == []
    assert again.end() is None


def test_a_hospital_reconnects_after_a_cut_within_the_server_s_weights() -> None:
    weights = weights_of(16 * CHUNK)
    with server() as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, add_one, wait=30.0)
        wait_for_hospitals(grid)
        proxy.stall()
        (key,) = grid.push_messages([train_message("a", weights)])
        time.sleep(0.1)  # the first parts wait in the network
        proxy.cut(tell_server=False)
        proxy.flow()
        assert await_reply(grid, key).has_error()
        wait_for_hospitals(grid)
        (reply,) = grid.send_and_receive([train_message("a", weights)], timeout=10)
        assert_holds(reply, {name: array + np.float32(1) for name, array in weights.items()})
        assert hospital.error is None


def test_weights_that_time_out_while_they_are_written_do_not_damage_the_next() -> None:
    timed_out = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if "question" in message.content:
            timed_out.wait(10)  # meanwhile the hospital reads nothing
        return add_one(message, context)

    weights = weights_of(16 * CHUNK)
    with server() as (grid, address):
        LightHospital("a", address, answer)
        wait_for_hospitals(grid)
        grid.push_messages([question("a", 1)])
        assert grid.send_and_receive([train_message("a", weights)], timeout=0.2)[0].has_error()
        (key,) = grid.push_messages([train_message("a", weights_of(3))])
        timed_out.set()
        assert_holds(await_reply(grid, key), {name: array + np.float32(1) for name, array in weights_of(3).items()})


def test_a_message_without_arrays_is_one_part() -> None:
    serialised = serialise_content(RecordDict({"a": ConfigRecord({"x": bytes(2 * CHUNK_BYTES)})}))
    assert serialised == Serialised(serialised.header)
    assert list(serialised.parts()) == [serialised.header]
