"""Metrics from counts and microaggregated scores, which merge by addition.

No figure is an average of averages: pooled figures come from merged counts. A figure that is not defined is None.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from enum import StrEnum
from functools import reduce
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

DEFAULT_THRESHOLD = 0.5
"""Decision threshold until one is chosen: a patient with at least this probability is predicted positive."""

MIN_CELL_SIZE = 5
"""Smallest number of patients in a cell of microaggregated scores."""

MAX_CELLS = 64
CELL_STEP = 0.1
"""Precision, in log-odds, to which mean and deviation of a cell are rounded."""

MIN_PROBABILITY = 1e-12
"""Keeps the loss of a certain and wrong prediction finite."""

MAX_LOSS = 28.0
"""Upper bound of one patient's loss, in nats: at least -log(MIN_PROBABILITY)."""

SMALL_CLASS = 10
"""Smallest class size at which an AUC is shown without the mark *; below it, one patient moves it by 0.1 or more."""

MIN_CLASS_SIZE = 5
"""Smallest class of patients for which there is a verdict: of fewer, a bootstrap gives intervals that are too narrow.

In simulations of two equally good models, 95 % intervals excluded 0 in 62 of 100 cases with one patient of the rarer
class, in 17 with five, in 11 with eight or ten, and in 5 to 7 from twenty on.
"""

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


def roc_auc(scores: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.float32]) -> float | None:
    """Area under the ROC curve, None where a class has no patient; ties count one half (Hanley and McNeil 1982)."""
    if len(np.unique(labels)) < 2:
        return None
    # Equal to scikit-learn's, whose import costs each hospital 1 s of CPU time.
    negatives = np.sort(scores[labels == 0])
    beaten = [np.searchsorted(negatives, scores[labels == 1], side=side) for side in ("left", "right")]
    return float(np.mean(beaten) / len(negatives))


def microaggregate(log_odds: npt.NDArray[np.floating[Any]], most_rows: int = 1) -> Scores:
    """Microaggregated scores of one class (Domingo-Ferrer and Mateo-Sanz 2002).

    The sorted scores are cut into at most MAX_CELLS cells of equal size and at least MIN_CELL_SIZE patients each; fewer
    scores give no cell.

    Args:
        log_odds: [rows] of one class at one hospital.
        most_rows: largest number of rows of one patient.

    Returns:
        [cells, 3]: rows, mean and standard deviation of the log-odds, both rounded to CELL_STEP.
    """
    number = min(len(log_odds) // (MIN_CELL_SIZE * most_rows), MAX_CELLS)
    cells = np.array_split(np.sort(log_odds.astype(np.float64)), number) if number else []
    rows = [(len(cell), _round(cell.mean()), _round(cell.std())) for cell in cells]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def group_predictions(predictions: Scores, labels: npt.NDArray[np.floating[Any]], most_rows: int = 1) -> Scores:
    """Groups of rows with similar predictions, for a calibration curve.

    The rows are sorted by prediction and cut as by `microaggregate`.

    Args:
        predictions, labels: [rows].
        most_rows: largest number of rows of one patient.

    Returns:
        [groups, 3]: rows, mean prediction, mean label, both with three significant digits.
    """
    number = min(len(predictions) // (MIN_CELL_SIZE * most_rows), MAX_CELLS)
    groups = np.array_split(np.argsort(predictions, kind="stable"), number) if number else []
    rows = [
        (len(group), float(f"{predictions[group].mean():.3g}"), float(f"{labels[group].mean(dtype=np.float64):.3g}"))
        for group in groups
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _round(value: float) -> float:
    return round(value / CELL_STEP) * CELL_STEP


def ratio(part: float, whole: float) -> float | None:
    """The quotient; None where it is not defined."""
    return part / whole if whole else None


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and its interval; all None where the figure is not defined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Verdict(StrEnum):
    """What a hospital gains by joining."""

    GAINS = "gains"
    UNCLEAR = "no clear difference"
    LOSES = "loses"
    UNDEFINED = "cannot be said"


def verdict_text(verdict: str) -> str:
    """A verdict as people read it; files hold the value."""
    return "too few patients to tell" if verdict == Verdict.UNDEFINED else str(verdict)


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


def describe_small_in_mean(hospitals: int | None) -> str:
    """The note to a mean of ROC-AUCs, marked with *, that includes hospitals with few patients of a class, or may."""
    which = {None: "may include hospitals", 1: "includes 1 hospital"}.get(hospitals, f"includes {hospitals} hospitals")
    return f"* The mean {which} with fewer than {SMALL_CLASS} patients of one class, whose ROC-AUC is very noisy."


def judge(difference: Interval) -> Verdict:
    """The verdict on a paired difference of AUCs, federated minus own: clear if its interval does not contain 0."""
    if difference.low is None or difference.high is None:
        return Verdict.UNDEFINED
    if difference.low > 0:
        return Verdict.GAINS
    return Verdict.LOSES if difference.high < 0 else Verdict.UNCLEAR
