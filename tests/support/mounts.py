"""Scripts in the mount namespace of another process (Linux)."""

import ctypes
import os
from collections.abc import Sequence

from chaos_processes import run_script

CLONE_FS, CLONE_NEWNS = 0x200, 0x20000
"""Flags of the system calls, by their names in <sched.h>."""


def run_script_in_mounts(holder: int, name: str, flags: Sequence[str]) -> None:
    """Run a script, in a process of its own, with the file systems that process `holder` sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{holder}/ns/mnt", os.O_RDONLY)
    # A thread that shares its working directory with others may not enter. The threads that it starts follow it.
    if libc.unshare(CLONE_FS) or libc.setns(namespace, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "the mount namespace cannot be entered")
    os.close(namespace)
    run_script(name, flags)
