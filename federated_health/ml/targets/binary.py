"""A label of 0 or 1: the network's output is the log-odds of 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import DEFAULT_THRESHOLD, MAX_BINARY_CELLS, SMALL_CLASS, EvaluationSums, Scores, ratio
from federated_health.ml.targets import Floats, Folds, PatientIds, ScoreGroups, Target

if TYPE_CHECKING:
    from federated_health.ml.intervals import Estimate

MIN_PROBABILITY = 1e-12
"""Keeps the loss of a certain and wrong prediction finite."""


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
    def prevalence(self) -> float | None:
        """Share of positive patients."""
        return ratio(self.positives, self.examples)

    @property
    def brier(self) -> float | None:
        """Mean squared difference of risk and outcome (Brier 1950)."""
        return ratio(self.squared_error_sum, self.examples)

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


class BinaryTarget(Target[Counts]):
    """The probability of the label 1."""

    sums = Counts
    headline: ClassVar[str] = "accuracy"
    comparisons: ClassVar[tuple[str, ...]] = ("roc_auc", "brier")
    also_per_round: ClassVar[tuple[str, ...]] = ("brier",)
    loss_name: ClassVar[str] = "binary cross-entropy"
    has_threshold: ClassVar[bool] = True
    has_classes: ClassVar[bool] = True
    max_cells: ClassVar[int] = MAX_BINARY_CELLS

    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs[:, 0])

    def predictions(self, keras: Any, outputs: Any) -> Any:
        return keras.ops.sigmoid(outputs)

    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        return probability(outputs)

    def prediction_columns(self, predictions: Floats, threshold: float) -> dict[str, npt.NDArray[Any]]:
        risk = predictions[:, 0]
        return {"risk": risk, "prediction": (risk >= threshold).astype(int)}

    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> Counts:
        return count_outcomes(probability(outputs), labels, threshold)

    def is_possible(self, sums: Counts) -> bool:
        return 0 <= sums.squared_error_sum <= sums.examples

    def figures(self, sums: Counts, train_examples: int, roc_auc: float | None) -> dict[str, Any]:
        from federated_health.ml.targets.binary_figures import figures_of  # noqa: PLC0415  # at the end of a run only

        return figures_of(sums, train_examples, roc_auc)

    def summarise(self, labels: Floats) -> dict[str, Any]:
        return {"positives": int(labels.sum())}

    def roc_auc(self, outputs: Floats, labels: Floats) -> float | None:
        from federated_health.ml.scores import roc_auc  # noqa: PLC0415  # at the end of a run only

        return roc_auc(outputs, labels)

    def score_figures(self, outputs: Floats, labels: Floats) -> dict[str, float | None]:
        from federated_health.ml.targets.binary_figures import score_figures  # noqa: PLC0415  # at the end of a run only

        return score_figures(outputs, labels)

    def group_scores(self, outputs: Floats, labels: Floats, patients: PatientIds | None = None) -> ScoreGroups:
        from federated_health.ml.scores import microaggregate  # noqa: PLC0415  # at the end of a run only

        classes = {"positives": labels == 1, "negatives": labels == 0}
        return {
            name: microaggregate(outputs[those], None if patients is None else patients[those])
            for name, those in classes.items()
        }

    def rows_of_groups(self, sums: Counts) -> Mapping[str, int]:
        return {"positives": sums.positives, "negatives": sums.examples - sums.positives}

    def pooled_roc_auc(self, groups: ScoreGroups) -> float | None:
        from federated_health.ml.microaggregates import roc_auc_from_microaggregates  # noqa: PLC0415  # at the end of a run only

        return roc_auc_from_microaggregates(groups["positives"], groups["negatives"])

    def group_figures(self, groups: ScoreGroups, sums: Counts | None = None) -> dict[str, float | None]:
        from federated_health.ml.microaggregates import figures_of_cells  # noqa: PLC0415  # at the end of a run only

        if not {"positives", "negatives"} <= groups.keys():
            return {}
        rows = None if sums is None else (sums.positives, sums.examples - sums.positives)
        return figures_of_cells(groups["positives"], groups["negatives"], rows)

    def shown_figures(self, figures: Mapping[str, Any]) -> tuple[str, ...]:
        from federated_health.ml.targets.binary_figures import shown_figures  # noqa: PLC0415  # at the end of a run only

        return shown_figures(figures)

    def round_figure(self, sums: Counts) -> tuple[str, float | None]:
        from federated_health.ml.targets.binary_figures import is_rare  # noqa: PLC0415  # at the server only

        return ("brier", sums.brier) if is_rare(sums.prevalence) else super().round_figure(sums)

    def can_compare(self, labels: Floats) -> bool:
        from federated_health.ml.bootstrap import can_judge  # noqa: PLC0415  # at the end of a run only

        return can_judge(labels)

    def is_defined(self, labels: Floats) -> bool:
        return len(np.unique(labels)) == 2

    def estimate_figure(
        self,
        figure: str,
        outputs: Floats,
        labels: Floats,
        patients: PatientIds | None = None,
        folds: Folds | None = None,
    ) -> "Estimate":
        from federated_health.ml.intervals import estimate_mean, estimate_roc_auc  # noqa: PLC0415  # at the end of a run only

        if figure == "brier":
            return estimate_mean((probability(outputs) - labels) ** 2, patients, is_share=True)
        return estimate_roc_auc(outputs, labels, patients, folds)


def probability(logits: npt.NDArray[np.floating[Any]] | np.floating[Any]) -> Scores:
    """Probabilities of log-odds, of the same shape: the logistic function, written so that it cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def count_outcomes(
    scores: Scores, labels: npt.NDArray[np.float32], threshold: Scores | float = DEFAULT_THRESHOLD
) -> Counts:
    """Outcome counts and loss sums of predictions.

    Args:
        scores: [patients], probabilities; positive from the threshold on.
        labels: [patients], 0 or 1.
        threshold: one, or that of each patient's model, [patients].
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
