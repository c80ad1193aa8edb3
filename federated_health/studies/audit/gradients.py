"""Every patient's own gradient of their loss, and inner products of them, in double precision.

A head is dense layers with ReLU between them (see `model.build_head`). A patient's gradient of a layer is the outer
product of what goes into the layer and of what comes back to it, so inner products need no gradient to be written out.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import probability
from federated_health.ml.networks import Weights

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]

Layers = list[tuple[Array, Array]]
"""Kernel [inputs, outputs] and bias [outputs] of each layer: of weights, or of a direction among them."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of some patients' losses, in factors.

    Attributes:
        log_odds: [patients].
        inputs: of each layer, [patients, inputs].
        deltas: of each layer, [patients, outputs]: derivatives of the loss with respect to what comes out of it.
    """

    log_odds: Array
    inputs: list[Array]
    deltas: list[Array]


def layers_of(weights: Weights) -> Layers:
    """The layers of a head's weights, in their order."""
    arrays = [np.asarray(array, dtype=np.float64) for array in weights.values()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def difference(after: Layers, before: Layers) -> Layers:
    """How far layers moved, each kernel and bias by itself."""
    return [
        (kernel - old_kernel, bias - old_bias)
        for (kernel, bias), (old_kernel, old_bias) in zip(after, before, strict=True)
    ]


def gradients_of(layers: Layers, features: Floats, labels: Floats) -> Gradients:
    """By backpropagation of each patient's cross-entropy.

    Args:
        features: [patients, width].
        labels: [patients], 0 or 1, or between.
    """
    inputs = [np.asarray(features, dtype=np.float64)]
    for kernel, bias in layers[:-1]:
        inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0.0))
    kernel, bias = layers[-1]
    log_odds: Array = (inputs[-1] @ kernel + bias)[:, 0]
    deltas = [(probability(log_odds) - labels)[:, None]]
    for (kernel, _), values in zip(layers[:0:-1], inputs[:0:-1], strict=True):
        deltas.insert(0, deltas[0] @ kernel.T * (values > 0))
    return Gradients(log_odds, inputs, deltas)


def products(one: Gradients, other: Gradients) -> Array:
    """Inner products of each patient's gradient with each other one's, [patients of one, patients of other]."""
    result: Array = np.sum(
        [
            (inputs @ others.T + 1.0) * (deltas @ other_deltas.T)
            for inputs, deltas, others, other_deltas in zip(
                one.inputs, one.deltas, other.inputs, other.deltas, strict=True
            )
        ],
        axis=0,
    )
    return result


def along(gradients: Gradients, direction: Layers) -> Array:
    """Inner product of each patient's gradient with a direction among the weights, [patients]."""
    result: Array = np.sum(
        [
            ((inputs @ kernel + bias) * deltas).sum(axis=1)
            for inputs, deltas, (kernel, bias) in zip(gradients.inputs, gradients.deltas, direction, strict=True)
        ],
        axis=0,
    )
    return result


def product(one: Layers, other: Layers) -> float:
    """Inner product of two directions among the weights."""
    return float(
        sum((a * b).sum() for layer, others in zip(one, other, strict=True) for a, b in zip(layer, others, strict=True))
    )


def kernels_of(layers: Layers) -> Layers:
    """The kernels alone, which the penalty of local training pulls towards zero; biases as zeros."""
    return [(kernel, np.zeros_like(bias)) for kernel, bias in layers]
