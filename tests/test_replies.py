"""Only replies that can be read are accepted, in one order."""

import logging
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from federated_health.messages.content import Update
from federated_health.server.history import ProblemLog
from federated_health.server.replies import ReplyCollector, find_outsized
from federated_health.transport.interface import Problem
from tests.support.updates import NAMES, ROWS, SHAPES, accept, error_reply, reply, update_of, updates

pytestmark = pytest.mark.usefixtures("server_identity")


def test_accepted_replies_are_in_order_of_name_with_what_was_read() -> None:
    accepted, problems = accept(updates())

    assert [one.hospital for one in accepted] == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert [one.content.examples for one in accepted] == [227, 220, 92, 150]
    assert [NAMES[one.message.metadata.src_node_id] for one in accepted] == [one.hospital for one in accepted]
    assert (problems.rejected, problems.unanswered) == ({}, {})


def test_error_replies_and_malformed_ones_are_rejected_by_name_and_reason() -> None:
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

    assert [one.hospital for one in accepted] == ["cleveland"]
    assert problems.rejected == {
        "hungary": {"its num-examples is not a whole number of at least 1": 1},
        "node 98": {"its reply does not hold exactly one set of weights": 1},
    }
    assert problems.unanswered == {
        "node 99": {"who am I": 1},
        "switzerland": {"it gave no reason": 1},
        "va-long-beach": {"it did not answer within 600 s": 1},
    }


def test_a_stranger_s_reason_is_shown_on_one_line_and_not_at_any_length() -> None:
    _, problems = accept([error_reply(13, "no\n\x1b[31mround 3 \u202edone" + "!" * 1000)])

    assert problems.unanswered == {"va-long-beach": {"no??[31mround 3 ?done" + "!" * 179: 1}}


def test_each_reply_is_read_as_that_of_the_hospital_which_sent_it() -> None:
    seen: list[tuple[int, RecordDict]] = []

    def read(node: int, content: RecordDict) -> str:
        seen.append((node, content))
        return f"read from {node}"

    replies = [reply(13, update_of("va-long-beach")), error_reply(14, "gone"), reply(12, update_of("cleveland"))]
    accepted, _ = accept(replies, read)

    assert seen == [(12, replies[2].content), (13, replies[0].content)]
    assert [one.content for one in accepted] == ["read from 12", "read from 13"]


def test_a_hospital_that_claims_another_s_rows_is_rejected() -> None:
    content = update_of("hungary")
    content.metric_records["metrics"]["num-examples"] = ROWS["cleveland"]

    accepted, problems = accept([reply(12, update_of("cleveland")), reply(11, content)])

    assert [one.hospital for one in accepted] == ["cleveland"]
    assert problems.rejected == {
        "hungary": {"its num-examples is not the number of training rows that it registered": 1}
    }


def test_no_replies_are_none() -> None:
    accepted, problems = accept([])
    assert (accepted, problems.rejected, problems.unanswered) == ([], {}, {})


class Answering:
    """A grid as Flower's own, which returns those replies that there are.

    Args:
        replies: of every question that is put.
    """

    def __init__(self, replies: list[Message]) -> None:
        self.replies = replies
        self.timeouts: list[float | None] = []

    def names(self) -> dict[int, str]:
        return {}

    def take_problems(self) -> list[Problem]:
        return []

    def send_and_receive(self, _questions: list[Message], timeout: float | None = None) -> list[Message]:
        self.timeouts.append(timeout)
        return list(self.replies)


def collector_of(replies: list[Message]) -> tuple[Any, ReplyCollector, ProblemLog]:
    grid: Any = Answering(replies)
    problems = ProblemLog()
    return grid, ReplyCollector(grid, 7.5, problems), problems


def ask(collector: ReplyCollector, nodes: list[int]) -> list[str]:
    questions = [Message(RecordDict(), node, "train") for node in nodes]

    def read(node: int, content: RecordDict) -> Update:
        return Update.from_content(content, SHAPES, ROWS[NAMES[node]])

    return [one.hospital for one in collector.send_and_receive(questions, NAMES, read)]


def test_who_does_not_answer_at_all_is_counted_and_who_was_not_asked_is_not_heard() -> None:
    replies = [reply(12, update_of("cleveland")), reply(13, update_of("va-long-beach"))]
    grid, collector, problems = collector_of(replies)

    assert ask(collector, [11, 12, 99]) == ["cleveland"]
    assert grid.timeouts == [7.5]
    assert problems.to_json()["unanswered"] == {
        "hungary": {"it did not answer within 7.5 s": 1},
        "node 99": {"it did not answer within 7.5 s": 1},
    }
    assert problems.to_json()["rejected"] == {}


def test_who_answers_with_an_error_is_counted_once() -> None:
    _, collector, problems = collector_of([error_reply(11, "gone")])

    assert ask(collector, [11]) == []
    assert problems.to_json()["unanswered"] == {"hungary": {"gone": 1}}


def test_nobody_is_asked_where_there_is_nobody() -> None:
    grid, collector, _ = collector_of([])
    assert ask(collector, []) == []
    assert grid.timeouts == []


def test_what_is_left_out_is_told_when_it_changes_and_counted_every_time(caplog: pytest.LogCaptureFixture) -> None:
    grid, collector, problems = collector_of([error_reply(11, "gone")])
    for content in (error_reply(11, "gone"), error_reply(11, "back"), None):
        for _ in range(2):
            grid.replies = [content or reply(11, update_of("hungary"))]
            ask(collector, [11])
    grid.replies = [error_reply(11, "back")]
    ask(collector, [11])

    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert said == [f"hungary is left out: {reason}" for reason in ("gone", "back", "back")]
    assert problems.to_json()["unanswered"] == {"hungary": {"back": 3, "gone": 2}}


@pytest.mark.parametrize(
    ("norms", "factor", "found"),
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
def test_an_update_is_outsized_beyond_so_many_times_the_lower_median(
    norms: dict[str, float], factor: float, found: set[str]
) -> None:
    assert find_outsized(norms, factor) == found
