"""Held-out figures of a run with differential privacy: all are computed from one table of noisy counts.

At the end of the run a hospital counts its held-out patients by actual class and by score, or by actual and predicted
class, and adds Gaussian noise to every cell, once. The counts of a patient's rows are scaled down to an L2 norm of 1,
or of MAX_CHANGE where patients have several rows, if they are longer. With another patient in its place the table
changes by at most the root of 2 times that, since no cell is negative.

Figures that need the table's own squared errors or losses are not computed: each would need noise of its own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task
from federated_health.ml.metrics import DEFAULT_THRESHOLD, EvaluationSums
from federated_health.ml.targets import Floats, Target
from federated_health.ml.targets.binary import probability

Table = npt.NDArray[np.float64]
"""Counts of rows, [actual class, bin of the score] of a binary label, else [actual class, predicted class]."""

EDGES = np.array([-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0])
"""Edges of the bins, in log-odds; 0 is the decision threshold.

More bins have more noise in all figures. On the heart data these give a ROC-AUC that is 0.005 to 0.013 too low, since
patients of one bin are not ordered, and equal widths of probability 0.04.
"""

OFFSETS = np.array([-2.0, -1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5])
"""Edges relative to the log-odds of the label's typical share, where the task declares one: risks lie around it.

0 is the decision threshold: no other could be chosen without training scores, and hardly a risk exceeds one half.

Of a rare outcome most patients are in two bins of EDGES: on the readmission data their ROC-AUC was 0.07 too low.
"""

MAX_CHANGE = 3.0
"""Largest L2 norm of one patient's counts if patients have several rows, such as 9 rows in 9 cells, or 3 in one.

On the readmission data 99 % of the rows count. With 1, which needs a third of the noise, 79 % would: patients with many
stays, who are readmitted more often, would count too little, and the prevalence would be 9.1 % instead of 11.7 %.
"""

EXCHANGE = 2**0.5
"""Largest change of a table if one patient is exchanged for another, as a multiple of `largest_change`."""

NOISE = "_noise"
"""Ending of the name of a figure's standard deviation."""

NOISE_DRAWS = 200
"""Draws of the noise from which these standard deviations are computed, to about 5 %."""


NO_FIGURES = "with differential privacy no figure on held-out patients is released for a label without classes"


class TableFigures(NamedTuple):
    """What a table holds; the ROC-AUC is None where it is not defined."""

    sums: EvaluationSums
    roc_auc: float | None


def table_shape(target: Target[Any]) -> tuple[int, int] | None:
    """Shape of the table; None for a label that has no classes, of which no held-out figure is released."""
    if not target.has_classes:
        return None
    return (2, len(edges_of(target)) + 1) if target.has_threshold else (target.classes, target.classes)


def edges_of(target: Target[Any]) -> npt.NDArray[np.float64]:
    """Edges of the bins of a label with a threshold, ascending, in log-odds; the threshold is one of them."""
    share = target.label.typical_share
    return EDGES if share is None else OFFSETS + np.log(share / (1 - share))


def fixed_threshold(target: Target[Any]) -> float:
    """Decision threshold of a run with differential privacy: the label's typical share, or one half."""
    share = target.label.typical_share
    return DEFAULT_THRESHOLD if share is None else share


def largest_change(task: Task) -> float:
    """Largest L2 norm of what one patient adds to the table."""
    return MAX_CHANGE if task.patient else 1.0


def count_rows(
    target: Target[Any], outputs: Floats, labels: Floats, patients: npt.NDArray[np.intp], largest: float
) -> Table:
    """The table without noise.

    Args:
        outputs: of the network, as a target gets them.
        labels: [rows].
        patients: number of each row's patient, from 0, [rows].
        largest: L2 norm to which the counts of one patient's rows are scaled down if they are longer.
    """
    shape = table_shape(target)
    assert shape is not None, "the label has classes"
    columns = (
        np.searchsorted(edges_of(target), outputs, side="right") if target.has_threshold else outputs.argmax(axis=1)
    )
    cells = shape[0] * shape[1]
    different, numbers = np.unique(patients * cells + target.class_of(labels) * shape[1] + columns, return_counts=True)
    patient, cell = np.divmod(different.astype(np.intp), cells)
    norms = np.sqrt(np.bincount(patient, numbers**2))
    factors = np.minimum(1.0, largest / np.maximum(norms, 1.0))
    table = np.zeros(cells)
    np.add.at(table, cell, numbers * factors[patient])
    return table.reshape(shape)


def read_table(target: Target[Any], table: Table) -> TableFigures:
    """Sums and ROC-AUC of a table, with noise or without; counts below 0 become 0.

    Patients are taken to have the risk in the middle of their bin. The losses are not known, and 0 in the sums.
    """
    if not target.has_threshold:
        confusion = np.maximum(table.round(), 0).astype(int)
        return TableFigures(target.sums(confusion=tuple(confusion.ravel().tolist())), None)
    edges = edges_of(target)
    half = (EDGES if target.label.typical_share is None else OFFSETS).tolist().index(0.0) + 1
    risks = np.concatenate([[0.0], probability(edges), [1.0]])
    middles = (risks[:-1] + risks[1:]) / 2
    halves = np.array([[row[:half].sum(), row[half:].sum()] for row in table])
    (tn, fp), (fn, tp) = np.maximum(halves.round(), 0).astype(int).tolist()
    errors = float((table * (middles - np.array([[0.0], [1.0]])) ** 2).sum())
    sums = target.sums(
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
        squared_error_sum=min(max(errors, 0.0), float(tp + fp + tn + fn)),
    )
    return TableFigures(sums, _roc_auc(*table))


def _roc_auc(negatives: Table, positives: Table) -> float | None:
    """ROC-AUC of numbers of patients by bin, [bins] each; patients of one bin count one half."""
    pairs = negatives.sum() * positives.sum()
    if negatives.sum() <= 0 or positives.sum() <= 0:
        return None
    below = np.cumsum(negatives) - negatives / 2
    return float(np.clip((positives * below).sum() / pairs, 0.0, 1.0))


def figures_of(target: Target[Any], table: Table, deviation: float, train_examples: int) -> dict[str, Any]:
    """Figures of one hospital or of all, as metrics.json and tables hold them, and how much noise is in each.

    The figure NAME has the standard deviation NAME_noise, computed by adding the noise again, NOISE_DRAWS times.

    Args:
        deviation: standard deviation of the noise in each cell.
        train_examples: number of training rows.
    """
    figures = _figures(target, table, train_examples)
    generator = np.random.default_rng(0)
    noise = generator.normal(0.0, deviation, (NOISE_DRAWS, *table.shape))
    draws = [_figures(target, table + drawn, train_examples) for drawn in noise]
    deviations = {}
    for name, value in figures.items():
        values = [draw[name] for draw in draws if draw[name] is not None]
        if value is not None and name != "train_examples" and len(values) > 1:
            deviations[name + NOISE] = float(np.std(values))
    return {**figures, **deviations}


def _figures(target: Target[Any], table: Table, train_examples: int) -> Mapping[str, Any]:
    sums, roc_auc = read_table(target, table)
    figures = target.figures(sums, train_examples, roc_auc)
    if not target.has_threshold:
        return {**figures, "brier": None}  # of classes, the table has no scores
    return figures if target.label.typical_share is None else {**figures, **_score_figures(target, table)}


def _score_figures(target: Target[Any], table: Table) -> dict[str, float | None]:
    """Average precision and calibration, of rows evenly spread over their bin; the outermost is as wide as the next."""
    edges = edges_of(target)
    bounds = np.concatenate([[2 * edges[0] - edges[1]], edges, [2 * edges[-1] - edges[-2]]])
    places = (bounds[:-1] + bounds[1:]) / 2, np.diff(bounds) / np.sqrt(12)
    negatives, positives = (np.column_stack([row, *places])[row > 0] for row in table)
    defined = len(positives) and len(negatives)
    return target.group_figures({"positives": positives, "negatives": negatives}) if defined else {}
