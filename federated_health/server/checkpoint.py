"""A checkpoint: everything that a run needs to resume, and its form as a file.

A file begins with a line of a magic word, the format's version and the SHA-256 of version and content; all versions
share this line. The content is a line of JSON, then the arrays that it names, each in NumPy's own format. The rounds
are not in it: they stand in a file of their own (see `checkpoint_folder`), of which the checkpoint names the position.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task, find_difference
from federated_health.errors import CheckpointError
from federated_health.messages.content import Registration
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import SUM_NAMES, ColumnSums, Normalisation
from federated_health.ml.rounds import Round
from federated_health.setting_fields import Value
from federated_health.settings import OPERATIONAL

MAGIC = b"federated-health-checkpoint"
VERSION = b"2"

State = Mapping[str, npt.NDArray[Any]]
"""Arrays that a strategy keeps from one round to the next, by ATTRIBUTE/WEIGHTS."""

MAY_CHANGE = OPERATIONAL | {"min-hospitals"}
"""Settings that may differ when a run resumes."""

_WEIGHTS, _STATE, _SUMS = "weights/", "strategy/", "sums"


class DamagedCheckpointError(ValueError):
    """A checkpoint, or its history, is not as it was written; the message says how."""


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
        run: identifier of the run.
        round_number: number of completed rounds.
        settings: from `Settings.to_config`.
        agreement: `Task.agreement`, the meaning of the columns.
        strategy_state: from `strategies.read_state`.
        registrations: ordered by name.
        problems: from `ProblemLog.to_json`.
        history: every completed round.
    """

    run: str
    round_number: int
    settings: Mapping[str, Value]
    agreement: Mapping[str, str]
    weights: Weights
    strategy_state: State
    normalisation: Normalisation
    registrations: tuple[Registration, ...]
    problems: Mapping[str, Any]
    history: Sequence[Round]

    def check_task(self, task: Task) -> None:
        """Raise CheckpointError for another task, or one whose columns mean something else now."""
        if difference := find_difference(self.agreement, task.agreement, whose="checkpoint"):
            raise CheckpointError(difference)


def check_settings(saved: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Raise CheckpointError if a given setting or flag differs from the checkpoint's, apart from MAY_CHANGE."""
    differing = [
        f"{name} is {json.dumps(saved[name]) if name in saved else 'not set'} and not {json.dumps(value)}"
        for name, value in given.items()
        if name not in MAY_CHANGE and saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"a run resumes with the settings that it began with: {'; '.join(differing)}")


def write_checkpoint(checkpoint: Checkpoint, position: Position) -> bytes:
    """The content of a checkpoint file, whose last round ends at a position in the history file.

    Raises:
        ValueError: the problems are not JSON, or an array holds objects.
    """
    registrations = checkpoint.registrations
    arrays = {
        **{_WEIGHTS + name: array for name, array in checkpoint.weights.items()},
        **{_STATE + name: array for name, array in checkpoint.strategy_state.items()},
        _SUMS: np.array(
            [[getattr(registration.sums, name) for name in SUM_NAMES] for registration in registrations],
            dtype=np.float64,
        ),
    }
    header = {
        "run": checkpoint.run,
        "round_number": checkpoint.round_number,
        "settings": dict(checkpoint.settings),
        "terms": dict(checkpoint.agreement),
        "normalisation": {"mean": checkpoint.normalisation.mean, "variance": checkpoint.normalisation.variance},
        "introductions": [
            [registration.name, registration.train_examples, registration.test_examples]
            for registration in registrations
        ],
        "tally": checkpoint.problems,
        "history": astuple(position),
        "arrays": list(arrays),
    }
    content = BytesIO()
    content.write(json.dumps(header, allow_nan=False).encode() + b"\n")
    for array in arrays.values():
        np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
    body = content.getvalue()
    return b"%b %b %b\n" % (MAGIC, VERSION, _digest(VERSION, body)) + body


def read_checkpoint(data: bytes) -> tuple[Checkpoint, Position]:
    """The inverse of `write_checkpoint`; the history is empty.

    Raises:
        DamagedCheckpointError: the bytes are not what was written.
        CheckpointError: the file has another format version.
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
        registrations=tuple(registrations),
        problems=header["tally"],
        history=(),
    )
    return checkpoint, Position(*header["history"])


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _digest(version: bytes, body: bytes) -> bytes:
    """SHA-256 of version and body: a file with an altered version is damaged, not of another version."""
    return hashlib.sha256(version + b"\n" + body).hexdigest().encode()
