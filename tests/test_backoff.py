"""Delays between attempts grow up to a cap, are random, and end with a deadline that the first pause sets."""

import random
import time
from statistics import fmean

import pytest

from federated_health.transport.backoff import FIRST_DELAY, MAX_DELAY, Backoff
from tests.support.streams import LargestDelays


class Clock:
    """A clock that advances only while the process sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_ceilings_double_up_to_the_cap_and_delays_are_drawn_from_zero() -> None:
    generator = LargestDelays()
    backoff = Backoff(generator=generator)
    assert [backoff.next_delay() for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert set(generator.lower) == {0.0}


def test_a_reset_starts_again_with_the_shortest_delay() -> None:
    backoff = Backoff(generator=LargestDelays())
    for _ in range(6):
        backoff.next_delay()
    backoff.reset()
    assert [backoff.next_delay() for _ in range(2)] == [FIRST_DELAY, 2 * FIRST_DELAY]


def test_delays_fill_the_range_evenly() -> None:
    backoff = Backoff(generator=random.Random(0))
    delays = [backoff.next_delay() for _ in range(2000)][10:]
    assert 0 <= min(delays) < 0.1
    assert MAX_DELAY - 0.1 < max(delays) <= MAX_DELAY
    assert fmean(delays) == pytest.approx(MAX_DELAY / 2, rel=0.05)


def test_two_hospitals_draw_different_delays() -> None:
    first, second = Backoff(), Backoff()
    assert [first.next_delay() for _ in range(4)] != [second.next_delay() for _ in range(4)]


def test_pauses_double_up_to_five_seconds_and_the_last_ends_at_the_deadline(clock: Clock) -> None:
    backoff = Backoff(20.0, LargestDelays())
    while backoff.pause():
        pass
    assert clock.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 3.8]
    assert clock.now == pytest.approx(1020.0)
    assert not backoff.pause()


def test_the_first_pause_sets_the_deadline_anew_and_no_other_does(clock: Clock) -> None:
    backoff = Backoff(20.0, LargestDelays())
    assert backoff.deadline == 1020.0
    clock.now += 600.0  # a first attempt that took long
    assert backoff.pause()
    assert backoff.deadline == 1620.0
    clock.now += 10.0
    assert backoff.pause()
    assert backoff.deadline == 1620.0
    clock.now = 1620.0
    assert not backoff.pause()
    assert clock.pauses == [0.2, 0.4]


def test_a_pause_ends_at_the_deadline(clock: Clock) -> None:
    backoff = Backoff(0.05, LargestDelays())
    assert backoff.pause()
    assert clock.pauses == [0.05]
    assert not backoff.pause()
