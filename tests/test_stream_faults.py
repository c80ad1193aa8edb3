"""Faults of streams: cut and silent networks, servers that end, hospitals that stall, replies that cannot be sent."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from grpc import StatusCode

from federated_health.errors import JoinError
from federated_health.processes import free_port
from federated_health.transport import backoff, channels, obstacles, reconnect, stream_server
from federated_health.transport.backoff import Backoff
from federated_health.transport.reconnect import OTHER_SERVER, RETRYABLE, name_taken_seconds
from federated_health.transport.unfit import report_unfit
from tests.support.stream_peers import answers, later_answers, lines, peer, peers
from tests.support.streams import (
    AGREEMENT,
    SCRIPTED_REASON,
    LargestDelays,
    LightHospital,
    Proxy,
    ScriptedServer,
    answer_of,
    echo,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)
from tests.support.wire import UNWRITTEN


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends notice a silent cut after 1 second instead of 40."""
    monkeypatch.setattr(channels, "KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", channels.channel_options(0.5))
    monkeypatch.setattr(obstacles, "PREFLIGHT_SECONDS", 0.2)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays between attempts are short."""
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.05)


class CountingAnswer:
    """An app's answer that counts messages in its context.

    Attributes:
        contexts: identities of the contexts that it was called with.
        counts: the count after each message.
    """

    def __init__(self) -> None:
        self.contexts: set[int] = set()
        self.counts: list[int] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.contexts.add(id(context))
        record = context.state.config_records.setdefault("memory", ConfigRecord({"count": 0}))
        count = record["count"]
        assert isinstance(count, int)
        record["count"] = count + 1
        self.counts.append(count + 1)
        return echo(message, context)


# Cuts


@pytest.mark.usefixtures("impatient", "hasty")
def test_a_hospital_rejoins_with_its_state_after_a_network_dropped_all_packets() -> None:
    announcements: list[str] = []
    answer = CountingAnswer()
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, answer, wait=30.0)
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
        proxy.stall()
        lost = grid.send_and_receive([question("a", 2)], timeout=10)[0]
        assert "connection was lost" in str(lost.error.reason)
        wait_until(lambda: announcements[-1] == "a left")
        wait_until(lambda: "waiting" in hospital.announcements[-1])
        proxy.flow()
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
        assert announcements == ["a joined", "a left", "a joined"]
        assert hospital.announcements[0].startswith("joined")
        assert hospital.announcements[-1].startswith("joined")
        assert hospital.announcements[-1].endswith("again")
        assert hospital.error is None
    assert answer.counts[-1] == len(answer.counts)  # the app's state survived
    assert len(answer.contexts) == 1


def test_a_silence_shorter_than_the_keepalive_goes_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", channels.channel_options(1.0))
    announcements: list[str] = []
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address)
        wait_for_hospitals(grid)
        proxy.stall()
        threading.Timer(0.5, proxy.flow).start()
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
        assert announcements == ["a joined"]
        assert len(hospital.announcements) == 1


@pytest.mark.usefixtures("impatient", "hasty")
def test_a_hospital_restarted_after_a_power_cut_waits_until_the_server_notices() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, wait=0.5)
        wait_for_hospitals(grid)
        proxy.stall()
        restarted = LightHospital("a", address, wait=30.0)
        wait_until(lambda: announcements[-2:] == ["a left", "a joined"])
        assert answer_of(grid.send_and_receive([question("a", 4)], timeout=5)[0]) == ("a", 4)
        first, refusal, *changes = announcements
        assert (first, *changes) == ("a joined", "a left", "a joined")
        assert refusal.startswith("rejected a: ")
        taken, joined = restarted.announcements
        assert "connected already; trying again for 11 s" in taken  # twice the keepalive and 10 s
        assert joined.startswith("joined")
    assert restarted.end() is None


def test_a_hospital_gives_up_a_taken_name_once_the_server_must_have_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_taken_seconds() == 2 * 20 + 10
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.2)
    with server() as (grid, address):
        first = LightHospital("a", address)
        wait_for_hospitals(grid)
        error = LightHospital("a", address, wait=60.0).end()
        assert isinstance(error, JoinError)
        assert "a is connected already" in str(error)
    assert first.end() is None


def test_an_unknown_host_is_named_as_the_obstacle_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert "Name or service not known" in obstacles.find_obstacle("nowhere.example:1", None, 1.0)


@pytest.mark.parametrize(("closes", "word"), [(True, "closes the connection at once"), (False, "does not answer")])
def test_a_server_that_takes_a_connection_and_says_nothing_may_be_full(closes: bool, word: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_all() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        accepting = threading.Thread(target=close_all if closes else lambda: None)
        accepting.start()
        obstacle = obstacles.find_obstacle(f"127.0.0.1:{listener.getsockname()[1]}", None, 1.0)
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(10)
    assert word in obstacle
    assert "too many connections" in obstacle


def test_a_server_that_speaks_is_no_obstacle() -> None:
    with server() as (_, address):
        assert obstacles.find_obstacle(address, None, 10.0) == ""
    assert obstacles.find_obstacle(address, None, 1.0) == ""  # nobody listens any more: only the server is missing


def test_the_wait_for_a_taken_name_starts_anew_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.05)
    monkeypatch.setattr(reconnect, "Backoff", RecordedBackoff)
    taken = StatusCode.ALREADY_EXISTS, "it is taken"
    reconnector = reconnect.Reconnector("here", None, 60.0, lambda _: None)
    reconnector.wait_after(*taken)
    time.sleep(0.06)
    with pytest.raises(JoinError, match="it is taken"):
        reconnector.wait_after(*taken)
    reconnector.restart()
    reconnector.wait_after(*taken)


def test_a_hospital_reconnects_to_a_full_server_that_has_not_noticed_its_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "max_streams", lambda: 1)
    announcements: list[str] = []
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address)
        wait_for_hospitals(grid)
        proxy.cut(tell_server=False)
        wait_until(lambda: announcements == ["a joined", "a reconnected"])


def test_a_cut_while_no_reply_is_awaited_is_no_problem() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, wait=0.5)
        wait_for_hospitals(grid)
        proxy.cut()
        wait_until(lambda: announcements == ["a joined", "a left"])
        assert grid.take_problems() == []


def test_a_refusal_is_announced_again_after_the_hospital_has_joined() -> None:
    announcements: list[str] = []
    with server(announcements) as (_, address), Proxy(address) as proxy:
        report_unfit("a", address, AGREEMENT, "no", UNWRITTEN)
        LightHospital("a", proxy.address, wait=0.5)
        wait_until(lambda: announcements[-1] == "a joined")
        proxy.cut()
        wait_until(lambda: announcements[-1] == "a left")
        report_unfit("a", address, AGREEMENT, "no", UNWRITTEN)
        assert announcements[-1] == announcements[0]
        assert announcements[0].startswith("rejected a: ")


def test_a_silent_server_is_announced_before_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "SILENT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        hospital = LightHospital("a", address, wait=1.5)
        wait_until(lambda: bool(hospital.announcements))
        assert hospital.error is None
        assert "no server within 1.5 s" in str(hospital.end())
        (line,) = hospital.announcements
        assert "waiting up to 1.5 s" in line


# How streams end


FINAL = set(StatusCode) - set(RETRYABLE) - {StatusCode.OK, StatusCode.ALREADY_EXISTS}


def test_every_status_is_final_or_retryable() -> None:
    assert {code.name for code in FINAL} == {
        *("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED"),
        *("UNIMPLEMENTED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "DATA_LOSS"),
    }
    assert {code.name for code in RETRYABLE} == {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


@pytest.mark.parametrize("accepts", [False, True], ids=["on joining", "in the run"])
@pytest.mark.parametrize("code", sorted(FINAL, key=str), ids=str)
def test_a_hospital_gives_up_after_a_final_status(code: StatusCode, accepts: bool) -> None:
    with ScriptedServer(code, accepts=accepts) as scripted:
        error = LightHospital("a", scripted.address, wait=30.0).end()
        assert isinstance(error, JoinError)
        expected = (
            f"not a server of this project and version ({code.name})" if code in OTHER_SERVER else SCRIPTED_REASON
        )
        assert str(error).startswith(f"{scripted.address}: ")
        assert expected in str(error)
        assert scripted.calls == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("accepts", [False, True], ids=["on joining", "in the run"])
@pytest.mark.parametrize("code", sorted({*RETRYABLE, StatusCode.ALREADY_EXISTS}, key=str), ids=str)
def test_a_hospital_retries_after_a_temporary_status(code: StatusCode, accepts: bool) -> None:
    with ScriptedServer(code, code, code, accepts=accepts) as scripted:
        hospital = LightHospital("a", scripted.address, wait=30.0)
        assert hospital.end() is None
        assert scripted.calls == 4
        assert all(line.startswith(("joined", "waiting", SCRIPTED_REASON)) for line in hospital.announcements)
        if not accepts:
            assert len(hospital.announcements) == 1


@pytest.mark.usefixtures("hasty")
def test_a_taken_name_and_then_a_lost_server_are_announced_separately() -> None:
    codes = [StatusCode.ALREADY_EXISTS] * 2 + [StatusCode.UNAVAILABLE] * 1000
    with ScriptedServer(*codes) as scripted:
        hospital = LightHospital("a", scripted.address, wait=0.5)
        assert "no server within 0.5 s" in str(hospital.end())
        taken, waiting = hospital.announcements
        assert taken.startswith(SCRIPTED_REASON)
        assert waiting.startswith("waiting")


class RecordedBackoff(Backoff):
    """The longest delays, recorded instead of waited for."""

    delays: ClassVar[list[float]] = []

    def __init__(self) -> None:
        super().__init__(generator=LargestDelays())
        self.delays.clear()

    def next_delay(self) -> float:
        self.delays.append(super().next_delay())
        return 0.0


def test_delays_keep_growing_while_streams_break_as_soon_as_they_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconnect, "Backoff", RecordedBackoff)
    with ScriptedServer(*[StatusCode.UNKNOWN] * 4, accepts=True) as scripted:
        assert LightHospital("a", scripted.address, wait=30.0).end() is None
    assert RecordedBackoff.delays == [0.2, 0.4, 0.8, 1.6]


def test_delays_start_anew_after_a_stream_that_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "Backoff", RecordedBackoff)
    monkeypatch.setattr(reconnect, "MAX_DELAY", 0.0)
    with ScriptedServer(*[StatusCode.UNAVAILABLE] * 4, accepts=True) as scripted:
        assert LightHospital("a", scripted.address, wait=30.0).end() is None
    assert RecordedBackoff.delays == [0.2] * 4


def test_no_delay_is_longer_than_the_rest_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(generator=LargestDelays()))
    monkeypatch.setattr(backoff, "FIRST_DELAY", 60.0)
    error = LightHospital("a", f"127.0.0.1:{free_port()}", wait=0.2).end()  # fails if it takes 10 s
    assert "no server within 0.2 s" in str(error)


@pytest.mark.parametrize("sends", [[b"\xff\xff"], [b"\x0a"]], ids=["garbage", "cut off"])
def test_a_hospital_gives_up_where_the_server_sends_bytes_that_are_no_message(sends: list[bytes]) -> None:
    with ScriptedServer(StatusCode.OUT_OF_RANGE, accepts=True, sends=sends) as scripted:
        error = LightHospital("a", scripted.address).end()
    assert isinstance(error, JoinError)
    assert "not a message" in str(error)


# Replies that cannot be sent


def test_a_reply_that_protobuf_cannot_hold_becomes_an_error_reply() -> None:
    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["question"]["number"] == 1:
            return Message(RecordDict({"metrics": MetricRecord({"rows": 2**70})}), reply_to=message)
        return echo(message, context)

    with server() as (grid, address):
        hospital = LightHospital("a", address, answer)
        wait_for_hospitals(grid)
        assert grid.send_and_receive([question("a", 1)], timeout=5)[0].error.reason == "ValueError at the hospital"
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)
    assert hospital.end() is None


def test_a_reply_beyond_the_server_s_limit_is_not_sent() -> None:
    def answer(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.content.config_records["answer"]["padding"] = bytes(
            int(str(message.content.config_records["question"]["number"]))
        )
        return reply

    with server(max_message_bytes=10_000) as (grid, address):
        hospital = LightHospital("a", address, answer)
        wait_for_hospitals(grid)
        for size in (10_001, 1_000_000):
            reply = grid.send_and_receive([question("a", size)], timeout=5)[0]
            assert "too large: the server accepts 10000 bytes" in str(reply.error.reason)
        assert answer_of(grid.send_and_receive([question("a", 9_000)], timeout=5)[0]) == ("a", 9_000)
        assert grid.take_problems() == []
    assert hospital.end() is None


# A hospital that stalls


def test_a_hospital_that_does_not_read_delays_no_other_hospital() -> None:
    busy = threading.Event()
    numbers: list[object] = []

    def answer(message: Message, context: Context) -> Message:
        numbers.append(number := message.content.config_records["question"]["number"])
        if number == 1:
            busy.wait(20)  # meanwhile the hospital reads nothing
        return echo(message, context)

    with server() as (grid, address):
        stalled, other = LightHospital("a", address, answer), LightHospital("b", address)
        wait_for_hospitals(grid, 2)
        grid.push_messages([question("a", 1)])
        for number in range(2, 7):
            large = question("a", number)
            large.content.config_records["question"]["padding"] = bytes(8 * 1024 * 1024)
            assert grid.send_and_receive([large], timeout=0.1)[0].has_error()
            assert answer_of(grid.send_and_receive([question("b", number)], timeout=10)[0]) == ("b", number)
        busy.set()
        assert answer_of(grid.send_and_receive([question("a", 12)], timeout=10)[0]) == ("a", 12)
        # A message that timed out before its turn was never sent.
        assert (numbers[0], numbers[-1]) == (1, 12)
        assert len(numbers) <= 3
    assert stalled.end() is None
    assert other.end() is None


def test_a_server_ends_while_a_hospital_does_not_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_server, "GRACE_SECONDS", 0.1)
    busy, ended = threading.Event(), threading.Event()

    def answer(message: Message, context: Context) -> Message:
        busy.set()
        ended.wait(20)  # meanwhile the hospital reads nothing
        return echo(message, context)

    with server() as (grid, address):
        hospital = LightHospital("a", address, answer, wait=0.2)
        wait_for_hospitals(grid)
        large = question("a", 2)
        large.content.config_records["question"]["padding"] = bytes(16 * 1024 * 1024)
        grid.push_messages([question("a", 1)])
        assert busy.wait(10)
        grid.push_messages([large] * 4)  # more than fits into the buffers
    ended.set()
    error = hospital.end()
    assert error is None or isinstance(error, JoinError)  # it may or may not have read that the run is over
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# Processes


@pytest.mark.slow
def test_hospitals_rejoin_a_server_that_was_killed_and_restarted(tmp_path: Path) -> None:
    address, log, hospital_log = f"127.0.0.1:{free_port()}", tmp_path / "server.log", tmp_path / "hospital.log"
    with peers() as running:
        running.append(peer(hospital_log, "join", address, "a"))
        wait_until(lambda: [line.split()[0] for line in lines(hospital_log)] == ["waiting"], 30.0)
        for _ in range(2):
            running.append(killed := peer(log, "serve", address))
            wait_until(later_answers(log), 30.0)
            killed.kill()
            killed.wait(10)
        running.append(peer(log, "serve", address))
        wait_until(later_answers(log), 30.0)
        assert running[0].poll() is None
    joined = [line for line in lines(hospital_log) if line.startswith("joined")]
    assert [line.endswith("again") for line in joined] == [False, True, True]
    assert answers(log) == sorted(set(answers(log)))  # the process and its state are still the same


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["hospital", "server"])
def test_a_process_frozen_for_longer_than_the_keepalive_rejoins(tmp_path: Path, stopped: str) -> None:
    address, log, hospital_log = f"127.0.0.1:{free_port()}", tmp_path / "server.log", tmp_path / "hospital.log"
    with peers() as running:
        running.append(peer(log, "serve", address, keepalive=1.0))
        running.append(peer(hospital_log, "join", address, "a", keepalive=1.0))
        wait_until(later_answers(log), 30.0)
        frozen = running[stopped == "hospital"]
        frozen.send_signal(signal.SIGSTOP)
        if stopped == "hospital":
            wait_until(lambda: "a left" in lines(log), 30.0)
        else:
            wait_until(lambda: any("waiting" in line for line in lines(hospital_log)[1:]), 30.0)
        frozen.send_signal(signal.SIGCONT)
        wait_until(later_answers(log), 30.0)
        wait_until(lambda: lines(hospital_log)[-1].endswith("again"))
        assert [process.poll() for process in running] == [None, None]


# Networks of their own


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a wire between them: 10.213.7.1 and 10.213.7.2."""
    names = f"fh{os.getpid()}a", f"fh{os.getpid()}b"
    try:
        if os.geteuid() != 0 or not all(_run("ip", "netns", "add", name) for name in names):
            pytest.skip("making network namespaces needs root, and `ip`")
        assert _run(
            *("ip", "-n", names[0], "link", "add", "wire", "type", "veth"),
            *("peer", "name", "wire", "netns", names[1]),
        )
        for number, name in enumerate(names, start=1):
            assert _run("ip", "-n", name, "addr", "add", f"10.213.7.{number}/30", "dev", "wire")
            assert _run("ip", "-n", name, "link", "set", "wire", "up")
        yield names
    finally:
        for name in names:
            _run("ip", "netns", "del", name)


def drop(names: tuple[str, str], *, drops: bool) -> None:
    """Send all packets to an unused hardware address, or to the right one again; neither end is told."""
    for name, other in zip(names, ("10.213.7.2", "10.213.7.1"), strict=True):
        wrong = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        verb = ("replace", other, *wrong) if drops else ("del", other)
        assert _run("ip", "-n", name, "neigh", *verb, "dev", "wire")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, None], ids=["shorter than the keepalive", "until both ends have noticed"])
def test_a_run_survives_a_network_that_drops_packets(
    networks: tuple[str, str], tmp_path: Path, seconds: float | None
) -> None:
    address, log, hospital_log = "10.213.7.1:8080", tmp_path / "server.log", tmp_path / "hospital.log"
    keepalive = 10.0 if seconds else 1.0
    inside = [("ip", "netns", "exec", name) for name in networks]
    with peers() as running:
        running.append(peer(log, "serve", address, keepalive=keepalive, before=inside[0]))
        running.append(peer(hospital_log, "join", address, "a", keepalive=keepalive, before=inside[1]))
        wait_until(later_answers(log), 30.0)
        drop(networks, drops=True)
        if seconds:
            time.sleep(seconds)
        else:
            wait_until(lambda: "a left" in lines(log), 30.0)
            wait_until(lambda: any("waiting" in line for line in lines(hospital_log)[1:]), 30.0)
        drop(networks, drops=False)
        wait_until(later_answers(log), 30.0)
        joined = [line for line in lines(log) if line in ("a joined", "a left", "a reconnected")]
        assert joined == (["a joined"] if seconds else ["a joined", "a left", "a joined"])
        assert answers(log) == sorted(set(answers(log)))
