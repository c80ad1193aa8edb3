"""Observations of a run, and the statistics of each patient that an attacker computes from them.

server      one hospital's weights before and after each round's local training, and sums over its held-out rows;
            with secure aggregation the averages, and sums over all hospitals
hospital    the averages that every hospital gets in each round
anyone      the final model

A model's head is dense layers with ReLU between them (see `ml.keras_models.build_head`). Statistics are in double
precision, from features [patients, width] and labels [patients], 0 or 1.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message, RecordDict

from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.content import ARRAYS, CONFIG, EVALUATE, FINAL, NOISY_COUNTS
from federated_health.messages.records import METRICS, weights_to_record
from federated_health.ml.networks import Weights
from federated_health.ml.noisy_evaluation import edges_of
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import probability
from federated_health.studies.audit.membership import losses
from federated_health.transport.app_calls import App

ROUND_MESSAGES = ("train", "evaluate")
"""Types of the messages that carry a round's weights."""

COUNT_NAMES = ("true_positives", "false_positives", "true_negatives", "false_negatives")
SUM_NAMES = (*COUNT_NAMES, "loss_sum", "squared_error_sum")
"""Sums over held-out rows (see `binary.Counts`)."""

REGRESSED_ROUNDS = 5
"""Number of rounds in the regression. On heart disease all 30 reveal less: few patients drive the late steps."""

RIDGE = 0.01
"""Ridge penalty, as a share of the mean diagonal: gradients are nearly collinear. 0.001 to 0.1 work about as well."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Layers = list[tuple[Array, Array]]
"""A pair of arrays for each layer of a head, such as kernel and bias."""


@dataclass(frozen=True, eq=False)
class Step:
    """Weights before and after training or averaging."""

    before: Weights
    after: Weights


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was released of held-out rows, under weights that the server sent.

    Attributes:
        sums: the sums by name, as far as they were released.
        cells: under differential privacy, noisy numbers of patients by class and score (see `ml.noisy_evaluation`).
        edges: of their bins; none if the hospital is not in memory.
    """

    weights: Weights
    threshold: float
    sums: Mapping[str, float]
    cells: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()


Craft = Callable[[str, int], Weights | None]


class RecordingApp:
    """An app that records what a server sends to each hospital and what it learns from the replies.

    Args:
        craft: the weights of an active server, by the hospital and the number of its trainings so far; None, as for
            all by default, stands for the run's own weights.

    Attributes:
        steps: hospital -> its local training in each round.
        evaluations: hospital -> the released sums over its held-out rows, by evaluation.
    """

    def __init__(self, app: App, craft: Craft = lambda *_: None) -> None:
        self._app, self._craft = app, craft
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.evaluations: dict[str, list[Evaluated]] = defaultdict(list)

    def __call__(self, message: Message, context: Context) -> Message:
        name, kind = str(context.node_config["name"]), message.metadata.message_type
        if kind in ROUND_MESSAGES and (crafted := self._craft(name, len(self.steps.get(name, ())))) is not None:
            message.content = RecordDict({**message.content, ARRAYS: weights_to_record(crafted)})
        reply = self._app(message, context)
        if not reply.has_content() or kind not in (*ROUND_MESSAGES, FINAL):
            return reply
        if kind == "train":
            self.steps[name].append(Step(_weights_in(message), _weights_in(reply)))
        config: Mapping[str, Any] = message.content.config_records[CONFIG]
        if kind in ("evaluate", FINAL) or config.get(EVALUATE):
            metrics: Mapping[str, Any] = reply.content.metric_records[METRICS]
            sums = {key: float(metrics[key]) for key in SUM_NAMES if key in metrics}
            released = sums if any(sums.values()) else {}  # all are 0 if the rows are too few
            cells = tuple(metrics.get(NOISY_COUNTS, ()))
            edges: tuple[float, ...] = ()
            if cells and isinstance(context, InMemoryHospital):
                edges = tuple(edges_of(target_of(context.hospital.task)))
            threshold = float(config["threshold"])
            self.evaluations[name].append(Evaluated(_weights_in(message), threshold, released, cells, edges))
        return reply


def _weights_in(message: Message) -> Weights:
    record = message.content.array_records[ARRAYS]
    return {name: record[name].numpy() for name in record}


def average_steps(steps: Mapping[str, Sequence[Step]], final: Weights) -> list[Step]:
    """The steps of the average from each round to the next, as every hospital sees them, up to the final weights.

    Args:
        steps: hospital -> its local training; every hospital took part in every round.
    """
    starts = [step.before for step in next(iter(steps.values()))]
    return [Step(before, after) for before, after in zip(starts, [*starts[1:], final], strict=True)]


def layers_of(weights: Weights) -> Layers:
    """Kernel [inputs, outputs] and bias [outputs] of each layer."""
    arrays = [array.astype(np.float64) for array in weights.values()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def difference(after: Layers, before: Layers) -> Layers:
    """How far each kernel and bias moved."""
    return [(kernel - old[0], bias - old[1]) for (kernel, bias), old in zip(after, before, strict=True)]


def log_odds_of(layers: Layers, features: Floats) -> Array:
    """Log-odds, [patients], of features [patients, width]."""
    *_, log_odds = _forward(layers, features)
    return log_odds[:, 0]


def patient_gradients(layers: Layers, features: Floats, labels: Floats) -> Layers:
    """Factors of the gradient of each patient's own cross-entropy, by backpropagation.

    Returns:
        Inputs [patients, inputs] and errors [patients, outputs] of each layer. A patient's gradient of the kernel is
        their outer product, that of the bias is the error; so inner products need no gradient to be written out.
    """
    *inputs, log_odds = _forward(layers, features)
    errors = [probability(log_odds) - labels[:, None]]
    for (kernel, _), values in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        errors.insert(0, errors[0] @ kernel.T * (values > 0))
    return list(zip(inputs, errors, strict=True))


def _forward(layers: Layers, features: Floats) -> list[Array]:
    """Inputs of each layer, [patients, width], then the log-odds, [patients, 1]."""
    *hidden, (kernel, bias) = layers
    inputs = [features.astype(np.float64)]
    for hidden_kernel, hidden_bias in hidden:
        inputs.append(np.maximum(inputs[-1] @ hidden_kernel + hidden_bias, 0.0))
    return [*inputs, inputs[-1] @ kernel + bias]


def inner_products(gradients: Layers, others: Layers) -> Array:
    """Inner products of patients' gradients, [patients, other patients]."""
    pairs = zip(gradients, others, strict=True)
    layers = [(inputs @ other[0].T + 1.0) * (errors @ other[1].T) for (inputs, errors), other in pairs]
    return np.asarray(np.sum(layers, axis=0))


def directional(gradients: Layers, direction: Layers) -> Array:
    """Inner product of each patient's gradient with a direction among the weights, [patients]."""
    pairs = zip(gradients, direction, strict=True)
    layers = [((inputs @ part[0] + part[1]) * errors).sum(axis=1) for (inputs, errors), part in pairs]
    return np.asarray(np.sum(layers, axis=0))


def patient_statistics(steps: Sequence[Step], features: Floats, labels: Floats) -> dict[str, Array]:
    """Statistics of each patient from a sequence of steps, each [patients].

    drop     decrease of the patient's loss in each step, summed
    share    share of the patient's gradient in the first steps, by ridge regression. Local training moves the weights
             against the sum of its patients' gradients, so shares are about equal for them and 0 for all others.
    """
    size = len(labels) + 1
    drop, normal, target = np.zeros(len(labels)), np.zeros((size, size)), np.zeros(size)
    for number, step in enumerate(steps):
        ends = layers_of(step.before), layers_of(step.after)
        before, after = (losses(log_odds_of(layers, features), labels) for layers in ends)
        drop += before - after
        if number < REGRESSED_ROUNDS:
            _add_step(normal, target, ends, [patient_gradients(layers, features, labels) for layers in ends])
    ridge = RIDGE * np.trace(normal) / size
    return {"drop": drop, "share": np.linalg.solve(normal + ridge * np.eye(size), target)[:-1]}


def _add_step(normal: Array, target: Array, ends: tuple[Layers, Layers], gradients: list[Layers]) -> None:
    """Add a step to the normal equations [patients + 1, patients + 1] and their right side [patients + 1].

    The gradient of a step is the mean of those before and after it. The last regressor is the L2 penalty, which pulls
    the kernels towards 0.
    """
    before, after = gradients
    movement = difference(ends[1], ends[0])
    crossed = inner_products(before, after)
    normal[:-1, :-1] += (inner_products(before, before) + inner_products(after, after) + crossed + crossed.T) / 4
    penalties = [[(kernel, np.zeros_like(bias)) for kernel, bias in layers] for layers in ends]
    for penalty in penalties:
        cross = (directional(before, penalty) + directional(after, penalty)) / 4
        normal[:-1, -1] += cross
        normal[-1, :-1] += cross
        normal[-1, -1] += sum(_inner_product(penalty, other) for other in penalties) / 4
        target[-1] -= _inner_product(penalty, movement) / 2
    target[:-1] -= (directional(before, movement) + directional(after, movement)) / 2


def _inner_product(direction: Layers, other: Layers) -> float:
    pairs = [pair for layers in zip(direction, other, strict=True) for pair in zip(*layers, strict=True)]
    return float(sum((part * part_of_other).sum() for part, part_of_other in pairs))
