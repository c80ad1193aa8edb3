"""Workers share the tests out in their order, and a file's neighbours go to one of them."""

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("xdist", reason="pytest-xdist is not installed")

from tests.conftest import PROJECT, pytest_collection_modifyitems
from tests.support.sharing import pieces_of


def test_neighbours_of_one_file_are_a_piece_and_what_stands_apart_is_another() -> None:
    tests = ["tests/a.py::one", "tests/a.py::two[x::y]", "tests/b.py::one", "tests/a.py::slow", "tests/a/b.py::one"]
    assert list(pieces_of(tests).items()) == [
        ("tests/a.py::one", "1 tests/a.py"),
        ("tests/a.py::two[x::y]", "1 tests/a.py"),
        ("tests/b.py::one", "2 tests/b.py"),
        ("tests/a.py::slow", "3 tests/a.py"),
        ("tests/a/b.py::one", "4 tests/a/b.py"),
    ]


def test_fast_tests_come_first_and_of_slow_ones_those_of_integration() -> None:
    given = [
        ("test_a.py", "slow"),
        ("integration/test_b.py", "slow"),
        ("test_c.py", None),
        ("integration/test_d.py", None),
    ]
    items: list[Any] = [
        SimpleNamespace(path=PROJECT / "tests" / path, get_closest_marker={"slow": mark}.get) for path, mark in given
    ]
    pytest_collection_modifyitems(items)
    assert [item.path.name for item in items] == ["test_c.py", "test_d.py", "test_b.py", "test_a.py"]
