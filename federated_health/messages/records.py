"""Weights and figures in Flower's records, validated as they are read; errors quote no value."""

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, lru_cache
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from federated_health.data.columns import Measurement
from federated_health.ml.metrics import MAX_CELLS, MIN_CELL_SIZE, EvaluationSums
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import MIN_OBSERVED, ColumnSums
from federated_health.ml.targets import Target
from federated_health.names import PROXIMAL_MU

METRICS = "metrics"

WRONG_COUNTS = "its sums of the evaluation are not over the held-out rows that it registered"

OTHER_SHAPE = "its weights {}: expected float32 of shape {}, got another type or shape"

MAX_LOG_ODDS = 1e39
"""Bound on scores: above every float32, and far enough below the largest float64 for sums."""

NUMPY = "numpy.ndarray"
"""Flower's name for arrays in NumPy's format."""

BLOCK = 2**16
"""Number of elements per block (see `blocks`): 256 KiB per array."""

Record = TypeVar("Record", ArrayRecord, MetricRecord)


DIVERGED = "its training diverged: "
"""Start of the reason with which an update is rejected whose loss or weights are not finite."""


class MalformedMessageError(ValueError):
    """A message is invalid; the text says why, and quotes no value."""


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


def write_counts(counts: EvaluationSums) -> dict[str, Any]:
    """The metrics of an evaluation's sums; `read_counts` is the inverse."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _fields_of(counts).items()}


def names_of_counts(target: Target[Any]) -> set[str]:
    """Names of the metrics of an evaluation's sums."""
    return {field.name for field in fields(target.sums)}


def read_counts(metrics: MetricRecord, target: Target[Any], declared: int) -> EvaluationSums:
    """The sums of an evaluation over the held-out rows that a hospital registered, or over none if these are few."""
    values = {name: _read_like(empty, metrics, name) for name, empty in _fields_of(target.no_sums).items()}
    counts: EvaluationSums = target.sums(**values)
    if counts.examples != declared and not (counts == target.no_sums and target.min_rows):
        raise MalformedMessageError(WRONG_COUNTS)
    if not 0 <= counts.loss_sum <= counts.examples * target.max_loss or not target.is_possible(counts):
        raise MalformedMessageError("its sums of the evaluation are impossible")
    return counts


def _fields_of(counts: EvaluationSums) -> dict[str, Any]:
    return {field.name: getattr(counts, field.name) for field in fields(counts)}  # type: ignore[arg-type]  # a dataclass


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


class NumpyArray(Array):
    """Float32 elements as Flower's array, which makes NumPy's format only for who asks, such as Flower's engines.

    Attributes:
        elements: read-only, because both ends of a transport in process hold them; `numpy` returns a copy.
    """

    elements: npt.NDArray[np.float32]

    def __init__(self, elements: npt.NDArray[Any]) -> None:
        """Hold an array, which becomes read-only. It is copied only if it is not float32 in C order."""
        elements = np.asarray(elements, dtype="<f4", order="C")
        elements.flags.writeable = False
        vars(self).update(dtype="float32", shape=elements.shape, stype=NUMPY, elements=elements)

    @property
    def data(self) -> bytes:  # type: ignore[override]  # Flower's is an attribute
        return array_header(self.shape) + self.elements.tobytes()

    @property
    def content(self) -> memoryview:
        """The elements as bytes, without a copy."""
        return self.elements.reshape(-1).view(np.uint8).data

    def numpy(self) -> npt.NDArray[Any]:
        return self.elements.copy()

    def deflate(self) -> bytes:
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()  # Flower finds a class by its name

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the elements."""
        return hashlib.sha256(self.content).digest()


def elements_of(array: Array) -> npt.NDArray[Any]:
    """The elements of any array, read-only and without a copy where they are in memory."""
    return array.elements if isinstance(array, NumpyArray) else array.numpy()


def weights_to_record(weights: Weights) -> ArrayRecord:
    """Weights as Flower's record, without a copy: they become read-only (see `NumpyArray`)."""
    record = ArrayRecord()  # its constructor would make bytes
    for name, array in weights.items():
        record[name] = NumpyArray(array)
    return record


def weights_from_record(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights, which must have exactly these names and shapes and be finite float32; they are read-only."""
    if list(record) != list(shapes):
        raise MalformedMessageError("its weights do not have the expected names in the expected order")
    weights: Weights = {}
    for name, shape in shapes.items():
        weights[name] = _decode(record[name], name, shape)
        if not is_finite(weights[name]):
            raise MalformedMessageError(f"{DIVERGED}its weights {name} are not all finite")
    return weights


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Size of weights of these shapes in bytes, without names and headers."""
    return sum(4 * math.prod(shape) for shape in shapes.values())


def blocks(*arrays: npt.NDArray[Any]) -> Iterator[tuple[npt.NDArray[Any], ...]]:
    """Flat views of arrays of one shape, BLOCK elements at a time, so that what is computed of them fits the cache."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(array[start : start + BLOCK] for array in flat)


def is_finite(array: npt.NDArray[Any]) -> bool:
    """Whether all elements are finite."""
    return all(np.isfinite(block).all() for (block,) in blocks(array))


def distance_between(weights: Weights, other: Weights) -> float:
    """L2 norm of the difference between two sets of weights."""
    square = 0.0
    with np.errstate(over="ignore"):
        for name in other:
            for block, other_block in blocks(weights[name], other[name]):
                difference = block - other_block
                part = float(np.dot(difference, difference))
                if not math.isfinite(part):  # the square of a large number is beyond float32
                    part = float(np.square(difference, dtype=np.float64).sum())
                square += part
    return math.sqrt(square)


@lru_cache(maxsize=256)
def array_header(shape: tuple[int, ...]) -> bytes:
    """Header of NumPy's format for float32 elements in C order.

    Cached, since writing a header takes longer than everything else about a small array.
    """
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _decode(array: Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The elements of an array, in memory or in NumPy's own format, whose header is validated first."""
    if isinstance(array, NumpyArray):
        if array.shape != shape:
            raise MalformedMessageError(OTHER_SHAPE.format(name, shape))
        return array.elements
    if array.stype != NUMPY:  # Flower would fail to read it, and the whole round would fail
        raise MalformedMessageError(f"its weights {name} are not a NumPy array")
    header = array_header(shape)
    start = len(header) if array.data.startswith(header) else _end_of_header(array, name, shape)
    if len(array.data) - start != 4 * math.prod(shape):
        raise MalformedMessageError(f"its weights {name} are cut off or too long")
    return np.frombuffer(array.data, dtype=np.float32, offset=start).reshape(shape)


def _end_of_header(array: Array, name: str, shape: tuple[int, ...]) -> int:
    """Length of a header that says the same as ours in other bytes; any other header is refused."""
    buffer = BytesIO(array.data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns about Python 2's format, and Python about odd literals
            version = np.lib.format.read_magic(buffer)
            claimed, fortran_order, dtype = np.lib.format.read_array_header_1_0(buffer)
    except Exception:  # NumPy's parser raises many types
        raise MalformedMessageError(f"its weights {name} cannot be read") from None
    if version != (1, 0) or fortran_order or dtype != np.float32 or claimed != shape:
        raise MalformedMessageError(OTHER_SHAPE.format(name, shape))
    return buffer.tell()


def read_proximal_mu(record: Mapping[str, Any]) -> float:
    """The weight of FedProx's proximal term in a train message's config; 0 if it holds none."""
    value = record.get(PROXIMAL_MU, 0.0)
    if not isinstance(value, float) or not 0 <= value < float("inf"):
        raise MalformedMessageError(f"the server's {PROXIMAL_MU} is not a number of at least 0")
    return value
