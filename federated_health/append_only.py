"""Files that only grow, such as a hospital's ledger; Windows cannot lock them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path

if os.name != "nt":
    import fcntl


@contextmanager
def open_to_append(path: Path, *, lock: bool = False) -> Iterator[FileIO]:
    """Open a file for reading and appending, locked against other such processes if asked.

    A new one is private, and its name is on disk before its first line.
    """
    with open(path, "a+b", buffering=0, opener=partial(os.open, mode=0o600)) as file:
        if lock and os.name != "nt":
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.name != "nt" and os.fstat(file.fileno()).st_size == 0:
            _sync_folder(path.parent)
        yield file


def _sync_folder(folder: Path) -> None:
    """As `files.sync_folder`, so that a client need not load that module."""
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system that cannot; the first line is synced in any case
        os.fsync(descriptor)
    os.close(descriptor)


def append(file: FileIO, content: bytes) -> None:
    """Write all content at the end of an unbuffered file, or raise OSError; it is on disk when this returns."""
    written = file.write(content)
    os.fsync(file.fileno())
    if written != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
