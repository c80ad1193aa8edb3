"""The folder of a run's checkpoints: the newest two, and one file with every round.

At any moment, after kill -9 too, the newest whole checkpoint can be loaded; a torn one costs one round.
"""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from federated_health.errors import CheckpointError
from federated_health.files import replace_file, sync_folder
from federated_health.ml.rounds import Round, read_round, write_round
from federated_health.server.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    Position,
    read_checkpoint,
    write_checkpoint,
)

logger = logging.getLogger(__name__)

HISTORY, PARTIAL = "history.jsonl", ".checkpoint.partial"
SUFFIX = ".checkpoint"
FILE_NAME = re.compile(rf"round-\d{{6,}}{re.escape(SUFFIX)}", re.ASCII)


class CheckpointFolder:
    """The newest two checkpoints of one run, and a history file of a line per round; for one process at a time.

    A resumed run loads before it saves. Saving without loading starts a new run and removes the checkpoints there. The
    cost of saving does not depend on the number of rounds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[Path] = []
        # The end of the history file, as far as it belongs to a checkpoint, the hash up to there, and the last round.
        self._end, self._hash = Position(0, 0, ""), hashlib.sha256()
        self._last_round: tuple[Round, ...] = ()

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; it is on disk when this returns. The one before stays intact if this raises.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: its history does not continue the one before, or its problems are not JSON.
        """
        path = self.path / f"round-{checkpoint.round_number:06}{SUFFIX}"
        try:
            if not self._kept:  # a new run
                self.path.mkdir(parents=True, exist_ok=True)
                sync_folder(self.path.parent)
                self._end, self._hash, self._last_round = Position(0, 0, ""), hashlib.sha256(), ()
            content = write_checkpoint(checkpoint, self._append(checkpoint.history))
            replace_file(path, content, partial_name=PARTIAL)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the checkpoint of round {checkpoint.round_number} cannot be written ({_why(error)})"
            ) from None
        self._kept = [path, *(kept for kept in self._kept if kept != path)][:2]
        with suppress(OSError):  # the next save removes it
            for other in self._files():
                if other not in self._kept:
                    other.unlink()

    def load(self) -> Checkpoint:
        """The newest whole checkpoint, after which `save` continues; damaged ones are named in the log.

        Raises:
            CheckpointError: there is none, or the newest has another format version.
        """
        try:
            files = self._files()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({_why(error)})") from None
        for path in files:
            try:
                checkpoint, position = read_checkpoint(path.read_bytes())
                if checkpoint.round_number != _number_in(path):
                    raise DamagedCheckpointError("its round is not the one in its name")
                rounds = self._read(position)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            except DamagedCheckpointError as error:
                logger.warning("%s is skipped: %s", path, error)
            except OSError as error:
                what = "it" if error.filename in (None, str(path)) else Path(error.filename).name
                logger.warning("%s is skipped: %s cannot be read (%s)", path, what, _why(error))
            else:
                self._kept = [path]
                return replace(checkpoint, history=rounds)
        raise CheckpointError(f"{self.path}: holds no checkpoint{' that is whole' if files else ''}")

    def _append(self, history: Sequence[Round]) -> Position:
        """Add the new rounds to the history file; they are on disk when this returns.

        What is behind the last position belongs to no checkpoint, and is cut off.
        """
        rounds, size = self._end.rounds, self._end.size
        if tuple(history[max(rounds - 1, 0) : rounds]) != self._last_round:
            raise ValueError(f"the history does not continue round {rounds}")
        lines = b"".join(map(write_round, history[rounds:]))
        with (self.path / HISTORY).open("r+b" if size else "wb") as file:
            if file.seek(0, os.SEEK_END) < size:
                raise OSError(0, f"{HISTORY} was shortened")
            file.seek(size)
            file.truncate()
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._hash.update(lines)
        self._last_round = tuple(history[-1:])
        self._end = Position(len(history), size + len(lines), self._hash.hexdigest())
        return self._end

    def _read(self, position: Position) -> tuple[Round, ...]:
        """The rounds up to a position in the history file, after which `_append` continues."""
        with (self.path / HISTORY).open("rb") as file:
            data = file.read(position.size)
        digest = hashlib.sha256(data)
        if digest.hexdigest() != position.digest:
            raise DamagedCheckpointError("its history is cut off or altered")
        rounds = tuple(map(read_round, data.splitlines()))
        self._end, self._hash, self._last_round = position, digest, rounds[-1:]
        return rounds

    def is_empty(self) -> bool:
        """Whether there is no readable checkpoint file, whole or damaged."""
        try:
            return not self._files()
        except OSError:
            return True

    def remove(self) -> None:
        """Remove what `save` made, the newest checkpoint last.

        Raises:
            CheckpointError: it cannot be removed.
        """
        try:
            for path in [self.path / PARTIAL, *reversed(self._files()), self.path / HISTORY]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be removed ({_why(error)})") from None
        with suppress(OSError):  # it is not there, or holds other files
            self.path.rmdir()
        self._kept = []

    def _files(self) -> list[Path]:
        """Checkpoint files, the newest first; none where there is no folder."""
        try:
            names = [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []
        files = [self.path / name for name in names if FILE_NAME.fullmatch(name)]
        return sorted(files, key=_number_in, reverse=True)


def _number_in(path: Path) -> int:
    return int(path.name.removeprefix("round-").removesuffix(SUFFIX))


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
