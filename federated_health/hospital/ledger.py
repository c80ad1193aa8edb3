"""The egress ledger: one line for everything that a hospital sends, on disk before it is sent.

`egress-NAME.jsonl` is in the folder of the hospital's CSV, or of --ledger, and only grows. Each line is a JSON object:

- `time` (UTC), `hospital`, `kind` (a message type; `join` for the metadata that begins a stream, `unfit` for the
  metadata that says why a hospital may not join, `terms` for run terms that it accepted) and `round` (null where the
  server's message names none);
- `bytes` and `sha256` of the whole: a reply exactly as gRPC gets it, metadata as lines `key: value`. Where a reply is a
  header and arrays whose bytes follow it (see `transport.framing`), `bytes` counts both, and `sha256` is that of the
  header and then the SHA-256 (32 bytes) of each of these arrays, so that an array is hashed once;
- `records`: each array, metric, config value, metadata value or error in it, with `record`, `name`, `shape`,
  `dtype`, `bytes` and `sha256`. An array's bytes are those of its elements (`tobytes` in NumPy), numbers are 8 bytes
  each in little-endian order, text is UTF-8. Flower's own metadata of a reply, such as its node ids, is one record;
- `disclosure`, only of a reply from which releases were suppressed: name of each (see `messages.releases`) -> reason.

A line of kind `terms` says what a hospital accepted before it joined. Nothing is sent then: `bytes` is 0, `records` are
empty, and `sha256` is that of `terms`, the run terms as an object. `accepted` names what accepted them (see
`messages.accepted_terms`).

The ledger holds no values of patients. But a guess of a small count can be checked by its hash, so it stays at the
hospital.

A line says what gRPC got, whether or not it arrived. It does not list what every connection shows: addresses,
the certificate in a TLS handshake and the challenge to the server's, parts without content, and HTTP/2's frames, pings
and own headers, which name gRPC's version and the system.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, Message

from federated_health.errors import LedgerError
from federated_health.file_access import append, open_to_append
from federated_health.messages.content import CONFIG, DISCLOSURE, ROUND
from federated_health.messages.records import NumpyArray

LEDGER = "ledger"
"""Key of a node's config: the folder of the egress ledger and the privacy account, if it is not the CSV's."""

ERROR, TERMS = "error", "terms"
"""Record of an error reply, and kind of a line with accepted run terms."""

OPENING = b'{"time":'
"""Beginning of every line."""

PAGE = 4096
"""Number of bytes read to tell whether a file is a ledger."""

Item = dict[str, Any]
"""Description of one value that is sent: an entry of `records`."""


class Ledger:
    """Appends to a hospital's ledger; opens it anew for every line, so that a file that was moved away is begun anew.

    A line is one write, so that two processes may share a file (with a blank line where one saw half of the other's).
    It is synchronised with the disk (0.2 to 3 ms): it survives kill -9 and, if the disk flushes its cache, a power cut.
    Only its owner can read a new file.
    """

    def __init__(self, path: Path, hospital: str) -> None:
        self.path = path
        self._hospital = hospital

    @classmethod
    def beside(cls, data: Path, hospital: str, folder: Path | None = None) -> "Ledger":
        """The ledger in the folder of a hospital's CSV, or in another one."""
        return cls((folder or data.parent) / f"egress-{hospital}.jsonl", hospital)

    @property
    def size(self) -> int:
        """Size in bytes; 0 if there is no file."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def record_metadata(self, kind: str, metadata: Sequence[tuple[str, str]]) -> None:
        """Record the metadata that begins a stream; raises LedgerError if it cannot, so that nothing may leave."""
        content = "\n".join(f"{key}: {value}" for key, value in metadata).encode()
        self._append(kind, None, content, [_item_of("metadata", key, value) for key, value in metadata], len(content))

    def record_terms(self, text: str, accepted: str) -> None:
        """Record run terms, and what accepted them; raises LedgerError if it cannot, so that nothing may leave."""
        self._append(TERMS, None, text.encode(), [], 0, {"terms": json.loads(text), "accepted": accepted})

    def record_reply(
        self, message: Message, reply: Message, envelope: bytes, header: bytes, arrays: Sequence[NumpyArray] = ()
    ) -> None:
        """Record a reply; raises LedgerError if it cannot, so that nothing may leave.

        Args:
            envelope: Flower's metadata of the reply, as it stands in the header.
            header: the reply as gRPC gets it, without the arrays that follow.
            arrays: those whose bytes follow.
        """
        items = [*describe(reply), _item("envelope", "metadata", (), "protobuf", envelope)]
        whole = header + b"".join(array.digest for array in arrays)
        size = len(header) + sum(len(array.content) for array in arrays)
        disclosure = reply.content.get(DISCLOSURE) if reply.has_content() else None
        more = {DISCLOSURE: dict(disclosure)} if disclosure else {}
        self._append(reply.metadata.message_type, _round_of(message), whole, items, size, more)

    def _append(
        self,
        kind: str,
        number: int | None,
        whole: bytes,
        items: Sequence[Item],
        size: int,
        more: Mapping[str, object] = {},
    ) -> None:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "hospital": self._hospital,
            "kind": kind,
            "round": number,
            "bytes": size,
            "sha256": hashlib.sha256(whole).hexdigest(),
            "records": items,
            **more,
        }
        self._add(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def check(self) -> None:
        """Raise LedgerError if no line can be added; a new file is made."""
        self._add(b"")

    def _add(self, line: bytes) -> None:
        try:
            with open_to_append(self.path) as file:
                file.seek(0)
                first, *_ = file.read(PAGE).lstrip(b"\0\n").splitlines() or [b""]
                if not begins_line(first):
                    raise LedgerError(f"{self.path}: is not an egress ledger, and nothing was added: move it elsewhere")
                append(file, b"\n" * _is_torn(file) + line)
        except OSError as error:
            reason = f"cannot be written to ({error.strerror}); nothing is sent that cannot be recorded; "
            reason += "--ledger names another folder"
            raise LedgerError(f"{self.path}: {reason}") from None


def begins_line(content: bytes) -> bool:
    """Whether this begins a ledger's line, perhaps one that was cut off: shorter, or with zeros at its end."""
    content = content.rstrip(b"\0")
    return content[: len(OPENING)] == OPENING[: len(content)]


def describe(message: Message) -> list[Item]:
    """Every array, metric and config value of a message, or its error."""
    if message.has_error():
        error = {"code": message.error.code, "reason": message.error.reason or ""}
        return [_item_of(ERROR, name, value) for name, value in error.items()]
    return [_item_of(key, name, value) for key, record in message.content.items() for name, value in record.items()]


def _round_of(message: Message) -> int | None:
    config = message.content.config_records.get(CONFIG) if message.has_content() else None
    number = config.get(ROUND) if config else None
    return number if type(number) is int else None


def _is_torn(file: FileIO) -> bool:
    """Whether the last line has no end, as after a power cut or on a full disk."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _item(
    record: str,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    content: bytes | memoryview,
    digest: bytes | None = None,
) -> Item:
    """An entry of `records`; `dtype` is text, bytes or protobuf where NumPy has no name for it."""
    sha256 = (digest or hashlib.sha256(content).digest()).hex()
    return {"record": record, "name": name, "shape": shape, "dtype": dtype, "bytes": len(content), "sha256": sha256}


def _item_of_array(record: str, name: str, array: Array) -> Item:
    """Shape and dtype from NumPy's own header in the bytes; as Flower states them where there is none."""
    if isinstance(array, NumpyArray):
        return _item(record, name, array.shape, array.dtype, array.content, array.digest)
    buffer = BytesIO(array.data)
    try:
        np.lib.format.read_magic(buffer)
        shape, _, dtype = np.lib.format.read_array_header_1_0(buffer)
    except Exception:  # NumPy's parser raises many types, and others from Python 3.12 on
        return _item(record, name, tuple(array.shape), array.dtype, array.data)
    return _item(record, name, shape, dtype.name, memoryview(array.data)[buffer.tell() :])


def _item_of(record: str, name: str, value: Any) -> Item:
    """Entry for an array, a number, text, bytes, or a list of such; several texts are joined by line ends."""
    if isinstance(value, Array):
        return _item_of_array(record, name, value)
    if type(value) is float:
        return _item(record, name, (), "float64", struct.pack("<d", value))
    if type(value) is int and -(2**63) <= value < 2**63:
        return _item(record, name, (), "int64", struct.pack("<q", value))
    values, shape = (value, (len(value),)) if isinstance(value, list) else ([value], ())
    if values and all(isinstance(text, str) for text in values):
        return _item(record, name, shape, "text", "\n".join(values).encode())
    if values and all(isinstance(content, bytes) for content in values):
        return _item(record, name, shape, "bytes", b"\n".join(values))
    array = np.array(values)
    return _item(record, name, shape, array.dtype.name, array.astype(array.dtype.newbyteorder("<")).tobytes())
