"""Messages as parts of a stream: a header, then the elements of large arrays in chunks.

A part is what gRPC takes at once. The header is Flower's Message in protobuf, in which arrays of weights have the
serialisation type RAW: float32 elements, little-endian, in C order. The elements of an array of more than
MAX_INLINE_BYTES are not in the header. They follow in chunks, array by array; its shape says how many bytes they are.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.common.serde import message_from_proto, recorddict_to_proto
from flwr.common.serde_utils import error_to_proto, metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

from federated_health.messages.records import NumpyArray

RAW = "raw"
NOT_A_MESSAGE = "sent bytes that are not a message"

CHUNK_BYTES = 2**19
"""Largest number of bytes in a chunk that is sent; a chunk that is received may have any size."""

MAX_INLINE_BYTES = 2**16
"""Largest size of an array whose elements are in the header."""

MAX_RECORDS = 16
"""Largest number of records in a message; this project's messages have at most three."""

MAX_ITEMS = 1_000
"""Largest number of named arrays and values in all records of a message."""

MAX_VALUES = 100_000
"""Largest number of values in all lists of a message, such as one per column. Arrays are not counted."""

MAX_DIMENSIONS = 64
"""Largest number of dimensions of an array: NumPy's own limit."""


@dataclass(frozen=True)
class Serialised:
    """A message, or the content of one, as it is sent.

    Attributes:
        header: its first part.
        arrays: the arrays whose elements follow, in order.
    """

    header: bytes
    arrays: tuple[NumpyArray, ...] = ()

    @property
    def size(self) -> int:
        """Size of all parts in bytes."""
        return len(self.header) + sum(len(array.content) for array in self.arrays)

    def parts(self) -> Iterator[bytes]:
        """The header and the chunks, which are made one at a time."""
        yield self.header
        for array in self.arrays:
            for start in range(0, len(array.content), CHUNK_BYTES):
                yield bytes(array.content[start : start + CHUNK_BYTES])


def serialise_content(content: RecordDict) -> Serialised:
    """Serialise the content of a message."""
    large: list[NumpyArray] = []

    def headers_of(record: ArrayRecord) -> ArrayRecord:
        headers = ArrayRecord()
        for name, array in record.items():
            headers[name] = array
            if isinstance(array, NumpyArray) and array.elements.size:
                is_large = len(array.content) > MAX_INLINE_BYTES
                large.extend([array] * is_large)
                headers[name] = Array(array.dtype, array.shape, RAW, b"" if is_large else bytes(array.content))
        return headers

    records = {
        key: headers_of(record) if isinstance(record, ArrayRecord) else record for key, record in content.items()
    }
    header = ProtoMessage(content=recorddict_to_proto(RecordDict(records))).SerializeToString()
    return Serialised(header, tuple(large))


def serialise_message(message: Message, message_id: str, content: Serialised) -> Serialised:
    """Serialise a message whose content is serialised already: messages to several hospitals share one content."""
    metadata = metadata_to_proto(message.metadata)
    metadata.message_id = message_id
    # In protobuf, concatenated fields are the serialised message that has them all.
    return replace(content, header=ProtoMessage(metadata=metadata).SerializeToString() + content.header)


def serialise_reply(reply: Message) -> tuple[bytes, Serialised]:
    """Serialise a reply; returns also its metadata alone, as bytes."""
    if reply.has_error():
        content = Serialised(ProtoMessage(error=error_to_proto(reply.error)).SerializeToString())
    else:
        content = serialise_content(reply.content)
    serialised = serialise_message(reply, reply.metadata.message_id, content)
    return metadata_to_proto(reply.metadata).SerializeToString(), serialised


class UndecodableError(ValueError):
    """Bytes are not a message, or hold too much; the text says which, and quotes no value."""


class Receiver:
    """Puts the messages of a stream together from its parts.

    Args:
        limit: size limit of a message in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._message: Message | None = None  # whose arrays are not complete
        self._missing: deque[npt.NDArray[np.uint8]] = deque()

    def add(self, part: bytes) -> Message | None:
        """Take the next part; returns the message that it completes. A part without bytes says nothing.

        Raises:
            UndecodableError: the part is no header of a message within the limits, or no chunk that fits the array
                that follows. The next part is read as a header.
        """
        if not part:
            return None
        message, self._message = self._message, None
        if message is None:
            message = self._begin(part)
        else:
            self._fill(part)
        if self._missing:
            self._message, message = message, None
        return message

    def _begin(self, header: bytes) -> Message:
        """The message of a header, with room for the elements that follow it."""
        self._missing.clear()
        size = len(header)
        self._check(size)
        message = decode_header(header)
        records = message.content.values() if message.has_content() else ()
        for arrays in [record for record in records if isinstance(record, ArrayRecord)]:
            for name, array in arrays.items():
                if array.stype == RAW:
                    following = _bytes_after(array)
                    size += following
                    self._check(size)
                    elements = np.ndarray(array.shape, "<f4", None if following else array.data)
                    if following:
                        self._missing.append(elements.reshape(-1).view(np.uint8))
                    arrays[name] = NumpyArray(elements)
        return message

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise UndecodableError(f"sent a message of more than {self._limit} bytes")

    def _fill(self, chunk: bytes) -> None:
        """Copy a chunk to its place: an array is in memory once."""
        missing = self._missing.popleft()
        if len(chunk) > len(missing):
            raise UndecodableError("sent a chunk longer than the rest of its array")
        missing[: len(chunk)] = np.frombuffer(chunk, np.uint8)
        if len(chunk) < len(missing):
            self._missing.appendleft(missing[len(chunk) :])


def decode_header(header: bytes) -> Message:
    """The message in a header. Arrays stay bytes until `weights_from_record` validates them.

    Raises:
        UndecodableError: the bytes are not a message, or the message has too many records, items, values or dimensions.
    """
    try:
        proto = ProtoMessage.FromString(header)
        # One byte of a list can become many in Python, so a limit on the size in bytes is not enough.
        holds_too_much = _holds_too_much(proto)
        if not holds_too_much:
            # Of two records with one name, Flower would use the last, and write the name to its log.
            if len({record.key for record in proto.content.items}) < len(proto.content.items):
                raise ValueError
            return message_from_proto(proto)
    except Exception:  # protobuf and Flower raise many types
        raise UndecodableError(NOT_A_MESSAGE) from None
    raise UndecodableError("sent a message that holds too many records or values")


def _holds_too_much(proto: ProtoMessage) -> bool:
    if len(proto.content.items) > MAX_RECORDS:
        return True
    kinds = [(record, record.WhichOneof("value")) for record in proto.content.items]
    records = [(kind, getattr(record, kind).items) for record, kind in kinds if kind]
    if sum(len(items) for _, items in records) > MAX_ITEMS:
        return True
    values = 0
    for kind, items in records:
        for item in items:
            if kind == "array_record":
                if len(item.value.shape) > MAX_DIMENSIONS:
                    return True
            elif (field := item.value.WhichOneof("value") or "").endswith("_list"):
                values += len(getattr(item.value, field).vals)
    return values > MAX_VALUES


def _bytes_after(array: Array) -> int:
    """Number of bytes of a RAW array that follow the header; UndecodableError if there can be no such array."""
    size = 4 * math.prod(array.shape)
    is_possible = array.dtype == "float32" and all(length > 0 for length in array.shape)
    if not is_possible or len(array.data) not in (0, size):
        raise UndecodableError(NOT_A_MESSAGE)
    return size - len(array.data)
