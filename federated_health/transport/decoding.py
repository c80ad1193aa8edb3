"""A hospital's bytes, as a Flower message: its claims are checked before they cost memory or time."""

from flwr.app import Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import ClientMessage

from federated_health.transport.channels import unwrap

MAX_RECORDS = 16
"""Of one message; ours hold at most three."""

MAX_ITEMS = 1_000
"""Named arrays and values in all records of one message."""

MAX_VALUES = 100_000
"""In all lists of one message; a task's columns and a class's cells are what ours hold. Arrays do not count."""

MAX_DIMENSIONS = 64
"""Of an array: NumPy's own limit."""


class UndecodableError(ValueError):
    """Bytes that are no message, or one that holds too much; says which, without values."""


def decode_reply(content: bytes) -> Message:
    """What a hospital sent over its stream, as a message.

    The arrays in it are bytes still: whoever reads them checks what these claim (see `weights.weights_from_record`).

    Raises:
        UndecodableError: it is not a message, or one of more records, items or values than any of ours.
    """
    try:
        proto = unwrap(ClientMessage.FromString(content).fit_res.parameters)
        # A byte of a list can become many in Python, so that the size in bytes alone is no limit.
        has_too_much = _has_too_much(proto)
        if not has_too_much:
            _refuse_twins(proto)
            return message_from_proto(proto)
    except Exception:  # whatever a stranger's bytes make protobuf or Flower raise
        raise UndecodableError("sent bytes that are not a message") from None
    raise UndecodableError("sent a message that holds too many records or values")


def _has_too_much(proto: ProtoMessage) -> bool:
    if len(proto.content.items) > MAX_RECORDS:
        return True
    kinds = [(record, record.WhichOneof("value")) for record in proto.content.items]
    items = [(kind, getattr(record, kind).items) for record, kind in kinds if kind]
    if sum(len(those) for _, those in items) > MAX_ITEMS:
        return True
    values = 0
    for kind, those in items:
        for item in those:
            if kind == "array_record":
                if len(item.value.shape) > MAX_DIMENSIONS:
                    return True
            elif (which := item.value.WhichOneof("value") or "").endswith("_list"):
                values += len(getattr(item.value, which).vals)
    return values > MAX_VALUES


def _refuse_twins(proto: ProtoMessage) -> None:
    """Of two records under one name Flower takes the last, and writes the name, a stranger's words, into its log."""
    if len({record.key for record in proto.content.items}) < len(proto.content.items):
        raise ValueError
