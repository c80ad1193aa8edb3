"""A label that is a quantity: the network's output is its value, in standard deviations from the declared mean."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.labels import NumberLabel
from federated_health.ml.metrics import ratio
from federated_health.ml.targets import Floats
from federated_health.ml.targets.quantity import QuantitySums, QuantityTarget


@dataclass(frozen=True, slots=True)
class NumberSums(QuantitySums):
    """Sums over rows; labels and predictions are in standard deviations from the declared mean, unless stated.

    Attributes:
        loss_sum: of squared errors.
        absolute_error_sum, squared_error_sum: in the label's unit.
    """

    examples: int = 0
    loss_sum: float = 0.0
    absolute_error_sum: float = 0.0
    squared_error_sum: float = 0.0
    label_sum: float = 0.0
    label_squares: float = 0.0
    prediction_sum: float = 0.0
    prediction_squares: float = 0.0
    product_sum: float = 0.0

    kind: ClassVar[str] = "number"

    @property
    def mae(self) -> float | None:
        """Mean absolute error, in the label's unit."""
        return ratio(self.absolute_error_sum, self.examples)

    @property
    def rmse(self) -> float | None:
        """Root of the mean squared error, in the label's unit."""
        return float(np.sqrt(self.squared_error_sum / self.examples)) if self.examples else None

    @property
    def r2(self) -> float | None:
        """Share of the variance that the predictions explain; below 0 if the mean of all rows is better."""
        squared_errors = self.label_squares - 2 * self.product_sum + self.prediction_squares
        unexplained = ratio(squared_errors, self._spread(self.label_squares, self.label_sum, self.label_sum))
        return None if unexplained is None else 1 - unexplained

    @property
    def calibration_slope(self) -> float | None:
        """Slope of a linear regression of the labels on the predictions; below 1 if these are too extreme."""
        joint = self._spread(self.product_sum, self.label_sum, self.prediction_sum)
        return ratio(joint, self._spread(self.prediction_squares, self.prediction_sum, self.prediction_sum))

    def _spread(self, products: float, first: float, second: float) -> float:
        """Sum of the products of two quantities' differences from their means; 0 if it is only rounding error."""
        spread = products - first * second / self.examples if self.examples else 0.0
        return spread if abs(spread) > 1e-9 * abs(products) else 0.0

    @property
    def headline(self) -> float | None:
        return self.rmse


class NumberTarget(QuantityTarget[NumberSums]):
    """The value of the label in its unit, by squared error."""

    sums = NumberSums
    headline: ClassVar[str] = "rmse"
    comparisons: ClassVar[tuple[str, ...]] = ("mae",)
    loss_name: ClassVar[str] = "squared error"
    loss_unit: ClassVar[str] = "squared standard deviations"
    label: NumberLabel

    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:  # noqa: ARG002  # of the interface
        return (outputs[:, 0] - self._scaled(labels)) ** 2

    def predictions(self, keras: Any, outputs: Any) -> Any:
        mean, deviation = self.label.public_scale
        return keras.ops.add(keras.ops.multiply(outputs, deviation), mean)

    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        mean, deviation = self.label.public_scale
        return outputs.astype(np.float64) * deviation + mean

    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> NumberSums:  # noqa: ARG002  # of the interface
        predicted, actual = outputs.astype(np.float64), self._scaled(labels.astype(np.float64))
        errors, deviation = predicted - actual, self.label.public_scale[1]
        return NumberSums(
            len(labels),
            float((errors**2).sum()),
            float(np.abs(errors).sum() * deviation),
            float((errors**2).sum() * deviation**2),
            *(float(array.sum()) for array in (actual, actual**2, predicted, predicted**2, actual * predicted)),
        )

    def is_possible(self, sums: NumberSums) -> bool:
        low, high = self._scaled(np.array([self.label.low, self.label.high]))
        rows, slack = sums.examples, 1e-6 * max(1, sums.examples) * max(1.0, -low, high)
        errors = sums.absolute_error_sum, sums.squared_error_sum, sums.prediction_squares
        is_in_range = rows * low - slack <= sums.label_sum <= rows * high + slack
        are_squares = 0 <= sums.label_squares <= rows * max(low**2, high**2) * (1 + 1e-6)
        return min(errors) >= 0 and is_in_range and are_squares

    def figures(self, sums: NumberSums, train_examples: int, roc_auc: float | None) -> dict[str, Any]:  # noqa: ARG002
        return {
            "train_examples": train_examples,
            "test_examples": sums.examples,
            "mae": sums.mae,
            "rmse": sums.rmse,
            "r2": sums.r2,
            "calibration_slope": sums.calibration_slope,
        }

    def compared_losses(self, outputs: Floats, labels: Floats) -> npt.NDArray[np.float64]:
        losses: npt.NDArray[np.float64] = np.abs(self.predict(outputs) - labels)
        return losses

    def _scaled(self, values: Any) -> Any:
        mean, deviation = self.label.public_scale
        return (values - mean) / deviation
