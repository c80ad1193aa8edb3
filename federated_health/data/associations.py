"""The association of the label with each column, which a hospital registers: it shows an inverted label.

An association is the Pearson correlation of the label with a measurement (point-biserial), or with the indicator of a
category's code (phi). Cells that are missing count as the mean of the others.
"""

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task

MIN_ROWS = 5
"""Smallest number of rows of a class, and of rows with and without a code, for which an association is released."""

Vector = npt.NDArray[np.float64]


def measure_associations(values: Vector, labels: npt.NDArray[np.floating], task: Task, most_rows: int = 1) -> Vector:
    """Associations of a binary label, [associations], from -1 to 1 with two decimals; 0 where one is withheld.

    Those of other kinds of labels are all 0.

    Args:
        values: [rows, columns of the task], NaN for missing.
        labels: [rows].
        most_rows: largest number of rows of one patient.
    """
    minimum = MIN_ROWS * most_rows
    found = []
    for column, cells in zip(task.columns, values.T, strict=True):
        observed = ~np.isnan(cells)
        cells, classes = cells[observed], labels[observed] == 1
        has_classes = task.label.kind == "binary" and min(classes.sum(), (~classes).sum()) >= minimum
        codes = [None] if isinstance(column, Measurement) else list(column.codes)
        for code in codes:
            feature = cells if code is None else (cells == code).astype(np.float64)
            has_code = code is None or min(feature.sum(), len(feature) - feature.sum()) >= minimum
            found.append(_correlate(feature, classes, labels) if has_classes and has_code else 0.0)
    return np.round(found, 2) + 0.0


def _correlate(feature: Vector, classes: npt.NDArray[np.bool_], labels: npt.NDArray[np.floating]) -> float:
    """Correlation of all labels with a feature of the observed rows, whose labels are `classes`."""
    centred, share = feature - feature.mean(), float((labels == 1).mean())
    variance = float(centred @ centred) * len(labels) * share * (1 - share)
    return float(centred[classes].sum()) / variance**0.5 if variance > 0 else 0.0
