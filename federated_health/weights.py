"""Weights as Flower carries them; what comes from another side is checked before it is believed."""

import math
import warnings
from collections.abc import Mapping
from io import BytesIO

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from federated_health.model import Weights


class MalformedMessageError(ValueError):
    """A record that lacks something or holds what it must not; says what, without values."""


def weights_to_record(weights: Weights) -> ArrayRecord:
    """Weights as the arrays of a message, under their names and in their order."""
    return ArrayRecord({name: Array(array) for name, array in weights.items()})


def weights_from_record(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights of exactly these names and shapes, finite float32.

    Raises:
        MalformedMessageError: they are not.
    """
    if list(record) != list(shapes):
        raise MalformedMessageError("its weights have other names")
    weights: Weights = {}
    for name, shape in shapes.items():
        array = _decode(record[name], name, shape)
        if not np.isfinite(array).all():
            raise MalformedMessageError(f"its weights {name} are not all finite")
        weights[name] = array
    return weights


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that weights of these shapes take, without names and headers."""
    return sum(4 * math.prod(shape) for shape in shapes.values())


def distance_between(one: Weights, other: Weights) -> float:
    """The L2 norm of their difference over all weights."""
    squares = (np.square(one[name].astype(np.float64) - other[name]).sum() for name in other)
    return math.sqrt(sum(map(float, squares)))


def _decode(array: Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array in Flower's bytes, which are NumPy's own format; its claims are checked before any is believed."""
    if array.stype != "numpy.ndarray":  # Flower would refuse to read it, later and for all
        raise MalformedMessageError(f"its weights {name} are not a NumPy array")
    buffer = BytesIO(array.data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns of what Python 2 wrote, and Python of odd literals
            version = np.lib.format.read_magic(buffer)
            claimed, fortran_order, dtype = np.lib.format.read_array_header_1_0(buffer)
    except Exception:  # whatever a stranger's bytes make NumPy's parser raise
        raise MalformedMessageError(f"its weights {name} cannot be read") from None
    if version != (1, 0) or fortran_order or dtype != np.float32 or claimed != shape:
        raise MalformedMessageError(f"its weights {name} have another type or shape")
    content = array.data[buffer.tell() :]
    if len(content) != 4 * math.prod(shape):
        raise MalformedMessageError(f"its weights {name} are cut off or too long")
    return np.frombuffer(content, dtype=np.float32).reshape(shape)
