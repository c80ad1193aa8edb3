"""Weights and figures in Flower's records. Weights are validated as they are read; errors quote no value."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from federated_health.errors import RefusedMessageError
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.networks import Weights

METRICS = "metrics"

OTHER_SHAPE = "its weights {}: expected float32 of shape {}, got another type or shape"

NUMPY = "numpy.ndarray"
"""Flower's name for arrays in NumPy's format."""

BLOCK = 2**16
"""Number of elements per block (see `blocks`): 256 KiB per array."""

DIVERGED = "its training diverged: "
"""Start of the reason with which an update is rejected whose loss or weights are not finite."""


class MalformedMessageError(RefusedMessageError, ValueError):
    """A message is invalid; the text says why, and quotes no value."""


def write_counts(counts: EvaluationSums) -> dict[str, Any]:
    """The metrics of an evaluation's sums; `validation.read_counts` is the inverse."""
    values = {field.name: getattr(counts, field.name) for field in fields(counts)}  # type: ignore[arg-type]  # a dataclass
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


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
        from federated_health.messages.numpy_format import array_header  # noqa: PLC0415  # Flower's engines only

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


def _decode(array: Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The elements of an array, in memory or in NumPy's own format."""
    if not isinstance(array, NumpyArray):
        from federated_health.messages import numpy_format  # noqa: PLC0415  # Flower's engines only

        return numpy_format.decode(array, name, shape)
    if array.shape != shape:
        raise MalformedMessageError(OTHER_SHAPE.format(name, shape))
    return array.elements
