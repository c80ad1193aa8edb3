"""The reply collector: valid replies in one order, others rejected with a reason. See also test_aggregation.py."""

import logging
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from federated_health.messages.content import Update
from federated_health.messages.validation import read_update
from federated_health.server.lasting_failures import find_lasting_cause
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import ReplyCollector, find_outsized
from federated_health.transport.interface import Problem
from tests.support.updates import NAMES, ROWS, SHAPES, accept, error_reply, reply, update_of, updates

pytestmark = pytest.mark.usefixtures("server_identity")


def test_accepted_replies_are_ordered_by_hospital_and_hold_what_was_read() -> None:
    accepted, problems = accept(updates())

    names = ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert [valid.hospital for valid in accepted] == names
    assert [valid.content.examples for valid in accepted] == [227, 220, 92, 150]
    assert [NAMES[valid.message.metadata.src_node_id] for valid in accepted] == names
    assert (problems.rejected, problems.unanswered) == ({}, {})


def test_malformed_and_error_replies_are_counted_by_hospital_and_reason() -> None:
    malformed = update_of("hungary")
    malformed["metrics"] = MetricRecord({"num-examples": -731, "train-loss": 0.5})
    replies = [
        error_reply(13, "it did not answer within 600 s"),
        reply(12, update_of("cleveland")),
        reply(11, malformed),
        error_reply(14, None),
        error_reply(99, "who am I"),
        reply(98, RecordDict()),
    ]

    accepted, problems = accept(replies)

    assert [valid.hospital for valid in accepted] == ["cleveland"]
    assert list(problems.rejected) == ["hungary", "node 98"]
    assert all("num-examples" in reason for reason in problems.rejected["hungary"])
    assert all("one set of weights" in reason for reason in problems.rejected["node 98"])
    assert problems.unanswered == {
        "node 99": {"who am I": 1},
        "switzerland": {"it gave no reason": 1},
        "va-long-beach": {"it did not answer within 600 s": 1},
    }


def test_a_reason_is_made_printable_and_shortened() -> None:
    _, problems = accept([error_reply(13, "no\n\x1b[31mround 3 \u202edone" + "!" * 1000)])

    assert problems.unanswered == {"va-long-beach": {"no??[31mround 3 ?done" + "!" * 179: 1}}


def test_each_reply_is_read_with_the_node_that_sent_it() -> None:
    calls: list[tuple[int, RecordDict]] = []

    def read(node: int, content: RecordDict) -> str:
        calls.append((node, content))
        return f"read from {node}"

    replies = [reply(13, update_of("va-long-beach")), error_reply(14, "gone"), reply(12, update_of("cleveland"))]
    accepted, _ = accept(replies, read)

    assert calls == [(12, replies[2].content), (13, replies[0].content)]
    assert [valid.content for valid in accepted] == ["read from 12", "read from 13"]


def test_no_replies_give_neither_content_nor_problems() -> None:
    accepted, problems = accept([])
    assert (accepted, problems.rejected, problems.unanswered) == ([], {}, {})


class FixedReplies:
    """A transport like those over Flower's engines, which returns only the replies that arrived.

    Args:
        replies: returned for any messages.
    """

    def __init__(self, replies: list[Message]) -> None:
        self.replies = replies
        self.timeouts: list[float | None] = []

    def names(self) -> dict[int, str]:
        return {}

    def take_problems(self) -> list[Problem]:
        return []

    def send_and_receive(self, _messages: list[Message], timeout: float | None = None) -> list[Message]:
        self.timeouts.append(timeout)
        return list(self.replies)


def collector_of(replies: list[Message]) -> tuple[Any, ReplyCollector, ProblemLog]:
    grid: Any = FixedReplies(replies)
    problems = ProblemLog()
    return grid, ReplyCollector(grid, 7.5, problems), problems


def exchange(collector: ReplyCollector, nodes: list[int]) -> list[str]:
    """Names of the hospitals whose replies are accepted."""
    messages = [Message(RecordDict(), node, "train") for node in nodes]

    def read(node: int, content: RecordDict) -> Update:
        return read_update(content, SHAPES, ROWS[NAMES[node]])

    return [valid.hospital for valid in collector.send_and_receive(messages, NAMES, read)]


def test_missing_replies_are_counted_and_unexpected_ones_ignored() -> None:
    replies = [reply(12, update_of("cleveland")), reply(13, update_of("va-long-beach"))]
    grid, collector, problems = collector_of(replies)

    assert exchange(collector, [11, 12, 99]) == ["cleveland"]
    assert grid.timeouts == [7.5]
    assert list(problems.unanswered) == ["hungary", "node 99"]
    assert all("7.5 s" in reason for reasons in problems.unanswered.values() for reason in reasons)
    assert problems.rejected == {}


def test_an_error_reply_is_counted_once() -> None:
    _, collector, problems = collector_of([error_reply(11, "gone")])

    assert exchange(collector, [11]) == []
    assert problems.to_json()["unanswered"] == {"hungary": {"gone": 1}}


def test_nothing_is_sent_to_no_nodes() -> None:
    grid, collector, _ = collector_of([])
    assert exchange(collector, []) == []
    assert grid.timeouts == []


def test_a_repeated_reason_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    grid, collector, problems = collector_of([error_reply(11, "gone")])
    for content in (error_reply(11, "gone"), error_reply(11, "back"), None):
        for _ in range(2):
            grid.replies = [content or reply(11, update_of("hungary"))]
            exchange(collector, [11])
    grid.replies = [error_reply(11, "back")]
    exchange(collector, [11])

    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [(warning.split()[0], warning.split()[-1]) for warning in warnings] == [
        ("hungary", reason) for reason in ("gone", "back", "back")
    ]
    assert problems.to_json()["unanswered"] == {"hungary": {"back": 3, "gone": 2}}


@pytest.mark.parametrize(
    ("norms", "factor", "outsized"),
    [
        ({}, 30.0, set()),
        ({"a": 1e9}, 30.0, set()),
        ({"a": 1.0, "b": 1e9}, 30.0, set()),
        ({"a": 1.0, "b": 1.0, "c": 31.0}, 30.0, {"c"}),
        ({"a": 1.0, "b": 1.0, "c": 30.0}, 30.0, set()),
        ({"a": 1.0, "b": 2.0, "c": 61.0}, 30.0, {"c"}),
        ({"a": 1.0, "b": 2.0, "c": 59.0}, 30.0, set()),
        ({"a": 1.0, "b": 2.0, "c": 90.0, "d": 90.0}, 30.0, {"c", "d"}),
        ({"a": 1.0, "b": 90.0, "c": 90.0}, 30.0, set()),
        ({"a": 1.0, "b": 90.0}, 0.0, set()),
        ({"a": 0.0, "b": 0.0, "c": 1e-9}, 30.0, set()),
        ({"a": 0.0, "b": 1.0, "c": 31.0}, 30.0, {"c"}),
    ],
)
def test_an_update_is_outsized_above_a_multiple_of_the_lower_median(
    norms: dict[str, float], factor: float, outsized: set[str]
) -> None:
    assert find_outsized(norms, factor) == outsized


# Failures that another attempt would repeat

DIVERGING = "its training diverged: its train-loss is out of range"


@pytest.mark.parametrize(
    ("asked", "failures", "earlier", "expected"),
    [
        ("ab", {"a": DIVERGING, "b": DIVERGING}, {}, "try a smaller --learning-rate"),
        ("ab", {"a": "x", "b": "y"}, {"a": "x", "b": "y"}, "a: x; b: y"),
        ("ab", {"a": "x", "b": "x"}, {"a": "x", "b": "x"}, "a, b: x"),
        ("ab", {"a": DIVERGING, "b": "x"}, {"a": DIVERGING, "b": "x"}, "b: x"),
        ("ab", {"a": "x", "b": "y"}, {}, None),
        ("ab", {"a": "x", "b": "y"}, {"a": "x", "b": "z"}, None),
        ("ab", {"a": "x"}, {"a": "x"}, None),  # b sent an update, or nothing at all
        ("ab", {"a": "x", "b": "x"}, {"a": "x"}, None),
        ("", {}, {}, None),
    ],
)
def test_only_a_failure_of_every_hospital_that_repeats_itself_is_lasting(
    asked: str, failures: dict[str, str], earlier: dict[str, str], expected: str | None
) -> None:
    cause = find_lasting_cause(set(asked), failures, earlier)
    assert cause is None if expected is None else expected in str(cause)
