"""Pauses between attempts, up to a deadline."""

import time

FIRST_PAUSE, MAX_PAUSE = 0.1, 5.0
"""Seconds; each pause is twice the one before."""


class RetryPauses:
    """Pauses that grow, up to a deadline.

    Args:
        seconds: from now until the deadline; the first pause that is asked for sets it anew, since an attempt may take
            long.
    """

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._next = 0.0

    def pause(self) -> bool:
        """Sleep, or return False where the deadline is over."""
        if not self._next:
            self._next, self.deadline = FIRST_PAUSE, time.monotonic() + self._seconds
        left = self.deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(self._next, left))
        self._next = min(2 * self._next, MAX_PAUSE)
        return True
