"""The egress ledger: its lines, what is on the wire beside it, and that what cannot be recorded does not leave."""

import json
import os
import re
import resource
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated_health.errors import LedgerError
from federated_health.hospital.ledger import Ledger, describe
from federated_health.names import node_id_of
from federated_health.processes import free_port, process
from federated_health.transport import stream_client
from federated_health.transport.channels import MAX_REPLY_BYTES
from federated_health.transport.interface import hospital_context
from federated_health.transport.stream_client import join_run, report_unfit
from federated_health.transport.stream_server import StreamTransport, serve_streams
from tests.conftest import PROJECT
from tests.support.wire import Wire, assert_is_in_ledger, digest, read_lines

TERMS = {"task": "heart-disease", "column sex": "sex: 0 female, 1 male"}
SECRET = "Zqxj"

pytestmark = pytest.mark.usefixtures("server_identity")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.beside(tmp_path / "a.csv", "a")


def question(kind: str = "train", number: int | None = None, **config: Any) -> Message:
    if number is not None:
        config["server-round"] = number
    return Message(RecordDict({"config": ConfigRecord(config)}), node_id_of("a"), kind)


def answer_to(asked: Message, **records: Any) -> Message:
    return Message(RecordDict(records), reply_to=asked)


def record(ledger: Ledger, asked: Message, reply: Message) -> dict[str, Any]:
    ledger.record_reply(asked, reply, b"envelope", b"content")
    return read_lines(ledger.path)[-1]


# Lines


def test_a_line_of_metadata_to_the_letter(ledger: Ledger) -> None:
    before = datetime.now(UTC)
    ledger.record_metadata("join", [("hospital", "a"), ("terms", "{}")])
    (line,) = read_lines(ledger.path)
    written = datetime.fromisoformat(line.pop("time"))
    assert written.utcoffset() is not None
    assert -0.001 <= (written - before).total_seconds() < 60
    item = {"record": "metadata", "shape": [], "dtype": "text"}
    assert line == {
        "hospital": "a",
        "kind": "join",
        "round": None,
        "bytes": len(b"hospital: a\nterms: {}"),
        "sha256": digest(b"hospital: a\nterms: {}"),
        "records": [
            # printf a | sha256sum; printf {} | sha256sum
            item
            | {
                "name": "hospital",
                "bytes": 1,
                "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
            },
            item
            | {
                "name": "terms",
                "bytes": 2,
                "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            },
        ],
    }
    assert ledger.path.name == "egress-a.jsonl"
    assert re.search(rb'^{"time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"', ledger.path.read_bytes())


@pytest.mark.parametrize(
    ("value", "shape", "dtype", "content"),
    [
        (7, (), "int64", struct.pack("<q", 7)),
        (-1, (), "int64", b"\xff" * 8),
        (0.5, (), "float64", struct.pack("<d", 0.5)),
        (True, (), "bool", b"\x01"),
        ("é", (), "text", b"\xc3\xa9"),
        (b"\x00\x01", (), "bytes", b"\x00\x01"),
        ([1, 2, 3], (3,), "int64", struct.pack("<3q", 1, 2, 3)),
        ([0.5, 1.5], (2,), "float64", struct.pack("<2d", 0.5, 1.5)),
        ([], (0,), "float64", b""),
        ([True, False], (2,), "bool", b"\x01\x00"),
        (["a", "b"], (2,), "text", b"a\nb"),
        ([b"a", b"b"], (2,), "bytes", b"a\nb"),
        (2**63, (), "uint64", struct.pack("<Q", 2**63)),
    ],
)
def test_a_config_value_by_its_type(value: Any, shape: tuple[int, ...], dtype: str, content: bytes) -> None:
    (item,) = describe(answer_to(question(), given=ConfigRecord({"one": value})))
    assert item == {
        "record": "given",
        "name": "one",
        "shape": shape,
        "dtype": dtype,
        "bytes": len(content),
        "sha256": digest(content),
    }


def test_arrays_are_hashed_as_numpys_own_bytes() -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    bias = np.array([1, 2], dtype=">i2")
    scalar = np.array(3.0)
    arrays = ArrayRecord({name: Array(one) for name, one in (("k", kernel), ("b", bias), ("s", scalar))})
    items = describe(answer_to(question(), arrays=arrays))
    assert [(item["record"], item["name"], item["shape"], item["dtype"]) for item in items] == [
        ("arrays", "k", (2, 3), "float32"),
        ("arrays", "b", (2,), "int16"),
        ("arrays", "s", (), "float64"),
    ]
    assert [(item["bytes"], item["sha256"]) for item in items] == [
        (array.nbytes, digest(array.tobytes())) for array in (kernel, bias, scalar)
    ]


def test_bytes_behind_an_array_are_counted_with_it() -> None:
    array = Array(np.zeros(2, dtype=np.float32))
    hidden = Array(dtype="float32", shape=(2,), stype=array.stype, data=array.data + SECRET.encode())
    (item,) = describe(answer_to(question(), arrays=ArrayRecord({"k": hidden})))
    assert (item["bytes"], item["sha256"]) == (12, digest(bytes(8) + SECRET.encode()))


@pytest.mark.parametrize("data", [b"", b"tensor", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x03\x00\x01\x00\x00\x00 "])
def test_an_array_that_is_not_numpys_is_hashed_whole(data: bytes) -> None:
    array = Array(dtype="float16", shape=(3,), stype="other", data=data)
    (item,) = describe(answer_to(question(), arrays=ArrayRecord({"k": array})))
    assert (item["shape"], item["dtype"], item["bytes"], item["sha256"]) == ((3,), "float16", len(data), digest(data))


def test_an_error_reply_keeps_its_kind_and_has_its_reason(ledger: Ledger) -> None:
    asked = question("evaluate.final", 3)
    line = record(ledger, asked, Message(Error(4, "its CSV is gone"), reply_to=asked))
    assert (line["kind"], line["round"]) == ("evaluate.final", 3)
    assert [(one["record"], one["name"], one["bytes"], one["sha256"]) for one in line["records"]] == [
        ("error", "code", 8, digest(struct.pack("<q", 4))),
        ("error", "reason", 15, digest(b"its CSV is gone")),
        ("envelope", "metadata", 8, digest(b"envelope")),
    ]


@pytest.mark.parametrize(
    ("config", "expected"), [({"server-round": 5}, 5), ({}, None), ({"server-round": "5"}, None), ({"round": 5}, None)]
)
def test_the_round_is_the_questions(config: dict[str, Any], expected: int | None, ledger: Ledger) -> None:
    asked = question(**config)
    own = ConfigRecord({"server-round": 9})
    assert record(ledger, asked, answer_to(asked, config=own))["round"] == expected


def test_a_question_without_instructions_has_no_round(ledger: Ledger) -> None:
    asked = Message(RecordDict({}), node_id_of("a"), "query.statistics")
    assert record(ledger, asked, answer_to(asked))["round"] is None


def test_no_value_stands_in_the_ledger(ledger: Ledger) -> None:
    asked = question()
    ledger.record_metadata("unfit", [("unfit", SECRET)])
    record(ledger, asked, Message(Error(4, SECRET), reply_to=asked))
    values = MetricRecord({"count": 86753, "sum": [86753.09]})
    record(ledger, asked, answer_to(asked, metrics=values, config=ConfigRecord({"word": SECRET})))
    ledger.record_reply(asked, answer_to(asked), SECRET.encode(), SECRET.encode())
    text = ledger.path.read_text()
    assert len(text.splitlines()) == 4
    assert SECRET not in text
    assert "86753" not in text


# The file


def test_a_new_ledger_is_for_its_owner_only_and_an_old_one_grows(ledger: Ledger) -> None:
    before = os.umask(0)
    try:
        ledger.record_metadata("join", [("hospital", "a")])
    finally:
        os.umask(before)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    first = ledger.path.read_bytes()
    Ledger(ledger.path, "a").record_metadata("join", [("hospital", "a")])
    assert ledger.path.read_bytes().startswith(first)
    assert len(read_lines(ledger.path)) == 2


def test_a_ledger_that_was_moved_away_is_begun_anew(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record_metadata("join", [("hospital", "a")])
    ledger.path.rename(tmp_path / "old")
    ledger.record_metadata("join", [("hospital", "a")])
    assert len(read_lines(ledger.path)) == len(read_lines(tmp_path / "old")) == 1


@pytest.mark.parametrize("tail", [b'{"time":"2026', b'{"time":"2026\0\0\0', b"\0\0"])
def test_a_line_behind_one_that_was_cut_off_begins_anew(tail: bytes, ledger: Ledger) -> None:
    ledger.record_metadata("join", [("hospital", "a")])
    with ledger.path.open("ab") as file:
        file.write(tail)
    ledger.record_metadata("join", [("hospital", "b")])
    first, torn, last = ledger.path.read_bytes().splitlines()
    assert torn == tail
    assert json.loads(first)["sha256"] == digest(b"hospital: a")
    assert json.loads(last)["sha256"] == digest(b"hospital: b")


@pytest.mark.parametrize("content", [b"age,sex\n63,1\n", b"x", b"\n\0{}\n", b'{"time":', b"\0\0", b"\n", b'{"ti\0\0\n'])
def test_what_is_no_ledger_is_not_added_to(content: bytes, ledger: Ledger) -> None:
    ledger.path.write_bytes(content)
    if b'"ti' in content or not content.strip(b"\0\n"):  # cut off, as a ledger's first line may be
        ledger.record_metadata("join", [("hospital", "a")])
        assert json.loads(ledger.path.read_bytes().splitlines()[-1])["kind"] == "join"
        return
    with pytest.raises(LedgerError) as caught:
        ledger.record_metadata("join", [("hospital", "a")])
    assert str(caught.value) == f"{ledger.path}: is not an egress ledger, and is not added to: move it elsewhere"
    assert ledger.path.read_bytes() == content


def test_a_line_is_on_disk_when_it_counts_as_recorded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fsync(number: int) -> None:
        seen.append((os.fstat(number).st_ino == ledger.path.stat().st_ino, len(read_lines(ledger.path))))

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):
        ledger.record_metadata("join", [("hospital", "a")])
    assert seen == [(True, 1), (True, 2)]


def test_several_writers_of_one_ledger_write_whole_lines(tmp_path: Path) -> None:
    def write(name: str) -> None:
        mine = Ledger(tmp_path / "ledger", name)
        for number in range(100):
            mine.record_metadata("join", [("number", str(number)), *[("padding", "x")] * 100])

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    text = (tmp_path / "ledger").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line]  # who saw half of another's line began a new one
    for name in "abcd":
        numbers = [line["records"][0]["sha256"] for line in lines if line["hospital"] == name]
        assert numbers == [digest(str(number).encode()) for number in range(100)]


def fill_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert monkeypatch
    path.symlink_to("/dev/full")
    return "No space left on device"


def fill_disk_half_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A write that has room for some of its bytes only."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    wrapped = Ledger._append

    def append(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        try:
            wrapped(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not path.exists()
    monkeypatch.setattr(Ledger, "_append", append)
    return "No space left on device"


def take_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert monkeypatch
    path.mkdir()
    return "Is a directory"


def forbid_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As in a folder that is read-only, which nothing is for root."""
    wrapped = os.open

    def open_(name: Any, flags: int, mode: int = 0o777) -> int:
        if Path(name) == path and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return wrapped(name, flags, mode)

    monkeypatch.setattr(os, "open", open_)
    return "Permission denied"


def lay_pipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert monkeypatch
    os.mkfifo(path)
    return "Illegal seek"


Obstacle = Callable[[Path, pytest.MonkeyPatch], str]
OBSTACLES: list[Obstacle] = [fill_disk, fill_disk_half_way, take_name, forbid_writing, lay_pipe]


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_cannot_be_written_is_one_clear_line(
    obstacle: Obstacle, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = obstacle(ledger.path, monkeypatch)
    with pytest.raises(LedgerError) as caught:
        ledger.record_metadata("join", [("hospital", "a")])
    assert (
        str(caught.value) == f"{ledger.path}: cannot be written to ({reason}); what cannot be recorded does not leave"
    )
    assert caught.value.exit_code == 1


# The one way out


class FakeChannel:
    """Takes what would leave; with the number of lines in the ledger at the moment when gRPC gets it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.taken: list[tuple[int, Any]] = []

    def stream_stream(self, method: str, response_deserializer: Any) -> Callable[..., None]:
        assert method == "/flwr.proto.FlowerService/Join"
        assert response_deserializer
        return self._begin

    def _begin(self, messages: Iterator[bytes], metadata: Any, timeout: float | None) -> None:
        assert timeout is None
        self.take(metadata)
        self.messages = messages

    def take(self, content: Any) -> None:
        lines = read_lines(self._ledger.path) if self._ledger.path.is_file() else []
        self.taken.append((len(lines), content))


class WatchedQueue:
    """In place of the stream's queue of replies, from which gRPC's own thread may take at once."""

    def __init__(self, channel: FakeChannel) -> None:
        self._channel = channel

    def put(self, content: bytes | None) -> None:
        if content is not None:
            self._channel.take(content)

    def get(self) -> None:
        raise AssertionError


def test_a_line_is_there_before_grpc_gets_the_bytes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = FakeChannel(ledger)
    monkeypatch.setattr(stream_client, "SimpleQueue", lambda: WatchedQueue(channel))
    stream = stream_client._HospitalStream(channel, ledger)
    metadata = (("hospital", "a"),)
    stream.begin("join", metadata)
    for number in (1, 2):
        asked = question("train", number)
        stream.send(asked, answer_to(asked, metrics=MetricRecord({"number": number})), MAX_REPLY_BYTES)
    stream.close()
    assert [lines for lines, _ in channel.taken] == [1, 2, 3]
    assert channel.taken[0][1] == metadata
    assert_is_in_ledger([b"hospital: a", *(content for _, content in channel.taken[1:])], read_lines(ledger.path))


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_cannot_be_recorded_does_not_leave(
    obstacle: Obstacle, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = FakeChannel(ledger)
    monkeypatch.setattr(stream_client, "SimpleQueue", lambda: WatchedQueue(channel))
    obstacle(ledger.path, monkeypatch)
    stream = stream_client._HospitalStream(channel, ledger)
    with pytest.raises(LedgerError):
        stream.begin("join", (("hospital", "a"),))
    with pytest.raises(LedgerError):
        stream.send(question(), answer_to(question()), MAX_REPLY_BYTES)
    assert channel.taken == []


def test_nothing_else_in_the_package_opens_a_way_out() -> None:
    ways = re.compile(r"FlowerServiceStub|\.(stream|unary)_(stream|unary)\(|import (urllib|requests|httpx)")
    modules = [*(PROJECT / "federated_health").rglob("*.py"), PROJECT / "client.py"]
    assert [path.name for path in modules if ways.search(path.read_text())] == ["stream_client.py"]


# On the wire


def app_of(answer: Callable[[Message, Context], Message]) -> ClientApp:
    app = ClientApp()
    app.query()(answer)
    app.train()(answer)
    return app


def train(message: Message, _context: Context) -> Message:
    """A reply with something of every type, which differs from round to round."""
    number = int(str(message.content.config_records["config"].get("server-round", 0)))
    if number == 13:
        raise ValueError(SECRET)
    weights = {"hidden/kernel": np.full((3, 2), number, np.float32), "hidden/bias": np.arange(2, dtype=np.float32)}
    several = ConfigRecord({"raw": b"\x00", "flag": True, "words": ["a", "b"], "whole": [number], "none": []})
    metrics = MetricRecord({"num-examples": number, "train-loss": number / 7, "cells": [0.5, float(number)]})
    arrays = ArrayRecord({name: Array(one) for name, one in weights.items()})
    return Message(
        RecordDict({"arrays": arrays, "metrics": metrics, "hospital": several}),
        reply_to=message,
    )


@contextmanager
def wired() -> Iterator[tuple[StreamTransport, Wire, list[str]]]:
    """A server, and a wire to it that keeps what passes."""
    words: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with Wire(address) as wire, serve_streams(address, TERMS, words.append) as grid:
        yield grid, wire, words


class Hospital(threading.Thread):
    """A light hospital with a ledger. `error` is what its side of the stream ended in."""

    def __init__(self, address: str, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._address, self._ledger = address, ledger
        self.start()

    def run(self) -> None:
        try:
            join_run(
                app_of(train),
                hospital_context("a", {}),
                name="a",
                address=self._address,
                agreement=TERMS,
                wait=20.0,
                announce=lambda _: None,
                prepare=lambda: None,
                ledger=self._ledger,
            )
        except Exception as error:
            self.error = error

    def end(self) -> Exception | None:
        self.join(20.0)
        assert not self.is_alive()
        return self.error


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def ask(grid: StreamTransport, *rounds: int) -> list[Message]:
    wait_until(lambda: len(grid.get_node_ids()) == 1)
    return [grid.send_and_receive([question("train", number)], timeout=10)[0] for number in rounds]


def test_all_that_a_hospital_sends_is_in_its_ledger_in_the_same_order(ledger: Ledger) -> None:
    with wired() as (grid, wire, _):
        hospital = Hospital(wire.address, ledger)
        assert not any(reply.has_error() for reply in ask(grid, 1, 2, 3))
        grid.send_and_receive([question("query")], timeout=10)
    assert hospital.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [(line["kind"], line["round"]) for line in lines] == [
        ("join", None),
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("query", None),
    ]
    second = {one["name"]: one for one in lines[2]["records"]}
    kernel = np.full((3, 2), 2, np.float32)
    assert second["hidden/kernel"]["sha256"] == digest(kernel.tobytes())
    assert (second["hidden/kernel"]["shape"], second["hidden/kernel"]["dtype"]) == ([3, 2], "float32")


def test_an_error_that_leaves_is_in_the_ledger(ledger: Ledger) -> None:
    with wired() as (grid, wire, _):
        hospital = Hospital(wire.address, ledger)
        assert [reply.has_error() for reply in ask(grid, 1, 13, 2)] == [False, True, False]
    assert hospital.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [one["name"] for one in lines[2]["records"]] == ["code", "reason", "metadata"]
    assert lines[2]["records"][1]["sha256"] == digest(b"ValueError at the hospital")


def test_a_hospital_that_comes_back_records_that_it_joins_again(ledger: Ledger) -> None:
    with wired() as (grid, wire, words):
        hospital = Hospital(wire.address, ledger)
        ask(grid, 1)
        wire.cut()
        wait_until(lambda: sum(word in ("a joined", "a reconnected") for word in words) == 2)
        ask(grid, 2)
    assert hospital.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [line["kind"] for line in lines] == ["join", "train", "join", "train"]
    assert lines[0]["sha256"] == lines[2]["sha256"]  # the same process, which its token says


def test_a_refused_hospital_has_recorded_what_it_said(ledger: Ledger) -> None:
    with wired() as (_, wire, _words):
        join = Hospital(wire.address, ledger)
        wait_until(lambda: len(wire.sent_by("a")) == 1)
        report_unfit("a", wire.address, {**TERMS, "task": "other"}, "its CSV is empty", ledger)
    assert join.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [line["kind"] for line in lines] == ["join", "unfit"]
    assert [one["name"] for one in lines[1]["records"]] == ["hospital", "terms", "unfit"]
    assert lines[1]["records"][2]["sha256"] == digest(b"its CSV is empty")


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_hospital_without_a_ledger_never_joins_and_says_nothing(
    obstacle: Obstacle, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstacle(ledger.path, monkeypatch)
    with wired() as (_, wire, words):
        assert isinstance(Hospital(wire.address, ledger).end(), LedgerError)
        with pytest.raises(LedgerError):
            report_unfit("a", wire.address, TERMS, "its CSV is empty", ledger)
    assert wire.sent_by("a") == []
    assert words == []


def test_a_disk_that_fills_up_ends_the_hospital_before_its_next_reply_leaves(ledger: Ledger, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with wired() as (grid, wire, words):
        hospital = Hospital(wire.address, ledger)
        ask(grid, 1)
        ledger.path.rename(kept)
        ledger.path.symlink_to("/dev/full")
        (reply,) = ask(grid, 2)
        assert (reply.error.reason or "").startswith("its connection was lost")
        error = hospital.end()
        wait_until(lambda: words[-1] == "a left")
    assert isinstance(error, LedgerError)
    assert "No space left on device" in str(error)
    assert_is_in_ledger(wire.sent_by("a"), read_lines(kept))


LIGHT_HOSPITAL = """
import sys
from federated_health.hospital.ledger import Ledger
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_ledger import Hospital
print(Hospital(sys.argv[2], Ledger(Path(sys.argv[3]), "a")).end())
"""


@pytest.mark.slow
def test_what_a_hospital_sent_before_kill_9_is_in_its_ledger(ledger: Ledger, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with wired() as (grid, wire, words):
        for lives in range(1, 4):
            command = [sys.executable, "-c", LIGHT_HOSPITAL, str(PROJECT), wire.address, str(ledger.path)]
            with process(command, log=log) as hospital:
                wait_until(lambda count=lives: words.count("a joined") == count, 60)  # type: ignore[misc]
                grid.push_messages([question("train", number) for number in range(1, 200)])
                before = len(wire.sent_by("a"))
                wait_until(lambda least=before + 10 * lives: len(wire.sent_by("a")) >= least)  # type: ignore[misc]
                hospital.kill()
                hospital.wait()
            wait_until(lambda count=lives: words.count("a left") == count)  # type: ignore[misc]
    lines = read_lines(ledger.path)  # none is cut off
    sent_and_recorded = {one["sha256"]: one for one in lines}
    sent = [digest(content) for content in wire.sent_by("a")]
    assert len(sent) > 60
    assert [one for one in sent if one not in sent_and_recorded] == []
    recorded = iter(line["sha256"] for line in lines)
    assert all(one in recorded for one in sent)  # in the same order
    assert len({line["records"][2]["sha256"] for line in lines if line["kind"] == "join"}) == 3
