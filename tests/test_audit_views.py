"""What is seen of a run: the server's record of updates, the averages, and what they say of patients by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federated_health.data.tasks import HEART_DISEASE
from federated_health.messages.content import ARRAYS
from federated_health.messages.records import weights_to_record
from federated_health.ml.networks import Weights, initial_weights
from federated_health.names import node_id_of
from federated_health.studies.audit.gradients import gradients_of, layers_of
from federated_health.studies.audit.membership import losses
from federated_health.studies.audit.views import Step, WatchedGrid, averages_of, follow
from federated_health.transport.interface import hospital_context


def content(value: float) -> RecordDict:
    return RecordDict({ARRAYS: weights_to_record({"logit/kernel": np.full((2, 1), value, dtype=np.float32)})})


def value_of(weights: Weights) -> float:
    (array,) = weights.values()
    assert (array == array[0, 0]).all()
    return float(array[0, 0])


def pairs(steps: Sequence[Step]) -> list[tuple[float, float]]:
    return [(value_of(step.before), value_of(step.after)) for step in steps]


@pytest.fixture
def app() -> ClientApp:
    """Each hospital's training adds the length of its name; `broken` answers nothing."""
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        name = str(context.node_config["name"])
        if name == "broken":
            raise ValueError
        record: ArrayRecord = message.content.array_records[ARRAYS]
        return Message(content(float(record["logit/kernel"].numpy()[0, 0]) + len(name)), reply_to=message)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001
        return Message(content(99.0), reply_to=message)

    return made


@pytest.mark.usefixtures("server_identity")
def test_the_grid_keeps_what_each_hospital_was_sent_and_sent_back_and_nothing_else(app: ClientApp) -> None:
    grid = WatchedGrid(app, {name: hospital_context(name, {}) for name in ("a", "bcd", "broken")})
    for start in (1.0, 10.0):
        questions = [Message(content(start), node_id_of(name), "train") for name in ("a", "bcd", "broken")]
        replies = grid.send_and_receive(questions)
        assert [reply.has_error() for reply in replies] == [False, False, True]
        grid.send_and_receive([Message(content(5.0), node_id_of("a"), "evaluate")])
    assert {name: pairs(steps) for name, steps in grid.seen.items()} == {
        "a": [(1.0, 2.0), (10.0, 11.0)],
        "bcd": [(1.0, 4.0), (10.0, 13.0)],
        "broken": [],
    }


def test_averages_go_from_round_to_round_and_to_the_final_weights() -> None:
    def weights(value: float) -> Weights:
        return {"w": np.full((1, 1), value, dtype=np.float32)}

    seen = {
        "a": [Step(weights(1), weights(7)), Step(weights(2), weights(8)), Step(weights(3), weights(9))],
        "b": [Step(weights(1), weights(0)), Step(weights(2), weights(0)), Step(weights(3), weights(0))],
    }
    assert pairs(averages_of(seen, weights(4))) == [(1, 2), (2, 3), (3, 4)]


FEATURES = np.random.default_rng(1).normal(size=(12, HEART_DISEASE.feature_width))
LABELS = np.tile([0.0, 1.0], 6)


def test_drops_add_up_over_steps() -> None:
    first, second, third = (initial_weights(HEART_DISEASE, "mlp", seed) for seed in (1, 2, 3))

    def loss(weights: Weights) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return losses(gradients_of(layers_of(weights), FEATURES, LABELS).log_odds, LABELS)

    # Not one after the other: what a server averaged in between is no part of this hospital's steps.
    steps = [Step(first, second), Step(first, third)]
    expected = 2 * loss(first) - loss(second) - loss(third)
    assert follow(steps, FEATURES, LABELS)["drop"] == pytest.approx(expected)


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_those_who_took_part_have_a_share_in_the_step_and_the_others_have_none(model: str) -> None:
    """One tiny step along the mean gradient of the first six, and the penalty of kernels."""
    rate, penalty = 1e-3, 0.1
    before: dict[str, Any] = {
        name: array.astype(np.float64) for name, array in initial_weights(HEART_DISEASE, model, 1).items()
    }
    after: dict[str, Any] = {}
    for name, array in before.items():
        slope = np.zeros(array.shape)
        for place in np.ndindex(*array.shape):
            ends = []
            for move in (1e-6, -1e-6):
                changed = {**before, name: before[name].copy()}
                changed[name][place] += move
                log_odds = gradients_of(layers_of(changed), FEATURES[:6], LABELS[:6]).log_odds
                ends.append(losses(log_odds, LABELS[:6]).mean())
            slope[place] = (ends[0] - ends[1]) / 2e-6
        after[name] = array - rate * (slope + penalty * array * (array.ndim > 1))
    step = Step(before, after)
    shares = follow([step], FEATURES, LABELS)["share"]
    # The ridge takes from those whose gradient is small or like another one's.
    assert np.median(shares[:6]) == pytest.approx(rate / 6, rel=0.1)
    assert shares[:6].min() > 2 * np.abs(shares[6:]).max()


def test_a_step_that_goes_nowhere_says_nothing() -> None:
    weights = initial_weights(HEART_DISEASE, "mlp", 1)
    seen = follow([Step(weights, weights)], FEATURES, LABELS)
    assert not seen["drop"].any()
    assert not seen["share"].any()
