"""Connections to the server's port without a hospital: they keep no hospital out, and cost no hospital its stream."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from federated_health.transport import (
    backoff,
    channels,
    connection_limits,
    connections,
    listening,
    rejections,
    stream_server,
)
from federated_health.transport.channels import CHANNEL_OPTIONS
from federated_health.transport.connection_limits import Connection, ConnectionLimits
from federated_health.transport.connections import peer_of
from federated_health.transport.stream_server import StreamTransport
from tests.support.identities import DemoIdentities
from tests.support.streams import (
    LightHospital,
    answer_of,
    question,
    server,
    wait_for_hospitals,
    wait_until,
)

pytestmark = pytest.mark.skipif(not Path(channels.OPEN_FILES).is_dir(), reason="needs /proc/self/fd")

ROOM = 40
"""Number of connections that the servers of these tests can hold open."""

MAX_OPENED = 20_000
"""Largest number of connections that one attack opens."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    half = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


class Attack:
    """Holds more connections than the server can, and opens each that is closed again at once.

    Args:
        first: bytes that each sends.

    Attributes:
        opened: number of connections that were opened so far.
    """

    def __init__(self, address: str, first: bytes = b"", source: str = "127.0.0.1") -> None:
        host, port = address.split(":")
        self.opened = 0
        self._target, self._first, self._source = (host, int(port)), first, source
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Attack":
        self._thread.start()
        wait_until(lambda: self.opened > 3 * ROOM)  # some were closed and opened again
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        held: list[socket.socket] = []
        while not self._ends.is_set() and self.opened < MAX_OPENED:
            for connection in list(held):
                if self._is_closed(connection):
                    connection.close()
                    held.remove(connection)
            while len(held) < ROOM + 10:
                held.append(self._open())
            time.sleep(0.01)
        for connection in held:
            connection.close()

    def _open(self) -> socket.socket:
        connection = socket.create_connection(self._target, timeout=10, source_address=(self._source, 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no port stays in use
        connection.setblocking(False)
        with suppress(OSError):
            connection.send(self._first)
        self.opened += 1
        return connection

    @staticmethod
    def _is_closed(connection: socket.socket) -> bool:
        try:
            while connection.recv(4096):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def all_answer(grid: StreamTransport, names: tuple[str, ...]) -> bool:
    """Whether these hospitals answer. One whose connection was closed just before it joined connects once more."""
    replies = grid.send_and_receive([question(name, 1) for name in names], timeout=20)
    return [not reply.has_error() and answer_of(reply) for reply in replies] == [(name, 1) for name in names]


@pytest.fixture
def small_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers with little room, which always look at their connections."""
    for module in (listening, stream_server):
        monkeypatch.setattr(module, "max_connections", lambda: ROOM)
    monkeypatch.setattr(listening, "OTHER_FILES", 0)
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.3)


ATTACKS = {
    "idle": b"",
    "half a preface": PREFACE[:10],
    "no call": PREFACE,
    "slow metadata": PREFACE + b"\0\0\x20\x01\0\0\0\0\x01\x82",
}


@pytest.mark.usefixtures("small_port")
@pytest.mark.parametrize("first", ATTACKS.values(), ids=list(ATTACKS))
def test_hospitals_join_a_port_whose_connections_are_all_taken(first: bytes) -> None:
    lines: list[str] = []
    with server(lines) as (grid, address):
        early = LightHospital("early", address)
        wait_for_hospitals(grid)
        with Attack(address, first):
            late = [LightHospital(name, address, wait=60) for name in ("a", "b", "c")]
            wait_until(lambda: all_answer(grid, ("early", "a", "b", "c")), 60)
        assert not {"early left", "early reconnected"} & set(lines)
    assert [hospital.end() for hospital in (early, *late)] == [None] * 4
    notes = [line for line in lines if line.startswith("the port has")]
    assert len(notes) == 1
    assert "from 127.0.0.1: closed the oldest" in notes[0]


@pytest.mark.usefixtures("small_port")
@pytest.mark.parametrize("first", [client_hello(), client_hello()[:50]], ids=["handshake", "half a hello"])
def test_certified_hospitals_join_a_port_whose_connections_are_all_taken(first: bytes, tmp_path: Path) -> None:
    federation = DemoIdentities(tmp_path / "tls")
    lines: list[str] = []
    with server(lines, tls=federation.server) as (grid, address), Attack(address, first):
        hospitals = [LightHospital(name, address, wait=60, tls=tls) for name, tls in federation.hospitals.items()]
        wait_until(lambda: all_answer(grid, ("a", "b")), 60)
    assert [hospital.end() for hospital in hospitals] == [None] * 2
    assert any(line.startswith("the port has") for line in lines)


def test_a_connection_whose_calls_are_rejected_again_and_again_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.05)
    ready, states = grpc.ChannelConnectivity.READY, list[grpc.ChannelConnectivity]()
    with server() as (grid, address):
        hospital = LightHospital("b", address)
        wait_for_hospitals(grid)
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            channel.subscribe(states.append)
            join = channel.stream_stream(f"/{stream_server.SERVICE}/Join")

            def call_again() -> bool:
                """Whether the channel has connected once more."""
                join(iter(()), metadata=(("hospital", ""),), wait_for_ready=True).code()
                return states.count(ready) > 1

            for _ in range(rejections.MAX_CALLS - 1):
                call_again()
            time.sleep(0.2)
            assert not call_again()
            wait_until(call_again)
        assert answer_of(grid.send_and_receive([question("b", 1)], timeout=20)[0]) == ("b", 1)
    assert hospital.end() is None


# A port without gRPC


class Port:
    """A listening port and its accepted connections, in the order in which they were opened."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=100)
        self.number: int = self.listener.getsockname()[1]
        self.host = host
        self.lines: list[str] = []
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def open(self, source: str = "") -> str:
        """Open a connection from an address of this machine, and return gRPC's text for its peer."""
        source = source or self.host
        near = socket.create_connection((self.host, self.number), timeout=10, source_address=(source, 0))
        far, (address, port, *_) = self.listener.accept()
        self.pairs.append((near, far))
        return f"ipv6:%5B{address}%5D:{port}" if ":" in address else f"ipv4:{address}:{port}"

    def limits(self, room: int) -> ConnectionLimits:
        return ConnectionLimits(self.number, room, self.lines.append)

    def open_now(self) -> list[int]:
        """Numbers of the connections that the server has not closed."""
        return [number for number, (near, _) in enumerate(self.pairs) if not self._has_ended(near)]

    @staticmethod
    def _has_ended(near: socket.socket) -> bool:
        near.setblocking(False)
        try:
            return near.recv(1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        for pair in self.pairs:
            for end in pair:
                end.close()
        self.listener.close()


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


def test_connections_without_a_hospital_take_half_of_the_room_that_hospitals_leave(port: Port) -> None:
    joined = [port.open() for _ in range(2)]
    limits = port.limits(12)
    for _ in range(5):
        port.open()
    assert not limits.close_excess(joined)
    assert port.open_now() == list(range(7))  # 5 of (12 - 2) / 2
    assert port.lines == []
    port.open()
    assert limits.close_excess(joined)
    assert port.open_now() == [0, 1, 3, 4, 5, 6, 7]
    (line,) = port.lines
    assert "8 of at most 12 connections; 6 have no hospital, 6 of these from 127.0.0.1: closed the oldest 1" in line


def test_the_address_with_the_most_connections_loses_them_first_and_its_oldest_before_others(port: Port) -> None:
    limits = port.limits(8)
    port.open("127.0.0.3")
    for _ in range(5):
        port.open("127.0.0.2")
        limits.close_excess([])
    assert port.open_now() == [0, 3, 4, 5]
    assert "from 127.0.0.2" in port.lines[0]


def test_the_oldest_are_closed_where_each_has_an_address_of_its_own(port: Port) -> None:
    limits = port.limits(6)
    for number in range(5):
        port.open(f"127.0.0.{number + 2}")
        limits.close_excess([])
    assert port.open_now() == [2, 3, 4]


def test_new_connections_outlive_those_of_the_previous_check(port: Port) -> None:
    limits = port.limits(20)
    for _ in range(10):
        port.open()
    limits.close_excess([])
    for _ in range(10):
        port.open()
    limits.close_excess([])
    assert port.open_now() == list(range(10, 20))


def test_a_connection_on_which_no_hospital_joins_in_time_is_closed(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limits = port.limits(100)
    joined, _ = [port.open(), port.open()]
    limits.close_excess([joined])
    now += connection_limits.JOIN_SECONDS
    port.open()
    limits.close_excess([joined])
    assert port.open_now() == [0, 1, 2]
    now += 0.1
    limits.close_excess([joined])
    assert port.open_now() == [0, 2]
    limits.close_excess([])  # its hospital left just now: its time begins anew
    assert port.open_now() == [0, 2]


def test_only_the_connections_of_a_peer_are_closed_and_other_files_never(port: Port, tmp_path: Path) -> None:
    first, second = port.open(), port.open()
    left, right = socket.socketpair()
    with left, right, (tmp_path / "file").open("w") as file, Port("127.0.0.2").listener as other:
        limits = port.limits(100)
        limits.close_excess([second], [first])
        assert port.open_now() == [1]
        limits.close_excess([second])
        assert port.open_now() == [1]
        left.send(b"x")
        assert right.recv(1) == b"x"
        file.write("x")
        file.flush()
        socket.create_connection(other.getsockname(), timeout=10).close()
    port.limits(0).close_excess([])
    assert port.open_now() == []


def test_a_reused_file_is_not_closed_in_place_of_the_earlier_connection(port: Port) -> None:
    port.open()
    limits = port.limits(100)
    (connection,) = limits._connections()
    for end in port.pairs.pop():
        end.close()
    port.open()
    number = port.pairs[0][1].fileno()
    connection_limits._close(connection._replace(file=number))
    assert port.open_now() == [0]


def test_connections_over_ipv6_are_recognised() -> None:
    try:
        port = Port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    joined = port.open()
    port.open()
    port.limits(1).close_excess([joined])
    assert port.open_now() == [0]
    port.close()


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("ipv4:10.0.0.7:54321", ("10.0.0.7", 54321)),
        ("ipv6:%5B::1%5D:80", ("::1", 80)),
        ("ipv6:%5B::ffff:10.0.0.7%5D:80", ("10.0.0.7", 80)),
        ("ipv6:[fe80::1%25eth0]:80", ("fe80::1%eth0", 80)),
        ("unix:/tmp/socket", ("", 0)),
        ("", ("", 0)),
    ],
)
def test_grpc_s_text_for_a_peer_is_read(text: str, peer: tuple[str, int]) -> None:
    assert peer_of(text) == peer


def test_addresses_of_one_ipv6_network_count_together() -> None:
    networks = [
        Connection(1, 1, (f"{address}", 1)).network for address in ("2001:db8::1", "2001:db8::2:3", "2001:db9::1")
    ]
    assert networks[0] == networks[1] != networks[2]
    assert Connection(1, 1, ("fe80::1%eth0", 1)).network == socket.inet_pton(socket.AF_INET6, "fe80::")[:8]
    assert Connection(1, 1, ("10.0.0.7", 1)).network == "10.0.0.7"


def test_a_system_without_a_list_of_open_files_closes_nothing(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (listening, connections):
        monkeypatch.setattr(module, "OPEN_FILES", "/no/such/folder")
    monkeypatch.setattr(listening, "OTHER_FILES", 0)
    peer = port.open()
    assert not listening.has_strangers(0, 1)
    port.limits(0).close_excess([], [peer])
    assert port.open_now() == [0]


@pytest.mark.parametrize(("room", "threshold"), [(2500, 100), (200, 70), (50, 32), (1, 20)])
def test_many_open_files_besides_those_of_hospitals_are_noticed(
    room: int, threshold: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(listening, "OPEN_FILES", str(tmp_path))
    for number in range(threshold + 5):
        (tmp_path / str(number)).touch()
    assert not listening.has_strangers(5, room)
    assert listening.has_strangers(4, room)
