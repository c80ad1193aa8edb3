"""Decoding a hospital's bytes into a Flower message. Sizes are checked before they cost memory or time."""

from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import ClientMessage

from federated_health.transport.channels import unwrap

MAX_RECORDS = 16
"""Largest number of records in a message; this project's messages have at most three."""

MAX_ITEMS = 1_000
"""Largest number of named arrays and values in all records of a message."""

MAX_VALUES = 100_000
"""Largest number of values in all lists of a message, such as one per column. Arrays do not count."""

MAX_DIMENSIONS = 64
"""Largest number of dimensions of an array: NumPy's own limit."""


class UndecodableError(ValueError):
    """Bytes are not a message, or a message that holds too much; the text says which, without values."""


def decode_reply(content: bytes) -> Message:
    """The message in bytes that a hospital sent over its stream.

    Its arrays stay bytes, and are checked by their reader (see `weights_from_record`).

    Raises:
        UndecodableError: the bytes are not a message, or the message has too many records, items, values or dimensions.
    """
    try:
        proto = unwrap(ClientMessage.FromString(content).fit_res.parameters)
        # A byte of a list can become many in Python, so a limit of the size in bytes is not enough.
        holds_too_much = _holds_too_much(proto)
        if not holds_too_much:
            _refuse_duplicates(proto)
            return message_from_proto(proto)
    except Exception:  # protobuf and Flower raise many types
        raise UndecodableError("sent bytes that are not a message") from None
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


def _refuse_duplicates(proto: ProtoMessage) -> None:
    """Refuse two records of one name: Flower would keep the last one, and write the name to its log."""
    if len({record.key for record in proto.content.items}) < len(proto.content.items):
        raise ValueError
