"""Metrics from counts, which merge by addition; `scores` has those of scores.

No figure is an average of averages: pooled figures come from merged counts. A figure that is not defined is None.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import astuple
from functools import reduce
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

DEFAULT_THRESHOLD = 0.5
"""Decision threshold until one is chosen: a patient with at least this probability is predicted positive."""

MIN_CELL_SIZE = 5
"""Smallest number of patients in a cell of microaggregated scores."""

MAX_BINARY_CELLS = 256
"""Largest number of such cells per class of a binary label and hospital: 6 KiB."""

MAX_CELLS = 64
"""That of other labels, which may have 100 classes."""

MAX_LOSS = 28.0
"""Upper bound of one patient's loss, in nats: at least -log(MIN_PROBABILITY)."""

SMALL_CLASS = 10
"""Smallest class size at which an AUC is shown without the mark *; below it, one patient moves it by 0.1 or more."""

Scores = npt.NDArray[np.float64]


class EvaluationSums(ABC):
    """Sums over the rows of an evaluation, which merge by addition.

    A subclass is a frozen dataclass with slots, whose fields are whole numbers, floats and tuples of whole numbers, and
    have defaults; `kind` names the kind of label.
    """

    __slots__ = ()
    kind: ClassVar[str]
    loss_sum: float

    @property
    @abstractmethod
    def examples(self) -> int:
        """Number of rows."""

    @property
    @abstractmethod
    def headline(self) -> float | None:
        """The figure that is shown per round; `Target.headline` is its name."""

    @property
    @abstractmethod
    def is_small(self) -> bool:
        """Whether the rows are so few that figures of them are mostly noise."""

    @property
    def loss(self) -> float | None:
        """Mean loss per row; None without rows."""
        return ratio(self.loss_sum, self.examples)


AnySums = TypeVar("AnySums", bound=EvaluationSums)


def merge_counts(parts: Iterable[AnySums]) -> AnySums:
    """The sums of all rows together, of at least one part."""
    parts = list(parts)
    columns = zip(*(astuple(part) for part in parts), strict=True)  # type: ignore[call-overload]  # dataclasses
    return type(parts[0])(*(reduce(_add, column) for column in columns))  # `sum` rounds differently from Python 3.12 on


def _add(first: Any, second: Any) -> Any:
    if isinstance(first, tuple):
        return tuple(map(operator.add, first, second))
    return first + second


def ratio(part: float, whole: float) -> float | None:
    """The quotient; None where it is not defined."""
    return part / whole if whole else None


LESS_IS_BETTER = frozenset({"brier", "log_loss", "mae", "rmse", "deviance"})
"""Names of figures of which less is better."""

_TITLES = {
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "log_loss": "log-loss",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "r2": "R\N{SUPERSCRIPT TWO}",
    "deviance": "mean deviance",
    "observed_expected": "observed/expected",
}


def figure_title(name: str) -> str:
    """A figure's name as people read it."""
    return _TITLES.get(name, name.replace("_", " "))


def describe_difference(figure: str, model: str = "federated", other: str = "own") -> str:
    """The difference of two models by a figure that is above 0 where the first is better, in words."""
    return f"{other} minus {model}" if figure in LESS_IS_BETTER else f"{model} minus {other}"
