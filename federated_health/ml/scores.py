"""Figures and groups of rows' scores, which a run needs at its end: ROC-AUC, average precision, microaggregation."""

import numpy as np
import numpy.typing as npt

from federated_health.ml.metrics import MAX_BINARY_CELLS, MAX_CELLS, MIN_CELL_SIZE, Scores
from federated_health.ml.targets import Floats, PatientIds

CELL_STEP = 0.1
"""Precision, in log-odds, to which the deviation of a cell is rounded, and the mean of a small one.

Somebody who knows all other scores of a cell can find an outlying one from the deviation, too; so it is not finer in
large cells. Of 5 patients it leaves a patient's score uncertain by 0.25, of 25 or more by 0.5.
"""

FINER_STEPS = {50: 0.01, 25: 0.02, 10: 0.05}
"""That of the mean of cells of at least so many patients.

A cell's number of patients times its precision is at least 0.5. So even to somebody who knows all other scores of a
cell, its mean leaves a patient's mean score in it uncertain by 0.5.
"""


def rounding_step(patients: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Precision, in log-odds, of the mean of cells of so many patients."""
    patients = np.asarray(patients)
    return np.select([patients >= least for least in FINER_STEPS], list(FINER_STEPS.values()), CELL_STEP)


def roc_auc(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve, None where a class has no patient; ties count one half (Hanley and McNeil 1982)."""
    if len(np.unique(labels)) < 2:
        return None
    # Equal to scikit-learn's, whose import costs each hospital 1 s of CPU time.
    negatives = np.sort(scores[labels == 0])
    beaten = [np.searchsorted(negatives, scores[labels == 1], side=side) for side in ("left", "right")]
    return float(np.mean(beaten) / len(negatives))


def average_precision(scores: Floats, labels: Floats, weights: Floats | None = None) -> float | None:
    """Mean of the precisions at all thresholds, weighted by the rise in recall (Boyd, Eng and Page 2013).

    None where a class has no patient. Scores at random give the share of positives.

    Args:
        scores, labels: [patients].
        weights: [patients], number of patients that each stands for; 1 by default.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    if not len(order):
        return None
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores share a threshold
    found, predicted = (np.cumsum(part[order])[ends] for part in (weights * (labels == 1), weights))
    if not 0 < found[-1] < predicted[-1]:
        return None
    return float((np.diff(found, prepend=0.0) * found / predicted).sum() / found[-1])


def microaggregate(log_odds: Floats, patients: PatientIds | None = None, most: int = MAX_BINARY_CELLS) -> Scores:
    """Microaggregated scores of one class (Domingo-Ferrer and Mateo-Sanz 2002).

    The sorted scores are cut into at most `most` cells of about equal size, each of at least MIN_CELL_SIZE times as
    many rows as any patient has in it, and so of as many patients. They hold all scores, or there is no cell.

    Args:
        log_odds: [rows] of one class at one hospital.
        patients: [rows], equal for the rows of one patient; None if each row is a patient's.
        most: largest number of cells.

    Returns:
        [cells, 3]: rows, mean and standard deviation of the log-odds, rounded to `rounding_step` and to CELL_STEP.
    """
    order = np.argsort(log_odds, kind="stable")
    ordered = log_odds[order].astype(np.float64)
    rows = []
    for start, end, most_rows in _cut(len(order), None if patients is None else patients[order], most):
        step, cell = float(rounding_step((end - start) // most_rows)), ordered[start:end]
        rows.append((end - start, round(cell.mean() / step) * step, round(cell.std() / CELL_STEP) * CELL_STEP))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def group_predictions(predictions: Scores, labels: Floats, patients: PatientIds | None = None) -> Scores:
    """Groups of rows with similar predictions, for a calibration curve.

    The rows are sorted by prediction and cut as by `microaggregate`.

    Args:
        predictions, labels: [rows].
        patients: as of `microaggregate`.

    Returns:
        [groups, 3]: rows, mean prediction, mean label, both with three significant digits.
    """
    order = np.argsort(predictions, kind="stable")
    rows = []
    for start, end, _ in _cut(len(order), None if patients is None else patients[order], MAX_CELLS):
        means = (part[order[start:end]].mean(dtype=np.float64) for part in (predictions, labels))
        rows.append((end - start, *(float(f"{mean:.3g}") for mean in means)))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _cut(rows: int, patients: PatientIds | None, most_cells: int) -> list[tuple[int, int, int]]:
    """First row, end and largest number of rows of one patient, of cells that hold all rows; none if that cannot be."""

    def most_rows(start: int, end: int) -> int:
        return 1 if patients is None else int(np.unique(patients[start:end], return_counts=True)[1].max())

    number = min(rows // MIN_CELL_SIZE, most_cells)
    cells, start = [], 0
    for place in range(number):
        end = (place + 1) * (rows // number) + min(place + 1, rows % number)
        if (most := most_rows(start, end)) * MIN_CELL_SIZE <= end - start:
            cells.append((start, end, most))
            start = end
    while cells and start < rows:  # the rest joins the last cells
        start, *_ = cells.pop()
        if (most := most_rows(start, rows)) * MIN_CELL_SIZE <= rows - start:
            cells.append((start, rows, most))
            start = rows
    return cells
