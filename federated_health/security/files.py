"""Reading files of keys and certificates, and checking that only its owner can read a key."""

import os
import stat
from pathlib import Path

from federated_health.errors import CertificateError

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Bytes of a file that is read at all: of a list of some 300,000 revoked certificates."""


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
