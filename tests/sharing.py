"""How pytest-xdist shares the tests out among its workers: in their order, and neighbours of one file together."""

from itertools import groupby

from xdist.scheduler import LoadScopeScheduling


def file_of(test: str) -> str:
    """The file of a test, of `tests/test_x.py::test_y[z]`."""
    return test.split("::", 1)[0]


class InOrder(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """Keeps the order of the collection, in which a file's fast tests stand apart from its slow ones.

    A worker takes all neighbours of one file: what they share (fixtures of a module, compiled training) is made once.
    """

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # else the files with the most tests would come first
        collection: list[str] = next(iter(self.registered_collections.values()), [])
        self.pieces = {
            test: f"{number} {file}"
            for number, (file, tests) in enumerate(groupby(collection, file_of))
            for test in tests
        }
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.pieces[nodeid]
