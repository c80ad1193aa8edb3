"""How pytest-xdist's workers share the tests: in their order, and consecutive tests of a file together."""

from collections.abc import Sequence
from itertools import groupby

from xdist.scheduler import LoadScopeScheduling


def file_of(test: str) -> str:
    """The file of `tests/test_x.py::test_y[z]`."""
    return test.split("::", 1)[0]


def pieces_of(tests: Sequence[str]) -> dict[str, str]:
    """Test -> its piece of work, in the order of the tests; consecutive tests of a file are one piece."""
    pieces = enumerate(groupby(tests, file_of), start=1)
    return {test: f"{number} {file}" for number, (file, members) in pieces for test in members}


class InOrder(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """Keeps the order of the collection, which separates a file's fast tests from its slow ones.

    One worker takes a whole piece, so that what its tests share (a module's fixtures, compiled training) is made once.
    """

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # else the files with the most tests would come first
        self.pieces = pieces_of(next(iter(self.registered_collections.values()), []))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.pieces[nodeid]
