"""How pytest-xdist shares the tests out among its workers: in their order, and neighbours of one file together."""

from collections.abc import Sequence
from itertools import groupby

from xdist.scheduler import LoadScopeScheduling


def file_of(test: str) -> str:
    """The file of `tests/test_x.py::test_y[z]`."""
    return test.split("::", 1)[0]


def pieces_of(tests: Sequence[str]) -> dict[str, str]:
    """Test -> the piece of work that it is in, in the order of the tests: neighbours of one file are a piece."""
    neighbours = enumerate(groupby(tests, file_of), start=1)
    return {test: f"{number} {file}" for number, (file, those) in neighbours for test in those}


class InOrder(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """Keeps the order of the collection, in which a file's fast tests stand apart from its slow ones.

    One worker takes all neighbours of a file: what they share (a module's fixtures, compiled training) is made once.
    """

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # else the files with the most tests would come first
        self.pieces = pieces_of(next(iter(self.registered_collections.values()), []))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.pieces[nodeid]
