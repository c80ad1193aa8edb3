"""Folders as the system has them: their lists of files on the disk, and one process at a time at work in one.

Windows opens no folders: there neither is done, and neither fails.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Have a folder's list of files on the disk, too: else a power cut may undo the making or renaming of one.

    Raises:
        OSError: it is not.
    """
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes that lock the folder off until the block is over, or the process ends, however it does.

    Args:
        wait: for another one that has it.

    Raises:
        BlockingIOError: another one has it, and is not waited for.
        OSError: it cannot be opened.
    """
    if os.name == "nt":
        yield
        return
    import fcntl  # which Windows has not

    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)
