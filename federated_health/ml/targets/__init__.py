"""Targets: what a network predicts, with its loss, its figures and what hospitals send of them.

A target belongs to a kind of label (see `data.columns`). Everything that depends on the kind is asked of its target, so
that a new kind needs a subclass of `Target` and an entry in `_TARGETS`. `docs/extending.md` shows one.
"""

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Label
from federated_health.data.tasks import Task
from federated_health.ml.metrics import EvaluationSums

Floats = npt.NDArray[np.floating[Any]]


class Target(ABC):
    """What a network predicts for one row, from its `outputs` numbers.

    Args:
        label: the label of the task.

    Attributes:
        outputs: number of outputs of the network.
        sums: type of the sums that hospitals send of an evaluation.
        headline: figure that is shown per round, besides the loss.
        has_threshold: whether a decision threshold is chosen at the end of a run.
        has_classes: whether labels are classes, which can be balanced and stratified.
    """

    outputs: int = 1
    sums: type[EvaluationSums]
    headline: ClassVar[str]
    has_threshold: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False

    def __init__(self, label: Label) -> None:
        self.label = label

    @abstractmethod
    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        """Loss of each row in TensorFlow, float32 [rows], of labels [rows] and the network's outputs [rows, outputs].

        Args:
            tf: the module `tensorflow`, which only hospitals load.
        """

    @abstractmethod
    def predictions(self, keras: Any, outputs: Any) -> Any:
        """What a saved model returns, float32 [rows, outputs]: a Keras tensor of the network's outputs."""

    @abstractmethod
    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        """The same in NumPy: of outputs [rows, outputs], or [rows] where there is one output; of the same shape."""

    @abstractmethod
    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> EvaluationSums:
        """Sums over the held-out rows, which merge by addition.

        Args:
            outputs: as for `predict`.
            labels: [rows].
            threshold: decision threshold, for a target that has one.
        """

    @abstractmethod
    def figures(self, sums: EvaluationSums) -> dict[str, float | None]:
        """Figures of merged sums by name, as metrics.json and tables hold them; None where one is not defined."""


_TARGETS = {
    "binary": "binary.BinaryTarget",
    "classes": "classes.ClassTarget",
    "number": "number.NumberTarget",
    "count": "count.CountTarget",
}
"""Module, in this folder, and class of the target of each kind of label; loaded when a task needs it."""


@cache
def target_of(task: Task) -> Target:
    """The target of a task's label."""
    module, name = _TARGETS[task.label.kind].split(".")
    target: Target = getattr(import_module(f"{__name__}.{module}"), name)(task.label)
    return target
