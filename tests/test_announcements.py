"""The server's lines about hospitals: limited where they repeat, and harmless where they cannot be shown."""

import logging

import pytest

from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.server.plain_run import PlainRun
from federated_health.transport import announcements, rejections, stream_server
from federated_health.transport.announcements import CONNECTIONS, MAX_LINES, OTHERS, Announcements
from federated_health.transport.stream_server import serve_streams
from tests.support import light_hospitals
from tests.support.streams import (
    AGREEMENT,
    LightHospital,
    RawHospital,
    answer_of,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)

RAISED = [
    BrokenPipeError(),
    UnicodeEncodeError("ascii", "é", 0, 1, ""),
    SystemExit(1),
    KeyboardInterrupt(),
    RuntimeError(),
]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_repeated_lines_of_one_kind_are_counted_and_those_of_another_are_shown() -> None:
    lines: list[str] = []
    clock = Clock()
    limited = Announcements(lines.append, clock)
    for number in range(MAX_LINES + 1_500):
        limited.announce(f"a {number}", "a")
    limited.announce("b joined", "b")
    assert lines == [*(f"a {number}" for number in range(MAX_LINES)), "b joined"]
    clock.now = 59.9
    limited.end_minute()
    assert lines[-1] == "b joined"
    clock.now = 60.0
    limited.end_minute()
    assert lines[-1] == "a: 1,500 more such lines in the last minute"
    limited.announce("a again", "a")
    assert lines[-1] == "a again"


def test_a_line_of_two_kinds_needs_room_in_both() -> None:
    lines: list[str] = []
    limited = Announcements(lines.append, Clock())
    limited.announce("first", "a", CONNECTIONS)
    limited.announce("second", "a", CONNECTIONS)
    limited.announce("third", "a")
    assert lines == ["first", "third"]


def test_the_number_of_kinds_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcements, "MAX_KINDS", 3)
    lines: list[str] = []
    limited = Announcements(lines.append, Clock())
    for number in range(100):
        limited.announce(str(number), f"kind {number}")
    assert len(lines) == 3 + MAX_LINES
    limited.end_minute(early=True)
    assert lines[-1].startswith(OTHERS)
    assert "87 more" in lines[-1]  # 100 - 3 - 10


def test_lines_without_a_kind_are_not_limited() -> None:
    lines: list[str] = []
    limited = Announcements(lines.append, Clock())
    for _ in range(100):
        limited.announce("revoked.pem is damaged")
    assert len(lines) == 100


def test_a_hospital_that_joins_and_leaves_again_and_again_writes_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "FLAPPING_SECONDS", 0.0)
    lines: list[str] = []
    with server(lines) as (grid, address):
        other = LightHospital("b", address)
        wait_for_hospitals(grid)
        for number in range(50):
            with RawHospital("a", address, process=str(number)) as flapping:
                flapping.call.initial_metadata()
            wait_until(lambda: len(grid.names()) == 1)
        assert answer_of(grid.send_and_receive([question("b", 1)], timeout=10)[0]) == ("b", 1)
        assert len(lines) == 1 + MAX_LINES
    assert "90 more such lines" in lines[-1]  # of 100 about a
    assert other.end() is None


def test_a_hospital_that_flaps_is_delayed_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "FLAPPING_SECONDS", 3_600.0)
    monkeypatch.setattr(stream_server, "GRACE_SECONDS", 0.1)
    with server() as (grid, address):
        for number in range(MAX_LINES // 2):
            with RawHospital("a", address, process=str(number)) as flapping:
                flapping.call.initial_metadata()
            wait_for_hospitals(grid, 0)
        with RawHospital("a", address), RawHospital("b", address) as other:
            other.call.initial_metadata()
            assert list(grid.names().values()) == ["b"]


def test_a_problem_that_a_hospital_repeats_on_each_new_stream_is_logged_a_few_times(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_server, "FLAPPING_SECONDS", 0.0)
    caplog.set_level(logging.WARNING)
    with server() as (grid, address):
        for number in range(2 * MAX_LINES):
            with RawHospital("a", address, process=str(number)) as raw:
                raw.send(b"\xff")
                wait_until(lambda: bool(grid.take_problems()))
            wait_until(lambda: not grid.names())
    assert 1 <= len(caplog.messages) <= MAX_LINES


def test_a_rejection_is_not_announced_again_when_another_hospital_joins() -> None:
    lines: list[str] = []
    with server(lines) as (grid, address):
        for number in range(3):
            with RawHospital("intruder", address, unfit="no") as raw:
                raw.end()
            with RawHospital("a", address, process=str(number)) as hospital:
                hospital.call.initial_metadata()
            wait_until(lambda: not grid.names())
    assert len([line for line in lines if line.startswith("rejected intruder")]) == 1


def test_the_latest_rejections_are_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejections, "MAX_ANNOUNCED", 2)
    lines: list[str] = []
    with server(lines) as (_, address):
        for name in ("a", "b", "b", "c", "a"):
            with RawHospital(name, address, unfit="no") as raw:
                raw.end()
    assert [line.split(":")[0].removeprefix("rejected ") for line in lines] == ["a", "b", "c", "a"]


# Output that fails


class FailingOutput:
    """Raises an error at one of its calls, or at every one from it on."""

    def __init__(self, error: BaseException, first: int, *, once: bool) -> None:
        self.calls = 0
        self._error, self._first, self._once = error, first, once

    def __call__(self, _: str) -> None:
        self.calls += 1
        if self.calls == self._first or (self.calls > self._first and not self._once):
            raise self._error


def weights_with(show: FailingOutput) -> dict[str, bytes]:
    """Final weights of a run of three hospitals over streams; others join, leave and are rejected."""
    hospitals = light_hospitals.three()
    app = light_hospitals.app_of({hospital.name: hospital for hospital in hospitals})
    settings = light_hospitals.settings_of("fedavg", wait=20.0)
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, AGREEMENT, show) as grid:
        with RawHospital("early", address):
            wait_for_hospitals(grid)
        wait_for_hospitals(grid, 0)
        members = [LightHospital(hospital.name, address, app=app) for hospital in hospitals]
        run = PlainRun(grid, settings)
        run.gather(lambda _: None)
        for _ in run.rounds():
            pass
        with RawHospital("late", address, unfit="no") as raw:
            raw.end()
        run.evaluate()
    assert [member.end() for member in members] == [None] * 3
    return {name: array.tobytes() for name, array in run.weights.items()}


def test_a_run_reaches_the_same_weights_whichever_line_cannot_be_shown() -> None:
    shown = FailingOutput(RuntimeError(), 1_000, once=True)
    expected = weights_with(shown)
    assert shown.calls == 6  # one joins and leaves, three join, one is rejected
    for first in range(1, shown.calls + 1):
        failing = FailingOutput(RAISED[first % len(RAISED)], first, once=True)
        assert weights_with(failing) == expected
        assert failing.calls == shown.calls


@pytest.mark.parametrize("error", RAISED, ids=[type(error).__name__ for error in RAISED])
def test_a_run_reaches_the_same_weights_if_no_line_can_be_shown(error: BaseException) -> None:
    assert weights_with(FailingOutput(error, 1, once=False)) == weights_with(
        FailingOutput(RuntimeError(), 1_000, once=True)
    )


class FailingHandler(logging.Handler):
    def emit(self, _: logging.LogRecord) -> None:
        raise SystemExit(1)


def test_a_problem_that_cannot_be_logged_ends_no_stream() -> None:
    handler, log = FailingHandler(logging.DEBUG), logging.getLogger("federated_health")
    log.addHandler(handler)
    try:
        with server() as (grid, address), RawHospital("a", address) as raw:
            wait_for_hospitals(grid)
            raw.send(b"\xff")
            wait_until(lambda: bool(grid.take_problems()))
            key = grid.push_messages([question("a", 1)])[0]
            raw.reply(raw.read())
            wait_until(lambda: bool(grid.pull_messages([key])))
    finally:
        log.removeHandler(handler)


def test_an_exit_in_the_event_loop_ends_no_stream() -> None:
    def leave() -> None:
        raise SystemExit(1)

    with server() as (grid, address):
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
        grid._loop.call_soon_threadsafe(leave)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
    assert hospital.end() is None


def test_an_error_in_an_exchange_costs_that_reply_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as (grid, address):
        hospitals = [LightHospital(name, address) for name in "ab"]
        wait_for_hospitals(grid, 2)
        stream = grid._servicer.streams[node_id_of("a")]
        monkeypatch.setattr(stream, "find_obstacle", lambda: 1 / 0)
        failed, good = grid.send_and_receive([question("a", 1), question("b", 2)], timeout=10)
        assert failed.error.reason == "ZeroDivisionError at the server"
        assert answer_of(good) == ("b", 2)
        monkeypatch.undo()
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=10)[0]) == ("a", 3)
    assert [hospital.end() for hospital in hospitals] == [None, None]
