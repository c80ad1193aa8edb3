"""Arrays in NumPy's own format, as Flower's engines carry them; this project's transports carry the elements alone."""

import math
import warnings
from functools import lru_cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from flwr.app import Array

from federated_health.messages.records import NUMPY, OTHER_SHAPE, MalformedMessageError


@lru_cache(maxsize=256)
def array_header(shape: tuple[int, ...]) -> bytes:
    """Header of NumPy's format for float32 elements in C order.

    Cached, since writing a header takes longer than everything else about a small array.
    """
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def decode(array: Array, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The elements of an array, whose header is validated first; MalformedMessageError if it is not of this shape."""
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
