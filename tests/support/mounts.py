"""Scripts in the mount namespace of another process (Linux)."""

from collections.abc import Sequence

from chaos_mounts import enter_mounts
from chaos_processes import run_script


def run_script_in_mounts(holder: int, name: str, flags: Sequence[str]) -> None:
    """Run a script, in a process of its own, with the file systems that process `holder` sees."""
    enter_mounts(holder)
    run_script(name, flags)
