"""Checkpoints: everything that a run needs to resume, as files in a folder.

The folder holds the newest two checkpoints, and one file with every completed round. At any moment, after kill -9 too,
the newest intact checkpoint can be loaded; a damaged one costs one round.

The first line of a checkpoint holds a magic word, the format's version, and the SHA-256 of version and content; all
versions share this line. The content is a line of JSON, then the arrays that it names, each in NumPy's own format. The
rounds themselves are in the history file; a checkpoint holds its position there.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
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
from federated_health.ml.normalisation import SUM_NAMES, ColumnSums, Normalisation
from federated_health.ml.rounds import Round, read_round, write_round
from federated_health.setting_fields import Value
from federated_health.settings import OPERATIONAL

logger = logging.getLogger(__name__)

HISTORY, PARTIAL = "history.jsonl", ".checkpoint.partial"
FILE_NAME = re.compile(r"round-\d{6,}\.checkpoint", re.ASCII)

MAGIC = b"federated-health-checkpoint"
VERSION = b"3"

State = Mapping[str, npt.NDArray[Any]]
"""Arrays that a strategy keeps from one round to the next, by ATTRIBUTE/WEIGHTS."""

MAY_CHANGE = OPERATIONAL | {"min-hospitals"}
"""Names of settings that may differ when a run resumes."""

_WEIGHTS, _STATE, _SUMS = "weights/", "strategy/", "sums"


class DamagedCheckpointError(ValueError):
    """A checkpoint, or its history, is not as it was written; the message says what is wrong."""


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


def check_settings(saved: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Raise CheckpointError if a given setting or flag differs from the checkpoint's, apart from MAY_CHANGE."""
    differing = [
        f"{name}: expected {json.dumps(saved[name]) if name in saved else 'none'}, got {json.dumps(value)}"
        for name, value in given.items()
        if name not in MAY_CHANGE and saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"a run resumes with the settings that it began with: {'; '.join(differing)}")


def write_checkpoint(checkpoint: Checkpoint, position: Position) -> list[bytes | memoryview]:
    """The content of a checkpoint file, whose last round ends at a position in the history file.

    It is in pieces, so that arrays are not copied.
    """
    sums = [[getattr(registration.sums, name) for name in SUM_NAMES] for registration in checkpoint.registrations]
    arrays = {
        **{_WEIGHTS + name: array for name, array in checkpoint.weights.items()},
        **{_STATE + name: array for name, array in checkpoint.strategy_state.items()},
        _SUMS: np.array(sums, dtype=np.float64),
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
    return [b"%b %b %b\n" % (MAGIC, VERSION, _digest(VERSION, *body)), *body]


def read_checkpoint(data: bytes) -> tuple[Checkpoint, Position]:
    """The inverse of `write_checkpoint`; the history is empty.

    Raises DamagedCheckpointError, or CheckpointError where the format has another version.
    """
    first, _, body = data.partition(b"\n")
    if first.count(b" ") != 2 or not first.startswith(MAGIC + b" "):
        raise DamagedCheckpointError("it is not a checkpoint")
    _, version, digest = first.split(b" ")
    if _digest(version, body) != digest:
        raise DamagedCheckpointError("it is cut off or altered")
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint format: expected version {VERSION.decode()}, got {version.decode('ascii', 'replace')}; "
            "resume it with the release of this program that wrote it"
        )
    try:
        return _read_body(BytesIO(body))
    except Exception as error:  # the parsers of JSON and of arrays raise many types
        raise DamagedCheckpointError(f"it cannot be read ({type(error).__name__})") from None


def _read_body(content: BytesIO) -> tuple[Checkpoint, Position]:
    header = json.loads(content.readline())
    arrays = {name: np.lib.format.read_array(content, allow_pickle=False) for name in header["arrays"]}
    if content.read(1):
        raise ValueError("trailing bytes")
    registrations = [
        Registration(name=name, train_examples=train, test_examples=test, sums=ColumnSums(*sums))
        for (name, train, test), sums in zip(header["introductions"], arrays[_SUMS], strict=True)
    ]
    checkpoint = Checkpoint(
        run=header["run"],
        round_number=header["round_number"],
        settings=header["settings"],
        agreement=header["terms"],
        weights=_under(_WEIGHTS, arrays),
        strategy_state=_under(_STATE, arrays),
        normalisation=Normalisation(**{key: tuple(values) for key, values in header["normalisation"].items()}),
        class_weights=tuple(header["class_weights"]),
        registrations=tuple(registrations),
        problems=header["tally"],
        history=(),
    )
    return checkpoint, Position(*header["history"])


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _digest(version: bytes, *body: bytes | memoryview) -> bytes:
    """SHA-256 of version and body: a file with an altered version is damaged, not of another version."""
    digest = hashlib.sha256(version + b"\n")
    for piece in body:
        digest.update(piece)
    return digest.hexdigest().encode()


class CheckpointFolder:
    """The newest two checkpoints of one run, and a history file of a line per round; for one process at a time.

    A resumed run loads before it saves. Saving without loading starts a new run and removes the checkpoints there.
    Saving takes as long after many rounds as after few.
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
        path = self.path / f"round-{checkpoint.round_number:06}.checkpoint"
        try:
            if not self._newest:  # a new run
                self.path.mkdir(parents=True, exist_ok=True)
                sync_folder(self.path.parent)
                self._end, self._hash, self._last_round = Position(0, 0, ""), hashlib.sha256(), ()
            content = write_checkpoint(checkpoint, self._append(checkpoint.history))
            replace_file(path, content, partial_name=PARTIAL)
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: the checkpoint of round {checkpoint.round_number} cannot be written ({_why(error)})"
            ) from None
        self._newest = [path, *(other for other in self._newest if other != path)][:2]
        with suppress(OSError):  # the next save removes it
            for other in self._files():
                if other not in self._newest:
                    other.unlink()

    def load(self) -> Checkpoint:
        """The newest intact checkpoint, after which `save` continues; the log names damaged ones.

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
                    raise DamagedCheckpointError("its round is not the one in its file name")
                rounds = self._read(position)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
            except DamagedCheckpointError as error:
                logger.warning("%s is skipped: %s", path, error)
            except OSError as error:
                what = "it" if error.filename in (None, str(path)) else Path(error.filename).name
                logger.warning("%s is skipped: %s cannot be read (%s)", path, what, _why(error))
            else:
                self._newest = [path]
                return replace(checkpoint, history=rounds)
        raise CheckpointError(f"{self.path}: holds no {'intact ' if files else ''}checkpoint")

    def _append(self, history: Sequence[Round]) -> Position:
        """Add the new rounds to the history file; they are on disk when this returns.

        Bytes after the last position belong to no checkpoint, and are removed.
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
        """Whether there is no readable checkpoint file, intact or damaged."""
        try:
            return not self._files()
        except OSError:
            return True

    def remove(self) -> None:
        """Remove what `save` made, the newest checkpoint last, or raise CheckpointError."""
        try:
            for path in [self.path / PARTIAL, *reversed(self._files()), self.path / HISTORY]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be removed ({_why(error)})") from None
        with suppress(OSError):  # it is not there, or holds other files
            self.path.rmdir()
        self._newest = []

    def _files(self) -> list[Path]:
        """Checkpoint files, the newest first; none where there is no folder."""
        try:
            files = [path for path in self.path.iterdir() if FILE_NAME.fullmatch(path.name)]
        except FileNotFoundError:
            return []
        return sorted(files, key=_number_in, reverse=True)


def _number_in(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
