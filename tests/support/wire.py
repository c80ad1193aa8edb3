"""What leaves a hospital, as the other end of its connection sees it."""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import ClientMessage

from federated_health.hospital.ledger import Item, Ledger
from federated_health.processes import free_port
from federated_health.transport.channels import CHANNEL_OPTIONS, MAX_MESSAGE_KEY, MAX_REPLY_BYTES
from federated_health.transport.listening import server_options

JOIN = "/flwr.proto.FlowerService/Join"


class _Unwritten(Ledger):
    """A ledger of a hospital whose test is of something else."""

    def _append(self, kind: str, round_number: int | None, content: bytes, items: Sequence[Item]) -> None:
        pass


UNWRITTEN = _Unwritten(Path(), "any")


class Wire(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    """A gRPC proxy that keeps what each hospital sends, metadata and messages, as bytes and in their order."""

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
        """End every stream as a network does."""
        for call in self._calls:
            call.cancel()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.stream_stream_rpc_method_handler(self._join) if details.method == JOIN else None

    def _join(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        metadata = [(key, value) for key, value in context.invocation_metadata() if key != "user-agent"]
        hospital = dict(metadata)["hospital"]
        self._sent.append((hospital, "\n".join(f"{key}: {value}" for key, value in metadata).encode()))
        call = self._channel.stream_stream(JOIN)(self._keep(hospital, messages), metadata=metadata)
        self._calls.append(call)
        context.add_callback(call.cancel)
        try:
            told = [(key, value) for key, value in call.initial_metadata() or () if key == MAX_MESSAGE_KEY]
            if not call.done():
                context.send_initial_metadata(told)
            yield from call
        except grpc.RpcError:
            is_cut = call.code() == grpc.StatusCode.CANCELLED
            context.abort(grpc.StatusCode.UNAVAILABLE if is_cut else call.code(), call.details())

    def _keep(self, hospital: str, messages: Iterator[bytes]) -> Iterator[bytes]:
        with suppress(Exception):  # gRPC raises a bare one where a stream is cut
            for content in messages:
                self._sent.append((hospital, content))
                yield content


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def assert_is_in_ledger(sent: Sequence[bytes], lines: Sequence[dict[str, Any]]) -> None:
    """All that was sent, and no more, in this order, down to each value."""
    assert [(len(content), digest(content)) for content in sent] == [(one["bytes"], one["sha256"]) for one in lines]
    for content, line in zip(sent, lines, strict=True):
        recorded = [(one["record"], one["name"], one["bytes"], one["sha256"]) for one in line["records"]]
        if line["kind"] in ("join", "unfit"):
            pairs = [pair.split(": ", 1) for pair in content.decode().split("\n")]
            values = [("metadata", key, value.encode()) for key, value in pairs]
        else:
            values = list(_values_of(content))
        assert recorded == [(record, name, len(value), digest(value)) for record, name, value in values]


def _values_of(content: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Every value of a reply, read from its protobuf."""
    (wrapped,) = ClientMessage.FromString(content).fit_res.parameters.tensors
    message = ProtoMessage.FromString(wrapped)
    if message.HasField("error"):
        yield "error", "code", struct.pack("<q", message.error.code)
        yield "error", "reason", message.error.reason.encode()
    for item in message.content.items:
        kind = item.WhichOneof("value")
        for one in getattr(item, str(kind)).items:
            yield item.key, one.key, _content_of(str(kind), one.value)
    yield "envelope", "metadata", message.metadata.SerializeToString()


def _content_of(kind: str, value: Any) -> bytes:
    if kind == "array_record":
        array: bytes = np.load(BytesIO(value.data)).tobytes()
        return array
    field = value.WhichOneof("value")
    found = getattr(value, field)
    many = list(found.vals) if field.endswith("list") else [found]
    match field.removesuffix("_list"):
        case "string":
            return "\n".join(many).encode()
        case "bytes":
            return b"\n".join(many)
        case "bool":
            return bytes(many)
        case "double":
            return struct.pack(f"<{len(many)}d", *many)
        case _:
            return struct.pack(f"<{len(many)}q", *many)
