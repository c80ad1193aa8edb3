"""The bytes that leave a hospital, as the other end of its connection receives them."""

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.app import Message
from flwr.proto.message_pb2 import Message as ProtoMessage

from federated_health.hospital.ledger import TERMS
from federated_health.messages.records import NumpyArray
from federated_health.processes import free_port
from federated_health.transport.channels import CHANNEL_OPTIONS, MAX_MESSAGE_KEY, MAX_REPLY_BYTES
from federated_health.transport.listening import server_options
from federated_health.transport.stream_client import TERMS_METHOD

JOIN = "/flwr.proto.FlowerService/Join"


class Unwritten:
    """A ledger that records nothing, for tests of other things."""

    def record_metadata(self, kind: str, metadata: Sequence[tuple[str, str]]) -> None: ...
    def record_reply(
        self, message: Message, reply: Message, envelope: bytes, header: bytes, arrays: Sequence[NumpyArray]
    ) -> None: ...


UNWRITTEN = Unwritten()


class Wire(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """A gRPC proxy that records what each hospital sends, metadata and messages, as bytes and in their order."""

    def __init__(self, server: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._sent: list[tuple[str, bytes]] = []
        self._calls: list[grpc.Call] = []
        self._channel = grpc.insecure_channel(server, options=CHANNEL_OPTIONS)
        self._server = grpc.server(ThreadPoolExecutor(20), handlers=[self], options=server_options(MAX_REPLY_BYTES))
        self._server.add_insecure_port(self.address)

    def __enter__(self) -> "Wire":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=1).wait(10)
        self._channel.close()

    def sent_by(self, hospital: str) -> list[bytes]:
        return [content for name, content in self._sent if name == hospital]

    def cut(self) -> None:
        """End every stream, like a network failure."""
        for call in self._calls:
            call.cancel()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method == TERMS_METHOD:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: self._channel.unary_unary(TERMS_METHOD)(request)
            )
        return grpc.stream_stream_rpc_method_handler(self._join) if details.method == JOIN else None

    def _join(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        metadata = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
        hospital = dict(metadata)["hospital"]
        self._sent.append((hospital, "\n".join(f"{key}: {value}" for key, value in metadata).encode()))
        call = self._channel.stream_stream(JOIN)(self._record(hospital, messages), metadata=metadata)
        self._calls.append(call)
        context.add_callback(call.cancel)
        try:
            acceptance = [(key, value) for key, value in call.initial_metadata() or () if key == MAX_MESSAGE_KEY]
            if not call.done():
                context.send_initial_metadata(acceptance)
            yield from call
        except grpc.RpcError:
            is_cut = call.code() == grpc.StatusCode.CANCELLED
            context.abort(grpc.StatusCode.UNAVAILABLE if is_cut else call.code(), call.details())

    def _record(self, hospital: str, messages: Iterator[bytes]) -> Iterator[bytes]:
        with suppress(Exception):  # gRPC raises a bare Exception if a stream is cut
            for content in messages:
                if content:  # a part without content says only that the hospital is there
                    self._sent.append((hospital, content))
                yield content


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def assert_is_in_ledger(sent: Sequence[bytes], lines: Sequence[dict[str, Any]]) -> None:
    """Check that the ledger holds exactly what was sent, in this order, down to each value.

    Args:
        sent: metadata and parts of messages, as a hospital sent them.
    """
    parts = iter(sent)
    for line in lines:
        if line["kind"] == TERMS:  # it was accepted, and not sent
            continue
        content = next(parts)
        size, whole = len(content), content
        if line["kind"] in ("join", "unfit"):
            pairs = [pair.split(": ", 1) for pair in content.decode().split("\n")]
            values = [("metadata", key, value.encode()) for key, value in pairs]
        else:
            values = []
            for record, name, value in _values_of(content):
                if isinstance(value, bytes):
                    values.append((record, name, value))
                    continue
                following = b""  # this many bytes of an array follow in chunks
                while len(following) < value:
                    following += next(parts)
                assert len(following) == value
                values.append((record, name, following))
                size, whole = size + value, whole + hashlib.sha256(following).digest()
        assert (size, digest(whole)) == (line["bytes"], line["sha256"])
        recorded = [(entry["record"], entry["name"], entry["bytes"], entry["sha256"]) for entry in line["records"]]
        assert recorded == [(record, name, len(value), digest(value)) for record, name, value in values]
    assert list(parts) == []


def _values_of(header: bytes) -> Iterator[tuple[str, str, bytes | int]]:
    """Every value of a reply, read from its protobuf; of an array that follows the header, the number of its bytes."""
    message = ProtoMessage.FromString(header)
    if message.HasField("error"):
        yield "error", "code", struct.pack("<q", message.error.code)
        yield "error", "reason", message.error.reason.encode()
    for item in message.content.items:
        kind = item.WhichOneof("value")
        for entry in getattr(item, str(kind)).items:
            yield item.key, entry.key, _content_of(str(kind), entry.value)
    yield "envelope", "metadata", message.metadata.SerializeToString()


def _content_of(kind: str, value: Any) -> bytes | int:
    if kind == "array_record" and value.stype == "raw":
        return bytes(value.data) or 4 * math.prod(value.shape)
    if kind == "array_record":
        array: bytes = np.load(BytesIO(value.data)).tobytes()
        return array
    field = value.WhichOneof("value")
    content = getattr(value, field)
    values = list(content.vals) if field.endswith("list") else [content]
    match field.removesuffix("_list"):
        case "string":
            return "\n".join(values).encode()
        case "bytes":
            return b"\n".join(values)
        case "bool":
            return bytes(values)
        case "double":
            return struct.pack(f"<{len(values)}d", *values)
        case _:
            return struct.pack(f"<{len(values)}q", *values)
