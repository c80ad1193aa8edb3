"""Output that is checked: the result of a command on standard output, and log files; other output may be dropped."""

import logging
import sys
from pathlib import Path

from federated_health.cli.console import say
from federated_health.errors import OutputError, StorageError


def write_output(text: str) -> None:
    """Write the result of a command to standard output, exactly.

    Raises:
        OutputError: it cannot be written, or the encoding lacks a character. Nobody reads it: that is no error.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        raise OutputError(f"standard output: expected an encoding such as UTF-8, got {encoding}") from None
    sys.stdout.write(text)
    check_output()


def check_output() -> None:
    """Check that standard output was written, at the end of a command that has no other result.

    Raises:
        OutputError: it was not, for another reason than that nobody reads it.
    """
    sys.stdout.flush()
    problem = getattr(sys.stdout, "problem", None)
    if problem is not None and not isinstance(problem, BrokenPipeError):
        reason = getattr(problem, "strerror", None) or problem
        raise OutputError(f"standard output: cannot be written ({reason})")


class LogFile(logging.FileHandler):
    """A log file. If it cannot be written, the terminal says so once, and the run continues."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from None
        self._is_announced = False

    def handleError(self, _: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and not self._is_announced:
            self._is_announced = True
            say(f"{self.baseFilename}: cannot be written ({error.strerror}); the run continues without this log")
