"""What can be seen of a run, and what it says of a patient: of the final model, of updates and of averages.

Server    one hospital's weights before and after each round's local training, unless they are encrypted
Hospital  the averages that every hospital gets each round
Anybody   the final model
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.messages.content import ARRAYS
from federated_health.ml.networks import Weights
from federated_health.studies.audit.gradients import (
    Gradients,
    Layers,
    along,
    difference,
    gradients_of,
    kernels_of,
    layers_of,
    product,
    products,
)
from federated_health.studies.audit.membership import losses
from federated_health.transport import InProcessGrid

TRAIN = "train"

REGRESSED = 5
"""Rounds whose steps are regressed: of heart disease, all 30 of them say less, since late steps are of few patients."""

RIDGE = 0.01
"""Of the mean of the diagonal: patients' gradients are nearly dependent. From 0.001 to 0.1 attacks do about as well."""

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Step:
    """Weights before and after something that training rows had a part in."""

    before: Weights
    after: Weights


class WatchedGrid(InProcessGrid):
    """Hospitals in process, and a record of what their server sees of each.

    Attributes:
        seen: hospital -> its local training in each round, from the weights that it was sent to those that it sent.
    """

    def __init__(self, app: ClientApp, contexts: Mapping[str, Context]) -> None:
        super().__init__(app, contexts)
        self.seen: dict[str, list[Step]] = {name: [] for name in contexts}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        sent = {
            message.metadata.dst_node_id: _weights_in(message)
            for message in messages
            if message.metadata.message_type == TRAIN
        }
        replies = super().send_and_receive(messages, timeout=timeout)
        for reply in replies:
            node = reply.metadata.src_node_id
            if node in sent and reply.has_content():
                self.seen[self.names()[node]].append(Step(sent[node], _weights_in(reply)))
        return replies


def averages_of(seen: Mapping[str, Sequence[Step]], final: Weights) -> list[Step]:
    """The weights from round to round, as every hospital gets them.

    Args:
        seen: of a run in which every hospital took part in every round.
        final: the weights after the last round.
    """
    starts = [step.before for step in next(iter(seen.values()))]
    return [Step(before, after) for before, after in zip(starts, [*starts[1:], final], strict=True)]


def follow(steps: Sequence[Step], features: Floats, labels: Floats) -> dict[str, Array]:
    """What a chain of updates says of each patient, each [patients].

    drop     of the patient's loss through each step, added up
    share    of the patient's gradient in the first steps, beside those of the other patients (see `_regress`)

    Args:
        features: [patients, width].
        labels: [patients], 0 or 1.
    """
    patients = len(labels)
    drop = np.zeros(patients)
    normal, target = np.zeros((patients + 1, patients + 1)), np.zeros(patients + 1)
    for number, step in enumerate(steps):
        ends = layers_of(step.before), layers_of(step.after)
        before, after = (gradients_of(layers, features, labels) for layers in ends)
        drop += losses(before.log_odds, labels) - losses(after.log_odds, labels)
        if number < REGRESSED:
            _regress(normal, target, ends, (before, after))
    return {"drop": drop, "share": _solve(normal, target)}


def _regress(normal: Array, target: Array, ends: tuple[Layers, Layers], gradients: tuple[Gradients, Gradients]) -> None:
    """Add a step to the normal equations of the regression of steps on patients' gradients.

    Local training moves the weights against the sum of the gradients of those patients who take part, so in a step
    every patient's gradient has a share: about the same for all members, and none for others. The gradient that counts
    is the mean of those at the two ends of the step; the last regressor is the penalty's.

    Args:
        normal: [patients + 1, patients + 1], added to.
        target: [patients + 1], added to.
    """
    before, after = gradients
    moved = difference(ends[1], ends[0])
    crossed = products(before, after)
    normal[:-1, :-1] += (products(before, before) + products(after, after) + crossed + crossed.T) / 4
    pulls = [kernels_of(layers) for layers in ends]
    for pull in pulls:
        cross = (along(before, pull) + along(after, pull)) / 4
        normal[:-1, -1] += cross
        normal[-1, :-1] += cross
        normal[-1, -1] += sum(product(pull, other) for other in pulls) / 4
        target[-1] -= product(pull, moved) / 2
    target[:-1] -= (along(before, moved) + along(after, moved)) / 2


def _solve(normal: Array, target: Array) -> Array:
    """Shares by ridge regression, [patients]."""
    ridge = RIDGE * np.trace(normal) / len(normal)
    shares: Array = np.linalg.solve(normal + ridge * np.eye(len(normal)), target)[:-1]
    return shares


def _weights_in(message: Message) -> Weights:
    record = message.content.array_records[ARRAYS]
    return {name: record[name].numpy() for name in record}
