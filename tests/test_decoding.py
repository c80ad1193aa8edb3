"""A server survives any bytes that a hospital sends as a reply; `benchmarks/decoder.py` tries many more."""

import tracemalloc

import pytest
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from hypothesis import HealthCheck, given, settings
from malformed_messages import MAX_BYTES, READERS, Example, corrupt, examples, original_messages, receive

from federated_health.transport.framing import Receiver, UndecodableError

ORIGINALS = original_messages()
OUTCOMES = {"accepted", "error reply", "malformed", "not a message", "too large", "wrong chunk", "incomplete"}
SIZE = MAX_BYTES - 1000
MAX_MEMORY = 8 * MAX_BYTES
"""Limit on the memory that Python itself allocates."""


@pytest.mark.parametrize("kind", READERS)
def test_unchanged_replies_are_accepted(kind: str) -> None:
    assert receive(corrupt(ORIGINALS[kind], []), kind) == "accepted"
    assert receive(corrupt(ORIGINALS["error"], []), kind) == "error reply"


@pytest.mark.parametrize("kind", READERS)
def test_a_reply_to_another_kind_of_message_is_malformed(kind: str) -> None:
    # A round's evaluation holds all that the final one must; two kinds are the same update.
    alike = {("evaluation", "final"), ("update", "numpy_update"), ("numpy_update", "update")}
    for other in READERS:
        if other != kind and (kind, other) not in alike:
            assert receive(corrupt(ORIGINALS[kind], []), other) == "malformed"


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(examples())
def test_a_malformed_reply_has_one_of_the_known_outcomes(example: Example) -> None:
    kind, operations, read_as = example
    assert receive(corrupt(ORIGINALS[kind], operations), read_as) in OUTCOMES


def varint(number: int) -> bytes:
    low = number & 127
    return bytes([low | 128]) + varint(number >> 7) if number > 127 else bytes([low])


def repeated(field: bytes, *path: int) -> bytes:
    """A valid message followed by very many copies of one field, nested in fields of these numbers."""
    content = field * (SIZE // len(field))
    for number in reversed(path):
        content = varint(number << 3 | 2) + varint(len(content)) + content
    return ORIGINALS["error"][0].SerializeToString() + content


CLAIMS = {
    "records": repeated(b"\x0a\x00", 2),
    "arrays": repeated(b"\x0a\x00", 2, 1, 2),
    "metrics": repeated(b"\x0a\x00", 2, 1, 3),
    "lists": repeated(b"\x0a\x04\x12\x02\xa2\x01\x00", 2, 1, 3),
    "dimensions": repeated(b"\x01", 2, 1, 2, 1, 2, 2),
    "integers": repeated(b"\x01", 2, 1, 3, 1, 2, 22, 1),
    "strings": repeated(b"\x0a\x00", 2, 1, 4, 1, 2, 25),
    "garbage": b"\xff" * SIZE,
    "groups": b"\x0b" * SIZE,
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_message_that_would_expand_in_memory_is_refused_before(claim: str) -> None:
    tracemalloc.start()
    try:
        assert receive([CLAIMS[claim]], "update") == "not a message"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


def test_two_records_under_one_name_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Flower would write the name into its log."""
    proto, _ = original_messages()["update"]
    proto.content.items.add(key="arrays").config_record.SetInParent()

    assert receive([proto.SerializeToString()], "update") == "not a message"
    assert caplog.records == []


def header_of(*arrays: tuple[tuple[int, ...], str, bytes]) -> bytes:
    """Header of an update with arrays of these shapes, dtypes and elements."""
    proto, _ = original_messages()["update"]
    items = proto.content.items[0].array_record.items
    del items[:]
    for number, (shape, dtype, data) in enumerate(arrays):
        value = ProtoArray(shape=shape, dtype=dtype, stype="raw", data=data)
        items.add(key=str(number)).value.CopyFrom(value)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    "array",
    [
        ((2,), "float64", b""),
        ((2,), "float32", bytes(7)),
        ((2,), "float32", bytes(12)),
        ((-2, -1), "float32", b""),
        ((0, 3), "float32", b""),
        ((0,), "float32", b"1234"),
        ((2**31 - 1,) * 64, "float32", b"1234"),
    ],
)
def test_an_array_that_cannot_be_is_no_message(array: tuple[tuple[int, ...], str, bytes]) -> None:
    assert receive([header_of(array)], "update") == "not a message"


@pytest.mark.parametrize(
    "shapes", [[(2**18,)], [(2**17,), (2**17,)], [(2**31 - 1,) * 64], [(1,)] * 900 + [(2**18,)]], ids=len
)
def test_arrays_that_declare_too_much_are_refused_before_there_is_room_for_them(
    shapes: list[tuple[int, ...]],
) -> None:
    header = header_of(*((shape, "float32", b"") for shape in shapes))
    tracemalloc.start()  # NumPy reports to it
    try:
        assert receive([header], "update") == "too large"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


HEADER = header_of(((3,), "float32", b""), ((5,), "float32", b""))  # 12 bytes follow, then 20


@pytest.mark.parametrize(
    ("sizes", "outcome"),
    [
        ([12, 20], "malformed"),  # complete, and not the shapes that are expected
        ([1, 11, 19, 1], "malformed"),
        ([12, 19], "incomplete"),
        ([13], "wrong chunk"),
        ([12, 21], "wrong chunk"),
        ([32], "wrong chunk"),
        ([12, 0, 20], "malformed"),  # a part without bytes says nothing
        ([], "incomplete"),
    ],
)
def test_chunks_fill_the_arrays_one_after_the_other(sizes: list[int], outcome: str) -> None:
    assert receive([HEADER, *map(bytes, sizes)], "update") == outcome


def test_after_a_wrong_chunk_the_next_part_is_read_as_a_header() -> None:
    receiver = Receiver(MAX_BYTES)
    header, *chunks = corrupt(ORIGINALS["large_update"], [])
    for _ in range(2):
        assert receiver.add(HEADER) is None
        with pytest.raises(UndecodableError):
            receiver.add(bytes(13))
        assert [receiver.add(part) is None for part in (header, *chunks)] == [True] * len(chunks) + [False]
