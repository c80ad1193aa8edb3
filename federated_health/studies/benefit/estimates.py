"""The figures of a study that have no interval, of each repeat."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import DEFAULT_THRESHOLD, ratio
from federated_health.ml.targets import Array, Target
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.ml.targets.binary_figures import figures_of, score_figures

BINARY = (
    "accuracy",
    "recall",
    "specificity",
    "average_precision",
    "log_loss",
    "calibration_slope",
    "calibration_intercept",
    "observed_expected",
)

SIGNED = {"calibration_slope": 1.0, "calibration_intercept": 0.0, "observed_expected": 1.0}
"""Figures that are best at a number in the middle, so that their mean over hospitals would hide opposite faults."""

Labels = npt.NDArray[np.float32]
OfRepeats = Mapping[str, Sequence[float | None]]
"""Figures by name, one value per repeat; None where one is not defined."""


def estimate_names(target: Target[Any]) -> tuple[str, ...]:
    """Names of the estimates: those of a binary label, or else the target's figures besides its `comparisons`."""
    if target.has_threshold:
        return BINARY
    others = {"train_examples", "test_examples", *target.comparisons}
    return tuple(name for name in target.figures(target.no_sums, 0, None) if name not in others)


def estimates_by_repeat(
    target: Target[Any], outputs: Array, thresholds: Array, labels: Labels
) -> dict[str, list[float | None]]:
    """The estimates of one model: name -> one value per repeat.

    Args:
        outputs: [repeats, rows], or [repeats, rows, outputs].
        thresholds: [repeats, rows], the probability from which the row's model predicts positive.
    """
    if target.has_threshold:
        repeats = [_binary_estimates(*of, labels) for of in zip(outputs, thresholds, strict=True)]
    else:
        repeats = [target.figures(target.measure(part, labels, DEFAULT_THRESHOLD), 0, None) for part in outputs]
    return {name: [figures[name] for figures in repeats] for name in estimate_names(target)}


def _binary_estimates(log_odds: Array, thresholds: Array, labels: Labels) -> dict[str, float | None]:
    risks = probability(log_odds)
    counts = count_outcomes(risks, labels, thresholds)
    return {
        **figures_of(counts, 0, None),
        **score_figures(log_odds, labels),
        "log_loss": counts.loss,
        "observed_expected": ratio(float(counts.positives), float(risks.sum())),
    }


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None where there is no value, or one is undefined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def summarise_repeats(values: Sequence[float | None]) -> dict[str, Any]:
    """The values with their mean and standard deviation (of at least two), as in evidence.json."""
    known = [value for value in values if value is not None]
    has_deviation = len(known) == len(values) > 1
    return {
        "values": list(values),
        "mean": mean_of(values),
        "sd": float(np.std(known, ddof=1)) if has_deviation else None,
    }
