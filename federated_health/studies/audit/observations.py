"""What can be observed of a run, and the statistics of each patient that it gives to an attacker.

server      one hospital's weights before and after each round's local training, unless they are encrypted
hospital    the averages that every hospital gets in each round
anybody     the final model

A model's head is dense layers with ReLU between them (see `networks.build_head`). Statistics are in double precision.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.messages.content import ARRAYS
from federated_health.ml.metrics import probability
from federated_health.ml.networks import Weights
from federated_health.studies.audit.membership import losses

TRAIN = "train"

REGRESSED_ROUNDS = 5
"""Rounds whose steps are regressed. On heart disease all 30 rounds reveal less: few patients drive the late steps."""

RIDGE = 0.01
"""Share of the mean diagonal, since patients' gradients are nearly collinear. 0.001 to 0.1 work about as well."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Step:
    """Weights before and after training or averaging."""

    before: Weights
    after: Weights


class RecordingApp(ClientApp):
    """A ClientApp that records the weights that each hospital receives and sends in training.

    Attributes:
        steps: hospital -> its local training in each round.
    """

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app
        self.steps: dict[str, list[Step]] = defaultdict(list)

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        if message.metadata.message_type == TRAIN and reply.has_content():
            self.steps[str(context.node_config["name"])].append(Step(_weights_in(message), _weights_in(reply)))
        return reply


def _weights_in(message: Message) -> Weights:
    record = message.content.array_records[ARRAYS]
    return {name: record[name].numpy() for name in record}


def average_steps(steps: Mapping[str, Sequence[Step]], final: Weights) -> list[Step]:
    """The averaged weights from round to round, as every hospital gets them.

    Args:
        steps: hospital -> its local training, of a run in which every hospital took part in every round.
        final: the weights after the last round.
    """
    starts = [step.before for step in next(iter(steps.values()))]
    return [Step(before, after) for before, after in zip(starts, [*starts[1:], final], strict=True)]


def log_odds_of(weights: Weights, features: Floats) -> Array:
    """Log-odds of each patient, [patients].

    Args:
        features: [patients, width].
    """
    *_, last = _forward(weights, features)
    return last[:, 0]


def patient_gradients(weights: Weights, features: Floats, labels: Floats) -> Array:
    """Gradient of each patient's own cross-entropy, by backpropagation, [patients, weights in the order of `flatten`].

    Args:
        features: [patients, width].
        labels: [patients], 0 or 1.
    """
    *inputs, log_odds = _forward(weights, features)
    delta = probability(log_odds) - labels[:, None]
    parts: list[Array] = []
    for kernel, values in zip(list(weights.values())[-2::-2], reversed(inputs), strict=True):
        parts = [(values[:, :, None] * delta[:, None, :]).reshape(len(delta), -1), delta, *parts]
        delta = delta @ kernel.astype(np.float64).T * (values > 0)
    return np.concatenate(parts, axis=1)


def _forward(weights: Weights, features: Floats) -> list[Array]:
    """Inputs of each layer, [patients, width], then the log-odds, [patients, 1]."""
    arrays = [array.astype(np.float64) for array in weights.values()]
    *hidden, (kernel, bias) = zip(arrays[::2], arrays[1::2], strict=True)
    inputs = [features.astype(np.float64)]
    for hidden_kernel, hidden_bias in hidden:
        inputs.append(np.maximum(inputs[-1] @ hidden_kernel + hidden_bias, 0.0))
    return [*inputs, inputs[-1] @ kernel + bias]


def flatten(weights: Weights) -> Array:
    """All weights as one vector, layer by layer, kernel before bias."""
    return np.concatenate([array.astype(np.float64).ravel() for array in weights.values()])


def patient_statistics(steps: Sequence[Step], features: Floats, labels: Floats) -> dict[str, Array]:
    """What a sequence of steps reveals about each patient, each [patients].

    drop     decrease of the patient's loss in each step, summed
    share    share of the patient's gradient in the first steps, by ridge regression. Local training moves the weights
             against the sum of its patients' gradients, so shares are about equal for them and 0 for all others. The
             gradient of a step is the mean of those before and after it; the L2 penalty is one more regressor.

    Args:
        features: [patients, width].
        labels: [patients], 0 or 1.
    """
    size = len(labels) + 1
    drop, normal, target = np.zeros(len(labels)), np.zeros((size, size)), np.zeros(size)
    for number, step in enumerate(steps):
        ends = step.before, step.after
        before, after = (losses(log_odds_of(weights, features), labels) for weights in ends)
        drop += before - after
        if number < REGRESSED_ROUNDS:
            gradients = np.mean([patient_gradients(weights, features, labels) for weights in ends], axis=0)
            penalty = np.mean([flatten(_without_biases(weights)) for weights in ends], axis=0)
            regressors = np.vstack([gradients, penalty])
            normal += regressors @ regressors.T
            target -= regressors @ (flatten(step.after) - flatten(step.before))
    ridge = RIDGE * np.trace(normal) / size
    return {"drop": drop, "share": np.linalg.solve(normal + ridge * np.eye(size), target)[:-1]}


def _without_biases(weights: Weights) -> Weights:
    """The kernels, which the L2 penalty pulls towards 0; biases as zeros."""
    return {name: array if array.ndim > 1 else np.zeros_like(array) for name, array in weights.items()}
