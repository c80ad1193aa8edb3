"""File systems that only some processes see, in a mount namespace of their own (Linux, as root)."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
"""Flags of the system calls, by their names in <sched.h>."""


class MountError(Exception):
    """A file system cannot be mounted here."""


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[int]:
    """Mount a file system at a folder, for one mount namespace only; yields the id of a process in it.

    The namespace, and with it the mount, ends with the block and the processes that entered it.

    Args:
        arguments: of the command mount, before the folder.

    Raises:
        MountError: there is no unshare, or this user may not mount.
    """
    path.mkdir(parents=True, exist_ok=True)
    script = 'mount "$@" && echo mounted && exec cat'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *arguments, str(path)]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        raise MountError("no unshare") from None
    with holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            raise MountError("may not mount a file system of its own: not root")
        yield holder.pid


def seen_from_outside(holder: int, path: Path) -> Path:
    """A folder of the namespace of process `holder`, as any other process sees it."""
    return Path(f"/proc/{holder}/root{path}")


def enter_mounts(holder: int) -> None:
    """Let this process see the file systems that process `holder` sees; threads that it has do not follow it.

    Raises:
        OSError: it may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{holder}/ns/mnt", os.O_RDONLY)
    # A thread that shares its working directory with others may not enter. The threads that it starts follow it.
    if libc.unshare(CLONE_FS) or libc.setns(namespace, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "the mount namespace cannot be entered")
    os.close(namespace)
