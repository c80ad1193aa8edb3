"""The figures of a study that have no interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.calibration import calibration
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.targets import Target
from federated_health.ml.targets.binary import probability

BINARY = ("average_precision", "accuracy", "brier", "calibration_slope", "calibration_intercept")

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.float32]


def estimate_names(target: Target[Any]) -> tuple[str, ...]:
    """Names of the estimates: those of a binary label, or else the target's figures besides the compared one."""
    if target.has_threshold:
        return BINARY
    others = {"train_examples", "test_examples", target.compared}
    return tuple(name for name in target.figures(target.no_sums, 0, None) if name not in others)


def point_estimates(target: Target[Any], outputs: Array, thresholds: Array, labels: Labels) -> dict[str, float | None]:
    """The estimates of one model as means over repeats; None where one is not defined in a repeat.

    Args:
        outputs: [repeats, patients], or [repeats, patients, outputs].
        thresholds: [repeats, patients], the probability from which the patient's model predicts positive.
    """
    if target.has_threshold:
        return _binary_estimates(target, outputs, thresholds, labels)
    figures = [target.figures(target.measure(part, labels, DEFAULT_THRESHOLD), 0, None) for part in outputs]
    return {name: mean_of([part[name] for part in figures]) for name in estimate_names(target)}


def _binary_estimates(
    target: Target[Any], log_odds: Array, thresholds: Array, labels: Labels
) -> dict[str, float | None]:
    from sklearn.metrics import average_precision_score  # noqa: PLC0415  # takes a second to import

    risks, has_both_classes = probability(log_odds), target.is_defined(labels)
    fitted = [calibration(of_repeat, labels) for of_repeat in log_odds]
    return {
        "average_precision": mean_of(
            [float(average_precision_score(labels, of_repeat)) for of_repeat in log_odds if has_both_classes]
        ),
        "accuracy": float(((risks >= thresholds) == (labels == 1)).mean()),
        "brier": float(((risks - labels) ** 2).mean()),
        "calibration_slope": mean_of([line.slope for line in fitted]),
        "calibration_intercept": mean_of([line.intercept for line in fitted]),
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where there is no value, or one is undefined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
