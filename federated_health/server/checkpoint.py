"""Checkpoints: everything that a run needs to resume, as files in a folder.

The folder holds the newest two checkpoints, and one file with every completed round. At any moment, after kill -9 or a
power cut too, the newest intact checkpoint can be loaded; a damaged one costs one round. Of a finished run it holds the
last checkpoint, under another name, so that the run can be extended.

The first line of a checkpoint holds a magic word, the format's version, and the SHA-256 of version and content; all
versions share this line. The content is a line of JSON, then the arrays that it names, each in NumPy's own format. The
rounds themselves are in the history file; a checkpoint holds its position there.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import find_difference
from federated_health.errors import CheckpointError
from federated_health.files import replace_file, sync_folder
from federated_health.messages.content import Registration
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import SUM_NAMES, Normalisation
from federated_health.ml.rounds import Round, write_round
from federated_health.setting_fields import Value

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run's folder."""

HISTORY, PARTIAL = "history.jsonl", ".checkpoint.partial"
ROUND, FINISHED = "round-", "finished-"
"""Beginnings of the names of checkpoints: of a run that can resume, and of one that is over and can be extended."""

FILE_NAME = re.compile(rf"({ROUND}|{FINISHED})\d{{6,}}\.checkpoint", re.ASCII)

MAGIC = b"federated-health-checkpoint"
VERSION = b"3"

State = Mapping[str, npt.NDArray[Any]]
"""Arrays that a strategy keeps from one round to the next, by ATTRIBUTE/WEIGHTS."""


WEIGHTS, STATE, SUMS = "weights/", "strategy/", "sums"
"""Names of a checkpoint's arrays: prefixes of the weights' and of the strategy's, and the registrations' sums."""


@dataclass(frozen=True)
class Position:
    """A position in the history file: number of rounds, bytes, and the SHA-256, in hex, of these bytes."""

    rounds: int
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """State of a run after a round.

    Attributes:
        settings: from `Settings.to_config`.
        agreement: `Settings.agreement`, the meaning of the columns and the network file.
        strategy_state: from `strategies.read_state`.
        registrations: ordered by name.
        problems: from `ProblemLog.to_json`.
    """

    run: str
    round_number: int
    settings: Mapping[str, Value]
    agreement: Mapping[str, str]
    weights: Weights
    strategy_state: State
    normalisation: Normalisation
    class_weights: tuple[float, ...] = ()
    registrations: tuple[Registration, ...]
    problems: Mapping[str, Any]
    history: Sequence[Round]

    def check_agreement(self, agreement: Mapping[str, str]) -> None:
        """Raise CheckpointError for another task, columns that mean something else now, or another network file."""
        if difference := find_difference(self.agreement, agreement, whose="checkpoint"):
            raise CheckpointError(difference)


def write_checkpoint(checkpoint: Checkpoint, position: Position) -> list[bytes | memoryview]:
    """The content of a checkpoint file, whose last round ends at a position in the history file.

    It is in pieces, so that arrays are not copied.
    """
    sums = [[getattr(registration.sums, name) for name in SUM_NAMES] for registration in checkpoint.registrations]
    arrays = {
        **{WEIGHTS + name: array for name, array in checkpoint.weights.items()},
        **{STATE + name: array for name, array in checkpoint.strategy_state.items()},
        SUMS: np.array(sums, dtype=np.float64),
    }
    header = {
        "run": checkpoint.run,
        "round_number": checkpoint.round_number,
        "settings": dict(checkpoint.settings),
        "terms": dict(checkpoint.agreement),
        "normalisation": {"mean": checkpoint.normalisation.mean, "variance": checkpoint.normalisation.variance},
        "class_weights": checkpoint.class_weights,
        "introductions": [
            [registration.name, registration.train_examples, registration.test_examples]
            for registration in checkpoint.registrations
        ],
        "tally": checkpoint.problems,
        "history": astuple(position),
        "arrays": list(arrays),
    }
    body: list[bytes | memoryview] = [json.dumps(header, allow_nan=False).encode() + b"\n"]
    for array in (np.asarray(array, order="C") for array in arrays.values()):
        if array.dtype.hasobject:
            raise ValueError("expected arrays of numbers")
        start = BytesIO()
        np.lib.format.write_array_header_1_0(start, np.lib.format.header_data_from_array_1_0(array))
        body += start.getvalue(), array.reshape(-1).view(np.uint8).data
    return [b"%b %b %b\n" % (MAGIC, VERSION, digest_of(VERSION, *body)), *body]


def digest_of(version: bytes, *body: bytes | memoryview) -> bytes:
    """SHA-256 of version and body: a file with an altered version is damaged, not of another version."""
    digest = hashlib.sha256(version + b"\n")
    for piece in body:
        digest.update(piece)
    return digest.hexdigest().encode()


class CheckpointFolder:
    """The newest two checkpoints of one run, and a history file of a line per round; for one process at a time.

    A resumed run loads before it saves. Saving without loading starts a new run. The checkpoints of an earlier one stay
    until the first round of the new one is saved. Saving takes as long after many rounds as after few.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._newest: list[Path] = []
        # Where the newest checkpoint's history ends in its file, the hash up to there, and the last round.
        self._end, self._hash = Position(0, 0, ""), hashlib.sha256()
        self._last_round: tuple[Round, ...] = ()

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint; it is on disk when this returns. The one before stays intact if this raises.

        Raises:
            CheckpointError: it cannot be written.
            ValueError: its history does not continue the one before, or its content is not JSON and numbers.
        """
        path = self.path / name_of(checkpoint.round_number)
        try:
            if not self._newest:  # a new run
                self.path.mkdir(parents=True, exist_ok=True)
                sync_folder(self.path.parent)
                self._end, self._hash, self._last_round = Position(0, 0, ""), hashlib.sha256(), ()
            content = write_checkpoint(checkpoint, self._append(checkpoint.history))
            replace_file(path, content, partial_name=PARTIAL)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the checkpoint of round {checkpoint.round_number} cannot be written ({reason_of(error)})"
            ) from None
        self._newest = [path, *(other for other in self._newest if other != path)][:2]
        if checkpoint.history:
            with suppress(OSError):  # the next save removes it
                for other in self.files():
                    if other not in self._newest:
                        other.unlink()

    def load(self) -> Checkpoint:
        """The newest intact checkpoint, after which `save` continues; the log names damaged ones.

        Raises:
            CheckpointError: there is none, or the newest has another format version.
        """
        from federated_health.server.checkpoint_reading import read_newest  # noqa: PLC0415  # to resume only

        path, checkpoint, self._end, self._hash = read_newest(self)
        self._newest, self._last_round = [path], tuple(checkpoint.history[-1:])
        return checkpoint

    def _append(self, history: Sequence[Round]) -> Position:
        """Add the new rounds to the history file; they are on disk when this returns.

        Bytes after the last position belong to no checkpoint, and are removed.
        """
        rounds, size = self._end.rounds, self._end.size
        if tuple(history[max(rounds - 1, 0) : rounds]) != self._last_round:
            raise ValueError(f"the history does not continue round {rounds}")
        lines = b"".join(map(write_round, history[rounds:]))
        # Before the first round, the history file of an earlier run stays.
        with (self.path / HISTORY).open("r+b" if size else "wb" if lines else "ab") as file:
            if file.seek(0, os.SEEK_END) < size:
                raise OSError(0, f"{HISTORY} was shortened")
            if lines:
                file.seek(size)
                file.truncate()
                file.write(lines)
                file.flush()
            os.fsync(file.fileno())
        self._hash.update(lines)
        self._last_round = tuple(history[-1:])
        self._end = Position(len(history), size + len(lines), self._hash.hexdigest())
        return self._end

    def is_finished(self) -> bool:
        """Whether the checkpoint that was loaded is that of a finished run."""
        return any(path.name.startswith(FINISHED) for path in self._newest[:1])

    def files(self) -> list[Path]:
        """Checkpoint files, the newest first; none where there is no folder."""
        try:
            files = [path for path in self.path.iterdir() if FILE_NAME.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        return sorted(files, key=lambda path: (number_in(path), path.name), reverse=True)  # round- before finished-

    def is_empty(self) -> bool:
        """Whether there is no readable checkpoint file, intact or damaged."""
        try:
            return not self.files()
        except OSError:
            return True

    def remove(self, *, but_last: bool = False) -> None:
        """Remove what `save` made, the newest checkpoint last, or raise CheckpointError.

        If no round of a new run was saved, the checkpoints of an earlier one stay.

        Args:
            but_last: keep the last checkpoint, marked as that of a finished run before others go, and the history.
        """
        from federated_health.server.checkpoint_removal import remove_checkpoints  # noqa: PLC0415  # at the end only

        remove_checkpoints(self, self._newest, but_last=but_last)
        self._newest = []


def name_of(round_number: int) -> str:
    """File name of the checkpoint after a round."""
    return f"{ROUND}{round_number:06}.checkpoint"


def number_in(path: Path) -> int:
    """Number of the round in a checkpoint's file name."""
    return int(path.stem.rpartition("-")[2])


def reason_of(error: OSError) -> str:
    """The system's text of an error."""
    return error.strerror or type(error).__name__
