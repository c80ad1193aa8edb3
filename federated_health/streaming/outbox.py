"""The one way out of a hospital: what is handed to gRPC stands in the egress ledger first."""

from collections.abc import Sequence
from queue import SimpleQueue

import grpc
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from federated_health.egress import Ledger
from federated_health.streaming.channels import wrap

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

    def send(self, question: Message, reply: Message) -> None:
        """Send a reply.

        Raises:
            LedgerError: it cannot be recorded.
        """
        proto = message_to_proto(reply)
        content = ClientMessage(fit_res=ClientMessage.FitRes(parameters=wrap(proto))).SerializeToString()
        self._ledger.record_reply(question, reply, proto.metadata.SerializeToString(), content)
        self._waiting.put(content)

    def close(self) -> None:
        """Send nothing more."""
        self._waiting.put(None)
