"""The finished rounds of a run that may have to go on: a file that grows by a line a round.

A line is a round (see `summaries.write_round`). What is behind the position that a checkpoint names is of no round that
is safe, and is cut off before the next one is added.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from federated_health.server.history import Round, read_round, write_round


class DamagedCheckpointError(ValueError):
    """A checkpoint, or its history, that is not as it was written; says why."""


@dataclass(frozen=True)
class Position:
    """How far a history goes: rounds, bytes, and the SHA-256, in hex, of these bytes."""

    rounds: int
    size: int
    digest: str

    def to_json(self) -> list[Any]:
        return [self.rounds, self.size, self.digest]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        rounds, size, digest = content
        return cls(int(rounds), int(size), str(digest))


class HistoryFile:
    """A history on disk; what `append` costs does not depend on how many rounds there are.

    Every method raises the OSError that the disk gives. What `append` leaves when it raises is of no position.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rounds = self._size = 0
        self._hash = hashlib.sha256()
        self._last: tuple[Round, ...] = ()

    def append(self, history: Sequence[Round]) -> Position:
        """Add those rounds that are new; on disk when this returns.

        Raises:
            ValueError: the history is not one that goes on from what is there.
        """
        if tuple(history[max(self._rounds - 1, 0) : self._rounds]) != self._last:
            raise ValueError(f"the history does not go on from round {self._rounds}")
        lines = b"".join(write_round(one) for one in history[self._rounds :])
        with self.path.open("r+b" if self._size else "wb") as file:
            if file.seek(0, os.SEEK_END) < self._size:
                raise OSError(0, f"{self.path.name} has become shorter")
            file.seek(self._size)
            file.truncate()
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._hash.update(lines)
        self._rounds, self._size = len(history), self._size + len(lines)
        self._last = tuple(history[-1:])
        return Position(self._rounds, self._size, self._hash.hexdigest())

    def read(self, position: Position) -> tuple[Round, ...]:
        """The rounds up to a position, from which `append` goes on then.

        Raises:
            DamagedCheckpointError: what is there is not what was written.
        """
        with self.path.open("rb") as file:
            data = file.read(position.size)
        digest = hashlib.sha256(data)
        if digest.hexdigest() != position.digest:
            raise DamagedCheckpointError("its history is cut off or altered")
        rounds = tuple(read_round(line) for line in data.splitlines())
        self._rounds, self._size, self._hash = position.rounds, position.size, digest
        self._last = rounds[-1:]
        return rounds
