"""A server survives any bytes that a hospital sends as a reply; `benchmarks/decoder.py` tries many more."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from malformed_messages import MAX_BYTES, READERS, Example, corrupt, examples, original_protos, receive, wrap_bytes

PROTOS = original_protos()
OUTCOMES = {"accepted", "error reply", "malformed", "not a message", "too large"}
SIZE = MAX_BYTES - 1000
MAX_MEMORY = 8 * MAX_BYTES
"""Limit on the memory that Python itself allocates."""


@pytest.mark.parametrize("kind", READERS)
def test_unchanged_replies_are_accepted(kind: str) -> None:
    assert receive(wrap_bytes(PROTOS[kind].SerializeToString()), kind) == "accepted"
    assert receive(wrap_bytes(PROTOS["error"].SerializeToString()), kind) == "error reply"


@pytest.mark.parametrize("kind", READERS)
def test_a_reply_to_another_kind_of_message_is_malformed(kind: str) -> None:
    content = wrap_bytes(PROTOS[kind].SerializeToString())
    # A round's evaluation holds all that the final one must.
    alike = {("evaluation", "final")}
    for other in READERS:
        if other != kind and (kind, other) not in alike:
            assert receive(content, other) == "malformed"


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(examples())
def test_a_malformed_reply_has_one_of_the_known_outcomes(example: Example) -> None:
    kind, operations, read_as = example
    assert receive(corrupt(PROTOS[kind], operations), read_as) in OUTCOMES


def varint(number: int) -> bytes:
    low = number & 127
    return bytes([low | 128]) + varint(number >> 7) if number > 127 else bytes([low])


def repeated(field: bytes, *path: int) -> bytes:
    """A valid message followed by very many copies of one field, nested in fields of these numbers."""
    content = field * (SIZE // len(field))
    for number in reversed(path):
        content = varint(number << 3 | 2) + varint(len(content)) + content
    return wrap_bytes(PROTOS["error"].SerializeToString() + content)


CLAIMS = {
    "records": repeated(b"\x0a\x00", 2),
    "arrays": repeated(b"\x0a\x00", 2, 1, 2),
    "metrics": repeated(b"\x0a\x00", 2, 1, 3),
    "lists": repeated(b"\x0a\x04\x12\x02\xa2\x01\x00", 2, 1, 3),
    "dimensions": repeated(b"\x01", 2, 1, 2, 1, 2, 2),
    "integers": repeated(b"\x01", 2, 1, 3, 1, 2, 22, 1),
    "strings": repeated(b"\x0a\x00", 2, 1, 4, 1, 2, 25),
    "garbage": b"\xff" * SIZE,
    "groups": wrap_bytes(b"\x0b" * SIZE),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_message_that_would_expand_in_memory_is_refused_before(claim: str) -> None:
    tracemalloc.start()
    try:
        assert receive(CLAIMS[claim], "update") == "not a message"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_MEMORY


def test_two_records_under_one_name_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Flower would write the name into its log."""
    proto = original_protos()["update"]
    proto.content.items.add(key="arrays").config_record.SetInParent()

    assert receive(wrap_bytes(proto.SerializeToString()), "update") == "not a message"
    assert caplog.records == []
