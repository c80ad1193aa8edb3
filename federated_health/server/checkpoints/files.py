"""A checkpoint as a file, without its history.

It is a line of a magic word, the format's version and the SHA-256 of version and content, then the content: a line of
JSON, then the arrays that it names, each in NumPy's own format. Later versions will keep the first line as it is.
"""

import hashlib
import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.errors import CheckpointError
from federated_health.messages.content import Registration
from federated_health.ml.normalisation import ColumnSums, Normalisation
from federated_health.server.checkpoints.checkpoint import Checkpoint
from federated_health.server.checkpoints.history import DamagedCheckpointError, Position

MAGIC = b"federated-health-checkpoint"
VERSION = b"2"

_WEIGHTS, _STATE, _SUMS = "weights/", "strategy/", "sums"
_SUM_NAMES = ("count", "total", "squares")


def write_checkpoint(checkpoint: Checkpoint, position: Position) -> bytes:
    """A checkpoint, without its history, as a file's content.

    Args:
        position: where in the history its last round ends.

    Raises:
        ValueError: its tally is not JSON, or an array holds objects.
    """
    ordered = checkpoint.registrations
    arrays = {
        **{_WEIGHTS + name: array for name, array in checkpoint.weights.items()},
        **{_STATE + name: array for name, array in checkpoint.strategy_state.items()},
        _SUMS: np.array([[getattr(one.sums, name) for name in _SUM_NAMES] for one in ordered], dtype=np.float64),
    }
    header = {
        "run": checkpoint.run,
        "round_number": checkpoint.round_number,
        "settings": dict(checkpoint.settings),
        "terms": dict(checkpoint.agreement),
        "normalisation": {"mean": checkpoint.normalisation.mean, "variance": checkpoint.normalisation.variance},
        "introductions": [[one.name, one.train_examples, one.test_examples] for one in ordered],
        "tally": checkpoint.problems,
        "history": position.to_json(),
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
        CheckpointError: another version of this program wrote them.
    """
    first, _, body = data.partition(b"\n")
    match first.split(b" "):
        case [magic, version, digest] if magic == MAGIC:
            pass
        case _:
            raise DamagedCheckpointError("it is not a checkpoint")
    if _digest(version, body) != digest:
        raise DamagedCheckpointError("it is cut off or altered")
    if version != VERSION:
        raise CheckpointError("was written by another version of this program, which alone can go on from it")
    try:
        return _read_body(BytesIO(body))
    except Exception as error:  # whatever a stranger's bytes make the parsers of JSON and of arrays raise
        raise DamagedCheckpointError(f"it cannot be read ({type(error).__name__})") from None


def _read_body(content: BytesIO) -> tuple[Checkpoint, Position]:
    header = json.loads(content.readline())
    arrays = {name: np.lib.format.read_array(content, allow_pickle=False) for name in header["arrays"]}
    if content.read(1):
        raise ValueError("more than it says")
    registrations = [
        Registration(
            name=name,
            train_examples=train_examples,
            test_examples=test_examples,
            sums=ColumnSums(**dict(zip(_SUM_NAMES, sums, strict=True))),
        )
        for (name, train_examples, test_examples), sums in zip(header["introductions"], arrays[_SUMS], strict=True)
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
    return checkpoint, Position.from_json(header["history"])


def _under(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _digest(version: bytes, body: bytes) -> bytes:
    """With the version, so that a file whose version was altered is damaged, and not of another program."""
    digest = hashlib.sha256(version + b"\n")
    digest.update(body)
    return digest.hexdigest().encode()
