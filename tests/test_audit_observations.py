"""Observations of a run: recorded updates, averages, patients' gradients, and the statistics made of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.content import ARRAYS, CONFIG
from federated_health.messages.records import METRICS, weights_to_record
from federated_health.ml.networks import Network, Weights, initial_weights
from federated_health.names import node_id_of
from federated_health.studies.audit.membership import losses
from federated_health.studies.audit.observations import (
    Layers,
    RecordingApp,
    Step,
    average_steps,
    difference,
    directional,
    inner_products,
    layers_of,
    log_odds_of,
    patient_gradients,
    patient_statistics,
)
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

Array = npt.NDArray[np.float64]


def weights_of(value: float) -> Weights:
    return {"logit/kernel": np.full((2, 1), value, dtype=np.float32)}


def content(value: float) -> RecordDict:
    return RecordDict({ARRAYS: weights_to_record(weights_of(value)), CONFIG: ConfigRecord({"threshold": 0.4})})


def value_of(weights: Weights) -> float:
    (array,) = weights.values()
    assert (array == array[0, 0]).all()
    return float(array[0, 0])


def pairs(steps: Sequence[Step]) -> list[tuple[float, float]]:
    return [(value_of(step.before), value_of(step.after)) for step in steps]


@pytest.fixture
def app() -> ClientApp:
    """Each hospital's training adds the length of its name to the weights; `broken` fails."""
    client_app = ClientApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        name = str(context.node_config["name"])
        if name == "broken":
            raise ValueError
        record: ArrayRecord = message.content.array_records[ARRAYS]
        return Message(content(float(record["logit/kernel"].numpy()[0, 0]) + len(name)), reply_to=message)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        few = context.node_config["name"] == "few"  # whose sums are withheld, which is sent as zeros
        counts = MetricRecord(
            {"true_positives": 0 if few else 3, "false_negatives": 0 if few else 1, "loss_sum": 0.0 if few else 2.5}
        )
        return Message(RecordDict({METRICS: counts}), reply_to=message)

    return client_app


@pytest.mark.usefixtures("server_identity")
def test_each_hospitals_training_and_its_released_sums_are_recorded(app: ClientApp) -> None:
    recorder = RecordingApp(app)
    grid = InProcessTransport(recorder, {name: hospital_context(name, {}) for name in ("a", "bcd", "broken")})
    for start in (1.0, 10.0):
        messages = [Message(content(start), node_id_of(name), "train") for name in ("a", "bcd", "broken")]
        replies = grid.send_and_receive(messages)
        assert [reply.has_error() for reply in replies] == [False, False, True]
        grid.send_and_receive([Message(content(5.0), node_id_of("a"), "evaluate")])
    (first, second) = recorder.evaluations["a"]
    assert list(recorder.evaluations) == ["a"]
    assert value_of(first.weights) == value_of(second.weights) == 5.0
    assert first.threshold == 0.4
    assert first.sums == {"true_positives": 3, "false_negatives": 1, "loss_sum": 2.5}  # those that were released
    assert {name: pairs(steps) for name, steps in recorder.steps.items()} == {
        "a": [(1.0, 2.0), (10.0, 11.0)],
        "bcd": [(1.0, 4.0), (10.0, 13.0)],
    }


@pytest.mark.usefixtures("server_identity")
def test_withheld_sums_and_noisy_counts_are_recorded_as_such(app: ClientApp) -> None:
    @app.evaluate("final")
    def evaluate_final(message: Message, _: Context) -> Message:
        return Message(RecordDict({METRICS: MetricRecord({"noisy-counts": [1.5, -0.5]})}), reply_to=message)

    recorder = RecordingApp(app)
    grid = InProcessTransport(recorder, {"few": hospital_context("few", {})})
    for kind in ("evaluate", "evaluate.final"):
        grid.send_and_receive([Message(content(1.0), node_id_of("few"), kind)])
    withheld, noisy = recorder.evaluations["few"]
    assert (withheld.sums, withheld.cells) == ({}, ())
    assert (noisy.sums, noisy.cells) == ({}, (1.5, -0.5))


@pytest.mark.usefixtures("server_identity")
def test_an_active_server_sends_its_own_weights_in_every_round(app: ClientApp) -> None:
    recorder = RecordingApp(app, lambda _, number: weights_of(100.0 + number))
    grid = InProcessTransport(recorder, {"a": hospital_context("a", {})})
    for _ in range(2):
        grid.send_and_receive([Message(content(1.0), node_id_of("a"), "train")])
    grid.send_and_receive([Message(content(1.0), node_id_of("a"), "evaluate")])
    assert pairs(recorder.steps["a"]) == [(100.0, 101.0), (101.0, 102.0)]
    assert value_of(recorder.evaluations["a"][0].weights) == 102.0


def test_average_steps_lead_from_round_to_round_to_the_final_weights() -> None:
    def weights(value: float) -> Weights:
        return {"w": np.full((1, 1), value, dtype=np.float32)}

    steps = {
        "a": [Step(weights(1), weights(7)), Step(weights(2), weights(8)), Step(weights(3), weights(9))],
        "b": [Step(weights(1), weights(0)), Step(weights(2), weights(0)), Step(weights(3), weights(0))],
    }
    assert pairs(average_steps(steps, weights(4))) == [(1, 2), (2, 3), (3, 4)]


FEATURES = np.random.default_rng(1).normal(size=(12, HEART_DISEASE.feature_width))
LABELS = np.tile([0.0, 1.0], 6)


# Gradients


def in_double(model: str, seed: int = 1) -> dict[str, Any]:
    return {
        name: array.astype(np.float64) for name, array in initial_weights(HEART_DISEASE, Network(model), seed).items()
    }


def loss_at(weights: Weights) -> Array:
    return losses(log_odds_of(layers_of(weights), FEATURES), LABELS)


def gradients_at(weights: Weights) -> Layers:
    return patient_gradients(layers_of(weights), FEATURES, LABELS)


def test_log_odds_and_gradients_match_hand_calculation() -> None:
    """relu(1*2 + 1) = 3 and relu(-1*2 + 0) = 0; 3*0.5 + 0*9 - 1 = 0.5."""
    network = [(np.array([[1.0, -1.0]]), np.array([1.0, 0.0])), (np.array([[0.5], [9.0]]), np.array([-1.0]))]
    assert log_odds_of(network, np.array([[2.0]])).tolist() == [0.5]
    error = 1 / (1 + np.exp(-0.5)) - 1
    first, second = patient_gradients(network, np.array([[2.0]]), np.array([1.0]))
    assert (first[0].tolist(), second[0].tolist()) == ([[2.0]], [[3.0, 0.0]])
    assert first[1].tolist() == [[pytest.approx(0.5 * error), 0.0]]
    assert second[1].tolist() == [[pytest.approx(error)]]


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_gradients_match_finite_differences(model: str) -> None:
    start, other = in_double(model), in_double(model, 2)
    step = 1e-6
    up, down = (
        {name: array + sign * step * (other[name] - array) for name, array in start.items()} for sign in (1, -1)
    )
    expected = (loss_at(up) - loss_at(down)) / (2 * step)
    direction = difference(layers_of(other), layers_of(start))
    assert directional(gradients_at(start), direction) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_inner_products_match_explicit_gradients(model: str) -> None:
    def explicit(gradients: Layers) -> Array:
        parts = [
            part
            for inputs, errors in gradients
            for part in ((inputs[:, :, None] * errors[:, None, :]).reshape(len(errors), -1), errors)
        ]
        return np.concatenate(parts, axis=1)

    gradients, others = gradients_at(in_double(model)), gradients_at(in_double(model, 3))
    assert inner_products(gradients, others) == pytest.approx(explicit(gradients) @ explicit(others).T)


# Statistics


def test_loss_drops_are_summed_over_steps() -> None:
    first, second, third = (initial_weights(HEART_DISEASE, Network(), seed) for seed in (1, 2, 3))
    # Not consecutive: the server's averaging between them is no part of this hospital's training.
    steps = [Step(first, second), Step(first, third)]
    expected = 2 * loss_at(first) - loss_at(second) - loss_at(third)
    assert patient_statistics(steps, FEATURES, LABELS)["drop"] == pytest.approx(expected)


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_only_training_patients_have_a_share_in_the_step(model: str) -> None:
    """One tiny step along the mean gradient of the first six, and the penalty of kernels."""
    rate, penalty = 1e-3, 0.1
    before = in_double(model)
    after: dict[str, Any] = {}
    for name, array in before.items():
        slope = np.zeros(array.shape)
        for place in np.ndindex(*array.shape):
            ends = []
            for move in (1e-6, -1e-6):
                changed = {**before, name: before[name].copy()}
                changed[name][place] += move
                ends.append(losses(log_odds_of(layers_of(changed), FEATURES[:6]), LABELS[:6]).mean())
            slope[place] = (ends[0] - ends[1]) / 2e-6
        after[name] = array - rate * (slope + penalty * array * (array.ndim > 1))
    shares = patient_statistics([Step(before, after)], FEATURES, LABELS)["share"]
    # The ridge lowers the shares of patients whose gradient is small, or close to that of another.
    assert np.median(shares[:6]) == pytest.approx(rate / 6, rel=0.1)
    assert shares[:6].min() > 2 * np.abs(shares[6:]).max()


def test_a_step_without_movement_reveals_nothing() -> None:
    weights = initial_weights(HEART_DISEASE, Network(), 1)
    statistics = patient_statistics([Step(weights, weights)], FEATURES, LABELS)
    assert not statistics["drop"].any()
    assert not statistics["share"].any()
