"""Strict reading of the figures in hospitals' replies, which only a server needs; errors quote no value."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from federated_health.data.columns import Measurement
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.ml.metrics import MAX_CELLS, MIN_CELL_SIZE, EvaluationSums
from federated_health.ml.normalisation import MIN_OBSERVED, ColumnSums
from federated_health.ml.targets import Target

WRONG_COUNTS = "its sums of the evaluation are not over the held-out rows that it registered"


MAX_LOG_ODDS = 1e39
"""Bound on scores: above every float32, and far enough below the largest float64 for sums."""


Record = TypeVar("Record", ArrayRecord, MetricRecord)


def read_only(content: RecordDict, kind: type[Record], name: str, meaning: str) -> Record:
    """The only record of a kind, which must have this name. Flower's own views would copy all records."""
    records = {key: record for key, record in content.items() if isinstance(record, kind)}
    if list(records) != [name]:
        raise MalformedMessageError(f"its reply does not hold exactly one set of {meaning}")
    return records[name]


def read_metrics(content: RecordDict, keys: set[str], optional: set[str] | None = None) -> MetricRecord:
    """The only set of metrics, with exactly these keys: Flower aggregates by key, and another key would break it."""
    metrics = read_only(content, MetricRecord, METRICS, METRICS)
    if not keys <= set(metrics) <= keys | (optional or set()):
        raise MalformedMessageError(f"its metrics are not exactly: {', '.join(sorted(keys))}")
    return metrics


def read_whole(metrics: MetricRecord, key: str, minimum: int) -> int:
    """A whole number of at least `minimum`."""
    value = metrics.get(key)
    if not isinstance(value, int) or value < minimum:
        raise MalformedMessageError(f"its {key} is not a whole number of at least {minimum}")
    return value


def read_number(metrics: MetricRecord, key: str) -> float:
    """A finite float."""
    value = metrics.get(key)
    if not isinstance(value, float) or not np.isfinite(value):
        raise MalformedMessageError(f"its {key} is not a finite number")
    return value


def read_floats(metrics: MetricRecord, key: str, length: int) -> npt.NDArray[np.float64]:
    """Finite numbers, [length]."""
    array = np.array(metrics.get(key, []), dtype=np.float64)
    if array.shape != (length,) or not np.isfinite(array).all():
        raise MalformedMessageError(f"its {key} is not {length} finite numbers")
    return array


def names_of_counts(target: Target[Any]) -> set[str]:
    """Names of the metrics of an evaluation's sums."""
    return {field.name for field in fields(target.sums)}


def read_counts(metrics: MetricRecord, target: Target[Any], declared: int) -> EvaluationSums:
    """The sums of an evaluation over the held-out rows that a hospital registered, or over none if these are few."""
    values = {
        field.name: _read_like(getattr(target.no_sums, field.name), metrics, field.name)
        for field in fields(target.sums)
    }
    counts: EvaluationSums = target.sums(**values)
    if counts.examples != declared and not (counts == target.no_sums and target.min_rows):
        raise MalformedMessageError(WRONG_COUNTS)
    if not 0 <= counts.loss_sum <= counts.examples * target.max_loss or not target.is_possible(counts):
        raise MalformedMessageError("its sums of the evaluation are impossible")
    return counts


def _read_like(example: Any, metrics: MetricRecord, name: str) -> Any:
    """A number of at least 0 of the example's type, or as many whole numbers of at least 0 as it has."""
    if isinstance(example, float):
        return read_number(metrics, name)
    if isinstance(example, int):
        return read_whole(metrics, name, 0)
    values = metrics.get(name)
    if (
        not isinstance(values, list)
        or len(values) != len(example)
        or not all(type(v) is int and v >= 0 for v in values)
    ):
        raise MalformedMessageError(f"its {name} is not {len(example)} whole numbers of at least 0")
    return tuple(values)


def check_sums(sums: ColumnSums, rows: int, measurements: Sequence[Measurement]) -> None:
    """Refuse sums that no rows of plausible values can add up to."""
    count, total, squares = sums.count, sums.total, sums.squares
    low = np.array([measurement.low for measurement in measurements])
    high = np.array([measurement.high for measurement in measurements])
    if (count % 1).any() or (count > rows).any() or ((count != 0) & (count < MIN_OBSERVED)).any():
        raise MalformedMessageError("its counts of observed rows are impossible")
    slack = 1e-6 * np.maximum(squares, 1.0)
    outside = (total < count * low - slack) | (total > count * high + slack)
    if outside.any() or (squares > count * np.maximum(low**2, high**2) + slack).any():
        raise MalformedMessageError("its sums are outside what plausible values can add up to")
    with np.errstate(over="ignore"):  # infinities are refused below
        too_small = squares * count < total**2 - slack * np.maximum(count, 1.0)
    if too_small.any():
        raise MalformedMessageError("its sums of squares are smaller than its sums allow")
    if (squares < 0).any() or ((count == 0) & ((total != 0) | (squares != 0))).any():
        raise MalformedMessageError("its sums over no rows, or of squares, are impossible")


def read_cells(metrics: MetricRecord, key: str, *, has_deviation: bool = True) -> npt.NDArray[np.float64]:
    """Groups of at least MIN_CELL_SIZE rows, [groups, 3].

    Args:
        has_deviation: whether the third number of a group is a deviation (see `metrics.microaggregate`).
    """
    flat = np.array(metrics[key], dtype=np.float64)
    if flat.ndim != 1 or flat.size % 3 or flat.size > 3 * MAX_CELLS or not (np.abs(flat) < MAX_LOG_ODDS).all():
        raise MalformedMessageError(f"its score groups of {key} are not at most {MAX_CELLS} triples of finite numbers")
    cells = flat.reshape(-1, 3)
    if (cells[:, 0] < MIN_CELL_SIZE).any() or (cells[:, 0] % 1).any() or (has_deviation and (cells[:, 2] < 0).any()):
        raise MalformedMessageError(f"its score groups of {key} are too small or have a negative deviation")
    return cells
