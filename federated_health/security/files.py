"""Files of keys and certificates: written whole or not at all, and keys for their owner's eyes only."""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

from federated_health.errors import CertificateError
from federated_health.folders import locked_folder, sync_folder

PRIVATE, PUBLIC = 0o600, 0o644
"""Modes of files."""

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes of a file that is read at all: of a list of some 300,000 revoked certificates."""


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there stays as it is.

    Raises:
        CertificateError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"{folder}: cannot be made ({error.strerror})") from None


def write_file(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Write a file so that a reader, or a power cut, finds the old one or the new one and nothing between.

    Args:
        mode: of the file from the moment that it exists.

    Raises:
        CertificateError: it cannot be written; nothing was changed.
    """
    partial = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be written ({error.strerror})") from None


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        CertificateError: it is not there, no regular file, too large, or cannot be read.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise CertificateError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return content


def check_regular(path: Path) -> int:
    """Refuse a folder, and a pipe or a device, which might be waited for without end.

    Returns:
        The file's mode, without its type.

    Raises:
        CertificateError: it is one, or cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise CertificateError(f"{path}: is not a regular file")
    return stat.S_IMODE(mode)


def check_private(path: Path) -> None:
    """Refuse a key that others on this machine may read, as ssh does.

    Raises:
        CertificateError: they may, or it is no regular file, or cannot be looked at.
    """
    mode = check_regular(path)
    if os.name == "posix" and mode & 0o077:
        raise CertificateError(f"{path}: others on this machine may read this key (mode {mode:o}); chmod 600 {path}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands on the same folder waiting until the block is over.

    Raises:
        CertificateError: the folder cannot be opened.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder, wait=True))
        except OSError as error:
            raise CertificateError(f"{folder}: cannot be read ({error.strerror})") from None
        yield
