"""A label that counts events: the network's output is the logarithm of their expected number (Poisson regression)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.labels import CountLabel
from federated_health.ml.metrics import ratio
from federated_health.ml.targets import Floats
from federated_health.ml.targets.quantity import QuantitySums, QuantityTarget

MAX_LOG_RATE = 700.0
"""Largest output whose exponential is finite in float64."""


@dataclass(frozen=True, slots=True)
class CountSums(QuantitySums):
    """Sums over rows.

    Attributes:
        loss_sum: of half the unit deviances of the Poisson distribution, in nats.
        observed_sum, expected_sum: of events, and of their expected numbers.
        absolute_error_sum: of the differences of both.
        log_sum: of y log y, for the deviance of the mean.
    """

    examples: int = 0
    loss_sum: float = 0.0
    observed_sum: float = 0.0
    expected_sum: float = 0.0
    absolute_error_sum: float = 0.0
    log_sum: float = 0.0

    kind: ClassVar[str] = "count"

    @property
    def deviance(self) -> float | None:
        """Mean unit deviance of the Poisson distribution (McCullagh and Nelder 1989)."""
        return ratio(2 * self.loss_sum, self.examples)

    @property
    def deviance_explained(self) -> float | None:
        """Share of the deviance of a constant rate that the predictions explain; below 0 if they are worse."""
        if not self.observed_sum:
            return None
        constant = 2 * (self.log_sum - self.observed_sum * np.log(self.observed_sum / self.examples))
        unexplained = ratio(2 * self.loss_sum, constant if constant > 1e-9 * self.observed_sum else 0.0)
        return None if unexplained is None else float(1 - unexplained)

    @property
    def observed_expected(self) -> float | None:
        """Observed over expected number of events; above 1 if predictions are too low."""
        return ratio(self.observed_sum, self.expected_sum)

    @property
    def headline(self) -> float | None:
        return self.observed_expected


class CountTarget(QuantityTarget[CountSums]):
    """The expected number of events."""

    sums = CountSums
    headline: ClassVar[str] = "observed_expected"
    comparisons: ClassVar[tuple[str, ...]] = ("deviance",)
    loss_name: ClassVar[str] = "half the Poisson deviance"
    label: CountLabel

    def losses(self, tf: Any, labels: Any, outputs: Any) -> Any:
        """Half the unit deviance: the negative log-likelihood, less its smallest value for the row."""
        log_rate = outputs[:, 0]
        return tf.exp(log_rate) - labels * log_rate + tf.math.xlogy(labels, labels) - labels

    def predictions(self, keras: Any, outputs: Any) -> Any:
        return keras.ops.exp(outputs)

    def predict(self, outputs: Floats) -> npt.NDArray[np.float64]:
        return np.exp(np.minimum(outputs.astype(np.float64), MAX_LOG_RATE))

    def prediction_columns(self, predictions: Floats, threshold: float) -> dict[str, npt.NDArray[Any]]:  # noqa: ARG002  # of the interface
        return {"expected": predictions[:, 0]}

    def measure(self, outputs: Floats, labels: Floats, threshold: float) -> CountSums:  # noqa: ARG002  # of the interface
        expected, observed = self.predict(outputs), labels.astype(np.float64)
        return CountSums(
            examples=len(labels),
            loss_sum=float(self._half_deviances(outputs, observed).sum()),
            observed_sum=float(observed.sum()),
            expected_sum=float(expected.sum()),
            absolute_error_sum=float(np.abs(observed - expected).sum()),
            log_sum=float(_y_log_y(observed).sum()),
        )

    def is_possible(self, sums: CountSums) -> bool:
        high = self.label.high
        log_limit = sums.examples * high * np.log(max(high, 1)) * (1 + 1e-6)
        are_events = sums.observed_sum % 1 == 0 and 0 <= sums.observed_sum <= sums.examples * high
        errors = sums.expected_sum, sums.absolute_error_sum, sums.log_sum
        return are_events and min(errors) >= 0 and sums.log_sum <= log_limit

    def figures(self, sums: CountSums, train_examples: int, roc_auc: float | None) -> dict[str, Any]:  # noqa: ARG002
        return {
            "train_examples": train_examples,
            "test_examples": sums.examples,
            "deviance": sums.deviance,
            "deviance_explained": sums.deviance_explained,
            "observed_expected": sums.observed_expected,
            "mae": ratio(sums.absolute_error_sum, sums.examples),
        }

    def compared_losses(self, outputs: Floats, labels: Floats) -> npt.NDArray[np.float64]:
        losses: npt.NDArray[np.float64] = 2 * self._half_deviances(outputs, labels)
        return losses

    def _half_deviances(self, outputs: Floats, labels: Floats) -> npt.NDArray[np.float64]:
        observed, log_rate = labels.astype(np.float64), outputs.astype(np.float64)
        deviances: npt.NDArray[np.float64] = self.predict(outputs) - observed * log_rate + _y_log_y(observed) - observed
        return np.maximum(deviances, 0.0)  # below 0 by rounding only


def _y_log_y(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = values * np.log(np.maximum(values, 1.0))  # 0 where y is 0
    return result
