"""What can befall a stream: cuts with and without a word, servers that die, hospitals that stall, refusals."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import grpc
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.proto.transport_pb2 import Parameters, ServerMessage
from grpc import StatusCode

from federated_health.errors import JoinError
from federated_health.processes import free_port
from federated_health.transport import backoff, channels, reconnect, stream_server
from federated_health.transport.backoff import Backoff
from federated_health.transport.channels import MAX_MESSAGE_KEY
from federated_health.transport.reconnect import RETRYABLE, name_taken_seconds
from federated_health.transport.stream_client import report_unfit
from federated_health.transport.stream_server import SERVICE, serve_streams
from tests.support.scripts import PROJECT
from tests.support.wire import UNWRITTEN
from tests.test_backoff import LargestDelays
from tests.test_streaming import TERMS, LightHospital, Proxy, answer_of, echo, question, server, wait_until


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends notice a silent cut after one second in place of forty."""
    monkeypatch.setattr(channels, "KEEPALIVE_SECONDS", 0.5)
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", channels.channel_options(0.5))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays between attempts are short."""
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.05)


class Counting:
    """An app's answer that keeps a count in the context, and what was asked."""

    def __init__(self) -> None:
        self.contexts: set[int] = set()
        self.counts: list[int] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.contexts.add(id(context))
        record = context.state.config_records.setdefault("kept", ConfigRecord({"count": 0}))
        count = record["count"]
        assert isinstance(count, int)
        record["count"] = count + 1
        self.counts.append(count + 1)
        return echo(message, context)


# Cuts


@pytest.mark.usefixtures("impatient")
def test_a_network_that_drops_all_in_silence_costs_only_the_time_that_it_lasts() -> None:
    words: list[str] = []
    answer = Counting()
    with server(words) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, answer, wait=30.0)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=5)[0]) == ("a", 1)
        proxy.stall()
        lost = grid.send_and_receive([question("a", 2)], timeout=10)[0]
        assert (lost.error.reason or "").startswith("its connection was lost")
        wait_until(lambda: words[-1] == "a left")
        wait_until(lambda: "waiting up to 30 s" in hospital.words[-1])
        proxy.flow()
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
        assert words == ["a joined", "a left", "a joined"]
        assert hospital.words[0] == f"joined {proxy.address} as a; loading Keras"
        assert hospital.words[-1] == f"joined {proxy.address} as a again"
        assert hospital.error is None
    assert answer.counts[-1] == len(answer.counts)  # what the app keeps was kept
    assert len(answer.contexts) == 1


@pytest.mark.usefixtures("impatient")
def test_a_cut_that_is_shorter_than_the_keepalive_is_not_even_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", channels.channel_options(2.0))
    words: list[str] = []
    with server(words) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        proxy.stall()
        threading.Timer(1.0, proxy.flow).start()
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
        assert words == ["a joined"]
        assert len(hospital.words) == 1


@pytest.mark.usefixtures("impatient")
def test_a_hospital_that_comes_back_from_a_power_cut_waits_for_the_server_to_notice() -> None:
    words: list[str] = []
    with server(words) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, wait=0.5)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        proxy.stall()
        again = LightHospital("a", address, wait=30.0)
        wait_until(lambda: words[-2:] == ["a left", "a joined"])
        assert answer_of(grid.send_and_receive([question("a", 4)], timeout=5)[0]) == ("a", 4)
        refusal = "refused a: a hospital called a is connected already (from 127.0.0.1)"
        assert words == ["a joined", refusal, "a left", "a joined"]
        taken, joined = again.words
        assert taken.startswith("a hospital called a is connected already; trying again for 11 s")
        assert joined == f"joined {address} as a; loading Keras"
    assert again.end() is None


def test_a_name_that_stays_taken_is_given_up_when_the_server_must_have_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_taken_seconds() == 2 * 20 + 10
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.5)
    with server() as (grid, address):
        first = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        started = time.monotonic()
        error = LightHospital("a", address, wait=60.0).end()
        assert 0.5 <= time.monotonic() - started < 8
        assert isinstance(error, JoinError)
        assert str(error) == f"{address}: a hospital called a is connected already"
    assert first.end() is None


def test_a_host_that_is_not_known_is_said_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    words = ": it cannot be reached (Name or service not known)"
    assert reconnect.find_obstacle("nowhere.example:1", None, 1.0) == words


def test_a_name_that_is_taken_after_another_absence_is_waited_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.05)
    monkeypatch.setattr(reconnect, "Backoff", Recorded)
    taken = StatusCode.ALREADY_EXISTS, "it is taken"
    reconnector = reconnect.Reconnector("here", None, 60.0, lambda _: None)
    reconnector.wait_after(*taken)
    time.sleep(0.06)
    with pytest.raises(JoinError, match=r"^here: it is taken$"):
        reconnector.wait_after(*taken)
    reconnector.restart()
    reconnector.wait_after(*taken)


def test_a_hospital_comes_back_to_a_server_that_is_full_and_has_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "max_streams", lambda: 1)
    words: list[str] = []
    with server(words) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        proxy.cut(tell_server=False)
        wait_until(lambda: words == ["a joined", "a came back"])


def test_a_cut_while_nothing_is_asked_is_no_problem() -> None:
    words: list[str] = []
    with server(words) as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, wait=0.5)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        proxy.cut()
        wait_until(lambda: words == ["a joined", "a left"])
        assert grid.take_problems() == []


def test_a_refusal_is_told_again_after_the_hospital_has_joined() -> None:
    words: list[str] = []
    with server(words) as (_, address), Proxy(address) as proxy:
        report_unfit("a", address, TERMS, "no", UNWRITTEN)
        LightHospital("a", proxy.address, wait=0.5)
        wait_until(lambda: words[-1] == "a joined")
        proxy.cut()
        wait_until(lambda: words[-1] == "a left")
        report_unfit("a", address, TERMS, "no", UNWRITTEN)
        assert words[-1] == words[0] == "refused a: its own check says no: no (from 127.0.0.1)"


def test_a_server_that_says_nothing_is_spoken_of_long_before_the_wait_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        hospital = LightHospital("a", address, wait=3.0)
        wait_until(lambda: bool(hospital.words), seconds=2.0)
        assert hospital.error is None
        assert "no server within 3 s" in str(hospital.end())
        assert hospital.words == [f"waiting up to 3 s for the server at {address}"]


# How streams end


class ScriptedServer:
    """Ends each call in the next of some statuses, and the last ones in OK; counts the calls."""

    def __init__(self, *codes: StatusCode, accepts: bool = False, sends: ServerMessage | None = None) -> None:
        self.calls: list[float] = []
        self._codes, self._accepts, self._sends = codes, accepts, sends
        handler = grpc.stream_stream_rpc_method_handler(self._join, response_serializer=ServerMessage.SerializeToString)
        self._server = grpc.server(ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Join": handler}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "ScriptedServer":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def _join(self, _requests: object, context: grpc.ServicerContext) -> Iterator[ServerMessage]:
        number = len(self.calls)
        self.calls.append(time.monotonic())
        if self._accepts:
            context.send_initial_metadata(((MAX_MESSAGE_KEY, "1000"),))
        if self._sends is not None:
            yield self._sends
        if number < len(self._codes):
            context.abort(self._codes[number], "these are its words")


FINAL = set(StatusCode) - set(RETRYABLE) - {StatusCode.OK, StatusCode.ALREADY_EXISTS}


def test_every_status_is_thought_through() -> None:
    assert {code.name for code in FINAL} == {
        *("INVALID_ARGUMENT", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED"),
        *("UNIMPLEMENTED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "DATA_LOSS"),
    }
    assert {code.name for code in RETRYABLE} == {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


@pytest.mark.parametrize("accepts", [False, True], ids=["at the door", "in the run"])
@pytest.mark.parametrize("code", sorted(FINAL, key=str), ids=str)
def test_a_refusal_is_final(code: StatusCode, accepts: bool) -> None:
    with ScriptedServer(code, accepts=accepts) as scripted:
        error = LightHospital("a", scripted.address, wait=30.0).end()
        assert isinstance(error, JoinError)
        assert str(error) == f"{scripted.address}: these are its words"
        assert len(scripted.calls) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("accepts", [False, True], ids=["at the door", "in the run"])
@pytest.mark.parametrize("code", sorted({*RETRYABLE, StatusCode.ALREADY_EXISTS}, key=str), ids=str)
def test_what_passes_is_tried_again_until_it_has_passed(code: StatusCode, accepts: bool) -> None:
    with ScriptedServer(code, code, code, accepts=accepts) as scripted:
        hospital = LightHospital("a", scripted.address, wait=30.0)
        assert hospital.end() is None
        assert len(scripted.calls) == 4
        assert all(line.startswith(("joined", "waiting", "these")) for line in hospital.words)
        if not accepts:
            assert len(hospital.words) == 1  # said once an absence


@pytest.mark.usefixtures("hasty")
def test_a_name_that_is_taken_and_then_a_server_that_is_gone_are_told_apart() -> None:
    codes = [StatusCode.ALREADY_EXISTS] * 2 + [StatusCode.UNAVAILABLE] * 1000
    with ScriptedServer(*codes) as scripted:
        hospital = LightHospital("a", scripted.address, wait=0.5)
        assert str(hospital.end()) == f"{scripted.address}: no server within 0.5 s"
        assert [line[:13] for line in hospital.words] == ["these are its", "waiting up to"]


class Recorded(Backoff):
    """Delays as long as they can be, that are remembered and not waited for."""

    delays: ClassVar[list[float]] = []

    def __init__(self) -> None:
        super().__init__(generator=LargestDelays())
        self.delays.clear()

    def next_delay(self) -> float:
        self.delays.append(super().next_delay())
        return 0.0


def test_delays_grow_on_where_each_stream_breaks_off_as_soon_as_it_was_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconnect, "Backoff", Recorded)
    with ScriptedServer(*[StatusCode.UNKNOWN] * 4, accepts=True) as scripted:
        assert LightHospital("a", scripted.address, wait=30.0).end() is None
    assert Recorded.delays == [0.2, 0.4, 0.8, 1.6]


def test_delays_begin_anew_after_a_stream_that_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "Backoff", Recorded)
    monkeypatch.setattr(reconnect, "MAX_DELAY", 0.0)
    with ScriptedServer(*[StatusCode.UNAVAILABLE] * 4, accepts=True) as scripted:
        assert LightHospital("a", scripted.address, wait=30.0).end() is None
    assert Recorded.delays == [0.2] * 4


def test_no_delay_is_longer_than_what_is_left_of_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "Backoff", lambda: Backoff(generator=LargestDelays()))
    monkeypatch.setattr(backoff, "FIRST_DELAY", 60.0)
    started = time.monotonic()
    error = LightHospital("a", f"127.0.0.1:{free_port()}", wait=0.5).end()
    assert "no server within 0.5 s" in str(error)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("tensors", [[], [b"\xff\xff"], [b"", b""], [b""]], ids=["none", "garbage", "two", "empty"])
def test_a_server_that_sends_what_is_not_a_message_is_left_with_one_line(tensors: list[bytes]) -> None:
    sends = ServerMessage(fit_ins=ServerMessage.FitIns(parameters=Parameters(tensors=tensors)))
    with ScriptedServer(StatusCode.OUT_OF_RANGE, accepts=True, sends=sends) as scripted:
        error = LightHospital("a", scripted.address).end()
    assert isinstance(error, JoinError)
    assert str(error) == f"{scripted.address}: the server sent bytes that are not a message"


# Replies that cannot be sent


def test_a_reply_that_protobuf_cannot_hold_is_an_error_and_the_hospital_lives() -> None:
    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["question"]["number"] == 1:
            return Message(RecordDict({"metrics": MetricRecord({"rows": 2**70})}), reply_to=message)
        return echo(message, context)

    with server() as (grid, address):
        hospital = LightHospital("a", address, answer)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert grid.send_and_receive([question("a", 1)], timeout=5)[0].error.reason == "ValueError at the hospital"
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)
    assert hospital.end() is None


def test_a_reply_that_the_server_would_not_take_is_never_sent() -> None:
    def answer(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.content.config_records["answer"]["padding"] = bytes(
            int(str(message.content.config_records["question"]["number"]))
        )
        return reply

    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, TERMS, lambda _: None, max_message_bytes=10_000) as grid:
        hospital = LightHospital("a", address, answer)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        for size in (10_001, 1_000_000):
            reason = str(grid.send_and_receive([question("a", size)], timeout=5)[0].error.reason)
            assert reason.startswith("its reply of ")
            assert reason.endswith(" bytes is larger than the 10000 bytes that the server accepts")
        assert answer_of(grid.send_and_receive([question("a", 9_000)], timeout=5)[0]) == ("a", 9_000)
        assert grid.take_problems() == []
    assert hospital.end() is None


# A hospital that stalls


def test_a_hospital_that_does_not_read_holds_up_one_message_and_no_other_hospital() -> None:
    busy = threading.Event()
    asked: list[object] = []

    def answer(message: Message, context: Context) -> Message:
        asked.append(number := message.content.config_records["question"]["number"])
        if number == 1:
            busy.wait(20)  # meanwhile the hospital reads nothing
        return echo(message, context)

    with server() as (grid, address):
        stalled, other = LightHospital("a", address, answer), LightHospital("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        grid.push_messages([question("a", 1)])
        for number in range(2, 7):
            large = question("a", number)
            large.content.config_records["question"]["padding"] = bytes(8 * 1024 * 1024)
            assert grid.send_and_receive([large], timeout=0.1)[0].has_error()
            assert answer_of(grid.send_and_receive([question("b", number)], timeout=10)[0]) == ("b", number)
        busy.set()
        assert answer_of(grid.send_and_receive([question("a", 12)], timeout=10)[0]) == ("a", 12)
        # What waited for its turn when it was given up was never sent.
        assert (asked[0], asked[-1]) == (1, 12)
        assert len(asked) <= 3
    assert stalled.end() is None
    assert other.end() is None


# Processes


def peer(
    log: Path, *arguments: object, keepalive: float = 20.0, before: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A process of `stream_peers` that prints into a file."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "tests.support.stream_peers", *map(str, arguments)],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, "KEEPALIVE": str(keepalive)},
        )


@contextmanager
def peers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes that are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        yield started
    finally:
        for one in started:
            one.send_signal(signal.SIGCONT)
            one.kill()
            one.wait(10)


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def numbers(log: Path) -> list[int]:
    return [int(line.split()[2]) for line in lines(log) if line.startswith("answer")]


def later_answers(log: Path) -> Callable[[], bool]:
    """Whether the server has had answers since now."""
    before = len(numbers(log))
    return lambda: len(numbers(log)) > before + 2


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_finds_its_hospitals_again(tmp_path: Path) -> None:
    address, log, hospital_log = f"127.0.0.1:{free_port()}", tmp_path / "server.log", tmp_path / "hospital.log"
    with peers() as running:
        running.append(peer(hospital_log, "join", address, "a"))
        waiting = f"waiting up to 60 s for the server at {address}"
        wait_until(lambda: lines(hospital_log) == [waiting], 30.0)
        for _ in range(3):
            running.append(killed := peer(log, "serve", address))
            wait_until(later_answers(log), 30.0)
            killed.kill()
            killed.wait(10)
        running.append(peer(log, "serve", address))
        wait_until(later_answers(log), 30.0)
        assert running[0].poll() is None
    assert [line for line in lines(hospital_log) if "joined" in line] == [
        f"joined {address} as a; loading Keras",
        *[f"joined {address} as a again"] * 3,
    ]
    assert numbers(log) == sorted(set(numbers(log)))  # the process, and what it keeps, was the same all the time


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["hospital", "server"])
def test_a_process_that_is_frozen_for_longer_than_the_keepalive_is_taken_back(tmp_path: Path, stopped: str) -> None:
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
        wait_until(lambda: lines(hospital_log)[-1] == f"joined {address} as a again")
        assert [one.poll() for one in running] == [None, None]


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
    """Send all packets to a hardware address that nobody has, or to the right one again: no end is told."""
    for name, other in zip(names, ("10.213.7.2", "10.213.7.1"), strict=True):
        wrong = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        verb = ("replace", other, *wrong) if drops else ("del", other)
        assert _run("ip", "-n", name, "neigh", *verb, "dev", "wire")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1.0, None], ids=["shorter than the keepalive", "until both ends have noticed"])
def test_packets_that_are_dropped_for_a_while(networks: tuple[str, str], tmp_path: Path, seconds: float | None) -> None:
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
        joined = [line for line in lines(log) if line in ("a joined", "a left", "a came back")]
        assert joined == (["a joined"] if seconds else ["a joined", "a left", "a joined"])
        assert numbers(log) == sorted(set(numbers(log)))
