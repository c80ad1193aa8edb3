"""Growing, random delays between attempts, up to a deadline."""

import math
import random
import time

FIRST_DELAY = 0.2
MAX_DELAY = 5.0


class Backoff:
    """Exponential backoff with a cap and full jitter.

    A ceiling doubles from FIRST_DELAY to MAX_DELAY, in seconds, and each delay is drawn uniformly between 0 and the
    ceiling: hospitals that lose their server at the same moment would otherwise reconnect in waves. Of the ways to
    draw, this one needs the fewest attempts in all (M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog,
    2015).

    Args:
        seconds: from now until the deadline. The first pause sets the deadline anew, since an attempt may take long.
        generator: draws the delays; without a seed by default, since hospitals must differ and no result depends on it.

    Attributes:
        deadline: on the clock of `time.monotonic`.
    """

    def __init__(self, seconds: float = math.inf, generator: random.Random | None = None) -> None:
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._generator = generator or random.Random()
        self._ceiling = 0.0

    def pause(self) -> bool:
        """Sleep until the next attempt, or return False when the deadline has passed."""
        if not self._ceiling:
            self.deadline = time.monotonic() + self._seconds
        delay, left = self.next_delay(), self.deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(delay, left))
        return True

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        self._ceiling = min(MAX_DELAY, 2 * self._ceiling) or FIRST_DELAY
        return self._generator.uniform(0.0, self._ceiling)

    def reset(self) -> None:
        """Start again with the shortest delay: an attempt succeeded."""
        self._ceiling = 0.0
