"""Messages over streams, and how hospitals join: with light hospitals, threads of this process without Keras."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from flwr.app import Context, Message
from flwr.proto.transport_pb2_grpc import FlowerServiceStub
from grpc import StatusCode
from grpc._cython import cygrpc

from federated_health.data.tasks import find_difference, write_agreement
from federated_health.errors import AddressError, DataError, JoinError, StorageError
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.transport import backoff, listening, reconnect, stream_server, unfit
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.channels import CHANNEL_OPTIONS, PROTOCOL, check_address
from federated_health.transport.framing import serialise_content
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.stream import Stream
from federated_health.transport.stream_server import StreamTransport, serve_streams
from tests.support.streams import (
    AGREEMENT,
    GOOD_TERMS,
    LightHospital,
    Proxy,
    RawHospital,
    ScriptedServer,
    answer_of,
    app_of,
    await_reply,
    echo,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)
from tests.support.wire import UNWRITTEN


@pytest.fixture
def gives_up_a_taken_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hospital whose name is connected already does not try again."""
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.0)


def number_in(message: Message) -> int:
    number = message.content.config_records["question"]["number"]
    assert isinstance(number, int)
    return number


# Messages and replies


def test_each_hospital_receives_its_own_message_and_its_reply_arrives() -> None:
    with server() as (grid, address):
        hospitals = [LightHospital(name, address) for name in "abc"]
        wait_for_hospitals(grid, 3)
        replies = grid.send_and_receive([question(name, i) for i, name in enumerate("abc")], timeout=5)
        assert [answer_of(reply) for reply in replies] == [("a", 0), ("b", 1), ("c", 2)]
        assert [reply.metadata.src_node_id for reply in replies] == [node_id_of(name) for name in "abc"]
    assert [hospital.end() for hospital in hospitals] == [None, None, None]


def test_replies_in_process_equal_those_over_a_stream() -> None:
    grid = InProcessTransport(app_of(echo), {name: hospital_context(name, {}) for name in "ab"})
    replies = grid.send_and_receive([question("b", 7), question("a", 8)])
    assert [answer_of(reply) for reply in replies] == [("b", 7), ("a", 8)]
    assert grid.send_and_receive([question("z")])[0].has_error()


def test_an_exception_at_a_hospital_becomes_an_error_reply_without_its_text() -> None:
    def fail(message: Message, context: Context) -> Message:
        if number_in(message) == 1:
            raise ValueError("cholesterol of Mrs Smith is 341")
        if number_in(message) == 2:
            raise DataError("/home/smith.csv: the file is gone", reason="the file is gone")
        return echo(message, context)

    with server() as (grid, address):
        hospital = LightHospital("a", address, fail)
        wait_for_hospitals(grid)
        replies = [grid.send_and_receive([question("a", number)], timeout=5)[0] for number in (1, 2, 3)]
        assert replies[0].error.reason == "ValueError at the hospital"
        assert replies[1].error.reason == "the file is gone"
        assert answer_of(replies[2]) == ("a", 3)
    assert hospital.end() is None


def test_an_app_that_returns_no_message_becomes_an_error_reply() -> None:
    def nothing(_message: Message, _context: Context) -> Message:
        return None  # type: ignore[return-value]  # that is the point

    grid = InProcessTransport(app_of(nothing), {"a": hospital_context("a", {})})
    assert grid.send_and_receive([question("a")])[0].error.reason == "TypeError at the hospital"


def test_a_late_reply_is_an_error_and_never_answers_the_next_message() -> None:
    timed_out = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if number_in(message) == 1:
            timed_out.wait(5)
        return echo(message, context)

    with server() as (grid, address):
        LightHospital("a", address, answer)
        wait_for_hospitals(grid)
        late = grid.send_and_receive([question("a", 1)], timeout=0.1)[0]
        assert "did not answer within 0.1 s" in str(late.error.reason)
        timed_out.set()
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)


def test_a_message_to_a_hospital_that_never_joined_gets_an_error_reply() -> None:
    with server() as (grid, address):
        LightHospital("a", address)
        wait_for_hospitals(grid)
        reply, error = grid.send_and_receive([question("a", 1), question("b", 2)], timeout=5)
        assert answer_of(reply) == ("a", 1)
        assert error.error.reason == "it is not connected"


def test_many_messages_to_one_hospital_at_once_are_all_answered() -> None:
    with server() as (grid, address):
        LightHospital("a", address)
        wait_for_hospitals(grid)
        replies = grid.send_and_receive([question("a", number) for number in range(50)], timeout=10)
        assert [answer_of(reply) for reply in replies] == [("a", number) for number in range(50)]


def test_a_message_that_times_out_while_it_is_written_does_not_damage_the_next() -> None:
    timed_out = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if number_in(message) == 1:
            timed_out.wait(10)  # meanwhile the hospital reads nothing
        return echo(message, context)

    with server() as (grid, address):
        LightHospital("a", address, answer)
        wait_for_hospitals(grid)
        grid.push_messages([question("a", 1)])
        large = question("a", 2)
        large.content.config_records["question"]["padding"] = bytes(16 * 1024 * 1024)
        assert grid.send_and_receive([large], timeout=0.1)[0].has_error()
        (key,) = grid.push_messages([question("a", 3)])
        timed_out.set()
        assert answer_of(await_reply(grid, key)) == ("a", 3)


@pytest.mark.usefixtures("server_identity")
def test_no_message_is_written_before_the_hospital_is_accepted() -> None:
    """gRPC loses a message that is written while initial metadata is being sent."""
    events: list[str] = []

    class SlowContext:
        async def send_initial_metadata(self, _: object) -> None:
            await asyncio.sleep(0.05)
            events.append("accepted")

        async def write(self, _: object) -> None:
            events.append("written")

    async def join() -> None:
        stream, message = Stream("a", "", SlowContext()), question("a")
        acceptance = asyncio.ensure_future(stream.accept())
        await asyncio.sleep(0.01)
        exchange = asyncio.ensure_future(stream.exchange("1", message, serialise_content(message.content)))
        await acceptance
        await asyncio.sleep(0.01)
        stream.fail("the test is over")
        await exchange

    asyncio.run(join())
    assert events == ["accepted", "written"]


def test_a_message_at_the_moment_of_joining_is_not_lost() -> None:
    with server() as (grid, address):
        for number in range(40):
            LightHospital(name := f"a{number}", address)
            while node_id_of(name) not in grid.get_node_ids():
                pass
            assert answer_of(grid.send_and_receive([question(name, number)], timeout=5)[0]) == (name, number)


def test_a_reply_is_an_error_when_its_stream_is_cut() -> None:
    started, cut = threading.Event(), threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if number_in(message) == 1:
            started.set()
            cut.wait(5)
        return echo(message, context)

    with server() as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, answer, wait=30.0)
        wait_for_hospitals(grid)
        (key,) = grid.push_messages([question("a", 1)])
        assert started.wait(5)
        proxy.cut(tell_server=False)
        cut.set()
        assert await_reply(grid, key).error.reason == "its connection was lost"
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)


def test_a_forgotten_reply_takes_no_memory_whether_it_has_arrived_or_not() -> None:
    with server() as (grid, address), RawHospital("a", address) as raw:
        wait_for_hospitals(grid)
        first, second = grid.push_messages([question("a", 1), question("a", 2)])
        raw.reply(raw.read())
        wait_until(lambda: grid._replies[first].done())
        grid.forget([first, second, "unknown"])
        assert grid._replies == {}
        assert grid.pull_messages([first, second]) == []
        raw.read()
        third = grid.push_messages([question("a", 3)])[0]
        raw.reply(raw.read())
        assert answer_of(await_reply(grid, third)) == ("raw", 1)


# Joining


@pytest.mark.parametrize("term", ["task", "column sex"])
def test_a_hospital_with_another_agreement_is_refused_with_the_difference_at_both_ends(term: str) -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        error = LightHospital("a", address, agreement={**AGREEMENT, term: "other"}).end()
        difference = find_difference({**AGREEMENT, term: "other"}, AGREEMENT)
        assert isinstance(error, JoinError)
        assert str(error) == f"{address}: {difference}"
        assert announcements == [f"rejected a: {difference} (from 127.0.0.1)"]
        assert grid.get_node_ids() == []


def test_an_agreement_on_hundreds_of_columns_is_transmitted() -> None:
    agreement = {f"column {number}": "a measurement of something: 0 to 100 units" for number in range(500)}
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, agreement, lambda _: None) as grid:
        hospital = LightHospital("a", address, agreement=agreement)
        wait_for_hospitals(grid)
    assert hospital.end() is None


@pytest.mark.usefixtures("gives_up_a_taken_name")
def test_a_second_hospital_under_a_connected_name_is_refused_and_the_first_stays() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        first = LightHospital("a", address)
        wait_for_hospitals(grid)
        error = LightHospital("a", address).end()
        assert isinstance(error, JoinError)
        assert "a is connected already" in str(error)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
    assert first.end() is None
    assert announcements[1].startswith("rejected a: ")


@pytest.mark.parametrize("name", ["", "federation", "Upper", "with space", "a" * 64, "[red]a[/red]", "-a"])
def test_a_name_that_no_hospital_may_have_is_refused(name: str) -> None:
    with server() as (grid, address):
        error = LightHospital(name, address).end()
        assert isinstance(error, JoinError)
        assert "lower-case letters, digits and hyphens" in str(error)
        assert grid.get_node_ids() == []


def test_a_hospital_waits_for_a_server_that_is_not_up_yet() -> None:
    port = free_port()
    hospital = LightHospital("a", f"127.0.0.1:{port}")
    wait_until(lambda: bool(hospital.announcements))
    assert "waiting up to 5 s" in hospital.announcements[0]
    with server(port=port) as (grid, _):
        wait_for_hospitals(grid)
    assert hospital.end() is None


def test_a_hospital_without_a_server_gives_up_after_the_wait() -> None:
    error = LightHospital("a", f"127.0.0.1:{free_port()}", wait=0.1).end()
    assert isinstance(error, JoinError)
    assert "no server within 0.1 s" in str(error)


def test_a_hospital_gives_up_after_the_wait_where_a_port_accepts_and_stays_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = LightHospital("a", f"127.0.0.1:{silent.getsockname()[1]}", wait=0.3).end()
    assert isinstance(error, JoinError)
    assert "no server within 0.3 s" in str(error)


def test_a_hospital_learns_that_the_server_stopped_early() -> None:
    def stop() -> None:
        with server() as (grid, address):
            hospitals.append(LightHospital("a", address))
            wait_for_hospitals(grid)
            raise KeyboardInterrupt

    hospitals: list[LightHospital] = []
    with pytest.raises(KeyboardInterrupt):
        stop()
    error = hospitals[0].end()
    assert isinstance(error, JoinError)
    assert "stopped before the end of the run" in str(error)


def test_a_hospital_waits_for_a_server_that_could_not_write_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(address: str) -> None:
        with serve_streams(address, AGREEMENT, lambda _: None) as grid:
            wait_for_hospitals(grid)
            raise StorageError("the disk is full")

    monkeypatch.setattr(backoff, "MAX_DELAY", 0.05)
    address = f"127.0.0.1:{free_port()}"
    hospital = LightHospital("a", address, wait=60.0)
    for _ in range(2):
        with pytest.raises(StorageError):
            stop(address)
    with serve_streams(address, AGREEMENT, lambda _: None) as grid:
        wait_for_hospitals(grid)
    assert hospital.end() is None


def test_the_wait_starts_anew_when_a_hospital_loses_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    elapsed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + elapsed, sleep=time.sleep)
    monkeypatch.setattr(reconnect, "time", clock)
    with server() as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, wait=30.0)
        wait_for_hospitals(grid)
        wait_until(lambda: len(hospital.announcements) == 1)
        elapsed = 3600.0
        proxy.cut()
        wait_until(lambda: len(hospital.announcements) == 2)
        assert "waiting up to 30 s" in hospital.announcements[1]
        assert hospital.error is None
        elapsed = 7200.0
        assert "no server within 30 s" in str(hospital.end())


@pytest.mark.usefixtures("gives_up_a_taken_name")
def test_a_hospital_reconnects_at_once_after_a_cut_that_the_server_has_not_noticed() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, wait=30.0)
        wait_for_hospitals(grid)
        proxy.cut(tell_server=False)
        wait_until(lambda: announcements[-1] == "a reconnected")
        assert answer_of(grid.send_and_receive([question("a", 9)], timeout=5)[0]) == ("a", 9)
        assert announcements == ["a joined", "a reconnected"]
        assert isinstance(LightHospital("a", address).end(), JoinError)  # another process under its name
        assert hospital.error is None


def test_each_process_of_a_hospital_has_its_own_token() -> None:
    with server() as (grid, address):
        tokens: list[str] = []
        for _ in range(2):
            with Proxy(address) as proxy:
                hospital = LightHospital("a", proxy.address, wait=0.1)
                wait_for_hospitals(grid)
                assert list(grid.processes()) == [node_id_of("a")]
                tokens += grid.processes().values()
                proxy.cut()
            assert isinstance(hospital.end(), JoinError)
            wait_until(lambda: not grid.get_node_ids())
        assert grid.processes() == {}
    assert len(set(tokens)) == 2


# Addresses and options


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_another_server_uses_is_refused(host: str) -> None:
    with (
        server() as (_, address),
        pytest.raises(AddressError, match="another server"),
        serve_streams(address.replace("127.0.0.1", host), AGREEMENT, lambda _: None),
    ):
        pass


def test_a_port_that_another_program_uses_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressError), serve_streams(address, AGREEMENT, lambda _: None):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "localhost:1", "[::1]:65535", "127.8.9.10:80"])
def test_loopback_needs_no_permission(address: str) -> None:
    check_address(address, insecure=False)


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "10.0.0.1:80", "[::]:80", "hospital.example:443"])
def test_other_addresses_need_encryption_or_permission(address: str) -> None:
    with pytest.raises(AddressError, match="not encrypted"):
        check_address(address, insecure=False)
    check_address(address, insecure=True)
    check_address(address, encrypted=True)


@pytest.mark.parametrize("address", ["", "8080", "localhost", ":8080", "localhost:", "localhost:0", "a:65536", "a:b"])
def test_an_address_without_host_or_valid_port_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected HOST:PORT"):
        check_address(address, encrypted=True, insecure=True)


def test_node_ids_depend_on_names_alone_and_fit_flowers_type() -> None:
    ids = [node_id_of(f"hospital-{i}") for i in range(1000)]
    assert len(set(ids)) == 1000
    assert all(1 < node < 2**63 for node in ids)
    assert ids == [node_id_of(f"hospital-{i}") for i in range(1000)]


def test_grpc_knows_the_names_of_all_channel_options() -> None:
    """gRPC ignores a misspelt option in silence, and would disconnect a hospital that is silent for a minute."""
    core = Path(cygrpc.__file__).read_bytes()
    assert [name for name, _ in listening.server_options(1) if name.encode() not in core] == []


def test_only_the_transport_and_superlink_import_flowers_internals() -> None:
    package = Path(__file__).parent.parent / "federated_health"
    internals = ("flwr.proto", "flwr.supercore", "flwr.common", "flwr.server.", "flwr.compat")
    users = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if any(f"from {name}" in path.read_text() or f"import {name}" in path.read_text() for name in internals)
    }
    assert {path for path in users if path.parts[0] != "transport"} == {Path("cli/deployment/superlink.py")}


# Hospitals that may not join

report_unfit = partial(unfit.report_unfit, ledger=UNWRITTEN)
REASON = "its column age holds a value that is not a number from 0 to 120 (years), or empty"
REFUSAL = f"rejected a: its own check failed: {REASON} (from 127.0.0.1)"


def test_a_report_ends_only_after_the_server_has_refused_the_hospital(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_slowly(agreement: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
        time.sleep(0.2)
        return find_difference(agreement, expected)

    monkeypatch.setattr(stream_server, "find_difference", find_slowly)
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        report_unfit("a", address, AGREEMENT, REASON)
        assert announcements == [REFUSAL]
        assert grid.get_node_ids() == []


def test_a_refused_hospital_joins_once_its_file_is_corrected() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        report_unfit("a", address, AGREEMENT, REASON)
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
    assert hospital.end() is None
    assert announcements[:2] == [REFUSAL, "a joined"]


def test_a_repeated_refusal_is_announced_once() -> None:
    announcements: list[str] = []
    with server(announcements) as (_, address):
        for reason in ("first", "first", "second", "second"):
            report_unfit("a", address, AGREEMENT, reason)
    assert [line.split()[-3] for line in announcements] == ["first", "second"]


def test_a_report_under_a_connected_name_does_not_affect_the_connected_hospital() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
        report_unfit("a", address, AGREEMENT, REASON)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
        assert announcements[0] == "a joined"
        assert announcements[1:] == ["rejected a: a hospital called a is connected already (from 127.0.0.1)"]
    assert hospital.end() is None


def test_another_agreement_is_announced_before_a_failed_data_check() -> None:
    announcements: list[str] = []
    with server(announcements) as (_, address):
        report_unfit("a", address, {**AGREEMENT, "task": "other"}, REASON)
    (line,) = announcements
    assert "task is other" in line
    assert REASON not in line


def test_a_report_without_a_server_ends_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    report_unfit("a", f"127.0.0.1:{free_port()}", AGREEMENT, REASON)
    assert capfd.readouterr() == ("", "")


def test_a_report_to_a_silent_port_ends_after_the_time_limit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unfit, "UNFIT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        report_unfit("a", f"127.0.0.1:{silent.getsockname()[1]}", AGREEMENT, REASON)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 No\r\n\r\n", b"\0" * 9000])
def test_a_report_to_a_port_of_another_program_ends_in_silence(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(unfit, "UNFIT_SECONDS", 1.0)

    def greet() -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller:
                    caller.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = threading.Thread(target=greet, daemon=True)
        program.start()
        report_unfit("a", f"127.0.0.1:{listener.getsockname()[1]}", AGREEMENT, REASON)
        listener.shutdown(socket.SHUT_RDWR)
        program.join(5)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_accepts_a_reporting_hospital_receives_nothing_from_it() -> None:
    with ScriptedServer(accepts=True, reads=True) as scripted:
        report_unfit("a", scripted.address, AGREEMENT, REASON)
        assert scripted.calls == 1
        assert scripted.received == []


# Metadata of any kind


def refusal_of(address: str, **metadata: str) -> tuple[StatusCode, str]:
    """Status and reason with which a server refuses a caller with this metadata."""
    metadata = {"hospital": "a", "terms": GOOD_TERMS, **metadata}
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=tuple(metadata.items()), timeout=5)
        return call.code(), call.details()


def terms_with(**entries: str) -> str:
    return write_agreement({"protocol": PROTOCOL, **AGREEMENT, **entries})


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("x" * 60_000, "x" * 500),
        ("", ""),
        ("[bold]a[/bold]", "[bold]a[/bold]"),
        ("%41%0A", "%41%0A"),
    ],
    ids=["huge", "empty", "markup", "percent"],
)
def test_a_reported_reason_is_announced_as_a_short_line(reason: str, shown: str) -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address):
        code, details = refusal_of(address, unfit=reason)
        assert code == StatusCode.FAILED_PRECONDITION
        assert details.partition("failed:")[2].strip() == shown
        assert announcements == [f"rejected a: {details} (from 127.0.0.1)"]
        assert grid.get_node_ids() == []


def test_too_much_metadata_ends_the_call_and_the_server_continues() -> None:
    with server() as (grid, address):
        code, _ = refusal_of(address, unfit="x" * 300_000)
        assert code == StatusCode.RESOURCE_EXHAUSTED
        wait_for_hospitals(grid, 0)  # gRPC drops what is too long, and then the call
        hospital = LightHospital("a", address)
        wait_for_hospitals(grid)
    assert hospital.end() is None


@pytest.fixture(scope="module")
def shared_server() -> Iterator[tuple[StreamTransport, str]]:
    """A server that refuses every caller of these tests."""
    with server() as grid_and_address:
        yield grid_and_address


@pytest.mark.parametrize(
    "terms",
    ["", "{", "[]", '{"task": 1}', "[" * 60_000, "x" * 70_000, '{"task": ' + "1" * 60_000 + "}"],
    ids=["empty", "cut off", "a list", "a number", "deep", "long", "many digits"],
)
def test_an_unreadable_agreement_is_refused(terms: str, shared_server: tuple[StreamTransport, str]) -> None:
    grid, address = shared_server
    code, details = refusal_of(address, terms=terms)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "agreement cannot be read" in details
    assert grid.get_node_ids() == []


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b[31m", "\u202e", "\x9b", "\ud800"])
def test_control_characters_in_an_agreement_reach_no_console(
    character: str, shared_server: tuple[StreamTransport, str]
) -> None:
    _, address = shared_server
    for terms in (terms_with(task=f"a{character}b"), terms_with(**{f"a{character}b": "c"})):
        code, details = refusal_of(address, terms=terms)
        assert code == StatusCode.FAILED_PRECONDITION
        assert details.isprintable()
        assert "a?" in details


@pytest.mark.parametrize("entry", [{"column age": "age: 0 to 12"}, {"": ""}, {"task ": "heart-disease"}])
def test_an_agreement_with_more_entries_than_the_server_s_is_refused(
    entry: dict[str, str], shared_server: tuple[StreamTransport, str]
) -> None:
    _, address = shared_server
    code, details = refusal_of(address, terms=terms_with(**entry))
    assert code == StatusCode.FAILED_PRECONDITION
    assert "not declared" in details


def test_a_huge_difference_is_refused_with_a_short_reason(shared_server: tuple[StreamTransport, str]) -> None:
    _, address = shared_server
    _, details = refusal_of(address, terms=terms_with(task="x" * 60_000))
    assert len(details) == 500
