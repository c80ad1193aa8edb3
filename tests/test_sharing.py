"""The order of the tests, and how pytest-xdist's workers share them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.support.scripts import PROJECT


def test_consecutive_tests_of_a_file_are_one_piece() -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    from tests.support.sharing import pieces_of

    tests = ["tests/a.py::one", "tests/a.py::two[x::y]", "tests/b.py::one", "tests/a.py::slow", "tests/a/b.py::one"]
    assert list(pieces_of(tests).items()) == [
        ("tests/a.py::one", "1 tests/a.py"),
        ("tests/a.py::two[x::y]", "1 tests/a.py"),
        ("tests/b.py::one", "2 tests/b.py"),
        ("tests/a.py::slow", "3 tests/a.py"),
        ("tests/a/b.py::one", "4 tests/a/b.py"),
    ]


def test_fast_tests_come_first_then_integration_then_the_files_with_most_slow_tests() -> None:
    marked = [
        ("test_a.py", "slow"),
        ("integration/test_b.py", "slow"),
        ("test_c.py", None),
        ("integration/test_d.py", None),
        ("test_c.py", "slow"),
        ("test_c.py", "slow"),
        ("integration/test_e.py", "slow"),
        ("integration/test_e.py", "slow"),
    ]
    items: list[Any] = [
        SimpleNamespace(path=PROJECT / "tests" / path, get_closest_marker={"slow": mark}.get) for path, mark in marked
    ]
    pytest_collection_modifyitems(items)
    fast, slow = (
        ["test_c.py", "test_d.py"],
        ["test_b.py", "test_e.py", "test_e.py", "test_c.py", "test_c.py", "test_a.py"],
    )
    assert [item.path.name for item in items] == fast + slow
