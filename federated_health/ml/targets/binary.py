"""A label of 0 or 1: log-odds, cross-entropy, ROC-AUC."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import Counts, EvaluationSums, count_outcomes, probability
from federated_health.ml.targets import Floats, Target


class BinaryTarget(Target):
    """The probability of the label 1; the network's output is its log-odds."""

    sums: type[EvaluationSums] = Counts
    headline: ClassVar[str] = "accuracy"
    has_threshold: ClassVar[bool] = True
    has_classes: ClassVar[bool] = True

    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        """Binary cross-entropy, in nats."""
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, outputs[:, 0])

    def predictions(self, keras: Any, outputs: Any) -> Any:
        return keras.ops.sigmoid(outputs)

    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        return probability(outputs)

    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> Counts:
        return count_outcomes(probability(outputs), labels, threshold)

    def figures(self, sums: EvaluationSums) -> dict[str, float | None]:
        assert isinstance(sums, Counts)
        return {"loss": sums.loss, "accuracy": sums.accuracy}
