"""Networks by name: shapes and initial weights, in plain NumPy, so that a server needs no Keras while it runs."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task

MODELS = ("mlp", "logistic")
HIDDEN_UNITS = 16

Weights = dict[str, npt.NDArray[np.float32]]
"""Weights of the head by name, in the order of `weight_shapes`."""


def weight_shapes(task: Task, model: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the head's weights by name, in the order in which Keras lists them."""
    width = task.feature_width
    if model == "logistic":
        return {"logit/kernel": (width, 1), "logit/bias": (1,)}
    return {
        "hidden/kernel": (width, HIDDEN_UNITS),
        "hidden/bias": (HIDDEN_UNITS,),
        "logit/kernel": (HIDDEN_UNITS, 1),
        "logit/bias": (1,),
    }


def initial_weights(task: Task, model: str, seed: int) -> Weights:
    """Glorot-uniform kernels (Glorot and Bengio 2010) and zero biases, the same on every machine for the same seed."""
    generator = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in weight_shapes(task, model).items():
        limit = np.sqrt(6.0 / sum(shape)) if len(shape) == 2 else 0.0
        weights[name] = generator.uniform(-limit, limit, shape).astype(np.float32)
    return weights


def weights_hash(weights: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256, in hex, of names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name, array in weights.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
