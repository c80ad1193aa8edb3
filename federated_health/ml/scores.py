"""Figures and groups of rows' scores, which a run needs at its end: ROC-AUC, microaggregation, calibration."""

from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import MAX_CELLS, MIN_CELL_SIZE, Scores

CELL_STEP = 0.1
"""Precision, in log-odds, to which mean and deviation of a cell are rounded."""


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
