"""Liveness by bytes: slow links carry every message, and a peer that sends nothing is given up."""

import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from federated_health.messages.records import NumpyArray
from federated_health.names import node_id_of
from federated_health.transport import backoff, channels, obstacles
from federated_health.transport.liveness import Traffic, count_received
from tests.support.slow_proxy import SlowProxy
from tests.support.streams import LightHospital, answer_of, await_reply, server, wait_for_hospitals, wait_until

KEEPALIVE = 1.0

SIZES_AND_RATES = [(60_000, 12_000), (132_000, 25_000), (500_000, 100_000), (5_000_000, 1_000_000)]
"""Bytes and bytes per second; each message takes 5 seconds, and a ping behind it as long."""


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends close a connection after 2 seconds of silence instead of 40."""
    monkeypatch.setattr(channels, "KEEPALIVE_SECONDS", KEEPALIVE)
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", channels.channel_options(KEEPALIVE))
    monkeypatch.setattr(obstacles, "PREFLIGHT_SECONDS", 0.2)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.1)


def content_of(size: int) -> RecordDict:
    """A question of about this many bytes, which are no easier to send than others."""
    array = NumpyArray(np.random.default_rng(size).random(size // 4).astype("<f4"))
    return RecordDict({"question": ConfigRecord({"number": size}), "weights": ArrayRecord({"w": array})})


def answer_at_length(message: Message, context: Context) -> Message:
    """Answer with the name and the message's own number; with as many bytes as the message asks for."""
    size = int(str(message.content.config_records["question"]["number"]))
    content = content_of(size) if "weights" not in message.content else RecordDict()
    content["answer"] = ConfigRecord({"number": size, "name": context.node_config["name"]})
    return Message(content, reply_to=message)


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_messages_arrive_over_links_that_need_longer_than_the_keepalive() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address), ExitStack() as stack:
        names, questions = [], []
        for size, rate in SIZES_AND_RATES:
            for way in ("down", "up"):
                names.append(f"{way}-{rate}")
                proxy = stack.enter_context(SlowProxy(address, rate))
                LightHospital(names[-1], proxy.address, answer_at_length, wait=30.0)
                short = RecordDict({"question": ConfigRecord({"number": size})})
                content = content_of(size) if way == "down" else short
                questions.append(Message(content, node_id_of(names[-1]), "query"))
        wait_for_hospitals(grid, len(names))
        replies = grid.send_and_receive(questions, timeout=60)
        assert sorted(str(answer_of(reply)[0]) for reply in replies) == sorted(names)
        assert sorted(announcements) == sorted(f"{name} joined" for name in names)  # and none left or reconnected


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_a_link_that_is_cut_in_the_middle_of_a_slow_message_is_noticed() -> None:
    announcements: list[str] = []
    with server(announcements) as (grid, address), SlowProxy(address, 50_000) as proxy:
        hospital = LightHospital("a", proxy.address, answer_at_length, wait=30.0)
        wait_for_hospitals(grid)
        (key,) = grid.push_messages([Message(content_of(500_000), node_id_of("a"), "query")])
        time.sleep(2 * KEEPALIVE)
        assert announcements == ["a joined"]
        proxy.stall()
        assert "connection was lost" in str(await_reply(grid, key).error.reason)
        wait_until(lambda: any("waiting" in line for line in hospital.announcements))


# The parts


def name_of(end: socket.socket) -> tuple[str, int]:
    """Address and port of an end of a connection."""
    host, port, *_ = end.getsockname()
    return host, port


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_received_bytes_are_counted_per_connection(host: str, family: socket.AddressFamily) -> None:
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as first,
        listener.accept()[0] as accepted,
    ):
        first.sendall(bytes(1000))
        wait_until(lambda: count_received()[name_of(first)] == 1000)
        assert count_received()[name_of(listener)] == 0  # what the other end has received
        first.sendall(bytes(1))
        assert accepted.recv(2000)  # the connections are still open


def test_silence_counts_from_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    traffic, silences = Traffic(), []
    for now, received in ((100, 0), (110, 0), (120, 7), (125, 7), (129, 7), (130, 8), (131, 8)):  # noqa: B007
        traffic.look(received, 0)
        silences.append(traffic.silence)
    assert silences == [0, 0, 0, 5, 9, 0, 1]  # none before there is a connection


def test_a_signal_is_needed_while_a_message_keeps_arriving_and_nothing_is_sent() -> None:
    traffic, needed = Traffic(), []
    for received, sent in ((1000, 0), (1000, 0), (2000, 0), (2040, 0), (3000, 0), (4000, 1), (5000, 1), (5000, 1)):
        traffic.look(received, sent)
        needed.append(traffic.needs_signal)
    assert needed == [False, False, True, False, True, False, True, False]


def test_without_counting_grpc_waits_for_the_answer_to_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    options = dict(channels.channel_options(20.0))
    assert options["grpc.http2.ping_timeout_ms"] == (3_600_000 if channels.CAN_COUNT else 20_000)
    monkeypatch.setattr(channels, "CAN_COUNT", False)
    assert dict(channels.channel_options(20.0))["grpc.http2.ping_timeout_ms"] == 20_000
