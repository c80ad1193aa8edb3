"""Reading checkpoints, which only a run that resumes does (see `checkpoint` for the format)."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.errors import CheckpointError
from federated_health.file_access import open_file, read_file
from federated_health.messages.content import Registration
from federated_health.ml.normalisation import ColumnSums, Normalisation
from federated_health.ml.rounds import Round, read_round
from federated_health.server.checkpoint import (
    HISTORY,
    MAGIC,
    STATE,
    SUMS,
    VERSION,
    WEIGHTS,
    Checkpoint,
    CheckpointFolder,
    Position,
    digest_of,
    number_in,
    reason_of,
)

logger = logging.getLogger(__name__)

MAX_BYTES = 2**36
"""Largest size of a checkpoint."""


class DamagedCheckpointError(ValueError):
    """A checkpoint, or its history, is not as it was written; the message says what is wrong."""


def read_checkpoint(data: bytes) -> tuple[Checkpoint, Position]:
    """The inverse of `write_checkpoint`; the history is empty.

    Raises DamagedCheckpointError, or CheckpointError where the format has another version.
    """
    first, _, body = data.partition(b"\n")
    if first.count(b" ") != 2 or not first.startswith(MAGIC + b" "):
        raise DamagedCheckpointError("it is not a checkpoint")
    _, version, digest = first.split(b" ")
    if digest_of(version, body) != digest:
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
        for (name, train, test), sums in zip(header["introductions"], arrays[SUMS], strict=True)
    ]
    checkpoint = Checkpoint(
        run=header["run"],
        round_number=header["round_number"],
        settings=header["settings"],
        agreement=header["terms"],
        weights=_under(WEIGHTS, arrays),
        strategy_state=_under(STATE, arrays),
        normalisation=Normalisation(**{key: tuple(values) for key, values in header["normalisation"].items()}),
        class_weights=tuple(header["class_weights"]),
        registrations=tuple(registrations),
        problems=header["tally"],
        history=(),
    )
    return checkpoint, Position(*header["history"])


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def read_newest(folder: CheckpointFolder) -> tuple[Path, Checkpoint, Position, "hashlib._Hash"]:
    """The newest intact checkpoint of a folder, with its file, its position in the history file, and the hash up to it.

    The log names damaged ones. Raises CheckpointError if there is none, or the newest has another format version.
    """
    try:
        files = folder.files()
    except OSError as error:
        raise CheckpointError(f"{folder.path}: cannot be read ({reason_of(error)})") from None
    for path in files:
        try:
            checkpoint, position = read_checkpoint(read_file(path, MAX_BYTES))
            if checkpoint.round_number != number_in(path):
                raise DamagedCheckpointError("its round is not the one in its file name")
            rounds, digest = _read_history(folder.path / HISTORY, position)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except DamagedCheckpointError as error:
            logger.warning("%s is skipped: %s", path, error)
        except OSError as error:
            what = "it" if error.filename in (None, str(path)) else Path(error.filename).name
            logger.warning("%s is skipped: %s cannot be read (%s)", path, what, reason_of(error))
        else:
            return path, replace(checkpoint, history=rounds), position, digest
    raise CheckpointError(f"{folder.path}: holds no {'intact ' if files else ''}checkpoint")


def _read_history(path: Path, position: Position) -> tuple[tuple[Round, ...], "hashlib._Hash"]:
    """The rounds up to a position in the history file, and the hash of their bytes."""
    with open_file(path) as file:
        data = file.read(position.size)
    digest = hashlib.sha256(data)
    if digest.hexdigest() != position.digest:
        raise DamagedCheckpointError("its history is cut off or altered")
    return tuple(map(read_round, data.splitlines())), digest
