"""Opens files: a user's to read them, with limits, and files that only grow, such as a ledger."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

if os.name != "nt":
    import fcntl

ALREADY_OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Paths of what a shell opened before the process began: standard input, and the output of <(command)."""

MAX_PIPE_BYTES = 512 * 2**20
"""Largest size that is read from a pipe, whose size is not known before."""


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes; of other things only pipes and standard input that are open already.

    Raises:
        OSError: it cannot be opened; or it is a device, a socket, or a pipe whose other end would be waited for.
    """
    try:
        kind = path.stat().st_mode
    except ValueError:  # a zero byte, or half a character, as a manifest may hold
        raise OSError(errno.EINVAL, "no file can have this name") from None
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or str(path).startswith(ALREADY_OPEN)):
        raise OSError(errno.EINVAL, "expected a file, got a device, a pipe or a socket")
    return path.open("rb")


def read_file(path: Path, limit: int) -> bytes:
    """Content of a file, or of what `open_file` opens besides files.

    Args:
        limit: largest allowed size, in bytes; for a pipe, it is at most MAX_PIPE_BYTES.

    Raises:
        OSError: it cannot be read, or is larger. Its `strerror` says why.
    """
    with open_file(path) as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            content = file.read() if status.st_size <= limit else None
        else:
            limit = min(limit, MAX_PIPE_BYTES)
            content = _read_pipe(file, limit)
    if content is None:
        size = f"{limit / 2**20:,.0f} MiB" if limit >= 2**20 else f"{limit:,} bytes"
        raise OSError(errno.EFBIG, f"expected at most {size}")
    return content


def _read_pipe(file: BinaryIO, limit: int) -> bytes | None:
    """All bytes to the end of a pipe; None if there are more than `limit`."""
    content = BytesIO()
    while chunk := file.read(2**20):
        content.write(chunk)
        if content.tell() > limit:
            return None
    return content.getvalue()


@contextmanager
def open_to_append(path: Path, *, lock: bool = False) -> Iterator[FileIO]:
    """Open a file for reading and appending, locked against other such processes if asked.

    A new one is private, and its name is on disk before its first line. Windows cannot lock files.
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
