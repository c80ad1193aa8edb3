"""Reading figures in Flower's records strictly: what is not as it must be raises, without values."""

from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import MetricRecord, RecordDict

from federated_health.weights import MalformedMessageError

METRICS = "metrics"


def read_metrics(content: RecordDict, keys: set[str], optional: set[str] | None = None) -> MetricRecord:
    """The one set of metrics, with these keys: Flower aggregates by key, so another one would disturb all."""
    # Flower's `metric_records` makes a copy of all records at every look.
    if [key for key, record in content.items() if isinstance(record, MetricRecord)] != [METRICS]:
        raise MalformedMessageError("its reply does not hold exactly one set of metrics")
    metrics = cast(MetricRecord, content[METRICS])
    if not keys <= set(metrics) <= keys | (optional or set()):
        raise MalformedMessageError(f"its metrics are not: {', '.join(sorted(keys))}")
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
