"""Where the checkout is, and its scripts as commands."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def script_command(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the project's scripts with this Python."""
    return [sys.executable, str(PROJECT / name), *map(str, arguments)]
