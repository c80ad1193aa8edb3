"""Metrics from counts, which merge by addition; `scores` has those of scores.

No figure is an average of averages: pooled figures come from merged counts. A figure that is not defined is None.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import reduce
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

DEFAULT_THRESHOLD = 0.5
"""Decision threshold until one is chosen: a patient with at least this probability is predicted positive."""

MIN_CELL_SIZE = 5
"""Smallest number of patients in a cell of microaggregated scores."""

MAX_CELLS = 64
"""Largest number of such cells per class and hospital."""

MIN_PROBABILITY = 1e-12
"""Keeps the loss of a certain and wrong prediction finite."""

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


@dataclass(frozen=True, slots=True)
class Counts(EvaluationSums):
    """Outcome counts of an evaluation, and sums over patients of the cross-entropy, in nats, and of squared errors."""

    true_positives: int = 0
    false_positives: int = 0
    true_negatives: int = 0
    false_negatives: int = 0
    loss_sum: float = 0.0
    squared_error_sum: float = 0.0

    kind: ClassVar[str] = "binary"

    @property
    def examples(self) -> int:
        return self.true_positives + self.false_positives + self.true_negatives + self.false_negatives

    @property
    def positives(self) -> int:
        return self.true_positives + self.false_negatives

    @property
    def rarer_class(self) -> int:
        return min(self.positives, self.examples - self.positives)

    @property
    def matrix(self) -> tuple[int, int, int, int]:
        """True negatives, false positives, false negatives, true positives."""
        return self.true_negatives, self.false_positives, self.false_negatives, self.true_positives

    @property
    def accuracy(self) -> float | None:
        return ratio(self.true_positives + self.true_negatives, self.examples)

    @property
    def headline(self) -> float | None:
        return self.accuracy

    @property
    def is_small(self) -> bool:
        return self.rarer_class < SMALL_CLASS

    @property
    def f1(self) -> float | None:
        doubled = 2 * self.true_positives
        return ratio(doubled, doubled + self.false_positives + self.false_negatives)


def probability(logits: npt.NDArray[np.floating[Any]] | np.floating[Any]) -> Scores:
    """Probabilities of log-odds, of the same shape: the logistic function, written so that it cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def count_outcomes(scores: Scores, labels: npt.NDArray[np.float32], threshold: float = DEFAULT_THRESHOLD) -> Counts:
    """Outcome counts and loss sums of predictions.

    Args:
        scores: [patients], probabilities; positive from the threshold on.
        labels: [patients], 0 or 1.
    """
    predicted, actual = scores >= threshold, labels > 0.5
    given = np.where(actual, scores, 1.0 - scores)
    return Counts(
        true_positives=int((predicted & actual).sum()),
        false_positives=int((predicted & ~actual).sum()),
        true_negatives=int((~predicted & ~actual).sum()),
        false_negatives=int((~predicted & actual).sum()),
        loss_sum=float(-np.log(np.maximum(given, MIN_PROBABILITY)).sum()),
        squared_error_sum=float(((1.0 - given) ** 2).sum()),
    )


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


def figures_of(counts: Counts, train_examples: int, roc_auc: float | None) -> dict[str, Any]:
    """Figures of one hospital or of all, as metrics.json and tables hold them."""
    return {
        "train_examples": train_examples,
        "test_examples": counts.examples,
        "accuracy": counts.accuracy,
        "precision": ratio(counts.true_positives, counts.true_positives + counts.false_positives),
        "recall": ratio(counts.true_positives, counts.positives),
        "f1": counts.f1,
        "roc_auc": roc_auc,
        "brier": ratio(counts.squared_error_sum, counts.examples),  # Brier 1950
    }


def ratio(part: float, whole: float) -> float | None:
    """The quotient; None where it is not defined."""
    return part / whole if whole else None


_TITLES = {
    "roc_auc": "ROC-AUC",
    "f1": "F1",
    "macro_f1": "macro F1",
    "brier": "Brier score",
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "r2": "R\N{SUPERSCRIPT TWO}",
    "deviance": "mean deviance",
    "observed_expected": "observed/expected",
}


def figure_title(name: str) -> str:
    """A figure's name as people read it."""
    return _TITLES.get(name, name.replace("_", " "))
