"""The egress ledger: one line for everything that a hospital sends, on disk before it is sent.

`egress-NAME.jsonl` stands in the folder of the hospital's CSV and only grows. Each line is a JSON object:

- `time` (UTC), `hospital`, `kind` (a message type; `join` for the metadata that begins a stream, `unfit` for that which
  says why a hospital may not join) and `round` (null where the question names none);
- `bytes` and `sha256` of the whole: of a reply exactly as it is handed to gRPC, of metadata as lines `key: value`;
- `records`: each array, metric, config value, metadata value or error that is in it, with `record`, `name`, `shape`,
  `dtype`, `bytes` and `sha256`. An array's bytes are those of its elements (`tobytes` in NumPy), numbers are 8 bytes
  each in little-endian order, text is UTF-8. Flower's own metadata of a reply, such as its node ids, is one record.

It holds no value. But a guess of a small count can be checked by its hash, so the ledger stays at the hospital.

A line says what was handed over, whether or not it arrived. What is on the wire beside it, of a connection's nature, is
not in it: addresses, the certificate in a TLS handshake, and HTTP/2's frames, pings and own headers, which name gRPC's
version and the system.
"""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Message

from federated_health.errors import LedgerError
from federated_health.files import append, open_to_append
from federated_health.messages.content import CONFIG, ROUND
from federated_health.messages.records import array_header

ERROR = "error"
"""Record of an error reply."""

OPENING = b'{"time":'
"""Beginning of every line."""

PAGE = 4096
"""Number of bytes read to tell whether a file is a ledger."""


@dataclass(frozen=True)
class Item:
    """Description of one value that is sent, without the value.

    Attributes:
        record: what holds it, such as arrays or metrics.
        dtype: NumPy's name; text, bytes or protobuf where there is none.
        bytes: of its content.
        sha256: of its content, in hex.
    """

    record: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str


class Ledger:
    """Appends to a hospital's ledger; opens it anew for every line, so that a file that was moved away is begun anew.

    A line is one write, so that two processes may share a file (with a blank line where one saw half of the other's).
    It is synchronised with the disk (0.2 to 3 ms of a round's 30): it outlasts kill -9 and, if the disk is honest,
    a power cut. A new file can be read by its owner only.

    Args:
        path: made with the first line.
        hospital: whose ledger it is.
    """

    def __init__(self, path: Path, hospital: str) -> None:
        self.path = path
        self._hospital = hospital
        self._is_checked = False

    @classmethod
    def beside(cls, data: Path, hospital: str) -> "Ledger":
        """The ledger in the folder of a hospital's CSV."""
        return cls(data.parent / f"egress-{hospital}.jsonl", hospital)

    def record_metadata(self, kind: str, metadata: Sequence[tuple[str, str]]) -> None:
        """Record the metadata that begins a stream.

        Raises:
            LedgerError: the line cannot be written, so nothing may leave.
        """
        content = "\n".join(f"{key}: {value}" for key, value in metadata).encode()
        self._append(kind, None, content, [_item_of("metadata", key, value) for key, value in metadata])

    def record_reply(self, question: Message, reply: Message, envelope: bytes, content: bytes) -> None:
        """Record a reply.

        Args:
            envelope: Flower's metadata of the reply, as it stands in the content.
            content: the whole, as gRPC gets it.

        Raises:
            LedgerError: the line cannot be written, so nothing may leave.
        """
        items = [*describe(reply), _item("envelope", "metadata", (), "protobuf", envelope)]
        self._append(reply.metadata.message_type, _round_of(question), content, items)

    def _append(self, kind: str, round_number: int | None, content: bytes, items: Sequence[Item]) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "hospital": self._hospital,
            "kind": kind,
            "round": round_number,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "records": [vars(item) for item in items],
        }
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            with open_to_append(self.path) as file:
                self._check(file)
                append(file, b"\n" * _is_torn(file) + line)
        except OSError as error:
            raise self._refusal(error.strerror) from None

    def _check(self, file: FileIO) -> None:
        """Refuse, once, to add to a file that is something else; raises LedgerError."""
        if not self._is_checked:
            file.seek(0)
            first, *_ = file.read(PAGE).lstrip(b"\0\n").splitlines() or [b""]
            if not begins_line(first):
                raise LedgerError(f"{self.path}: is not an egress ledger, and is not added to: move it elsewhere")
            self._is_checked = True

    def _refusal(self, reason: str | None) -> LedgerError:
        return LedgerError(f"{self.path}: cannot be written to ({reason}); what cannot be recorded does not leave")


def begins_line(content: bytes) -> bool:
    """Whether a ledger's line begins so, or was cut off so: then it may be shorter, and have zeros at its end."""
    content = content.rstrip(b"\0")
    return content[: len(OPENING)] == OPENING[: len(content)]


def describe(message: Message) -> list[Item]:
    """Every array, metric and config value of a message, or its error."""
    if message.has_error():
        error = {"code": message.error.code, "reason": message.error.reason or ""}
        return [_item_of(ERROR, name, value) for name, value in error.items()]
    return [_item_of(key, name, value) for key, record in message.content.items() for name, value in record.items()]


def _round_of(question: Message) -> int | None:
    config = question.content.config_records.get(CONFIG) if question.has_content() else None
    number = config.get(ROUND) if config else None
    return number if type(number) is int else None


def _is_torn(file: FileIO) -> bool:
    """Whether the last line has no end, as after a power cut or on a full disk."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _item(record: str, name: str, shape: tuple[int, ...], dtype: str, content: bytes | memoryview) -> Item:
    return Item(record, name, shape, dtype, len(content), hashlib.sha256(content).hexdigest())


def elements_of(array: Array) -> memoryview | None:
    """Bytes of a float32 array's elements, if it has exactly the format that `weights_to_record` writes."""
    header = array_header(tuple(array.shape))
    return memoryview(array.data)[len(header) :] if array.data.startswith(header) else None


def _item_of_array(record: str, name: str, array: Array) -> Item:
    """Shape and dtype as NumPy's own header in the bytes says them; as Flower says them where there is none."""
    if (elements := elements_of(array)) is not None:
        return _item(record, name, tuple(array.shape), "float32", elements)
    buffer = BytesIO(array.data)
    try:
        np.lib.format.read_magic(buffer)
        shape, _, dtype = np.lib.format.read_array_header_1_0(buffer)
    except ValueError:
        return _item(record, name, tuple(array.shape), array.dtype, array.data)
    return _item(record, name, shape, dtype.name, memoryview(array.data)[buffer.tell() :])


def _item_of(record: str, name: str, value: Any) -> Item:
    """An array, a number, text, bytes, or a list of one of the latter; several texts stand on lines of their own."""
    if isinstance(value, Array):
        return _item_of_array(record, name, value)
    if type(value) is float:
        return _item(record, name, (), "float64", struct.pack("<d", value))
    if type(value) is int and -(2**63) <= value < 2**63:
        return _item(record, name, (), "int64", struct.pack("<q", value))
    values = value if isinstance(value, list) else [value]
    shape = (len(value),) if isinstance(value, list) else ()
    if values and all(isinstance(one, str) for one in values):
        return _item(record, name, shape, "text", "\n".join(values).encode())
    if values and all(isinstance(one, bytes) for one in values):
        return _item(record, name, shape, "bytes", b"\n".join(values))
    array = np.array(values)
    return _item(record, name, shape, array.dtype.name, array.astype(array.dtype.newbyteorder("<")).tobytes())
