"""Figures of a label of 0 or 1, and which of them tables show."""

from collections.abc import Mapping
from typing import Any

from federated_health.ml.metrics import ratio
from federated_health.ml.targets import Floats
from federated_health.ml.targets.binary import Counts

RARE = 0.2
"""Share of the rarer class below which accuracy says little, since predicting nobody positive nearly reaches it."""

SCORE_FIGURES = ("average_precision", "calibration_slope", "calibration_intercept")
"""Figures that need scores, besides the ROC-AUC."""

COMMON_FIGURES = (
    "train_examples",
    "test_examples",
    "accuracy",
    "precision",
    "recall",
    "specificity",
    "f1",
    "roc_auc",
    "brier",
)
RARE_FIGURES = (
    "test_examples",
    "recall",
    "specificity",
    "precision",
    "f1",
    "average_precision",
    "calibration_slope",
    "brier",
    "roc_auc",
)
"""Figures in tables, of an outcome that is rare or not; metrics.json has all."""


def is_rare(prevalence: float | None) -> bool:
    """Whether one class is so rare that accuracy says little."""
    return prevalence is not None and min(prevalence, 1 - prevalence) < RARE


def shown_figures(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a rare outcome lead with what positive patients say, without the accuracy, which is in a note."""
    return RARE_FIGURES if is_rare(figures.get("prevalence")) else COMMON_FIGURES


def score_figures(log_odds: Floats, labels: Floats, weights: Floats | None = None) -> dict[str, float | None]:
    """The `SCORE_FIGURES` of patients, [patients], each of whom stands for `weights` patients (1 by default)."""
    from federated_health.ml.calibration import calibration  # noqa: PLC0415  # at the end of a run only
    from federated_health.ml.scores import average_precision  # noqa: PLC0415  # as above

    fitted, precision = calibration(log_odds, labels, weights), average_precision(log_odds, labels, weights)
    return dict(zip(SCORE_FIGURES, (precision, fitted.slope, fitted.intercept), strict=True))


def figures_of(counts: Counts, train_examples: int, roc_auc: float | None) -> dict[str, Any]:
    """Figures of one hospital or of all, as metrics.json holds them; those of `SCORE_FIGURES` are not known here."""
    return {
        "train_examples": train_examples,
        "test_examples": counts.examples,
        "accuracy": counts.accuracy,
        "precision": ratio(counts.true_positives, counts.true_positives + counts.false_positives),
        "recall": ratio(counts.true_positives, counts.positives),
        "specificity": ratio(counts.true_negatives, counts.examples - counts.positives),
        "f1": counts.f1,
        "roc_auc": roc_auc,
        "brier": counts.brier,
        "prevalence": counts.prevalence,
        **dict.fromkeys(SCORE_FIGURES),
    }
