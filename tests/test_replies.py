"""Only replies that can be read are accepted, in one order."""

import pytest
from flwr.app import MetricRecord, RecordDict

from federated_health.replies import Rejected, accept_replies
from tests.updates import NAMES, ROWS, accept, error_reply, reply, update_of, updates

pytestmark = pytest.mark.usefixtures("server_identity")


def test_accepted_replies_are_in_order_of_name_with_what_was_read() -> None:
    accepted, rejected = accept(updates())

    assert [one.hospital for one in accepted] == ["cleveland", "hungary", "switzerland", "va-long-beach"]
    assert [one.content.examples for one in accepted] == [227, 220, 92, 150]
    assert [NAMES[one.message.metadata.src_node_id] for one in accepted] == [one.hospital for one in accepted]
    assert rejected == []


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

    accepted, rejected = accept(replies)

    assert [one.hospital for one in accepted] == ["cleveland"]
    assert rejected == [
        Rejected("hungary", "its num-examples is not a whole number of at least 1"),
        Rejected("node 98", "its reply does not hold exactly one set of weights"),
        Rejected("node 99", "who am I", answered=False),
        Rejected("switzerland", "it gave no reason", answered=False),
        Rejected("va-long-beach", "it did not answer within 600 s", answered=False),
    ]


def test_a_stranger_s_reason_is_shown_on_one_line_and_not_at_any_length() -> None:
    _, rejected = accept([error_reply(13, "no\n\x1b[31mround 3 \u202edone" + "!" * 1000)])

    assert rejected == [Rejected("va-long-beach", "no??[31mround 3 ?done" + "!" * 179, answered=False)]


def test_each_reply_is_read_as_that_of_the_hospital_which_sent_it() -> None:
    seen: list[tuple[int, RecordDict]] = []

    def read(node: int, content: RecordDict) -> str:
        seen.append((node, content))
        return f"read from {node}"

    replies = [reply(13, update_of("va-long-beach")), error_reply(14, "gone"), reply(12, update_of("cleveland"))]
    accepted, _ = accept_replies(replies, NAMES, read)

    assert seen == [(13, replies[0].content), (12, replies[2].content)]
    assert [one.content for one in accepted] == ["read from 12", "read from 13"]


def test_a_hospital_that_claims_another_s_rows_is_rejected() -> None:
    content = update_of("hungary")
    content.metric_records["metrics"]["num-examples"] = ROWS["cleveland"]

    accepted, rejected = accept([reply(12, update_of("cleveland")), reply(11, content)])

    assert [one.hospital for one in accepted] == ["cleveland"]
    assert rejected == [Rejected("hungary", "its num-examples is not the number of training rows that it declared")]


def test_no_replies_are_none() -> None:
    assert accept([]) == ([], [])
