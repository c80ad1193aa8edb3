"""Safe file operations: files replaced whole or not at all, also in a power cut, and folder locks.

What is on disk is never removed before its replacement is on disk: its content first, then its name in the folder.
Windows cannot open a folder: there `sync_folder` and the locks do nothing.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federated_health.errors import StorageError

if os.name != "nt":
    import fcntl


PRIVATE, PRIVATE_FOLDER, PUBLIC = 0o600, 0o700, 0o644
"""Permissions: only the owner reads, only the owner enters, everyone reads."""


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder unless it exists, with these permissions less the umask, and check that files can be written in it.

    A new folder, and new ones above it, are on disk when this returns.

    Raises:
        StorageError: the folder cannot be made or written to.
    """
    probe = path / ".writable"
    try:
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        for folder in reversed(new):
            sync_folder(folder.parent)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written to ({error.strerror})") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON as `write_bytes` writes bytes; NaN and infinite numbers raise ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` writes bytes; line ends stay as they are."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all; a link stays, and the file that it names is written.

    A pipe or a device, such as /dev/stdout, is written to directly.

    Args:
        mode: permissions of the file from the moment it exists, less the umask.

    Raises:
        StorageError: the file cannot be written; a file that was there is unchanged.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():  # also a folder, which refuses
            target.write_bytes(content)
        else:
            replace_file(target, content, mode)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def replace_file(
    path: Path, content: bytes | Iterable[bytes | memoryview], mode: int = 0o666, *, partial_name: str | None = None
) -> None:
    """Write a file so that a reader, or a power cut, finds the old content or the new and nothing in between.

    Args:
        content: whole, or in pieces.
        mode: see `write_bytes`.
        partial_name: name of the temporary file in the same folder, where an earlier one may be left over.

    Raises:
        OSError: the file cannot be written; a file that was there is unchanged unless only syncing its folder failed.
    """
    temporary = path.with_name(partial_name or f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)  # left over from a process that was killed, perhaps with another mode
        temporary.touch(mode, exist_ok=False)
        with temporary.open("wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Put the content of a file on disk that another library wrote."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put a folder's list of files on disk; else a power cut may undo making, renaming or removing a file in it.

    A file system that cannot do so, such as some network shares, is no error.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[None]:
    """Lock a folder against other processes that lock it, until the block ends or the process does.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is false.
        StorageError: the folder cannot be opened or locked.
    """
    if os.name == "nt":
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be read ({error.strerror})") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:  # some network file systems have no locks
            raise StorageError(f"{folder}: cannot be locked ({error.strerror})") from None
        yield
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_exists(path: Path) -> bool:
    """Whether a path exists and is visible; opening it reports why not."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder without permission
        return False
