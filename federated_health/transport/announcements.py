"""Lines for the server's user: limited where they repeat, and never an error for the code that announces them."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

MAX_LINES = 10
"""Largest number of lines per minute of one kind, such as those about one hospital."""

MAX_KINDS = 5_000
"""Largest number of kinds that are counted apart."""

HOSPITALS, REJECTIONS = "hospitals that joined and left", "rejected peers"
CONNECTIONS, FAILED_CHECKS, OTHERS = "surplus connections", "failed checks of connections", "others"

LIMITS = {HOSPITALS: 2_500, REJECTIONS: 30, CONNECTIONS: 1, FAILED_CHECKS: 1}
"""Largest number of lines per minute of other kinds; without TLS a peer may change its name with every call."""


class Announcements:
    """Passes lines on to a function; says how many more there were once a minute is over.

    Not thread-safe. Whatever the function raises, the caller goes on: an exception, also SystemExit, would end the
    stream or the event loop in which it was raised.

    Args:
        show: called with each line.
        clock: seconds from any point in time.
    """

    def __init__(self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._counts: Counter[str] = Counter()  # in the current minute
        self._minute_ends = clock() + 60.0

    def announce(self, line: str, *kinds: str) -> None:
        """Show a line unless there were too many of one of its kinds in this minute."""
        if self.allows(*kinds):
            self._show_safely(line)

    def allows(self, *kinds: str) -> bool:
        """Whether one more line of these kinds may be shown; it is counted."""
        self.end_minute()
        for kind in kinds:
            if kind not in self._counts and len(self._counts) >= MAX_KINDS:
                kind = OTHERS
            self._counts[kind] += 1
            if self._counts[kind] > _limit_of(kind):
                return False
        return True

    def end_minute(self, *, early: bool = False) -> None:
        """Say how many lines were left out in a minute that is over, or `early` in the current one."""
        if early or self._clock() >= self._minute_ends:
            counts, self._counts = self._counts, Counter()
            self._minute_ends = self._clock() + 60.0
            for kind, number in counts.items():
                if (more := number - _limit_of(kind)) > 0:
                    self._show_safely(f"{kind}: {more:,} more such lines in the last minute")

    def _show_safely(self, line: str) -> None:
        try:
            self._show(line)
        except BaseException as error:
            log_safely(logger, logging.DEBUG, "a line could not be shown: %s", type(error).__name__)


def log_safely(target: logging.Logger, level: int, message: str, *arguments: Any) -> None:
    """Log a message; a handler that raises, such as one that writes to a closed console, does not end the caller."""
    with suppress(BaseException):
        target.log(level, message, *arguments)


def _limit_of(kind: str) -> int:
    return LIMITS.get(kind, MAX_LINES)
