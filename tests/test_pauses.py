"""Pauses grow up to a limit, and end with a deadline that the first of them sets."""

import time

import pytest

from federated_health.transport.backoff import Backoff


class Clock:
    """Time that passes while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_pauses_double_up_to_five_seconds_and_the_last_ends_at_the_deadline(clock: Clock) -> None:
    pauses = Backoff(20.0)
    while pauses.pause():
        pass
    assert clock.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 3.7]
    assert clock.now == pytest.approx(1020.0)
    assert not pauses.pause()


def test_the_first_pause_sets_the_deadline_anew_and_no_other_does(clock: Clock) -> None:
    pauses = Backoff(20.0)
    assert pauses.deadline == 1020.0
    clock.now += 600.0  # a first attempt that took long
    assert pauses.pause()
    assert pauses.deadline == 1620.0
    clock.now += 10.0
    assert pauses.pause()
    assert pauses.deadline == 1620.0
    clock.now = 1620.0
    assert not pauses.pause()
    assert clock.slept == [0.1, 0.2]


def test_a_pause_is_no_longer_than_what_is_left(clock: Clock) -> None:
    pauses = Backoff(0.05)
    assert pauses.pause()
    assert clock.slept == [0.05]
    assert not pauses.pause()
