"""Files that only grow: a line is on the disk before what it records happens."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[FileIO]:
    """A file to read and to append to; a new one can be read by its owner only.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "a+b", buffering=0, opener=partial(os.open, mode=0o600)) as file:
        yield file


def lock(file: FileIO) -> None:
    """Keep other processes that lock the file waiting until it is closed."""
    with suppress(ImportError):  # Windows has no fcntl
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def append(file: FileIO, line: bytes) -> None:
    """Write a line in one piece and have it on the disk.

    Raises:
        OSError: it is not, or not all of it.
    """
    is_whole = file.write(line) == len(line)
    os.fsync(file.fileno())
    if not is_whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
