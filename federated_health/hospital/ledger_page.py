"""What a hospital's egress ledger says, as a page: totals, errors that left, a table a kind of message."""

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from federated_health.errors import LedgerError
from federated_health.hospital.ledger import ERROR, begins_line
from federated_health.names import printable
from federated_health.report.formatting import number_of
from federated_health.transport.stream_client import UNFIT

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read; a line has about 150 bytes per value, and messages have far fewer values."""

MAX_FORMS = 3
"""Shapes, or types, of one value that a table names."""

NEVER = (
    "a patient's row or a cell of it, one patient's score, the number of a row",
    "the CSV, its hash, any path or file name",
    "this file: it holds no value, but who guesses a small count can check the guess by its hash",
)
"""For none of these is there a message (see `messages`)."""


@dataclass
class _Value:
    """What left under one name, in all messages of a kind."""

    times: int = 0
    bytes: int = 0
    shapes: set[str] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)

    def add(self, item: Mapping[str, Any]) -> None:
        self.times += 1
        self.bytes += item["bytes"]
        for forms, form in ((self.shapes, "x".join(map(str, item["shape"]))), (self.dtypes, item["dtype"])):
            if len(forms) <= MAX_FORMS:
                forms.add(form)

    def row(self) -> dict[str, object]:
        forms = {"shape": _name_forms(self.shapes), "dtype": _name_forms(self.dtypes)}
        return {**forms, "times": self.times, "bytes": self.bytes}


@dataclass
class Total:
    """Messages of one kind, or of all.

    Attributes:
        rounds: which ones they belong to.
        errors: how many of them say why there is no answer.
    """

    messages: int = 0
    bytes: int = 0
    rounds: set[int] = field(default_factory=set)
    errors: int = 0
    values: dict[tuple[str, str], _Value] = field(default_factory=dict)

    def add(self, entry: Mapping[str, Any]) -> None:
        self.messages += 1
        self.bytes += entry["bytes"]
        self.rounds |= set() if entry["round"] is None else {entry["round"]}
        self.errors += entry["kind"] == UNFIT or any(item["record"] == ERROR for item in entry["records"])

    def add_values(self, entry: Mapping[str, Any]) -> None:
        for item in entry["records"]:
            self.values.setdefault((item["record"], item["name"]), _Value()).add(item)

    def table(self) -> dict[str, dict[str, object]]:
        """A row a value."""
        return {printable(" ".join(name)): value.row() for name, value in self.values.items()}

    def __str__(self) -> str:
        words = [number_of(self.messages, "message"), number_of(self.bytes, "byte")]
        if self.rounds:
            first, last = min(self.rounds), max(self.rounds)
            words.append(f"round {first}" if first == last else f"rounds {first} to {last}")
        return ", ".join(words)


@dataclass
class Summary:
    """A ledger, added up.

    Attributes:
        hospitals: whose it is; several where files were put together.
        kinds: in the order in which they first left.
        torn: lines that were cut off, as by a power cut.
        unreadable: lines behind the first message that are no ledger's.
    """

    path: Path
    hospitals: set[str] = field(default_factory=set)
    first: datetime | None = None
    last: datetime | None = None
    total: Total = field(default_factory=Total)
    kinds: dict[str, Total] = field(default_factory=dict)
    torn: int = 0
    unreadable: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.first = min(self.first or entry["time"], entry["time"])
        self.last = max(self.last or entry["time"], entry["time"])
        self.hospitals.add(entry["hospital"])
        self.total.add(entry)
        kind = self.kinds.setdefault(entry["kind"], Total())
        kind.add(entry)
        kind.add_values(entry)

    @property
    def title(self) -> str:
        """The page's first line."""
        return f"What left {printable(', '.join(sorted(self.hospitals)))}, by {self.path}"

    def lines(self) -> list[str]:
        """Times, totals and errors."""
        errors = [f"{printable(name)} {total.errors}" for name, total in self.kinds.items() if total.errors]
        values = sum(value.bytes for total in self.kinds.values() for value in total.values.values())
        torn = f"{number_of(self.torn, 'line')} cut off, as by a power cut or a full disk, and not counted"
        return [
            f"from {self.first:%Y-%m-%d %H:%M:%S} to {self.last:%Y-%m-%d %H:%M:%S} UTC",
            f"{self.total}",
            f"{values:,} of these bytes are of the values below, the others of their packing: names, types and lengths",
            f"errors that left in place of an answer: {', '.join(errors) or 'none'}",
            *([torn] if self.torn else []),
            *([f"{number_of(self.unreadable, 'line')} cannot be read, and not counted"] if self.unreadable else []),
        ]

    def tables(self) -> dict[str, dict[str, dict[str, object]]]:
        """Title -> a table a kind of message."""
        return {f"{printable(name)}: {total}": total.table() for name, total in self.kinds.items()}


def summarise(path: Path) -> Summary:
    """Read a ledger line by line, whatever its size.

    Raises:
        LedgerError: it cannot be read, or what comes before its first message is not a ledger's; names the line.
    """
    summary = Summary(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe might be waited for without end
            raise LedgerError(f"{path}: is not a regular file")
        for number, line in enumerate(_lines(path), start=1):
            try:
                entry = _parse(line)
            except ValueError:
                if not summary.total.messages:
                    raise LedgerError(f"{path}, line {number}: is not a line of an egress ledger") from None
                summary.unreadable += 1
                continue
            if entry is not None:
                summary.add(entry)
            elif line != b"\n":  # which two processes that share a ledger may leave
                summary.torn += 1
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from None
    if not summary.total.messages:
        raise LedgerError(f"{path}: holds no message")
    return summary


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(partial(file.readline, MAX_LINE_BYTES), b"")


def _parse(line: bytes) -> dict[str, Any] | None:
    """A message that left, with its time as a datetime; None of a line that was cut off or is blank.

    Raises:
        ValueError: it is something else.
    """
    content = line.strip(b"\0\n")  # a power cut may leave zeros
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError):
        if len(line) < MAX_LINE_BYTES and begins_line(content):
            return None
        raise ValueError("not JSON") from None
    if not _has(entry, _ENTRY) or not all(_has(item, _ITEM) for item in entry["records"]):
        raise ValueError("not a message that left")
    if any(type(size) is not int or size < 0 for size in _sizes(entry)):
        raise ValueError("not sizes")
    try:
        return {**entry, "time": datetime.fromisoformat(entry["time"]).astimezone(UTC)}
    except OverflowError:
        raise ValueError("not a time") from None


def _sizes(entry: Mapping[str, Any]) -> Iterator[object]:
    yield entry["bytes"]
    for item in entry["records"]:
        yield item["bytes"]
        yield from item["shape"]


_ENTRY = {
    "time": (str,),
    "hospital": (str,),
    "kind": (str,),
    "round": (int, type(None)),
    "bytes": (int,),
    "records": (list,),
}
_ITEM = {"record": (str,), "name": (str,), "shape": (list,), "dtype": (str,), "bytes": (int,)}


def _has(entry: object, fields: Mapping[str, tuple[type, ...]]) -> bool:
    """Whether it is an object with these, each of one of its types."""
    return isinstance(entry, dict) and all(type(entry.get(name)) in types for name, types in fields.items())


def _name_forms(forms: set[str]) -> str:
    return printable(", ".join(sorted(forms)), 60) if len(forms) <= MAX_FORMS else "several"
