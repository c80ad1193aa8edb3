"""Averages are those worked out independently, and only replies that can be read reach them, in one order."""

import itertools

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from federated_health.messages import Evaluation, Update
from federated_health.metrics import Counts
from federated_health.model import Weights
from federated_health.strategies import (
    EQUAL_WEIGHT,
    STRATEGIES,
    Accepted,
    Participants,
    Rejected,
    accept_replies,
)

NAMES = {11: "hungary", 12: "cleveland", 13: "va-long-beach", 14: "switzerland"}
ROWS = {"cleveland": 227, "hungary": 220, "switzerland": 92, "va-long-beach": 150}
SHAPES: dict[str, tuple[int, ...]] = {"hidden/kernel": (41, 16), "logit/bias": (1,)}


@pytest.fixture(autouse=True)
def _server_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's Message reads the identity of its process from here."""
    for name, value in (("_task_id", 0), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value)


def reply(node: int, content: RecordDict, kind: str = "train") -> Message:
    return Message(content, reply_to=Message(RecordDict(), node, kind))


def error_reply(node: int, reason: str | None) -> Message:
    return Message(Error(code=1, reason=reason), reply_to=Message(RecordDict(), node, "train"))


def weights_of(hospital: str) -> Weights:
    generator = np.random.default_rng(list(hospital.encode()))
    return {name: generator.normal(0, 2, shape).astype(np.float32) for name, shape in SHAPES.items()}


def update_of(hospital: str) -> RecordDict:
    return Update(weights=weights_of(hospital), examples=ROWS[hospital], loss=0.5).to_content()


def updates() -> list[Message]:
    return [reply(node, update_of(name)) for node, name in NAMES.items()]


def accept(replies: list[Message]) -> tuple[list[Accepted[Update]], list[Rejected]]:
    def read(node: int, content: RecordDict) -> Update:
        return Update.from_content(content, SHAPES, ROWS.get(NAMES.get(node, ""), 1))

    return accept_replies(replies, NAMES, read)


def average(strategy: str, replies: list[Message]) -> Weights:
    accepted, _ = accept(replies)
    arrays, _ = STRATEGIES[strategy]().aggregate_train(1, [one.message for one in accepted])
    assert arrays is not None
    return {name: arrays[name].numpy() for name in SHAPES}


def mean(name: str, weighted_by: dict[str, float]) -> np.ndarray:
    """In float64, by NumPy alone."""
    stack = np.stack([weights_of(hospital)[name].astype(np.float64) for hospital in weighted_by])
    return np.average(stack, axis=0, weights=list(weighted_by.values()))


@pytest.mark.parametrize("name", SHAPES)
def test_fedavg_is_the_mean_weighted_by_training_rows(name: str) -> None:
    averaged = average("fedavg", updates())[name]

    np.testing.assert_allclose(averaged, mean(name, dict(ROWS)), rtol=0, atol=1e-6)
    assert averaged.shape == SHAPES[name]


@pytest.mark.parametrize("name", SHAPES)
def test_average_is_the_plain_mean_and_not_fedavg_s(name: str) -> None:
    averaged = average("average", updates())[name]

    np.testing.assert_allclose(averaged, mean(name, dict.fromkeys(ROWS, 1.0)), rtol=0, atol=1e-6)
    assert np.abs(averaged - average("fedavg", updates())[name]).max() > 0.01


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_average_does_not_depend_on_who_answers_first(strategy: str) -> None:
    reference = average(strategy, updates())

    for order in itertools.permutations(range(len(NAMES))):
        replies = updates()  # anew, since a reply is marked when it is accepted
        averaged = average(strategy, [replies[i] for i in order])
        assert all(averaged[name].tobytes() == reference[name].tobytes() for name in SHAPES)


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
        Rejected("node 99", "who am I"),
        Rejected("switzerland", "it gave no reason"),
        Rejected("va-long-beach", "it did not answer within 600 s"),
    ]


def test_a_stranger_s_reason_is_shown_on_one_line_and_not_at_any_length() -> None:
    _, rejected = accept([error_reply(13, "no\n\x1b[31mround 3 \u202edone" + "!" * 1000)])

    assert rejected == [Rejected("va-long-beach", "no??[31mround 3 ?done" + "!" * 179)]


def test_what_is_rejected_does_not_reach_the_average() -> None:
    poisoned = update_of("hungary")
    poisoned["metrics"] = MetricRecord({"num-examples": 10**9, "train-loss": 0.5})  # not what it declared
    replies = [reply(11, poisoned), *updates()[1:3], error_reply(14, "gone")]

    averaged = average("fedavg", replies)

    left = {name: float(ROWS[name]) for name in ("cleveland", "va-long-beach")}
    np.testing.assert_allclose(averaged["logit/bias"], mean("logit/bias", left), rtol=0, atol=1e-6)


def test_no_replies_give_no_average() -> None:
    assert accept([]) == ([], [])
    assert STRATEGIES["fedavg"]().aggregate_train(1, [])[0] is None


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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("key", "value"), [(EQUAL_WEIGHT, 1e9), (EQUAL_WEIGHT, 0.0), ("age-of-first-patient", 63.0)])
def test_a_hospital_that_adds_a_metric_is_rejected_and_does_not_stop_the_others(
    strategy: str, key: str, value: float
) -> None:
    replies = updates()
    replies[0].content.metric_records["metrics"][key] = value

    averaged = average(strategy, replies)

    left = {name: float(rows) if strategy == "fedavg" else 1.0 for name, rows in ROWS.items() if name != "hungary"}
    for name in SHAPES:
        np.testing.assert_allclose(averaged[name], mean(name, left), rtol=0, atol=1e-6)
    assert accept(updates()[1:])[1] == []
    assert accept(replies[:1]) == ([], [Rejected("hungary", "its metrics are not: num-examples, train-loss")])


def evaluation(node: int, counts: Counts, **more: float) -> Message:
    content = Evaluation(counts=counts).to_content()
    for key, value in more.items():
        content.metric_records["metrics"][key] = value
    return reply(node, content, "evaluate")


def accept_evaluations(
    replies: list[Message], declared: dict[int, int]
) -> tuple[list[Accepted[Evaluation]], list[Rejected]]:
    return accept_replies(replies, NAMES, lambda node, content: Evaluation.from_content(content, declared[node]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluations_are_added_up_and_not_averaged(strategy: str) -> None:
    large = Counts(true_positives=60, true_negatives=30, false_positives=10, loss_sum=40.0, squared_error_sum=12.5)
    small = Counts(false_negatives=10, loss_sum=30.0, squared_error_sum=7.5)
    accepted, _ = accept_evaluations([evaluation(11, large), evaluation(12, small)], {11: 100, 12: 10})

    metrics = STRATEGIES[strategy]().aggregate_evaluate(1, [one.message for one in accepted])

    assert metrics is not None
    assert dict(metrics) == {
        "true_positives": 60,
        "false_positives": 10,
        "true_negatives": 30,
        "false_negatives": 10,
        "loss_sum": 70.0,
        "squared_error_sum": 20.0,
    }


def test_a_hospital_that_evaluates_more_than_asked_does_not_stop_the_others() -> None:
    replies = [evaluation(11, Counts(true_positives=5), roc_auc=0.5), evaluation(12, Counts(true_negatives=5))]
    accepted, rejected = accept_evaluations(replies, {11: 5, 12: 5})

    metrics = STRATEGIES["fedavg"]().aggregate_evaluate(1, [one.message for one in accepted])

    assert [one.hospital for one in rejected] == ["hungary"]
    assert metrics is not None
    assert (metrics["true_positives"], metrics["true_negatives"]) == (0, 5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nodes", [[11], [11, 12, 13, 14]])
def test_all_participants_and_nobody_else_are_asked(strategy: str, nodes: list[int]) -> None:
    content = update_of("cleveland")
    grid = Participants(nodes).as_grid()
    chosen = STRATEGIES[strategy]()

    for configure in (chosen.configure_train, chosen.configure_evaluate):
        asked = list(configure(3, content.array_records["arrays"], ConfigRecord({"seed": 42}), grid))
        assert sorted(message.metadata.dst_node_id for message in asked) == nodes
        for message in asked:
            assert set(message.content.array_records) == {"arrays"}
            assert message.content.config_records["config"]["server-round"] == 3
