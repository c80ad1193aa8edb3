"""Who is asked in a round, and which replies are aggregated, in an order that depends on names alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Generic, TypeVar, cast

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from federated_health.metrics import Counts
from federated_health.names import printable
from federated_health.records import METRICS
from federated_health.weights import MalformedMessageError

Read = TypeVar("Read")

EQUAL_WEIGHT = "equal-weight"
"""Key that the server itself adds to each accepted reply, so that no hospital can weigh itself."""


class Participants:
    """The part of a grid that a strategy's configure methods look at: who is asked in this round."""

    def __init__(self, node_ids: Iterable[int]) -> None:
        self._node_ids = list(node_ids)

    def get_node_ids(self) -> list[int]:
        return self._node_ids

    def as_grid(self) -> Grid:
        """This object, where a strategy's signature asks for a whole grid."""
        return cast(Grid, self)


@dataclass(frozen=True)
class Accepted(Generic[Read]):
    """A reply that may be aggregated, and what was read from it."""

    hospital: str
    message: Message
    content: Read


@dataclass(frozen=True)
class Rejected:
    """A reply that may not, or none at all, and why, in words without values."""

    hospital: str
    reason: str


def accept_replies(
    replies: Iterable[Message], names: Mapping[int, str], read: Callable[[int, RecordDict], Read]
) -> tuple[list[Accepted[Read]], list[Rejected]]:
    """Read replies, and sort those that can be read by hospital, so that sums do not depend on who answered first.

    Each accepted reply gets the server's own EQUAL_WEIGHT beside what it holds.

    Args:
        names: node id -> hospital.
        read: what the content of that node's reply means; raises MalformedMessageError.
    """
    accepted: list[Accepted[Read]] = []
    rejected: list[Rejected] = []
    for reply in replies:
        name = names.get(reply.metadata.src_node_id, f"node {reply.metadata.src_node_id}")
        if reply.has_error():
            rejected.append(Rejected(name, printable(reply.error.reason or "it gave no reason")))
            continue
        try:
            accepted.append(Accepted(name, reply, read(reply.metadata.src_node_id, reply.content)))
        except MalformedMessageError as error:
            rejected.append(Rejected(name, str(error)))
            continue
        reply.content.metric_records[METRICS][EQUAL_WEIGHT] = 1.0
    return sorted(accepted, key=lambda reply: reply.hospital), sorted(rejected, key=lambda reply: reply.hospital)


def merge_evaluations(contents: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Flower's hook for evaluation metrics: counts are added up, where Flower's own would average averages."""
    keys = [field.name for field in fields(Counts)]
    metrics = [content.metric_records[METRICS] for content in contents]
    return MetricRecord({key: sum(cast(float, one[key]) for one in metrics) for key in keys})
