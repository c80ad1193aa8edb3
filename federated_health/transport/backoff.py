"""How long a hospital waits between two attempts to reach a server that is away."""

import random

FIRST_DELAY = 0.2
MAX_DELAY = 5.0


class Backoff:
    """Exponential back-off with a cap and full jitter.

    A ceiling doubles from FIRST_DELAY to MAX_DELAY, in seconds, and each delay is drawn uniformly between 0 and the
    ceiling: hospitals that lose their server at the same moment would else come back together, again and again. Of the
    ways to draw, this one needs the fewest attempts in all (M. Brooker, Exponential Backoff and Jitter, AWS
    Architecture Blog, 2015).

    Args:
        generator: draws the delays. It has no seed by default: hospitals must differ, and no result depends on it.
    """

    def __init__(self, generator: random.Random | None = None) -> None:
        self._generator = generator or random.Random()
        self._ceiling = FIRST_DELAY

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt."""
        delay = self._generator.uniform(0.0, self._ceiling)
        self._ceiling = min(MAX_DELAY, 2 * self._ceiling)
        return delay

    def reset(self) -> None:
        """Begin anew: an attempt succeeded."""
        self._ceiling = FIRST_DELAY
