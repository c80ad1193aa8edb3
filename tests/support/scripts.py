"""The project's scripts as commands, for tests that start them as processes."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def script_command(name: str, *arguments: object) -> list[str]:
    """The command that runs one of the project's scripts with this Python."""
    return [sys.executable, str(PROJECT / name), *map(str, arguments)]
