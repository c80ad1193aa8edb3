"""The delays between attempts to reach a server, by hand."""

import random
from statistics import fmean

import pytest

from federated_health.transport.backoff import FIRST_DELAY, MAX_DELAY, Backoff


class Highest(random.Random):
    """Draws the upper end of every range, and remembers the lower ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lower: list[float] = []

    def uniform(self, a: float, b: float) -> float:
        self.lower.append(a)
        return b


def test_ceilings_double_up_to_the_cap_and_delays_are_drawn_from_zero() -> None:
    highest = Highest()
    backoff = Backoff(highest)
    assert [backoff.next_delay() for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert set(highest.lower) == {0.0}


def test_a_reset_begins_anew() -> None:
    backoff = Backoff(Highest())
    for _ in range(6):
        backoff.next_delay()
    backoff.reset()
    assert [backoff.next_delay() for _ in range(2)] == [FIRST_DELAY, 2 * FIRST_DELAY]


def test_delays_fill_the_range_evenly() -> None:
    backoff = Backoff(random.Random(0))
    delays = [backoff.next_delay() for _ in range(2000)][10:]
    assert 0 <= min(delays) < 0.1
    assert MAX_DELAY - 0.1 < max(delays) <= MAX_DELAY
    assert fmean(delays) == pytest.approx(MAX_DELAY / 2, rel=0.05)


def test_two_hospitals_do_not_wait_alike() -> None:
    first, second = Backoff(), Backoff()
    assert [first.next_delay() for _ in range(4)] != [second.next_delay() for _ in range(4)]
