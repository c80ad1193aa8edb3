"""The egress ledger: its lines, compared with the bytes on the wire; nothing leaves that cannot be recorded."""

import hashlib
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
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated_health.errors import LedgerError
from federated_health.file_access import append
from federated_health.hospital.ledger import Ledger, describe
from federated_health.messages.records import NumpyArray, weights_to_record
from federated_health.names import node_id_of
from federated_health.processes import free_port, process
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import StreamTransport, serve_streams
from federated_health.transport.unfit import report_unfit
from tests.conftest import PROJECT
from tests.support.wire import Wire, assert_is_in_ledger, digest, read_lines

TERMS = {"task": "heart-disease", "column sex": "sex: 0 female, 1 male"}
SECRET = "Zqxj"

pytestmark = pytest.mark.usefixtures("server_identity")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.beside(tmp_path / "a.csv", "a")


def message_of(kind: str = "train", number: int | None = None, **config: Any) -> Message:
    if number is not None:
        config["server-round"] = number
    return Message(RecordDict({"config": ConfigRecord(config)}), node_id_of("a"), kind)


def reply_to(message: Message, **records: Any) -> Message:
    return Message(RecordDict(records), reply_to=message)


def record(ledger: Ledger, message: Message, reply: Message) -> dict[str, Any]:
    ledger.record_reply(message, reply, b"envelope", b"content")
    return read_lines(ledger.path)[-1]


# Lines


def test_a_line_of_metadata_holds_hashes_and_a_time_in_utc(ledger: Ledger) -> None:
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


def test_a_line_names_the_suppressed_releases_and_the_reason(ledger: Ledger) -> None:
    message = message_of()
    suppressed = ConfigRecord({"scores": "too few patients in a cell"})
    line = record(ledger, message, reply_to(message, metrics=MetricRecord(), disclosure=suppressed))
    assert line["disclosure"] == {"scores": "too few patients in a cell"}
    assert "disclosure" not in record(ledger, message, reply_to(message, metrics=MetricRecord({"a": 1})))
    failed = Message(Error(0, "x"), reply_to=message)
    assert "disclosure" not in record(ledger, message, failed)


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
def test_config_values_are_described_by_type(value: Any, shape: tuple[int, ...], dtype: str, content: bytes) -> None:
    (item,) = describe(reply_to(message_of(), given=ConfigRecord({"value": value})))
    assert item == {
        "record": "given",
        "name": "value",
        "shape": shape,
        "dtype": dtype,
        "bytes": len(content),
        "sha256": digest(content),
    }


def test_arrays_are_hashed_as_the_bytes_of_their_elements() -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    bias = np.array([1, 2], dtype=">i2")
    scalar = np.array(3.0)
    arrays = ArrayRecord({"k": Array(kernel), "b": Array(bias), "s": Array(scalar)})
    items = describe(reply_to(message_of(), arrays=arrays))
    assert [(item["record"], item["name"], item["shape"], item["dtype"]) for item in items] == [
        ("arrays", "k", (2, 3), "float32"),
        ("arrays", "b", (2,), "int16"),
        ("arrays", "s", (), "float64"),
    ]
    assert [(item["bytes"], item["sha256"]) for item in items] == [
        (array.nbytes, digest(array.tobytes())) for array in (kernel, bias, scalar)
    ]


def test_the_hash_of_a_reply_covers_the_arrays_that_follow_its_header(ledger: Ledger) -> None:
    message = message_of()
    first, second = (NumpyArray(np.full(size, size, np.float32)) for size in (3, 5))
    ledger.record_reply(message, reply_to(message), b"envelope", b"header", [first, second])
    (line,) = read_lines(ledger.path)
    digests = [hashlib.sha256(struct.pack(f"<{size}f", *[size] * size)).digest() for size in (3, 5)]
    assert line["bytes"] == len(b"header") + 4 * (3 + 5)
    assert line["sha256"] == digest(b"header" + digests[0] + digests[1])


def test_bytes_hidden_after_an_array_are_counted_with_it() -> None:
    array = Array(np.zeros(2, dtype=np.float32))
    hidden = Array(dtype="float32", shape=(2,), stype=array.stype, data=array.data + SECRET.encode())
    (item,) = describe(reply_to(message_of(), arrays=ArrayRecord({"k": hidden})))
    assert (item["bytes"], item["sha256"]) == (12, digest(bytes(8) + SECRET.encode()))


@pytest.mark.parametrize("data", [b"", b"tensor", b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x03\x00\x01\x00\x00\x00 "])
def test_an_array_in_another_format_is_hashed_whole(data: bytes) -> None:
    array = Array(dtype="float16", shape=(3,), stype="other", data=data)
    (item,) = describe(reply_to(message_of(), arrays=ArrayRecord({"k": array})))
    assert (item["shape"], item["dtype"], item["bytes"], item["sha256"]) == ((3,), "float16", len(data), digest(data))


def test_an_error_reply_is_recorded_with_its_kind_and_reason(ledger: Ledger) -> None:
    message = message_of("evaluate.final", 3)
    line = record(ledger, message, Message(Error(4, "its CSV is gone"), reply_to=message))
    assert (line["kind"], line["round"]) == ("evaluate.final", 3)
    assert [(item["record"], item["name"], item["bytes"], item["sha256"]) for item in line["records"]] == [
        ("error", "code", 8, digest(struct.pack("<q", 4))),
        ("error", "reason", 15, digest(b"its CSV is gone")),
        ("envelope", "metadata", 8, digest(b"envelope")),
    ]


@pytest.mark.parametrize(
    ("config", "expected"), [({"server-round": 5}, 5), ({}, None), ({"server-round": "5"}, None), ({"round": 5}, None)]
)
def test_the_round_is_that_of_the_server_s_message(
    config: dict[str, Any], expected: int | None, ledger: Ledger
) -> None:
    message = message_of(**config)
    own = ConfigRecord({"server-round": 9})
    assert record(ledger, message, reply_to(message, config=own))["round"] == expected


def test_a_message_without_a_config_has_no_round(ledger: Ledger) -> None:
    message = Message(RecordDict({}), node_id_of("a"), "query.statistics")
    assert record(ledger, message, reply_to(message))["round"] is None


def test_the_ledger_holds_no_value(ledger: Ledger) -> None:
    message = message_of()
    ledger.record_metadata("unfit", [("unfit", SECRET)])
    record(ledger, message, Message(Error(4, SECRET), reply_to=message))
    values = MetricRecord({"count": 86753, "sum": [86753.09]})
    record(ledger, message, reply_to(message, metrics=values, config=ConfigRecord({"word": SECRET})))
    ledger.record_reply(message, reply_to(message), SECRET.encode(), SECRET.encode())
    text = ledger.path.read_text()
    assert len(text.splitlines()) == 4
    assert SECRET not in text
    assert "86753" not in text


# The file


def test_a_new_ledger_can_be_read_by_its_owner_only_and_an_old_one_grows(ledger: Ledger) -> None:
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


def test_a_ledger_that_was_moved_away_starts_again(ledger: Ledger, tmp_path: Path) -> None:
    ledger.record_metadata("join", [("hospital", "a")])
    ledger.path.rename(tmp_path / "old")
    ledger.record_metadata("join", [("hospital", "a")])
    assert len(read_lines(ledger.path)) == len(read_lines(tmp_path / "old")) == 1


@pytest.mark.parametrize("tail", [b'{"time":"2026', b'{"time":"2026\0\0\0', b"\0\0"])
def test_a_line_after_an_incomplete_one_starts_on_a_line_of_its_own(tail: bytes, ledger: Ledger) -> None:
    ledger.record_metadata("join", [("hospital", "a")])
    with ledger.path.open("ab") as file:
        file.write(tail)
    ledger.record_metadata("join", [("hospital", "b")])
    first, torn, last = ledger.path.read_bytes().splitlines()
    assert torn == tail
    assert json.loads(first)["sha256"] == digest(b"hospital: a")
    assert json.loads(last)["sha256"] == digest(b"hospital: b")


@pytest.mark.parametrize("content", [b"age,sex\n63,1\n", b"x", b"\n\0{}\n", b'{"time":', b"\0\0", b"\n", b'{"ti\0\0\n'])
def test_nothing_is_added_to_a_file_that_is_not_a_ledger(content: bytes, ledger: Ledger) -> None:
    ledger.path.write_bytes(content)
    if b'"ti' in content or not content.strip(b"\0\n"):  # cut off, as a ledger's first line may be
        ledger.record_metadata("join", [("hospital", "a")])
        assert json.loads(ledger.path.read_bytes().splitlines()[-1])["kind"] == "join"
        return
    with pytest.raises(LedgerError, match="not an egress ledger"):
        ledger.record_metadata("join", [("hospital", "a")])
    assert ledger.path.read_bytes() == content


def test_each_line_is_synchronised_with_the_disk(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fsync(number: int) -> None:
        calls.append((os.fstat(number).st_ino == ledger.path.stat().st_ino, len(read_lines(ledger.path))))

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):
        ledger.record_metadata("join", [("hospital", "a")])
    assert calls == [(False, 0), (True, 1), (True, 2)]  # the folder, which lists the new file, and each line


def test_several_writers_of_one_ledger_write_whole_lines(tmp_path: Path) -> None:
    def write(name: str) -> None:
        ledger = Ledger(tmp_path / "ledger", name)
        for number in range(100):
            ledger.record_metadata("join", [("number", str(number)), *[("padding", "x")] * 100])

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    text = (tmp_path / "ledger").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line]  # blank where a writer saw half of another's line
    for name in "abcd":
        numbers = [line["records"][0]["sha256"] for line in lines if line["hospital"] == name]
        assert numbers == [digest(str(number).encode()) for number in range(100)]


def fill_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert monkeypatch
    path.symlink_to("/dev/full")
    return "No space left on device"


def fill_disk_half_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A write for which there is room for some of its bytes only."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def append_half(file: FileIO, content: bytes) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
        try:
            append(file, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert not path.exists()
    monkeypatch.setattr("federated_health.hospital.ledger.append", append_half)
    return "No space left on device"


def take_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    assert monkeypatch
    path.mkdir()
    return "Is a directory"


def forbid_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As in a read-only folder; root may write to any."""
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
def test_a_line_that_cannot_be_written_is_a_ledger_error(
    obstacle: Obstacle, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = obstacle(ledger.path, monkeypatch)
    with pytest.raises(LedgerError, match=rf"{re.escape(str(ledger.path))}: .*\({reason}\)") as raised:
        ledger.record_metadata("join", [("hospital", "a")])
    assert raised.value.exit_code == 1


# The only way out


def test_no_other_module_of_the_package_opens_a_connection() -> None:
    ways = re.compile(r"FlowerServiceStub|\.(stream|unary)_(stream|unary)\(|import (urllib|requests|httpx)")
    modules = [*(PROJECT / "federated_health").rglob("*.py"), PROJECT / "client.py"]
    assert [path.name for path in modules if ways.search(path.read_text())] == ["stream_client.py"]


# On the wire


def app_of(handler: Callable[[Message, Context], Message]) -> ClientApp:
    app = ClientApp()
    app.query()(handler)
    app.train()(handler)
    return app


def train(message: Message, _context: Context) -> Message:
    """A reply with a value of every type, different in every round."""
    number = int(str(message.content.config_records["config"].get("server-round", 0)))
    if number == 13:
        raise ValueError(SECRET)
    weights = {"hidden/kernel": np.full((3, 2), number, np.float32), "hidden/bias": np.arange(2, dtype=np.float32)}
    several = ConfigRecord({"raw": b"\x00", "flag": True, "words": ["a", "b"], "whole": [number], "none": []})
    metrics = MetricRecord({"num-examples": number, "train-loss": number / 7, "cells": [0.5, float(number)]})
    content = RecordDict({"numpy": ArrayRecord({name: Array(array) for name, array in weights.items()})})
    content["metrics"], content["hospital"] = metrics, several
    large = np.random.default_rng(number).standard_normal((400, 500)).astype(np.float32)
    if message.content.config_records["config"].get("large"):
        weights = {"large": large, **weights, "transposed": large.T}
    content["arrays"] = weights_to_record(weights)
    return Message(content, reply_to=message)


@contextmanager
def wired() -> Iterator[tuple[StreamTransport, Wire, list[str]]]:
    """A server, a proxy that keeps what passes, and the lines that the server announces."""
    lines: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with Wire(address) as wire, serve_streams(address, TERMS, lines.append) as grid:
        yield grid, wire, lines


class Hospital(threading.Thread):
    """A light hospital with a ledger. `error` is the exception that ended its side of the stream."""

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
    return [grid.send_and_receive([message_of("train", number, large=True)], timeout=10)[0] for number in rounds]


def test_the_ledger_holds_everything_that_a_hospital_sends_in_order(ledger: Ledger) -> None:
    with wired() as (grid, wire, _):
        hospital = Hospital(wire.address, ledger)
        assert not any(reply.has_error() for reply in ask(grid, 1, 2, 3))
        grid.send_and_receive([message_of("query")], timeout=10)
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
    second = {item["name"]: item for item in lines[2]["records"]}
    kernel = np.full((3, 2), 2, np.float32)
    assert second["hidden/kernel"]["sha256"] == digest(kernel.tobytes())
    assert (second["hidden/kernel"]["shape"], second["hidden/kernel"]["dtype"]) == ([3, 2], "float32")


def test_metadata_and_replies_are_recorded_before_they_leave(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording is slowed down, so that a message sent at the same time would arrive before its line is written."""

    def delay(record: Callable[..., None]) -> Callable[..., None]:
        def record_late(*arguments: Any) -> None:
            time.sleep(0.05)
            record(*arguments)

        return record_late

    for name in ("record_metadata", "record_reply"):
        monkeypatch.setattr(Ledger, name, delay(getattr(Ledger, name)))
    with wired() as (grid, wire, _):
        hospital = Hospital(wire.address, ledger)
        wait_until(lambda: bool(wire.sent_by("a")))
        assert_is_in_ledger(wire.sent_by("a"), read_lines(ledger.path))
        for number in (1, 2):
            ask(grid, number)
            assert_is_in_ledger(wire.sent_by("a"), read_lines(ledger.path))
    assert hospital.end() is None


def test_an_error_reply_is_in_the_ledger(ledger: Ledger) -> None:
    with wired() as (grid, wire, _):
        hospital = Hospital(wire.address, ledger)
        assert [reply.has_error() for reply in ask(grid, 1, 13, 2)] == [False, True, False]
    assert hospital.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [item["name"] for item in lines[2]["records"]] == ["code", "reason", "metadata"]
    assert lines[2]["records"][1]["sha256"] == digest(b"ValueError at the hospital")


def test_a_reconnecting_hospital_records_that_it_joins_again(ledger: Ledger) -> None:
    with wired() as (grid, wire, announcements):
        hospital = Hospital(wire.address, ledger)
        ask(grid, 1)
        wire.cut()
        wait_until(lambda: sum(line in ("a joined", "a reconnected") for line in announcements) == 2)
        ask(grid, 2)
    assert hospital.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [line["kind"] for line in lines] == ["join", "train", "join", "train"]
    assert lines[0]["sha256"] == lines[2]["sha256"]  # its token says that it is the same process


def test_a_hospital_that_reports_itself_unfit_records_the_reason(ledger: Ledger) -> None:
    with wired() as (_, wire, _announcements):
        join = Hospital(wire.address, ledger)
        wait_until(lambda: len(wire.sent_by("a")) == 1)
        report_unfit("a", wire.address, {**TERMS, "task": "other"}, "its CSV is empty", ledger)
    assert join.end() is None
    lines = read_lines(ledger.path)
    assert_is_in_ledger(wire.sent_by("a"), lines)
    assert [line["kind"] for line in lines] == ["join", "unfit"]
    assert [item["name"] for item in lines[1]["records"]] == ["hospital", "terms", "unfit"]
    assert lines[1]["records"][2]["sha256"] == digest(b"its CSV is empty")


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_a_hospital_that_cannot_record_sends_nothing(
    obstacle: Obstacle, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstacle(ledger.path, monkeypatch)
    with wired() as (_, wire, announcements):
        assert isinstance(Hospital(wire.address, ledger).end(), LedgerError)
        with pytest.raises(LedgerError):
            report_unfit("a", wire.address, TERMS, "its CSV is empty", ledger)
    assert wire.sent_by("a") == []
    assert announcements == []


def test_a_full_disk_ends_the_hospital_before_its_next_reply_leaves(ledger: Ledger, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    with wired() as (grid, wire, announcements):
        hospital = Hospital(wire.address, ledger)
        ask(grid, 1)
        ledger.path.rename(moved)
        ledger.path.symlink_to("/dev/full")
        (reply,) = ask(grid, 2)
        assert (reply.error.reason or "").startswith("its connection was lost")
        error = hospital.end()
        wait_until(lambda: announcements[-1] == "a left")
    assert isinstance(error, LedgerError)
    assert "No space left on device" in str(error)
    assert_is_in_ledger(wire.sent_by("a"), read_lines(moved))


LIGHT_HOSPITAL = """
import sys
from federated_health.hospital.ledger import Ledger
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_ledger import Hospital
print(Hospital(sys.argv[2], Ledger(Path(sys.argv[3]), "a")).end())
"""


@pytest.mark.slow
def test_everything_sent_before_kill_9_is_in_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with wired() as (grid, wire, announcements):
        for lives in range(1, 3):
            command = [sys.executable, "-c", LIGHT_HOSPITAL, str(PROJECT), wire.address, str(ledger.path)]
            with process(command, log=log) as hospital:
                wait_until(lambda count=lives: announcements.count("a joined") == count, 60)  # type: ignore[misc]
                grid.push_messages([message_of("train", number) for number in range(1, 200)])
                before = len(wire.sent_by("a"))
                wait_until(lambda least=before + 10 * lives: len(wire.sent_by("a")) >= least)  # type: ignore[misc]
                hospital.kill()
                hospital.wait()
            wait_until(lambda count=lives: announcements.count("a left") == count)  # type: ignore[misc]
    lines = read_lines(ledger.path)  # none is cut off
    sent = [digest(content) for content in wire.sent_by("a")]
    assert len(sent) > 30
    assert {*sent} <= {line["sha256"] for line in lines}
    recorded = iter(line["sha256"] for line in lines)
    assert all(sha256 in recorded for sha256 in sent)  # in the same order
    assert len({line["records"][2]["sha256"] for line in lines if line["kind"] == "join"}) == 2
