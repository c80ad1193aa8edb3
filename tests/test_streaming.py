"""The stream with light hospitals: threads in this process instead of processes, and apps without Keras."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.transport_pb2 import ClientMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub
from grpc._cython import cygrpc

from federated_health.data.tasks import write_agreement
from federated_health.errors import AddressError, DataError, JoinError, StorageError
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security.identity import Identity
from federated_health.transport import listening, stream_client, stream_server
from federated_health.transport.channels import CHANNEL_OPTIONS, PROTOCOL, check_address, serialise_content
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import hospital_context
from federated_health.transport.stream import Stream
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import StreamTransport, serve_streams
from tests.support.wire import UNWRITTEN

TERMS = {"task": "heart-disease", "column sex": "sex: 0 female, 1 male"}
Answer = Callable[[Message, Context], Message]


def app_of(answer: Answer) -> ClientApp:
    app = ClientApp()
    app.query()(answer)
    return app


def echo(message: Message, context: Context) -> Message:
    """The number that came, and who answers."""
    number = message.content.config_records["question"]["number"]
    record = ConfigRecord({"number": number, "name": context.node_config["name"]})
    return Message(RecordDict({"answer": record}), reply_to=message)


def question(name: str, number: int = 0) -> Message:
    return Message(RecordDict({"question": ConfigRecord({"number": number})}), node_id_of(name), "query")


def answer_of(reply: Message) -> tuple[object, object]:
    record = reply.content.config_records["answer"]
    return record["name"], record["number"]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


class LightHospital:
    """A hospital in a thread. `error` is what its side of the stream ended in."""

    def __init__(
        self,
        name: str,
        address: str,
        answer: Answer = echo,
        agreement: dict[str, str] = TERMS,
        wait: float = 5.0,
        tls: Identity | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.words: list[str] = []
        self._run = partial(
            join_run,
            app_of(answer),
            hospital_context(name, {}),
            name=name,
            address=address,
            agreement=agreement,
            wait=wait,
            announce=self.words.append,
            prepare=lambda: None,
            ledger=UNWRITTEN,
            tls=tls,
        )
        self._thread = threading.Thread(target=self._join, daemon=True)
        self._thread.start()

    def _join(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def end(self) -> BaseException | None:
        self._thread.join(10.0)
        assert not self._thread.is_alive()
        return self.error


class Proxy:
    """Forwards bytes between hospitals and a server on loopback, until it is cut."""

    def __init__(self, target: str) -> None:
        self._target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows = threading.Event()
        self._flows.set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._flows.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends the wait in accept, where closing does not
        self._accepting.join(10)
        self._listener.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def cut(self, *, tell_server: bool = True) -> None:
        """Close the hospitals' ends; the server's ends stay open and silent unless it is told."""
        for hospital, server in self._pairs:
            hospital.shutdown(socket.SHUT_RDWR)
            if tell_server:
                server.shutdown(socket.SHUT_RDWR)
        if tell_server:
            self._listener.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Forward nothing and close nothing, as a network does that drops all; new connections say nothing, too."""
        self._flows.clear()

    def flow(self) -> None:
        """Forward again, and first what was held back."""
        self._flows.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                hospital, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    hospital.close()
                    continue
                self._pairs.append((hospital, server))
                threading.Thread(target=self._forward, args=(hospital, server), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, hospital), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                self._flows.wait()
                target.sendall(content)


@contextmanager
def server(
    words: list[str] | None = None, port: int | None = None, tls: Identity | None = None
) -> Iterator[tuple[StreamTransport, str]]:
    address = f"127.0.0.1:{port or free_port()}"
    with serve_streams(address, TERMS, (words if words is not None else []).append, tls=tls) as grid:
        yield grid, address


def test_each_hospital_gets_its_own_message_and_its_reply_comes_back() -> None:
    with server() as (grid, address):
        hospitals = [LightHospital(name, address) for name in ("a", "b", "c")]
        wait_until(lambda: len(grid.get_node_ids()) == 3)
        replies = grid.send_and_receive([question(name, i) for i, name in enumerate("abc")], timeout=5)
        assert [answer_of(reply) for reply in replies] == [("a", 0), ("b", 1), ("c", 2)]
        assert [reply.metadata.src_node_id for reply in replies] == [node_id_of(name) for name in "abc"]
    assert [hospital.end() for hospital in hospitals] == [None, None, None]


def test_replies_in_process_are_those_over_the_stream() -> None:
    grid = InProcessTransport(app_of(echo), {name: hospital_context(name, {}) for name in "ab"})
    assert [answer_of(reply) for reply in grid.send_and_receive([question("b", 7), question("a", 8)])] == [
        ("b", 7),
        ("a", 8),
    ]
    assert grid.send_and_receive([question("z")])[0].has_error()


def test_a_second_hospital_under_a_connected_name_is_refused_and_the_first_goes_on() -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        first = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        error = LightHospital("a", address, wait=0.5).end()
        assert isinstance(error, JoinError)
        assert "a hospital called a is connected already" in str(error)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
    assert first.end() is None
    assert any("refused a" in line for line in words)


@pytest.mark.parametrize("term", ["task", "column sex"])
def test_a_hospital_with_other_terms_is_refused_with_the_difference_at_both_ends(term: str) -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        error = LightHospital("a", address, agreement={**TERMS, term: "other"}).end()
        difference = f"the hospital's {term} is other; the server's is {TERMS[term]}"
        assert isinstance(error, JoinError)
        assert str(error) == f"{address}: {difference}"
        assert words == [f"refused a: {difference} (from 127.0.0.1)"]
        assert grid.get_node_ids() == []


def test_terms_of_a_task_with_hundreds_of_columns_arrive() -> None:
    agreement = {f"column {number}": "a measurement of something: 0 to 100 units" for number in range(500)}
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, agreement, lambda _: None) as grid:
        hospital = LightHospital("a", address, agreement=agreement)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
    assert hospital.end() is None


@pytest.mark.parametrize("agreement", ["", "{", "[]", '{"task": 1}', "[" * 60_000, "x" * 70_000])
def test_terms_that_cannot_be_read_are_refused(agreement: str) -> None:
    with server() as (grid, address), grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=(("hospital", "a"), ("terms", agreement)))
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == "the hospital's terms cannot be read"
        assert grid.get_node_ids() == []


def test_an_exception_at_a_hospital_is_an_error_reply_without_its_words() -> None:
    def fail(message: Message, context: Context) -> Message:
        number = message.content.config_records["question"]["number"]
        if number == 1:
            raise ValueError("cholesterol of Mrs Smith is 341")
        if number == 2:
            raise DataError("/home/smith.csv: the file is gone", reason="the file is gone")
        return echo(message, context)

    with server() as (grid, address):
        hospital = LightHospital("a", address, fail)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        replies = [grid.send_and_receive([question("a", number)], timeout=5)[0] for number in (1, 2, 3)]
        assert replies[0].error.reason == "ValueError at the hospital"
        assert replies[1].error.reason == "the file is gone"
        assert answer_of(replies[2]) == ("a", 3)
    assert hospital.end() is None


def test_a_late_reply_is_an_error_and_never_the_answer_to_the_next_message() -> None:
    slow = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["question"]["number"] == 1:
            slow.wait(5)
        return echo(message, context)

    with server() as (grid, address):
        LightHospital("a", address, answer)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        late = grid.send_and_receive([question("a", 1)], timeout=0.2)[0]
        assert "did not answer within 0.2 s" in str(late.error.reason)
        slow.set()
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)


def test_a_hospital_that_never_joined_costs_an_error_reply_only() -> None:
    with server() as (grid, address):
        LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        there, absent = grid.send_and_receive([question("a", 1), question("b", 2)], timeout=5)
        assert answer_of(there) == ("a", 1)
        assert absent.error.reason == "it is not connected"


def test_a_hospital_waits_for_a_server_that_is_not_up_yet() -> None:
    port = free_port()
    hospital = LightHospital("a", f"127.0.0.1:{port}")
    wait_until(lambda: bool(hospital.words))
    assert "waiting up to 5 s for the server" in hospital.words[0]
    with server(port=port) as (grid, _):
        wait_until(lambda: len(grid.get_node_ids()) == 1)
    assert hospital.end() is None


def test_no_server_within_the_wait_is_one_clear_line() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(JoinError, match=r"no server within 0\.1 s"):
        join_run(
            app_of(echo),
            hospital_context("a", {}),
            name="a",
            address=address,
            agreement=TERMS,
            wait=0.1,
            announce=lambda _: None,
            prepare=lambda: None,
            ledger=UNWRITTEN,
        )


def test_a_hospital_learns_that_the_server_stopped_early() -> None:
    def stop() -> None:
        with server() as (grid, address):
            hospitals.append(LightHospital("a", address))
            wait_until(lambda: len(grid.get_node_ids()) == 1)
            raise KeyboardInterrupt

    hospitals: list[LightHospital] = []
    with pytest.raises(KeyboardInterrupt):
        stop()
    error = hospitals[0].end()
    assert isinstance(error, JoinError)
    assert "the server stopped before the end of the run" in str(error)


def test_processes_of_one_hospital_are_told_apart() -> None:
    with server() as (grid, address):
        seen: list[str] = []
        for _ in range(2):
            with Proxy(address) as proxy:
                hospital = LightHospital("a", proxy.address, wait=0.1)
                wait_until(lambda: len(grid.get_node_ids()) == 1)
                assert list(grid.processes()) == [node_id_of("a")]
                seen += grid.processes().values()
                proxy.cut()
            assert isinstance(hospital.end(), JoinError)
            wait_until(lambda: not grid.get_node_ids())
        assert grid.processes() == {}
    assert len(set(seen)) == 2


def test_a_hospital_waits_for_a_server_that_could_not_write_its_files() -> None:
    def stop(address: str) -> None:
        with serve_streams(address, TERMS, lambda _: None) as grid:
            wait_until(lambda: len(grid.get_node_ids()) == 1)
            raise StorageError("the disk is full")

    address = f"127.0.0.1:{free_port()}"
    hospital = LightHospital("a", address, wait=60.0)
    for _ in range(2):
        with pytest.raises(StorageError):
            stop(address)
    with serve_streams(address, TERMS, lambda _: None) as grid:
        wait_until(lambda: len(grid.get_node_ids()) == 1)
    assert hospital.end() is None


def test_a_port_that_another_server_uses_is_refused() -> None:
    with (
        server() as (_, address),
        pytest.raises(AddressError, match="another server may be using"),
        serve_streams(address, TERMS, lambda _: None),
    ):
        pass


def test_a_port_that_another_program_uses_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AddressError), serve_streams(address, TERMS, lambda _: None):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "localhost:1", "[::1]:65535", "127.8.9.10:80"])
def test_loopback_needs_no_permission(address: str) -> None:
    check_address(address, insecure=False)


@pytest.mark.parametrize("address", ["0.0.0.0:8080", "10.0.0.1:80", "[::]:80", "hospital.example:443"])
def test_other_addresses_need_permission_since_nothing_is_encrypted(address: str) -> None:
    with pytest.raises(AddressError, match="not encrypted"):
        check_address(address, insecure=False)
    check_address(address, insecure=True)
    check_address(address, encrypted=True)


@pytest.mark.parametrize("address", ["", "8080", "localhost", ":8080", "localhost:", "localhost:0", "a:65536", "a:b"])
def test_what_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected HOST:PORT"):
        check_address(address, encrypted=True, insecure=True)


def test_node_ids_are_functions_of_names_and_fit_flowers_type() -> None:
    ids = [node_id_of(f"hospital-{i}") for i in range(1000)]
    assert len(set(ids)) == 1000
    assert all(1 < node < 2**63 for node in ids)
    assert node_id_of("cleveland") == node_id_of("cleveland")


def test_the_names_of_all_channel_options_are_known_to_grpc() -> None:
    """A misspelt option is ignored without a word, and a hospital that is silent for a minute would be cut off."""
    core = Path(cygrpc.__file__).read_bytes()
    assert [name for name, _ in listening.server_options(1) if name.encode() not in core] == []


def test_many_messages_at_once_to_one_hospital_are_all_answered() -> None:
    with server() as (grid, address):
        LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        replies = grid.send_and_receive([question("a", number) for number in range(50)], timeout=10)
        assert [answer_of(reply) for reply in replies] == [("a", number) for number in range(50)]


def test_a_message_that_was_given_up_while_it_was_written_does_not_spoil_the_next() -> None:
    busy = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["question"]["number"] == 1:
            busy.wait(10)  # meanwhile the hospital reads nothing
        return echo(message, context)

    with server() as (grid, address):
        LightHospital("a", address, answer)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        grid.push_messages([question("a", 1)])
        large = question("a", 2)
        large.content.config_records["question"]["padding"] = bytes(32 * 1024 * 1024)
        assert grid.send_and_receive([large], timeout=0.5)[0].has_error()
        threading.Timer(0.3, busy.set).start()
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=10)[0]) == ("a", 3)


def test_nothing_is_written_before_the_hospital_was_told_that_it_is_in() -> None:
    """gRPC loses a message that is written while initial metadata is being sent."""
    events: list[str] = []

    class SlowContext:
        async def send_initial_metadata(self, _: object) -> None:
            await asyncio.sleep(0.05)
            events.append("told")

        async def write(self, _: object) -> None:
            events.append("written")

    async def join() -> None:
        stream = Stream("a", "", SlowContext())
        telling = asyncio.ensure_future(stream.accept())
        await asyncio.sleep(0.01)
        asking = asyncio.ensure_future(stream.exchange("1", asked := question("a"), serialise_content(asked.content)))
        await telling
        await asyncio.sleep(0.01)
        stream.fail("enough")
        await asking

    InProcessTransport(app_of(echo), {})  # gives this process the identity that messages need
    asyncio.run(join())
    assert events == ["told", "written"]


def test_a_reply_in_another_hospitals_name_is_dropped() -> None:
    def pretend(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.metadata.__dict__["_src_node_id"] = node_id_of("b")
        return reply

    with server() as (grid, address):
        LightHospital("a", address, pretend)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert grid.send_and_receive([question("a")], timeout=0.5)[0].has_error()


def test_a_message_at_the_moment_of_joining_is_not_lost() -> None:
    with server() as (grid, address):
        for number in range(40):
            LightHospital(name := f"a{number}", address)
            while node_id_of(name) not in grid.get_node_ids():
                pass
            assert answer_of(grid.send_and_receive([question(name, number)], timeout=5)[0]) == (name, number)


def test_a_hospital_waits_anew_when_it_loses_its_server_however_long_ago_it_joined() -> None:
    with server() as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, wait=1.5)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        time.sleep(2.0)
        proxy.cut()
        wait_until(lambda: len(hospital.words) >= 2)
        assert "waiting up to 1.5 s" in hospital.words[1]


def test_a_hospital_comes_back_at_once_after_a_cut_that_the_server_has_not_noticed() -> None:
    words: list[str] = []
    with server(words) as (grid, address), Proxy(address) as proxy:
        hospital = LightHospital("a", proxy.address, wait=30.0)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        proxy.cut(tell_server=False)
        wait_until(lambda: words[-1] == "a came back")
        assert answer_of(grid.send_and_receive([question("a", 9)], timeout=5)[0]) == ("a", 9)
        assert words == ["a joined", "a came back"]
        assert isinstance(LightHospital("a", address, wait=0.5).end(), JoinError)  # another process under its name
        assert hospital.error is None


def test_a_reply_that_is_awaited_when_its_stream_is_cut_is_an_error() -> None:
    waiting = threading.Event()

    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["question"]["number"] == 1:
            waiting.wait(5)
        return echo(message, context)

    with server() as (grid, address), Proxy(address) as proxy:
        LightHospital("a", proxy.address, answer, wait=30.0)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        threading.Timer(0.3, proxy.cut, kwargs={"tell_server": False}).start()
        threading.Timer(0.6, waiting.set).start()
        assert grid.send_and_receive([question("a", 1)], timeout=10)[0].error.reason == "its connection was lost"
        assert answer_of(grid.send_and_receive([question("a", 2)], timeout=5)[0]) == ("a", 2)


@pytest.mark.parametrize("name", ["", "federation", "Upper", "with space", "a" * 64, "[red]a[/red]", "-a"])
def test_a_stranger_with_a_name_that_no_hospital_has_is_refused(name: str) -> None:
    with server() as (grid, address):
        error = LightHospital(name, address).end()
        assert isinstance(error, JoinError)
        assert "lower-case letters, digits and hyphens" in str(error)
        assert grid.get_node_ids() == []


@pytest.mark.parametrize("content", [b"\xff\xff\xff", ClientMessage().SerializeToString(), b"x" * 100_000])
def test_bytes_that_are_no_reply_end_the_wait_and_nothing_else(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with server() as (grid, address), grpc.insecure_channel(address) as channel:
        good = LightHospital("good", address)
        join = channel.stream_stream("/flwr.proto.FlowerService/Join")
        outbox: SimpleQueue[bytes | None] = SimpleQueue()
        call = join(
            iter(outbox.get, None),
            metadata=(("hospital", "bad"), ("terms", write_agreement({"protocol": PROTOCOL, **TERMS}))),
        )
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        threading.Timer(0.3, outbox.put, [content]).start()
        started = time.monotonic()
        bad, fine = grid.send_and_receive([question("bad"), question("good", 5)], timeout=10)
        assert bad.has_error()
        assert time.monotonic() - started < 5
        assert answer_of(fine) == ("good", 5)
        outbox.put(None)
        call.cancel()
    assert good.end() is None
    assert "Traceback" not in caplog.text


def test_a_listener_that_fails_does_not_leave_a_ghost() -> None:
    def fail(_: str) -> None:
        raise BrokenPipeError

    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, TERMS, fail) as grid:
        LightHospital("a", address, wait=0.5).end()
        assert grid.get_node_ids() == []


def test_localhost_and_127_0_0_1_are_one_port() -> None:
    with (
        server() as (_, address),
        pytest.raises(AddressError),
        serve_streams(address.replace("127.0.0.1", "localhost"), TERMS, lambda _: None),
    ):
        pass


def test_a_port_that_accepts_and_says_nothing_does_not_outlast_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        error = LightHospital("a", f"127.0.0.1:{silent.getsockname()[1]}", wait=1.0).end()
        assert time.monotonic() - started < 5
    assert "no server within 1 s" in str(error)


def test_an_app_that_returns_no_message_is_an_error_reply() -> None:
    def nothing(_message: Message, _context: Context) -> Message:
        return None  # type: ignore[return-value]  # that is the point

    grid = InProcessTransport(app_of(nothing), {"a": hospital_context("a", {})})
    assert grid.send_and_receive([question("a")])[0].error.reason == "TypeError at the hospital"


def test_only_the_transport_and_the_superlink_command_touch_flowers_internals() -> None:
    package = Path(__file__).parent.parent / "federated_health"
    internals = ("flwr.proto", "flwr.supercore", "flwr.common", "flwr.server.", "flwr.compat")
    users = {
        path.relative_to(package)
        for path in package.rglob("*.py")
        if any(f"from {name}" in path.read_text() or f"import {name}" in path.read_text() for name in internals)
    }
    assert {path for path in users if path.parts[0] != "transport"} == {Path("cli/deployment/superlink.py")}


# Hospitals that may not join

report_unfit = partial(stream_client.report_unfit, ledger=UNWRITTEN)
REASON = "its column age holds a value that is not a number from 0 to 120 (years), or empty"


def test_a_hospital_that_may_not_join_is_refused_in_its_own_words_and_never_connected() -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        started = time.monotonic()
        report_unfit("a", address, TERMS, REASON)
        assert time.monotonic() - started < 2
        assert words == [f"refused a: its own check says no: {REASON} (from 127.0.0.1)"]
        assert grid.get_node_ids() == []


def test_a_report_ends_when_the_server_has_heard_it_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_at_once = stream_server._Servicer._refuse

    def refuse_slowly(
        servicer: stream_server._Servicer, name: str, said: Mapping[str, str]
    ) -> tuple[grpc.StatusCode, str] | None:
        time.sleep(0.3)
        return refuse_at_once(servicer, name, said)

    monkeypatch.setattr(stream_server._Servicer, "_refuse", refuse_slowly)
    words: list[str] = []
    with server(words) as (_, address):
        started = time.monotonic()
        report_unfit("a", address, TERMS, REASON)
        assert time.monotonic() - started >= 0.3
        assert words == [f"refused a: its own check says no: {REASON} (from 127.0.0.1)"]


def test_a_hospital_that_was_refused_joins_once_its_file_is_put_right() -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        report_unfit("a", address, TERMS, REASON)
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
    assert hospital.end() is None
    assert words[:2] == [f"refused a: its own check says no: {REASON} (from 127.0.0.1)", "a joined"]


def test_a_refusal_that_is_repeated_is_told_once() -> None:
    words: list[str] = []
    with server(words) as (_, address):
        for reason in ("first", "first", "second", "second"):
            report_unfit("a", address, TERMS, reason)
    assert words == [f"refused a: its own check says no: {word} (from 127.0.0.1)" for word in ("first", "second")]


def test_a_report_under_a_connected_name_does_not_touch_the_hospital_that_has_it() -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
        report_unfit("a", address, TERMS, REASON)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
        assert words == ["a joined", "refused a: a hospital called a is connected already (from 127.0.0.1)"]
    assert hospital.end() is None


def test_other_terms_are_told_before_what_the_check_says() -> None:
    words: list[str] = []
    with server(words) as (_, address):
        report_unfit("a", address, {**TERMS, "task": "other"}, REASON)
    assert words == ["refused a: the hospital's task is other; the server's is heart-disease (from 127.0.0.1)"]


def test_without_a_server_a_report_ends_at_once_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    report_unfit("a", f"127.0.0.1:{free_port()}", TERMS, REASON)
    assert time.monotonic() - started < 2
    assert capfd.readouterr() == ("", "")


def test_a_port_that_says_nothing_holds_a_report_no_longer_than_three_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert stream_client.UNFIT_SECONDS <= 3
    monkeypatch.setattr(stream_client, "UNFIT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        report_unfit("a", f"127.0.0.1:{silent.getsockname()[1]}", TERMS, REASON)
        assert time.monotonic() - started < 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 No\r\n\r\n", b"\0" * 9000])
def test_a_port_where_something_else_listens_ends_a_report_in_silence(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stream_client, "UNFIT_SECONDS", 1.0)

    def greet() -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller:
                    caller.sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=greet, daemon=True)
        answering.start()
        started = time.monotonic()
        report_unfit("a", f"127.0.0.1:{listener.getsockname()[1]}", TERMS, REASON)
        assert time.monotonic() - started < 3
        listener.shutdown(socket.SHUT_RDWR)
        answering.join(5)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_would_take_the_hospital_all_the_same_gets_nothing_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that knows of no check: it sees a hospital that joins and leaves."""
    monkeypatch.setattr(stream_server._Servicer, "_refuse", lambda *_: None)
    words: list[str] = []
    with server(words) as (grid, address):
        started = time.monotonic()
        report_unfit("a", address, TERMS, REASON)
        assert time.monotonic() - started < 2
        wait_until(lambda: words == ["a joined", "a left"])
        assert grid.get_node_ids() == []


def report(address: str, **said: str) -> tuple[grpc.StatusCode, str]:
    """How a server refuses a stranger who says this."""
    metadata = {"hospital": "a", "terms": write_agreement({"protocol": PROTOCOL, **TERMS}), **said}
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=tuple(metadata.items()), timeout=5)
        return call.code(), call.details()


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
def test_what_a_stranger_says_of_itself_is_shown_as_a_short_line(reason: str, shown: str) -> None:
    words: list[str] = []
    with server(words) as (grid, address):
        code, details = report(address, unfit=reason)
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert details.strip() == f"its own check says no: {shown}".strip()
        assert words == [f"refused a: {details} (from 127.0.0.1)"]
        assert grid.get_node_ids() == []


def test_more_metadata_than_may_be_sent_ends_the_call_and_the_server_goes_on() -> None:
    with server() as (grid, address):
        code, _ = report(address, unfit="x" * 300_000)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        wait_until(lambda: grid.get_node_ids() == [])  # gRPC drops what is too long, and then the call
        hospital = LightHospital("a", address)
        wait_until(lambda: len(grid.get_node_ids()) == 1)
    assert hospital.end() is None


def refuse(**said: str) -> tuple[grpc.StatusCode, str] | None:
    """How a server answers metadata that gRPC's own client would not send."""

    async def ask() -> tuple[grpc.StatusCode, str] | None:
        servicer = stream_server._Servicer({"protocol": PROTOCOL, **TERMS}, lambda _: None)
        return servicer._refuse(said.get("hospital", "a"), said)

    return asyncio.run(ask())


GOOD_TERMS = write_agreement({"protocol": PROTOCOL, **TERMS})


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b[31m", "\u202e", "\x9b", "\ud800"])
def test_control_characters_of_a_stranger_reach_no_console(character: str) -> None:
    assert refuse(terms=GOOD_TERMS) is None
    for said in (
        {"unfit": f"a{character}b", "terms": GOOD_TERMS},
        {"terms": write_agreement({"protocol": PROTOCOL, **TERMS, "task": f"a{character}b"})},
        {"terms": write_agreement({"protocol": PROTOCOL, **TERMS, f"a{character}b": "c"})},
    ):
        refusal = refuse(**said)
        assert refusal is not None
        assert refusal[1].isprintable()
        assert "a?" in refusal[1]
        refusal[1].encode()


@pytest.mark.parametrize("more", [{"column age": "age: 0 to 12"}, {"": ""}, {"task ": "heart-disease"}])
def test_terms_that_add_to_the_server_s_are_others(more: dict[str, str]) -> None:
    refusal = refuse(terms=write_agreement({"protocol": PROTOCOL, **TERMS, **more}))
    assert refusal is not None
    assert refusal[0] == grpc.StatusCode.FAILED_PRECONDITION
    assert refusal[1].endswith("the server's is not declared")


def test_terms_with_a_huge_difference_are_refused_in_a_line() -> None:
    refusal = refuse(terms=write_agreement({"protocol": PROTOCOL, **TERMS, "task": "x" * 60_000}))
    assert refusal is not None
    assert len(refusal[1]) == 500


def test_a_number_with_very_many_digits_is_no_term() -> None:
    refusal = refuse(terms='{"task": ' + "1" * 60_000 + "}")
    assert refusal == (grpc.StatusCode.INVALID_ARGUMENT, "the hospital's terms cannot be read")
