"""Removal of a run's checkpoints once it is over, or has ended before its first round."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from federated_health.errors import CheckpointError
from federated_health.files import sync_folder
from federated_health.server.checkpoint import FINISHED, HISTORY, PARTIAL, ROUND, CheckpointFolder, name_of, reason_of


def remove_checkpoints(folder: CheckpointFolder, newest: Sequence[Path], *, but_last: bool) -> None:
    """Remove what a folder's `save` made (see `CheckpointFolder.remove`).

    Args:
        newest: the checkpoints that this run saved or loaded, the newest first.
    """
    path, stays = folder.path, list[Path]()
    try:
        if but_last:
            last = newest[0].replace(path / newest[0].name.replace(ROUND, FINISHED))
            sync_folder(path)
            stays = [last, path / HISTORY]
        elif newest == [first := path / name_of(0)] != folder.files():
            stays = [*(file for file in folder.files() if file != first), path / HISTORY]
        for file in [path / PARTIAL, *reversed(folder.files()), path / HISTORY]:
            if file not in stays:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be removed ({reason_of(error)})") from None
    with suppress(OSError):  # it is not there, or holds other files
        path.rmdir()
