"""The folder of a run's checkpoints. At any moment, kill -9 included, the newest whole one can be loaded."""

import logging
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from federated_health.errors import CheckpointError
from federated_health.files import sync_folder
from federated_health.server.checkpoints.checkpoint import Checkpoint
from federated_health.server.checkpoints.files import read_checkpoint, write_checkpoint
from federated_health.server.checkpoints.history import DamagedCheckpointError, HistoryFile

logger = logging.getLogger(__name__)

HISTORY, PARTIAL = "history.jsonl", ".checkpoint.partial"
SUFFIX = ".checkpoint"
FILE_NAME = re.compile(rf"round-\d{{6,}}{re.escape(SUFFIX)}", re.ASCII)


class CheckpointFolder:
    """Checkpoints of one run, the newest two; for one process at a time.

    A run that goes on loads before it saves. One that saves without begins anew: the checkpoints there are removed.

    Args:
        path: the folder, runs/NAME/checkpoints; the first `save` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._history: HistoryFile | None = None
        self._kept: list[Path] = []

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; it is on disk when this returns. The one before is intact if it raises.

        What it costs does not depend on how many rounds there were.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: its history does not go on from the one before, or its tally is not JSON.
        """
        path = self.path / f"round-{checkpoint.round_number:06}{SUFFIX}"
        try:
            if self._history is None:
                self._history = self._begin()
            self._write(path, write_checkpoint(checkpoint, self._history.append(checkpoint.history)))
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the checkpoint of round {checkpoint.round_number} cannot be written ({_why(error)})"
            ) from None
        self._kept = [path, *(kept for kept in self._kept if kept != path)][:2]
        with suppress(OSError):  # one too many does no harm: the next save removes it
            for other in self._files():
                if other not in self._kept:
                    other.unlink()

    def load(self) -> Checkpoint:
        """The newest checkpoint that is whole, from which `save` goes on. Those that are not are named in the log.

        Raises:
            CheckpointError: there is none, or another version of this program wrote the newest.
        """
        try:
            files = self._files()
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read ({_why(error)})") from None
        for path in files:
            history = HistoryFile(self.path / HISTORY)
            try:
                checkpoint, position = read_checkpoint(path.read_bytes())
                rounds = history.read(position)
                if checkpoint.round_number != _number_in(path):
                    raise DamagedCheckpointError("it is of another round than its name says")
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            except DamagedCheckpointError as error:
                logger.warning("%s is left out: %s", path, error)
            except OSError as error:
                what = "it" if error.filename in (None, str(path)) else Path(error.filename).name
                logger.warning("%s is left out: %s cannot be read (%s)", path, what, _why(error))
            else:
                self._history, self._kept = history, [path]
                return replace(checkpoint, history=rounds)
        if files:
            raise CheckpointError(f"{self.path}: holds no checkpoint that is whole")
        if not self.path.parent.exists():
            raise CheckpointError(f"{self.path.parent}: is not there, so there is no run to go on with")
        raise CheckpointError(f"{self.path}: holds no checkpoint")

    def is_empty(self) -> bool:
        """Whether there is no checkpoint, whole or not, or none that can be seen."""
        try:
            return not self._files()
        except OSError:
            return True

    def remove(self) -> None:
        """Remove what `save` made, the newest checkpoint last; then there is nothing to go on from.

        Raises:
            CheckpointError: it cannot be removed.
        """
        try:
            for path in [self.path / PARTIAL, *reversed(self._files()), self.path / HISTORY]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be removed ({_why(error)})") from None
        with suppress(OSError):  # it is not there, or holds something of somebody else
            self.path.rmdir()
        self._history, self._kept = None, []

    def _begin(self) -> HistoryFile:
        self.path.mkdir(parents=True, exist_ok=True)
        sync_folder(self.path.parent)
        return HistoryFile(self.path / HISTORY)

    def _write(self, path: Path, content: bytes) -> None:
        partial = self.path / PARTIAL
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_folder(self.path)

    def _files(self) -> list[Path]:
        """The newest first; none where there is no folder."""
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
