"""The log file of a hospital with an output folder."""

import logging
import sys
from pathlib import Path

from federated_health.cli.console import say
from federated_health.errors import StorageError


class LogFile(logging.FileHandler):
    """A log file. If it cannot be written, the terminal says so once, and the run continues.

    Raises:
        StorageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from None
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._is_announced = False

    def handleError(self, _: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError) and not self._is_announced:
            self._is_announced = True
            say(f"{self.baseFilename}: cannot be written ({error.strerror}); the run continues without this log")
