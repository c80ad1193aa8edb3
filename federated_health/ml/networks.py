"""Networks: shapes and initial weights, in plain NumPy, so that a server needs no Keras while it runs."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task
from federated_health.ml.targets import target_of
from federated_health.names import ACTIVATIONS, MODELS, read_hidden

FILE = "file"
HIDDEN_UNITS = 16

NETWORK_KEYS = ("model", "hidden", "activation", "dropout", "network-sha256")
"""Keys of what a message says of a network."""

Weights = dict[str, npt.NDArray[np.float32]]
"""Weights of the head by name, in the order of `weight_shapes`."""


@dataclass(frozen=True)
class Network:
    """A network, from features to the outputs of a task's target.

    Attributes:
        model: mlp, logistic, or file for one that a user's Python file builds.
        hidden: units of each hidden layer of an mlp, from the input on; empty for other models.
        activation: of the hidden layers, by Keras's name.
        dropout: share of each hidden layer's units that a training step drops.
        sha256: of the file, in hex; empty for other models.
        path: this side's own copy of the file, which another side's network does not tell.
    """

    model: str = "mlp"
    hidden: tuple[int, ...] = (HIDDEN_UNITS,)
    activation: str = "relu"
    dropout: float = 0.0
    sha256: str = ""
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.model != "mlp":
            for name, value in (("hidden", ()), ("activation", ""), ("dropout", 0.0)):
                object.__setattr__(self, name, value)

    @property
    def unused_settings(self) -> frozenset[str]:
        """Names of the settings of a network that do not matter to this one."""
        of_mlp = frozenset({"hidden", "activation", "dropout"})
        return frozenset() if self.model == "mlp" else of_mlp | ({"model"} if self.model == FILE else set())

    @property
    def facts(self) -> dict[str, str]:
        """What a report states of the network besides the settings."""
        return {"SHA-256 of the network file": self.sha256} if self.sha256 else {}

    def to_config(self) -> dict[str, str | float]:
        """What a message says of the network: all but this side's path."""
        values = (self.model, ",".join(map(str, self.hidden)), self.activation, self.dropout, self.sha256)
        return dict(zip(NETWORK_KEYS, values, strict=True))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of `to_config`; a KeyError for what is missing, a ValueError for what is not a network."""
        model, hidden, activation, dropout, sha256 = (config[name] for name in NETWORK_KEYS)
        hidden = read_hidden(str(hidden))
        if model not in (*MODELS, FILE) or activation not in ("", *ACTIVATIONS) or not isinstance(sha256, str):
            raise ValueError("it has an unknown model or activation")
        if not isinstance(dropout, float) or not 0 <= dropout < 1:
            raise ValueError("its dropout is not at least 0 and below 1")
        return cls(model, hidden, activation, dropout, sha256)


NETWORK_FILE = "network file (--network, the same file at server and hospitals)"
"""Name of a network file's hash in an agreement."""


def agreement_of(task: Task, network: Network | None) -> dict[str, str]:
    """What server and hospital must agree on: the task (see `Task.agreement`), and the hash of a network's file."""
    file = {NETWORK_FILE: f"SHA-256 {network.sha256}"} if network and network.sha256 else {}
    return {**task.agreement, **file}


def weight_shapes(task: Task, network: Network) -> dict[str, tuple[int, ...]]:
    """Shapes of the head's weights by name, in the order in which Keras lists them."""
    if network.model == FILE:
        from federated_health.ml.network_file import describe_network  # noqa: PLC0415  # only where there is a file

        return describe_network(task, network).shapes
    widths = [task.feature_width, *network.hidden, target_of(task).outputs]
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, units) in zip([*hidden_names(network), "logit"], pairwise(widths), strict=True):
        shapes |= {f"{name}/kernel": (inputs, units), f"{name}/bias": (units,)}
    return shapes


def number_of_weights(task: Task, network: Network) -> int:
    """Number of all weights of the head."""
    return sum(map(math.prod, weight_shapes(task, network).values()))


def hidden_names(network: Network) -> list[str]:
    """Names of the hidden layers: hidden, hidden-2, hidden-3, ..."""
    return ["hidden" if number == 1 else f"hidden-{number}" for number in range(1, len(network.hidden) + 1)]


def initial_weights(task: Task, network: Network, seed: int) -> Weights:
    """Glorot-uniform kernels (Glorot and Bengio 2010) and zero biases, the same on every machine for the same seed.

    Those of a file are Keras's own, after `keras.utils.set_random_seed`.
    """
    if network.model == FILE:
        from federated_health.ml.network_file import describe_network  # noqa: PLC0415  # only where there is a file

        return describe_network(task, network, seed).weights
    generator = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in weight_shapes(task, network).items():
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
