"""The evaluation that a hospital sends at the end of a run with differential privacy: one table of noisy counts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import RecordDict

from federated_health.messages.content import NOISY_COUNTS, Evaluation
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.validation import MAX_DECLARED_ROWS, read_evaluation, read_floats, read_metrics
from federated_health.ml.noisy_evaluation import Table, figures_of, read_table, table_shape
from federated_health.ml.targets import Target


def make_evaluation(target: Target[Any], table: Table) -> Evaluation:
    """The evaluation that is computed from a table."""
    sums, roc_auc = read_table(target, table)
    return Evaluation(counts=sums, roc_auc=roc_auc, noisy_counts=tuple(table.ravel().tolist()))


def read_noisy_evaluation(content: RecordDict, target: Target[Any]) -> Evaluation:
    """Read an evaluation; one over no rows of a label that has no table."""
    if (shape := table_shape(target)) is None:
        return read_evaluation(content, target, 0)
    table = read_floats(read_metrics(content, {NOISY_COUNTS}), NOISY_COUNTS, math.prod(shape))
    if np.abs(table).max() > MAX_DECLARED_ROWS:
        raise MalformedMessageError(f"its {NOISY_COUNTS}: expected at most {MAX_DECLARED_ROWS:,}")
    return make_evaluation(target, table.reshape(shape))


def noisy_figures(
    evaluations: Sequence[Evaluation], target: Target[Any], deviation: float, train_examples: int
) -> dict[str, Any]:
    """Figures of one hospital or of several together, with their noise (see `figures_of`).

    Args:
        deviation: standard deviation of the noise in each count of a hospital.
    """
    if (shape := table_shape(target)) is None:
        return target.figures(target.no_sums, train_examples, None)
    table = np.sum([evaluation.noisy_counts for evaluation in evaluations], axis=0).reshape(shape)
    return figures_of(target, table, deviation * math.sqrt(len(evaluations)), train_examples)
