"""The reply collector: waits for replies and validates them, in an order that depends on names alone."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Generic, TypeVar, cast

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from federated_health.messages.content import EQUAL_WEIGHT, NUM_EXAMPLES, Update
from federated_health.messages.records import METRICS, MalformedMessageError, distance_between
from federated_health.messages.run_terms import NOT_ACCEPTED
from federated_health.ml.networks import Weights
from federated_health.names import printable
from federated_health.server.problem_log import ProblemLog
from federated_health.transport.announcements import Announcements
from federated_health.transport.interface import Transport, has_failed, is_late

logger = logging.getLogger(__name__)

Content = TypeVar("Content")

MIN_PATIENCE, PATIENCE_FACTOR = 60.0, 10.0
"""Seconds that a hospital has at least for a reply of a round, and the same in durations of the longest round."""


def grid_of(nodes: list[int]) -> Grid:
    """The part of a grid that a strategy's configure methods use: the nodes of this round."""
    return cast(Grid, SimpleNamespace(get_node_ids=lambda: nodes))


@dataclass(frozen=True)
class AcceptedReply(Generic[Content]):
    """A valid reply, and its content."""

    hospital: str
    message: Message
    content: Content


class ReplyCollector:
    """Sends messages over a transport and returns the valid replies.

    Invalid and missing replies are counted and logged, as a warning only when a hospital's reason changes, and a few
    times per minute.

    A hospital that has not answered in time gets no further message until `end_silence`.

    Args:
        timeout: largest number of seconds that hospitals have for a reply.

    Attributes:
        lines: limits the lines per minute about each hospital.
        failures: hospital -> the reason of its reply that was an error or was rejected, since this was last emptied.
        silent: node that has not answered in time, or has lost its state -> when its message was sent, on the clock of
            `time.monotonic`.
        longest_round: seconds of the longest completed round in which every hospital answered; 0 before the first.
    """

    def __init__(self, transport: Transport, timeout: float, problems: ProblemLog) -> None:
        self.lines = Announcements(logger.warning)
        self.problems = problems
        self._transport = transport
        self._timeout = timeout
        self._last_reasons: dict[str, str] = {}
        self._trained: set[int] = set()
        self.failures: dict[str, str] = {}
        self.silent: dict[int, float] = {}
        self.longest_round = self._longest_silence = 0.0

    def send_and_receive(
        self,
        messages: Iterable[Message],
        names: Mapping[int, str],
        read: Callable[[int, RecordDict], Content],
        *,
        of_round: bool = True,
    ) -> list[AcceptedReply[Content]]:
        """Send messages, wait for the replies, and validate them (see `accept`).

        Args:
            of_round: whether a reply takes no longer than a round, so that hospitals have `patience` for it, rather
                than the whole timeout.
        """
        messages = [message for message in messages if message.metadata.dst_node_id not in self.silent]
        if not messages:
            return []
        addressed = {message.metadata.dst_node_id for message in messages}
        timeout = self.patience(addressed) if of_round else self._timeout
        sent = time.monotonic()
        replies = self._transport.send_and_receive(messages, timeout=timeout)
        expected = [reply for reply in replies if reply.metadata.src_node_id in addressed and not is_late(reply)]
        accepted = self.accept(expected, names, read)
        if messages[0].metadata.message_type.startswith("train"):
            self._trained |= {reply.metadata.src_node_id for reply in expected if not reply.has_error()}
        # Flower's engines return no error in place of a missing reply.
        for node in sorted(addressed - {reply.metadata.src_node_id for reply in expected}):
            self.silent[node] = sent
            self._note_silence(names.get(node, f"node {node}"), timeout)
        for problem in self._transport.take_problems():
            self.problems.count(problem.hospital, problem.reason)
        return accepted

    def patience(self, nodes: Collection[int]) -> float:
        """Seconds that these nodes have for a reply of a round: so many that a slow machine is not left out.

        It is the whole timeout before the first completed round, and while one of the nodes has yet to train for the
        first time, which takes longer. After a silence it is at least twice as long as that silence, so that a hospital
        that has become slow is left out once.
        """
        if not self.longest_round or not self._trained.issuperset(nodes):
            return self._timeout
        return min(self._timeout, max(MIN_PATIENCE, PATIENCE_FACTOR * self.longest_round, 2 * self._longest_silence))

    def end_silence(self, node: int, name: str) -> None:
        """Send messages to a node again: its process answers."""
        if (since := self.silent.pop(node, None)) is not None:
            silence = time.monotonic() - since
            self._longest_silence = max(self._longest_silence, silence)
            logger.warning("%s answers again, after %.0f s", name, silence)

    def forget(self, node: int) -> None:
        """Forget a node whose process has ended."""
        self.silent.pop(node, None)
        self._trained.discard(node)

    def _note_silence(self, name: str, seconds: float) -> None:
        self.problems.count(name, f"it did not answer within {seconds:.3g} s", has_answered=False)
        line = "%s has not answered for %.3g s; it takes part again once its process answers"
        logger.warning(line, name, seconds)

    def accept(
        self, replies: Iterable[Message], names: Mapping[int, str], read: Callable[[int, RecordDict], Content]
    ) -> list[AcceptedReply[Content]]:
        """The valid replies, ordered by hospital, so that sums do not depend on who answered first.

        Each gets the server's own EQUAL_WEIGHT, so that no hospital can choose its weight. Invalid replies are counted
        and logged.

        Args:
            names: hospital names by node id, besides those that the transport knows.
            read: reads the content of a node's reply, or raises MalformedMessageError.
        """
        known = {**self._transport.names(), **names}

        def name_of(reply: Message) -> str:
            return known.get(reply.metadata.src_node_id, f"node {reply.metadata.src_node_id}")

        accepted = []
        for reply in sorted(replies, key=name_of):
            name = name_of(reply)
            if reply.has_error():
                reason = printable(reply.error.reason or "it gave no reason")
                self.reject(name, reason, has_answered=False)
                if has_failed(reply):
                    self.failures[name] = reason
                if reason == NOT_ACCEPTED:  # it is asked to register again
                    self.silent[reply.metadata.src_node_id] = time.monotonic()
                continue
            try:
                content = read(reply.metadata.src_node_id, reply.content)
            except MalformedMessageError as error:
                self.reject(name, str(error))
                self.failures[name] = str(error)
                continue
            accepted.append(AcceptedReply(name, reply, content))
            if suppressed := getattr(content, "suppressed", None):
                self.problems.suppressed.setdefault(name, {}).update(suppressed)
            cast(MetricRecord, reply.content[METRICS])[EQUAL_WEIGHT] = 1.0
            self._last_reasons.pop(name, None)
        return accepted

    def reject_outsized(
        self, updates: list[AcceptedReply[Update]], weights: Weights, factor: float
    ) -> list[AcceptedReply[Update]]:
        """The updates of a round without outsized ones (see `find_outsized`)."""
        norms = {reply.hospital: distance_between(reply.content.weights, weights) for reply in updates}
        outsized = find_outsized(norms, factor)
        for name in outsized:
            reason = f"its update moves the weights more than {factor:g} times as far as the median update"
            self.failures[name] = reason
            self.reject(name, reason)
        return [reply for reply in updates if reply.hospital not in outsized]

    def reject(self, hospital: str, reason: str, *, has_answered: bool = True) -> None:
        """Count and log an invalid reply, or with `has_answered` false a missing one; the reason holds no values."""
        self.problems.count(hospital, reason, has_answered=has_answered)
        is_new = self._last_reasons.get(hospital) != reason and self.lines.allows(hospital)
        logger.log(logging.WARNING if is_new else logging.DEBUG, "%s is left out: %s", hospital, reason)
        self._last_reasons[hospital] = reason


def find_outsized(norms: Mapping[str, float], factor: float) -> set[str]:
    """Hospitals whose updates are outsized, by the L2 norms of update minus round weights.

    An update is outsized if its norm is more than `factor` times the median norm of the round (of two middle ones the
    lower). It is found as long as fewer than half of the updates are outsized. With two updates, or a factor of 0, all
    pass. The ratio was at most 9 among honest hospitals whose numbers of rows differ two-hundredfold.
    """
    if len(norms) < 3 or not factor:
        return set()
    median = sorted(norms.values())[(len(norms) - 1) // 2]
    return {name for name, norm in norms.items() if norm > factor * median > 0}


def merge_evaluations(contents: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Flower's hook for evaluation metrics: adds them, where Flower's default would average averages."""
    metrics = [content.metric_records[METRICS] for content in contents]
    keys = [key for key in metrics[0] if key not in (NUM_EXAMPLES, EQUAL_WEIGHT)]
    return MetricRecord({key: np.sum([record[key] for record in metrics], axis=0).tolist() for key in keys})


def drop_metrics(_contents: list[RecordDict], _weighted_by: str) -> MetricRecord:
    """Flower's hook for the metrics of updates: returns none, since the run reads them itself."""
    return MetricRecord()
