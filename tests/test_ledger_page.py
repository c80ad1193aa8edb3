"""The page of an egress ledger."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from flwr.clientapp import ClientApp

from federated_health.cli.client import run_client
from federated_health.errors import LedgerError
from federated_health.hospital import ledger_page
from federated_health.hospital.ledger_page import Summary, summarise


def item(record: str, name: str, size: int, shape: tuple[int, ...] = (), dtype: str = "float64") -> dict[str, Any]:
    return {"record": record, "name": name, "shape": shape, "dtype": dtype, "bytes": size, "sha256": "0" * 64}


def line(kind: str, second: int, number: int | None, size: int, /, *items: dict[str, Any], **other: Any) -> str:
    time = f"2026-11-22T03:15:{second:02}.000+00:00"
    entry = {"time": time, "hospital": "a", "kind": kind, "round": number, "bytes": size, "sha256": "0" * 64}
    return json.dumps({**entry, "records": items, **other}, separators=(",", ":")) + "\n"


KERNEL = item("arrays", "hidden/kernel", 2560, (40, 16), "float32")
LINES = [
    line("join", 1, None, 1000, item("metadata", "hospital", 1, dtype="text")),
    line("train", 3, 1, 3000, KERNEL, item("metrics", "num-examples", 8, dtype="int64")),
    line("train", 5, 2, 80, item("error", "code", 8), item("error", "reason", 9, dtype="text")),
    line("evaluate", 6, 2, 300, item("metrics", "cells", 24, (3,))),
    line("train", 7, 3, 3000, KERNEL, item("metrics", "num-examples", 8, dtype="int64")),
    line("evaluate", 9, 3, 400, item("metrics", "cells", 48, (6,))),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "egress-a.jsonl"


def page_of(path: Path, text: str | bytes) -> Summary:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return summarise(path)


def rows_of(page: Summary) -> dict[str, dict[str, object]]:
    """The rows of all releases, without their words."""
    rows = {name: row for total in page.releases.values() for name, row in total.table().items()}
    return {name: {key: row[key] for key in ("shape", "dtype", "times", "bytes")} for name, row in rows.items()}


def test_totals_and_tables_match_hand_calculation(path: Path) -> None:
    page = page_of(path, "".join(LINES))
    assert f"{path}" in page.title
    period, totals, values, errors = page.lines()
    assert period == "from 2026-11-22 03:15:01 to 2026-11-22 03:15:09 UTC"
    assert totals == "6 messages, 7,780 bytes, rounds 1 to 3"
    assert "5,226" in values
    assert errors.endswith(": train 1")
    assert page.messages() == {
        "join": {"messages": 1, "bytes": 1000, "rounds": ""},
        "train": {"messages": 3, "bytes": 6080, "rounds": "1 to 3"},
        "evaluate": {"messages": 2, "bytes": 700, "rounds": "2 to 3"},
    }
    assert {name: f"{total}" for name, total in page.ordered_releases().items()} == {
        "name": "1 message, 1 byte",
        "row-counts": "2 messages, 16 bytes, rounds 1 to 3",
        "weights": "2 messages, 5,120 bytes, rounds 1 to 3",
        "error": "1 message, 17 bytes, round 2",
        "not explained": "2 messages, 72 bytes, rounds 2 to 3",
    }
    assert rows_of(page) == {
        "metadata hospital": {"shape": "", "dtype": "text", "times": 1, "bytes": 1},
        "arrays hidden/kernel": {"shape": "40x16", "dtype": "float32", "times": 2, "bytes": 5120},
        "metrics num-examples": {"shape": "", "dtype": "int64", "times": 2, "bytes": 16},
        "error code": {"shape": "", "dtype": "float64", "times": 1, "bytes": 8},
        "error reason": {"shape": "", "dtype": "text", "times": 1, "bytes": 9},
        "metrics cells": {"shape": "3, 6", "dtype": "float64", "times": 2, "bytes": 72},
    }


def test_a_rejected_registration_counts_as_an_error(path: Path) -> None:
    page = page_of(path, line("unfit", 1, None, 10, item("metadata", "unfit", 5, dtype="text")))
    assert page.lines()[-1].endswith(": unfit 1")
    assert page_of(path, LINES[1]).lines()[-1].endswith(": none")


def test_one_round_and_one_byte_are_singular(path: Path) -> None:
    assert page_of(path, line("train", 1, 7, 1)).lines()[1] == "1 message, 1 byte, round 7"


def test_the_period_is_in_utc_and_independent_of_the_order_of_lines(path: Path) -> None:
    later = line("join", 0, None, 1, time="2026-11-22T05:15:30.000+02:00")
    page = page_of(path, later + LINES[0])
    assert page.lines()[0] == "from 2026-11-22 03:15:01 to 2026-11-22 03:15:30 UTC"


def test_up_to_three_shapes_of_an_item_are_listed(path: Path) -> None:
    for count, words in ((3, "1, 2, 3"), (4, "several"), (9, "several")):
        several = "".join(line("train", 1, 1, 1, item("arrays", "k", 4, (size,))) for size in range(1, count + 1))
        assert rows_of(page_of(path, several))["arrays k"]["shape"] == words


def test_a_concatenated_ledger_names_all_hospitals(path: Path) -> None:
    page = page_of(path, line("join", 1, None, 1, hospital="b") + LINES[0])
    assert " a, b" in page.title


@pytest.mark.parametrize("tail", [b'{"time":"2026', b'{"ti', LINES[1].encode()[:-2], b"\0\0\0", b'{"time":"20\0\0'])
@pytest.mark.parametrize("more", ["", "\n" + LINES[3]])
def test_a_truncated_line_is_counted_and_skipped(tail: bytes, more: str, path: Path) -> None:
    page = page_of(path, LINES[0].encode() + tail + more.encode())
    assert page.total.messages == (2 if more else 1)
    assert (page.torn, page.unreadable) == (1, 0)
    assert "1 line" in page.lines()[-1]


def test_a_complete_last_line_without_its_newline_counts(path: Path) -> None:
    page = page_of(path, "".join(LINES[:2]).rstrip("\n"))
    assert (page.total.messages, page.torn) == (2, 0)


def test_blank_lines_are_skipped(path: Path) -> None:
    page = page_of(path, "\n" + LINES[0] + "\n\n" + LINES[1])
    assert (page.total.messages, page.torn) == (2, 0)


@pytest.mark.parametrize(
    "bad",
    [
        "age,sex\n",
        "{}\n",
        "[]\n",
        "1\n",
        '"{\\"time\\":"\n',
        "[" * 100_000 + "\n",
        '{"time": 1}\n',
        '{"time":1}\n',
        "\x93\xff\n",
        line("join", 1, None, 1, time="yesterday"),
        line("join", 1, None, 1, time="0001-01-01T00:00:00+10:00"),
        line("join", 1, None, 1, hospital=None),
        line("join", 1, None, 1, kind=["a"]),
        line("join", 1, None, 1, round="1"),
        line("join", 1, None, 1, round=True),
        line("join", 1, None, 1, bytes=1.5),
        line("join", 1, None, 1, bytes=None),
        line("join", 1, None, -1),
        line("join", 1, None, 1, item("arrays", "k", -8)),
        line("join", 1, None, 1, item("arrays", "k", 8, (2, -1))),
        line("join", 1, None, 1, {**KERNEL, "shape": ["2"]}),
        line("join", 1, None, 1, records={}),
        line("join", 1, None, 1, records=["a"]),
        line("join", 1, None, 1, {**KERNEL, "shape": 3}),
        line("join", 1, None, 1, {**KERNEL, "dtype": None}),
        line("join", 1, None, 1, {**KERNEL, "bytes": "8"}),
        line("join", 1, None, 1, {"record": "a"}),
    ],
)
@pytest.mark.parametrize("before", ["", '{"time":"2026\n'])
def test_an_invalid_line_is_an_error_before_the_first_message_and_counted_after_it(
    bad: str, before: str, path: Path
) -> None:
    with pytest.raises(LedgerError, match=rf"egress-a\.jsonl, line {2 if before else 1}: .*egress ledger"):
        page_of(path, before.encode() + bad.encode("latin-1") + LINES[0].encode())
    page = page_of(path, LINES[0].encode() + bad.encode("latin-1") + LINES[1].encode())
    assert (page.total.messages, page.total.bytes, page.torn, page.unreadable) == (2, 4000, 0, 1)
    assert "1 line" in page.lines()[-1]


def test_messages_of_an_invalid_round_count(path: Path) -> None:
    """The server chooses the round, and must not be able to hide messages by it."""
    page = page_of(path, line("evaluate", 1, -1, 300) + LINES[1])
    assert (page.total.messages, page.total.bytes, page.unreadable) == (2, 3300, 0)


def test_line_numbers_in_errors_include_blank_lines(path: Path) -> None:
    with pytest.raises(LedgerError, match=r", line 3: "):
        page_of(path, "\n\nx\n" + LINES[0])


@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"time":"2026'])
def test_a_file_without_a_message_is_refused(content: bytes, path: Path) -> None:
    with pytest.raises(LedgerError, match="no message"):
        page_of(path, content)


def test_unreadable_and_special_files_are_refused(path: Path) -> None:
    with pytest.raises(LedgerError, match=r"egress-a\.jsonl: .*No such file or directory"):
        summarise(path)
    os.mkfifo(path)
    for other in (path, path.parent, Path("/dev/zero")):
        with pytest.raises(LedgerError, match="regular file"):
            summarise(other)


def test_a_line_that_is_too_long_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_page, "MAX_LINE_BYTES", 1024)
    with pytest.raises(LedgerError, match=r"egress-a\.jsonl, line 1: "):
        page_of(path, '{"time":' + "1" * 5000)


def test_a_large_ledger_is_read_line_by_line(path: Path) -> None:
    path.write_text("".join(LINES[3:]) * 2000)
    tracemalloc.start()
    try:
        page = summarise(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert page.total.messages == 6000
    assert peak < path.stat().st_size / 4


def test_control_characters_are_not_shown(path: Path) -> None:
    crafted = line("tr\x1bain", 1, 1, 1, item("a\x1b", "b\r", 1, dtype="c\x1b"), hospital="\x1b[31m")
    page = page_of(path, crafted)
    tables = (total.table() for total in page.releases.values())
    shown = [page.title, *page.lines(), *page.messages(), *map(str, tables)]
    assert all(text.isprintable() for text in shown)


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(
    columns: int, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path.write_text("".join(LINES))
    monkeypatch.setattr("sys.argv", ["client.py", "--show-egress", str(path)])
    run_client(ClientApp())
    page = capsys.readouterr().out
    assert " arrays hidden/kernel  40x16  float32      2   5120  weights of" in page
    assert "weights: 2 messages, 5,120 bytes, rounds 1 to 3\n" in page
    assert "a patient's row" in page
    tables = [row for row in page.splitlines() if row.startswith(" ") and not row.startswith("  ")]
    assert max(map(len, tables)) <= columns
