"""A label of 0 or 1: the network's output is the log-odds of 1."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import Counts, Scores, count_outcomes, figures_of, probability
from federated_health.ml.targets import Floats, ScoreGroups, Target


class BinaryTarget(Target[Counts]):
    """The probability of the label 1."""

    sums = Counts
    headline: ClassVar[str] = "accuracy"
    loss_name: ClassVar[str] = "binary cross-entropy"
    has_threshold: ClassVar[bool] = True
    has_classes: ClassVar[bool] = True

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
        return figures_of(sums, train_examples, roc_auc)

    def summarise(self, labels: Floats) -> dict[str, Any]:
        return {"positives": int(labels.sum())}

    def roc_auc(self, outputs: Floats, labels: Floats) -> float | None:
        from federated_health.ml.scores import roc_auc  # noqa: PLC0415  # at the end of a run only

        return roc_auc(outputs, labels)

    def group_scores(self, outputs: Floats, labels: Floats, most_rows: int = 1) -> ScoreGroups:
        from federated_health.ml.scores import microaggregate  # noqa: PLC0415  # at the end of a run only

        classes = {"positives": outputs[labels == 1], "negatives": outputs[labels == 0]}
        return {name: microaggregate(log_odds, most_rows) for name, log_odds in classes.items()}

    def rows_of_groups(self, sums: Counts) -> Mapping[str, int]:
        return {"positives": sums.positives, "negatives": sums.examples - sums.positives}

    def pooled_roc_auc(self, groups: ScoreGroups) -> float | None:
        from federated_health.ml.curves import roc_auc_from_microaggregates  # noqa: PLC0415  # at the end of a run only

        return roc_auc_from_microaggregates(groups["positives"], groups["negatives"])

    def can_compare(self, labels: Floats) -> bool:
        from federated_health.ml.bootstrap import can_judge  # noqa: PLC0415  # at the end of a run only

        return can_judge(labels)

    def is_defined(self, labels: Floats) -> bool:
        return len(np.unique(labels)) == 2

    def compared_draws(self, outputs: Floats, labels: Floats, times: Scores) -> npt.NDArray[np.float64]:
        from federated_health.ml.bootstrap import roc_auc_draws  # noqa: PLC0415  # at the end of a run only

        return roc_auc_draws(outputs, labels, times)
