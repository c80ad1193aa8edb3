"""Weights in Flower's format: written as NumPy writes them, and validated when they are read."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord

from federated_health.messages.records import (
    BLOCK,
    MalformedMessageError,
    distance_between,
    size_of,
    weights_from_record,
    weights_to_record,
)

SHAPES: list[tuple[int, ...]] = [(1,), (41, 16), (16, 1), (0,), (2, 3, 4), ()]


def random_array(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bytes_are_those_that_flower_and_numpy_write(shape: tuple[int, ...]) -> None:
    array = np.asarray(random_array(shape))
    (ours,), (theirs,) = weights_to_record({"w": array}).values(), [Array(array)]
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)
    np.testing.assert_array_equal(np.load(io.BytesIO(ours.data), allow_pickle=False), array)


@pytest.mark.parametrize("shape", SHAPES)
def test_written_weights_are_read_unchanged(shape: tuple[int, ...]) -> None:
    array = np.asarray(random_array(shape))
    copy = weights_from_record(weights_to_record({"w": array}), {"w": shape})["w"]
    assert copy.dtype == np.float32
    np.testing.assert_array_equal(copy, array)


def test_an_array_in_column_order_is_written_in_row_order() -> None:
    for array in (np.asfortranarray(random_array((3, 5))), random_array((4, 4)).T):
        assert weights_to_record({"w": array})["w"].data == Array(np.ascontiguousarray(array)).data


def test_a_header_with_other_padding_is_read() -> None:
    array = random_array((2, 3))
    header = str({"descr": "<f4", "fortran_order": False, "shape": (2, 3)}).encode()
    header += b" " * (-(len(header) + 11) % 64 + 64) + b"\n"  # NumPy's is padded less
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + array.tobytes()
    assert not data.startswith(weights_to_record({"w": array})["w"].data[:100])
    record = ArrayRecord({"w": Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)})
    np.testing.assert_array_equal(weights_from_record(record, {"w": (2, 3)})["w"], array)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda data: data[:-1], "cut off or too long"),
        (lambda data: data + b"\0", "cut off or too long"),
        (lambda _: Array(random_array((3, 2))).data, "another type or shape"),
        (lambda _: Array(random_array((2, 3)).astype(np.float64)).data, "another type or shape"),
        (lambda _: Array(np.asfortranarray(random_array((2, 3)))).data, "another type or shape"),
        (lambda data: data[:60], "cannot be read"),
    ],
)
def test_bytes_that_do_not_hold_the_weights_are_rejected(alter: Callable[[bytes], bytes], words: str) -> None:
    data = alter(Array(random_array((2, 3))).data)
    record = ArrayRecord({"w": Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=data)})
    with pytest.raises(MalformedMessageError, match=words):
        weights_from_record(record, {"w": (2, 3)})


def test_sizes_and_distances() -> None:
    assert size_of({"a": (2, 3), "b": (4,), "c": ()}) == 4 * (6 + 4 + 1)
    left = {"a": np.array([3.0, 0.0], np.float32), "b": np.array([[0.0]], np.float32)}
    right = {"a": np.array([0.0, 0.0], np.float32), "b": np.array([[4.0]], np.float32)}
    assert distance_between(left, right) == 5.0


def test_weights_are_held_without_a_copy_and_cannot_be_changed_by_either_side() -> None:
    array = random_array((3, 2))
    record = weights_to_record({"w": array})
    read = weights_from_record(record, {"w": (3, 2)})["w"]
    assert np.shares_memory(read, array)
    for shared in (array, read):
        with pytest.raises(ValueError, match="read-only"):
            shared[0, 0] = 1.0


def test_an_app_gets_an_array_of_its_own_from_flower_s_method() -> None:
    array = random_array((3, 2))
    record = weights_to_record({"w": array})
    own = record["w"].numpy()
    own += 1.0
    np.testing.assert_array_equal(record["w"].numpy(), array)
    np.testing.assert_array_equal(record.to_numpy_ndarrays()[0], array)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_what_flower_s_engines_expect(shape: tuple[int, ...]) -> None:
    """Its engines find an object's class by a name in the object's bytes, and put large arrays together from chunks."""
    array = np.asarray(random_array(shape))
    (ours,), theirs = weights_to_record({"w": array}).values(), Array(array)
    assert ours.object_id == theirs.object_id
    assert list(ours.children) == list(theirs.children)
    np.testing.assert_array_equal(Array.inflate(ours.deflate(), ours.children).numpy(), array)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e15, 1e25, 3e38])
def test_distances_are_those_of_float64(scale: float) -> None:
    generator = np.random.default_rng(3)
    shapes = {"a": (400, 300), "b": (5,), "c": ()}
    left, right = (
        {name: np.asarray(scale * generator.uniform(size=shape), np.float32) for name, shape in shapes.items()}
        for _ in range(2)
    )
    squares = [((left[name].astype(np.float64) - right[name]) ** 2).sum() for name in shapes]
    assert distance_between(left, right) == pytest.approx(float(np.sqrt(sum(squares))), rel=1e-5)


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_weight_that_is_not_finite_is_found(value: float, place: int) -> None:
    array = np.zeros(2 * BLOCK + 5, np.float32)
    array[place] = value
    with pytest.raises(MalformedMessageError, match="w are not all finite"):
        weights_from_record(weights_to_record({"w": array}), {"w": array.shape})
