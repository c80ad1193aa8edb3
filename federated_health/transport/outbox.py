"""The one way out of a hospital: what is handed to gRPC stands in the egress ledger first."""

import logging
from collections.abc import Sequence
from queue import SimpleQueue

import grpc
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from federated_health.hospital.ledger import Ledger
from federated_health.transport.channels import wrap
from federated_health.transport.interface import error_reply

logger = logging.getLogger(__name__)

JOIN_METHOD = "/flwr.proto.FlowerService/Join"


class Outbox:
    """The hospital's end of one stream.

    Its replies are serialised here, not by gRPC, so that the ledger has the hash of the very bytes that leave.

    Args:
        channel: where to.
        ledger: what cannot be written there does not leave.
    """

    def __init__(self, channel: grpc.Channel, ledger: Ledger) -> None:
        self._begin = channel.stream_stream(JOIN_METHOD, response_deserializer=ServerMessage.FromString)
        self._ledger = ledger
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()

    def begin(self, kind: str, metadata: Sequence[tuple[str, str]], timeout: float | None = None) -> grpc.Call:
        """Begin the stream with metadata; the call is iterated over for the server's messages.

        Raises:
            LedgerError: the metadata cannot be recorded.
        """
        self._ledger.record_metadata(kind, metadata)
        return self._begin(iter(self._waiting.get, None), metadata=tuple(metadata), timeout=timeout)

    def send(self, question: Message, reply: Message, largest: int) -> None:
        """Send a reply, or an error in its place where it cannot be sent.

        Args:
            largest: bytes that the server takes.

        Raises:
            LedgerError: it cannot be recorded.
        """
        kind = question.metadata.message_type
        try:
            metadata, content = _serialise(reply)
            reason = f"its reply of {len(content)} bytes is larger than the {largest} bytes that the server takes"
        except Exception as error:  # such as whole numbers of more than 64 bits
            metadata, content = b"", b""
            reason = f"{type(error).__name__} at the hospital"
        if not 0 < len(content) <= largest:
            logger.error("the reply to %s cannot be sent: %s", kind, reason)
            reply = error_reply(question, reason, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)
            metadata, content = _serialise(reply)
        self._ledger.record_reply(question, reply, metadata, content)
        self._waiting.put(content)

    def close(self) -> None:
        """Send nothing more."""
        self._waiting.put(None)


def _serialise(reply: Message) -> tuple[bytes, bytes]:
    """The bytes of its metadata alone, and of all of it as it is sent."""
    proto = message_to_proto(reply)
    content = ClientMessage(fit_res=ClientMessage.FitRes(parameters=wrap(proto)))
    return proto.metadata.SerializeToString(), content.SerializeToString()
