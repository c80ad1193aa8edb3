"""The stream with light hospitals: threads in this process instead of processes, and apps without Keras."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federated_health.demo import free_port
from federated_health.errors import AddressError, DataError, JoinError
from federated_health.streaming import (
    InProcessGrid,
    StreamGrid,
    check_address,
    hospital_context,
    join_federation,
    node_id_of,
    serve_streams,
)

TERMS = {"task": "heart-disease", "schema": "abc"}
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

    def __init__(self, name: str, address: str, answer: Answer = echo, terms: dict[str, str] = TERMS) -> None:
        self.error: BaseException | None = None
        self.words: list[str] = []
        self._run = partial(
            join_federation,
            app_of(answer),
            hospital_context(name, {}),
            name=name,
            address=address,
            terms=terms,
            wait=5.0,
            announce=self.words.append,
            prepare=lambda: None,
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


@contextmanager
def server(words: list[str] | None = None, port: int | None = None) -> Iterator[tuple[StreamGrid, str]]:
    address = f"127.0.0.1:{port or free_port()}"
    with serve_streams(address, TERMS, (words if words is not None else []).append) as grid:
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
    grid = InProcessGrid(app_of(echo), {name: hospital_context(name, {}) for name in "ab"})
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
        error = LightHospital("a", address).end()
        assert isinstance(error, JoinError)
        assert "a hospital called a is connected already" in str(error)
        assert answer_of(grid.send_and_receive([question("a", 3)], timeout=5)[0]) == ("a", 3)
    assert first.end() is None
    assert any("refused a" in line for line in words)


@pytest.mark.parametrize("term", ["task", "schema"])
def test_a_hospital_with_other_terms_is_refused_with_their_name(term: str) -> None:
    with server() as (grid, address):
        error = LightHospital("a", address, terms={**TERMS, term: "other"}).end()
        assert isinstance(error, JoinError)
        assert f"its {term} is other, the server's is {TERMS[term]}" in str(error)
        assert grid.get_node_ids() == []


def test_an_exception_at_a_hospital_is_an_error_reply_without_its_words() -> None:
    def fail(message: Message, context: Context) -> Message:
        number = message.content.config_records["question"]["number"]
        if number == 1:
            raise ValueError("cholesterol of Mrs Smith is 341")
        if number == 2:
            raise DataError("the file is gone")
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
        join_federation(
            app_of(echo),
            hospital_context("a", {}),
            name="a",
            address=address,
            terms=TERMS,
            wait=0.1,
            announce=lambda _: None,
            prepare=lambda: None,
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


@pytest.mark.parametrize("address", ["", "8080", "localhost", ":8080", "localhost:", "localhost:0", "a:65536", "a:b"])
def test_what_is_not_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected HOST:PORT"):
        check_address(address, insecure=True)


def test_node_ids_are_functions_of_names_and_fit_flowers_type() -> None:
    ids = [node_id_of(f"hospital-{i}") for i in range(1000)]
    assert len(set(ids)) == 1000
    assert all(1 < node < 2**63 for node in ids)
    assert node_id_of("cleveland") == node_id_of("cleveland")


def test_only_this_module_touches_flowers_internals() -> None:
    package = Path(__file__).parent.parent / "federated_health"
    internals = ("flwr.proto", "flwr.supercore", "flwr.common", "flwr.server.", "flwr.compat")
    guilty = [
        path.name
        for path in package.glob("*.py")
        if any(f"from {name}" in path.read_text() or f"import {name}" in path.read_text() for name in internals)
    ]
    assert guilty == ["streaming.py"]
