"""Weights as Flower carries them; what comes from another side is checked before it is believed."""

import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord

from federated_health.ml.networks import Weights

NUMPY = "numpy.ndarray"
"""Flower's name for arrays in NumPy's format."""


class MalformedMessageError(ValueError):
    """A record that lacks something or holds what it must not; says what, without values."""


def weights_to_record(weights: Weights) -> ArrayRecord:
    """Weights, float32, in the bytes of `flwr.app.Array(array)`, which are NumPy's own format."""
    return ArrayRecord({name: _encode(array) for name, array in weights.items()}, keep_input=False)


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


def elements_of(array: Array) -> memoryview | None:
    """The bytes of a float32 array's elements, where it is in exactly the format that `weights_to_record` writes."""
    header = _header(tuple(array.shape))
    return memoryview(array.data)[len(header) :] if array.data.startswith(header) else None


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that weights of these shapes take, without names and headers."""
    return sum(4 * math.prod(shape) for shape in shapes.values())


def distance_between(one: Weights, other: Weights) -> float:
    """The L2 norm of their difference over all weights."""
    squares = (np.square(one[name].astype(np.float64) - other[name]).sum() for name in other)
    return math.sqrt(sum(map(float, squares)))


@lru_cache(maxsize=256)
def _header(shape: tuple[int, ...]) -> bytes:
    """What NumPy's format begins with, for float32 elements in C order; writing or parsing it anew takes longer than
    all else about a small array."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _encode(array: npt.NDArray[np.float32]) -> Array:
    content = array.astype("<f4", copy=False).tobytes()
    return Array(dtype="float32", shape=array.shape, stype=NUMPY, data=_header(array.shape) + content)


def _decode(array: Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array in Flower's bytes, which are NumPy's own format; its claims are checked before any is believed."""
    if array.stype != NUMPY:  # Flower would refuse to read it, later and for all
        raise MalformedMessageError(f"its weights {name} are not a NumPy array")
    header = _header(shape)
    if not array.data.startswith(header):
        header = array.data[: _end_of_header(array, name, shape)]
    if len(array.data) - len(header) != 4 * math.prod(shape):
        raise MalformedMessageError(f"its weights {name} are cut off or too long")
    return np.frombuffer(array.data, dtype=np.float32, offset=len(header)).reshape(shape)


def _end_of_header(array: Array, name: str, shape: tuple[int, ...]) -> int:
    """Of a header that says the same in other bytes.

    Raises:
        MalformedMessageError: it does not.
    """
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
    return buffer.tell()
