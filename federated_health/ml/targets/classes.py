"""A label of several classes: the network's outputs are the logits of a softmax."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.labels import ClassLabel
from federated_health.ml.metrics import SMALL_CLASS, EvaluationSums, ratio
from federated_health.ml.scores import microaggregate, roc_auc
from federated_health.ml.targets import Floats, Folds, PatientIds, ScoreGroups, Target
from federated_health.ml.targets.binary import MIN_PROBABILITY
from federated_health.ml.verdicts import MIN_CLASS_SIZE

if TYPE_CHECKING:
    from federated_health.ml.intervals import Estimate

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassSums(EvaluationSums):
    """Confusion matrix, and sums over rows.

    Attributes:
        confusion: number of rows by actual and predicted class: row after row of the matrix, [classes * classes].
        loss_sum: of the cross-entropy, in nats.
        squared_error_sum: of the squared differences of all classes' probabilities from 0 or 1 (Brier 1950).
    """

    confusion: tuple[int, ...] = ()
    loss_sum: float = 0.0
    squared_error_sum: float = 0.0

    kind: ClassVar[str] = "classes"

    @property
    def matrix(self) -> Counts:
        """The confusion matrix, [classes, classes]: actual class, predicted class."""
        classes = isqrt(len(self.confusion))
        return np.array(self.confusion, dtype=np.int64).reshape(classes, classes)

    @property
    def examples(self) -> int:
        return sum(self.confusion)

    @property
    def accuracy(self) -> float | None:
        return ratio(int(self.matrix.trace()), self.examples)

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the classes that are actual or predicted in any row, as scikit-learn's `f1_score` has it."""
        matrix = self.matrix
        rows = matrix.sum(axis=0) + matrix.sum(axis=1)
        occurs = rows > 0
        return float(np.mean(2 * matrix.diagonal()[occurs] / rows[occurs])) if occurs.any() else None

    @property
    def headline(self) -> float | None:
        return self.macro_f1

    @property
    def is_small(self) -> bool:
        """Whether a class that occurs, or all rows but those of one class, are fewer than SMALL_CLASS."""
        rows = self.matrix.sum(axis=1)
        rarest = rows[rows > 0].min(initial=self.examples)
        return bool(min(rarest, self.examples - rows.max(initial=0)) < SMALL_CLASS)


class ClassTarget(Target[ClassSums]):
    """The probability of each class, in the order in which the label declares its codes."""

    sums = ClassSums
    comparisons: ClassVar[tuple[str, ...]] = ("roc_auc", "log_loss")
    headline: ClassVar[str] = "macro_f1"
    loss_name: ClassVar[str] = "cross-entropy"
    has_classes: ClassVar[bool] = True
    label: ClassLabel

    def __init__(self, label: ClassLabel) -> None:
        super().__init__(label)
        self.outputs = len(label.codes)
        self.no_sums = ClassSums((0,) * self.outputs**2)

    @cached_property
    def codes(self) -> npt.NDArray[np.float32]:
        return np.array(list(self.label.codes), dtype=np.float32)

    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        actual = tf.cast(tf.equal(labels[:, tf.newaxis], self.codes), tf.float32)
        return tf.nn.softmax_cross_entropy_with_logits(actual, outputs)

    def predictions(self, keras: Any, outputs: Any) -> Any:
        return keras.ops.softmax(outputs)

    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        powers = np.exp(outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True))
        probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
        return probabilities

    def prediction_columns(self, predictions: Floats, threshold: float) -> dict[str, npt.NDArray[Any]]:  # noqa: ARG002  # of the interface
        codes = list(self.label.codes)
        probabilities = {f"probability_{code}": predictions[:, place] for place, code in enumerate(codes)}
        return {**probabilities, "prediction": np.array(codes)[predictions.argmax(axis=1)]}

    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> ClassSums:  # noqa: ARG002  # of the interface
        probabilities, actual = self.predict(outputs), self._is_actual(labels)
        pairs = self.class_of(labels) * self.outputs + outputs.argmax(axis=1)
        given = np.maximum((probabilities * actual).sum(axis=1), MIN_PROBABILITY)
        return ClassSums(
            confusion=tuple(np.bincount(pairs, minlength=self.outputs**2).tolist()),
            loss_sum=float(-np.log(given).sum()),
            squared_error_sum=float(((probabilities - actual) ** 2).sum()),
        )

    def is_possible(self, sums: ClassSums) -> bool:
        return 0 <= sums.squared_error_sum <= 2 * sums.examples

    def figures(self, sums: ClassSums, train_examples: int, roc_auc: float | None) -> dict[str, Any]:
        """`roc_auc` is the mean over classes, each against all others."""
        return {
            "train_examples": train_examples,
            "test_examples": sums.examples,
            "accuracy": sums.accuracy,
            "macro_f1": sums.macro_f1,
            "roc_auc": roc_auc,
            "brier": ratio(sums.squared_error_sum, sums.examples),
        }

    def summarise(self, labels: Floats) -> dict[str, Any]:
        rows = np.bincount(self.class_of(labels), minlength=self.outputs).tolist()
        return {"patients_by_class": dict(zip(map(str, self.label.codes), rows, strict=True))}

    def class_of(self, labels: Floats) -> npt.NDArray[np.intp]:
        classes: npt.NDArray[np.intp] = self._is_actual(labels).argmax(axis=1)
        return classes

    def roc_auc(self, outputs: Floats, labels: Floats) -> float | None:
        actual = self._is_actual(labels)
        return _mean_defined([roc_auc(s, a) for s, a in zip(self._log_odds(outputs).T, actual.T, strict=True)])

    def group_scores(self, outputs: Floats, labels: Floats, patients: PatientIds | None = None) -> ScoreGroups:
        """The log-odds of each class, of its patients and of all others."""
        groups = {}
        columns = zip(self.label.codes, self._log_odds(outputs).T, self._is_actual(labels).T, strict=True)
        for code, log_odds, actual in columns:
            for name, those in (("positives", actual), ("negatives", ~actual)):
                ids = None if patients is None else patients[those]
                groups[f"{name}-{code}"] = microaggregate(log_odds[those], ids, self.max_cells)
        return groups

    def rows_of_groups(self, sums: ClassSums) -> Mapping[str, int]:
        rows = dict(zip(self.label.codes, sums.matrix.sum(axis=1).tolist(), strict=True))
        return {
            **{f"positives-{code}": number for code, number in rows.items()},
            **{f"negatives-{code}": sums.examples - number for code, number in rows.items()},
        }

    def pooled_roc_auc(self, groups: ScoreGroups) -> float | None:
        from federated_health.ml.microaggregates import roc_auc_from_microaggregates  # noqa: PLC0415  # at the end of a run only

        of_class = [(groups[f"positives-{code}"], groups[f"negatives-{code}"]) for code in self.label.codes]
        return _mean_defined([roc_auc_from_microaggregates(*pair) for pair in of_class])

    @property
    def no_verdict(self) -> str:
        return f"fewer than 2 classes of at least {MIN_CLASS_SIZE} held-out patients"

    def can_compare(self, labels: Floats) -> bool:
        return len(self._compared_classes(labels)) >= 2

    def estimate_figure(
        self,
        figure: str,
        outputs: Floats,
        labels: Floats,
        patients: PatientIds | None = None,
        folds: Folds | None = None,
    ) -> "Estimate":
        """A ROC-AUC is the mean of each class against all others, of classes with at least MIN_CLASS_SIZE rows."""
        from federated_health.ml.intervals import estimate_mean, estimate_roc_auc, mean_of_classes  # noqa: PLC0415  # at the end of a run only

        is_actual = self._is_actual(labels).astype(np.float64)
        if figure == "log_loss":
            given = (self.predict(outputs) * is_actual).sum(axis=-1)
            return estimate_mean(-np.log(np.maximum(given, MIN_PROBABILITY)), patients, is_share=False)
        log_odds, strata = self._log_odds(outputs), self.class_of(labels).astype(np.float64)
        return mean_of_classes(
            [
                estimate_roc_auc(log_odds[..., k], is_actual[:, k], patients, folds, strata)
                for k in self._compared_classes(labels)
            ]
        )

    def _compared_classes(self, labels: Floats) -> list[int]:
        """Classes with at least MIN_CLASS_SIZE rows, and as many others."""
        rows = self._is_actual(labels).sum(axis=0)
        return np.flatnonzero(np.minimum(rows, len(labels) - rows) >= MIN_CLASS_SIZE).tolist()

    def _is_actual(self, labels: Floats) -> npt.NDArray[np.bool_]:
        """Whether each row is of each class, [rows, classes]."""
        is_actual: npt.NDArray[np.bool_] = np.asarray(labels)[:, np.newaxis] == self.codes
        return is_actual

    def _log_odds(self, outputs: Floats) -> npt.NDArray[np.float64]:
        """Log-odds of each class against all others, of the same shape."""
        logits = outputs.astype(np.float64)
        others = [np.logaddexp.reduce(np.delete(logits, i, axis=-1), axis=-1) for i in range(self.outputs)]
        log_odds: npt.NDArray[np.float64] = logits - np.stack(others, axis=-1)
        return log_odds


def _mean_defined(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
