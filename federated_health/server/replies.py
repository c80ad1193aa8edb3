"""Who is asked, and which replies are aggregated, in an order that depends on names alone. What is not, is counted."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Generic, TypeVar, cast

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from federated_health.messages.content import Update
from federated_health.messages.records import METRICS
from federated_health.messages.weights import MalformedMessageError, distance_between
from federated_health.ml.metrics import Counts
from federated_health.ml.networks import Weights
from federated_health.names import printable
from federated_health.server.problem_log import ProblemLog
from federated_health.transport.flower_engines import exchange, registered_names
from federated_health.transport.grids import FutureGrid

logger = logging.getLogger(__name__)

Read = TypeVar("Read")

EQUAL_WEIGHT = "equal-weight"
"""Key that the server itself adds to each accepted reply, so that no hospital can weigh itself."""


class NodeSample:
    """The part of a grid that a strategy's configure methods look at: who is asked in this round."""

    def __init__(self, node_ids: Iterable[int]) -> None:
        self._node_ids = list(node_ids)

    def get_node_ids(self) -> list[int]:
        return self._node_ids

    def as_grid(self) -> Grid:
        """This object, where a strategy's signature asks for a whole grid."""
        return cast(Grid, self)


@dataclass(frozen=True)
class AcceptedReply(Generic[Read]):
    """A reply that may be aggregated, and what was read from it."""

    hospital: str
    message: Message
    content: Read


@dataclass(frozen=True)
class RejectedReply:
    """A reply that may not, or none at all, and why, in words without values.

    Attributes:
        answered: whether a reply came; otherwise an error stands in its place.
    """

    hospital: str
    reason: str
    answered: bool = True


def accept_replies(
    replies: Iterable[Message], names: Mapping[int, str], read: Callable[[int, RecordDict], Read]
) -> tuple[list[AcceptedReply[Read]], list[RejectedReply]]:
    """Read replies, and sort those that can be read by hospital, so that sums do not depend on who answered first.

    Each accepted reply gets the server's own EQUAL_WEIGHT beside what it holds.

    Args:
        names: node id -> hospital.
        read: what the content of that node's reply means; raises MalformedMessageError.
    """
    accepted: list[AcceptedReply[Read]] = []
    rejected: list[RejectedReply] = []
    for reply in replies:
        name = names.get(reply.metadata.src_node_id, f"node {reply.metadata.src_node_id}")
        if reply.has_error():
            rejected.append(RejectedReply(name, printable(reply.error.reason or "it gave no reason"), answered=False))
            continue
        try:
            accepted.append(AcceptedReply(name, reply, read(reply.metadata.src_node_id, reply.content)))
        except MalformedMessageError as error:
            rejected.append(RejectedReply(name, str(error)))
            continue
        cast(MetricRecord, reply.content[METRICS])[EQUAL_WEIGHT] = 1.0
    return sorted(accepted, key=lambda reply: reply.hospital), sorted(rejected, key=lambda reply: reply.hospital)


class ReplyCollector:
    """Asks hospitals over a grid, and returns those replies that can be used.

    What cannot be used, or did not come, is counted, and named in the log; again only when something changes.

    Args:
        timeout: seconds that hospitals have for a reply.
    """

    def __init__(self, grid: Grid, timeout: float, problems: ProblemLog) -> None:
        self._grid = grid
        self._timeout = timeout
        self._problems = problems
        self._said: dict[str, str] = {}

    def names(self) -> dict[int, str]:
        """Names that our own grids know from joining, and Flower's deployment from registering; a simulation none."""
        return self._grid.names() if isinstance(self._grid, FutureGrid) else registered_names(self._grid)

    def processes(self) -> dict[int, str]:
        """Node id -> a token of that hospital's process, of those that say one; over Flower's grids none does."""
        return self._grid.processes() if isinstance(self._grid, FutureGrid) else {}

    def ask(
        self, questions: Iterable[Message], names: Mapping[int, str], read: Callable[[int, RecordDict], Read]
    ) -> list[AcceptedReply[Read]]:
        """Ask, and wait for the replies (see `accept_replies`), at most for the timeout."""
        questions = list(questions)
        if not questions:
            return []
        asked = {question.metadata.dst_node_id for question in questions}
        replies = exchange(self._grid, questions, self._timeout)
        expected = [reply for reply in replies if reply.metadata.src_node_id in asked]
        accepted = self.accept(expected, names, read)
        # Our own grids put an error in its place; Flower's return what there is.
        for node in sorted(asked - {reply.metadata.src_node_id for reply in expected}):
            reason = f"it did not answer within {self._timeout:g} s"
            self.leave_out(RejectedReply(names.get(node, f"node {node}"), reason, answered=False))
        for incident in self._grid.take_incidents() if isinstance(self._grid, FutureGrid) else ():
            self._problems.count_rejected(incident.hospital, incident.reason)
        return accepted

    def accept(
        self, replies: Iterable[Message], names: Mapping[int, str], read: Callable[[int, RecordDict], Read]
    ) -> list[AcceptedReply[Read]]:
        """Those of the replies that can be used; the others are counted and named."""
        accepted, rejected = accept_replies(replies, {**self.names(), **names}, read)
        for good in accepted:
            self._said.pop(good.hospital, None)
        for reply in rejected:
            self.leave_out(reply)
        return accepted

    def leave_out_outsized(
        self, trained: Iterable[AcceptedReply[Update]], weights: Weights, factor: float
    ) -> list[AcceptedReply[Update]]:
        """A round's updates without those that are out of all proportion (see `find_outsized`)."""
        trained = list(trained)
        norms = {reply.hospital: distance_between(reply.content.weights, weights) for reply in trained}
        outsized = find_outsized(norms, factor)
        for name in outsized:
            self.leave_out(RejectedReply(name, f"its update moves the weights more than {factor:g} times the median"))
        return [reply for reply in trained if reply.hospital not in outsized]

    def leave_out(self, reply: RejectedReply) -> None:
        """Count and name a reply that is not used."""
        count = self._problems.count_rejected if reply.answered else self._problems.count_unanswered
        count(reply.hospital, reply.reason)
        is_new = self._said.get(reply.hospital) != reply.reason
        logger.log(logging.WARNING if is_new else logging.DEBUG, "%s is left out: %s", reply.hospital, reply.reason)
        self._said[reply.hospital] = reply.reason


def find_outsized(norms: Mapping[str, float], factor: float) -> set[str]:
    """The hospitals whose updates are out of all proportion.

    An update is one where its L2 norm is more than `factor` times the median, of two middle ones the lower, of all
    norms of the round: so it is found as long as fewer than half of the updates are like it. Of two updates nobody can
    say which is the wrong one, and both pass. Of honest hospitals whose rows differ two-hundredfold in number the ratio
    was at most 9.

    Args:
        norms: hospital -> L2 norm of its update minus the weights that it was sent.
        factor: of the median; 0 finds none.
    """
    if len(norms) < 3 or not factor:
        return set()
    median = sorted(norms.values())[(len(norms) - 1) // 2]
    return {name for name, norm in norms.items() if norm > factor * median > 0}


def merge_evaluations(contents: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Flower's hook for evaluation metrics: counts are added up, where Flower's own would average averages."""
    keys = [field.name for field in fields(Counts)]
    metrics = [content.metric_records[METRICS] for content in contents]
    return MetricRecord({key: sum(cast(float, one[key]) for one in metrics) for key in keys})
