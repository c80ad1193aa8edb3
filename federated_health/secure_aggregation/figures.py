"""Figures that hospitals add up, as vectors, and what their sums mean. Arrays in, arrays out; no messages here."""

from collections.abc import Sequence
from dataclasses import astuple, fields
from typing import Any

import numpy as np

from federated_health.data.columns import Measurement
from federated_health.messages.content import Evaluation
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.normalisation import ColumnSums, Normalisation, column_sums, normalisation_from
from federated_health.ml.scores import CELL_STEP, rounding_step
from federated_health.ml.targets import ScoreGroups, Target
from federated_health.secure_aggregation.masks import Vector

MAX_LOG_ODDS = 12.0
"""Largest log-odds of a bin; the bins' middles are multiples of CELL_STEP, and the outermost hold what is beyond."""

BINS = 2 * round(MAX_LOG_ODDS / CELL_STEP) + 1


def scaled_sums(values: Vector, measurements: Sequence[Measurement], most_rows: int) -> ColumnSums:
    """One hospital's sums for the normalisation.

    Args:
        values: [rows, measurements], NaN for missing; scaled here to [-1, 1] by the declared ranges.
        most_rows: see `column_sums`.
    """
    middle, half = _ranges(measurements)
    return column_sums((values - middle) / half, most_rows)


def read_normalisation(vector: Vector, measurements: Sequence[Measurement]) -> Normalisation:
    """The normalisation from the sum of all hospitals' `scaled_sums`, [3 * measurements]; RunError if impossible."""
    middle, half = _ranges(measurements)
    count, total, squares = np.split(vector, 3)
    return normalisation_from(
        ColumnSums(
            count, half * total + middle * count, half**2 * squares + middle * (2 * half * total + middle * count)
        )
    )


def write_counts(counts: EvaluationSums) -> Vector:
    """The sums of an evaluation, in the order of their fields."""
    return np.concatenate([np.atleast_1d(np.float64(part)) for part in astuple(counts)])  # type: ignore[call-overload]  # a dataclass


def read_counts(vector: Vector, target: Target[Any]) -> EvaluationSums:
    """The sums of all hospitals' evaluations."""
    values: list[Any] = []
    left = vector.tolist()
    for field in fields(target.sums):
        example = getattr(target.no_sums, field.name)
        size = len(example) if isinstance(example, tuple) else 1
        parts, left = left[:size], left[size:]
        if isinstance(example, tuple):
            values.append(tuple(round(part) for part in parts))
        else:
            values.append(round(parts[0]) if isinstance(example, int) else parts[0])
    counts: EvaluationSums = target.sums(*values)
    return counts


def are_possible(counts: EvaluationSums, target: Target[Any], rows: int) -> bool:
    """Whether at most this number of rows can add up to the sums of all hospitals' evaluations."""
    parts = [part if isinstance(part, tuple) else (part,) for part in astuple(counts)]  # type: ignore[call-overload]  # a dataclass
    is_counted = all(number >= 0 for part in parts for number in part if isinstance(number, int))
    is_bounded = counts.examples <= rows and 0 <= counts.loss_sum <= counts.examples * target.max_loss
    return is_counted and is_bounded and target.is_possible(counts)


def number_of_counts(target: Target[Any]) -> int:
    """Length of `write_counts`."""
    return len(write_counts(target.no_sums))


def bin_names(target: Target[Any]) -> list[str]:
    """Names of the score groups that are added up: those of labels with classes."""
    return list(target.rows_of_groups(target.no_sums)) if target.has_classes else []


def write_bins(groups: ScoreGroups, names: Sequence[str]) -> Vector:
    """Rows of a hospital's score groups, and rows times deviation, by the bin of the group's mean, [names * 2 * BINS].

    A group holds at least 5 patients (see `scores.microaggregate`), so none is alone in a bin.
    """
    bins = np.zeros((len(names), 2, BINS))
    for name, (rows, spread) in zip(names, bins, strict=True):
        for number, mean, deviation in groups.get(name, np.zeros((0, 3))):
            place = round((np.clip(mean, -MAX_LOG_ODDS, MAX_LOG_ODDS) + MAX_LOG_ODDS) / CELL_STEP)
            rows[place] += number
            spread[place] += number * deviation
    return bins.ravel()


def read_bins(vector: Vector, names: Sequence[str]) -> ScoreGroups:
    """Score groups of all hospitals together: one for each bin that is not empty.

    Means are anywhere in a bin, which adds to its deviation what its number of rows does not tell: `rounding_step`.
    """
    centres = CELL_STEP * np.arange(BINS) - MAX_LOG_ODDS
    groups = {}
    for name, (rows, spread) in zip(names, vector.reshape(len(names), 2, BINS), strict=True):
        rows = np.round(rows)
        used = rows > 0
        within = (CELL_STEP**2 - rounding_step(rows) ** 2) / 12
        groups[name] = np.column_stack([rows, centres, np.hypot(spread / np.maximum(rows, 1), np.sqrt(within))])[used]
    return groups


def write_final(evaluation: Evaluation, importance: Vector, target: Target[Any]) -> Vector:
    """Figures of the final weights: counts; ROC-AUC, whether there is one, and of too few rows; importance; bins."""
    auc, names = evaluation.roc_auc, bin_names(target)
    aucs = [auc or 0.0, auc is not None, auc is not None and evaluation.counts.is_small]
    return np.concatenate([write_counts(evaluation.counts), aucs, importance, write_bins(evaluation.scores, names)])


def read_final(vector: Vector, target: Target[Any], columns: int) -> tuple[EvaluationSums, Vector, Vector, ScoreGroups]:
    """The parts of the sum of `write_final`, in their order: sums of ROC-AUCs, and numbers of hospitals with one."""
    size = number_of_counts(target)
    counts, aucs, importance, bins = np.split(vector, [size, size + 3, size + 3 + columns])
    return read_counts(counts, target), aucs, importance, read_bins(bins, bin_names(target))


def length_of_final(target: Target[Any], columns: int) -> int:
    """Length of `write_final`."""
    return number_of_counts(target) + 3 + columns + 2 * BINS * len(bin_names(target))


def _ranges(measurements: Sequence[Measurement]) -> tuple[Vector, Vector]:
    low = np.array([measurement.low for measurement in measurements])
    high = np.array([measurement.high for measurement in measurements])
    return (low + high) / 2, (high - low) / 2
