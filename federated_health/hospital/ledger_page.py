"""A hospital's egress ledger as a page: totals, errors that were sent, and a table per kind of message."""

import json
import stat
from collections.abc import Mapping
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
"""Largest number of shapes, or types, of one value that a table names."""

NEVER = (
    "a patient's row or a cell of it, one patient's score, the number of a row",
    "the CSV, its hash, any path or file name",
    "this file. Keep it at the hospital: its hashes can confirm a guessed small count",
)
"""No message holds any of these (see `messages`)."""


@dataclass
class Total:
    """Totals over messages of one kind, or over all.

    Attributes:
        errors: number of messages that say why there is no reply.
        rounds: numbers of the rounds to which the messages belong.
        values: record and name of a value -> its row of the table, with shapes and dtypes still as sets.
    """

    messages: int = 0
    bytes: int = 0
    errors: int = 0
    rounds: set[int] = field(default_factory=set)
    values: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, entry: Mapping[str, Any]) -> None:
        self.messages += 1
        self.bytes += entry["bytes"]
        self.errors += entry["kind"] == UNFIT or any(item["record"] == ERROR for item in entry["records"])
        if entry.get("round") is not None:
            self.rounds.add(entry["round"])
        for item in entry["records"]:
            new = {"shape": set(), "dtype": set(), "times": 0, "bytes": 0}
            value = self.values.setdefault((item["record"], item["name"]), new)
            value["shape"].add("x".join(map(str, item["shape"])))
            value["dtype"].add(item["dtype"])
            value["times"] += 1
            value["bytes"] += item["bytes"]

    def table(self) -> dict[str, dict[str, object]]:
        """One row per value."""
        return {
            printable(" ".join(name)): {**row, "shape": _name_forms(row["shape"]), "dtype": _name_forms(row["dtype"])}
            for name, row in self.values.items()
        }

    def __str__(self) -> str:
        parts = [number_of(self.messages, "message"), number_of(self.bytes, "byte")]
        if self.rounds:
            first, last = min(self.rounds), max(self.rounds)
            parts.append(f"round {first}" if first == last else f"rounds {first} to {last}")
        return ", ".join(parts)


@dataclass
class Summary:
    """Totals of a ledger.

    Attributes:
        hospitals: names in the ledger; several where files were put together.
        times: the first and the last.
        kinds: total per kind, in the order in which they were first sent.
        torn: number of lines that were cut off, as by a power cut.
        unreadable: number of lines after the first message that are not lines of a ledger.
    """

    path: Path
    hospitals: set[str] = field(default_factory=set)
    times: tuple[datetime, datetime] | None = None
    total: Total = field(default_factory=Total)
    kinds: dict[str, Total] = field(default_factory=dict)
    torn: int = 0
    unreadable: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.hospitals.add(entry["hospital"])
        times = entry["time"], *(self.times or ())
        self.times = min(times), max(times)
        for total in (self.total, self.kinds.setdefault(entry["kind"], Total())):
            total.add(entry)

    @property
    def title(self) -> str:
        """The page's first line."""
        return f"What left {printable(', '.join(sorted(self.hospitals)))}, according to {self.path}"

    def lines(self) -> list[str]:
        """Times, totals and errors."""
        first, last = (f"{time:%Y-%m-%d %H:%M:%S}" for time in self.times or ())
        values = sum(value["bytes"] for value in self.total.values.values())
        errors = [f"{printable(name)} {total.errors}" for name, total in self.kinds.items() if total.errors]
        lines = [
            f"from {first} to {last} UTC",
            f"{self.total}",
            f"{values:,} of these bytes are the values below; the rest is packing: names, types and lengths",
            f"errors sent instead of a reply: {', '.join(errors) or 'none'}",
        ]
        if self.torn:
            lines.append(f"{number_of(self.torn, 'line')} cut off (power cut or full disk), not counted")
        if self.unreadable:
            lines.append(f"{number_of(self.unreadable, 'line')} unreadable, not counted")
        return lines

    def tables(self) -> dict[str, dict[str, dict[str, object]]]:
        """Title -> one table per kind of message."""
        return {f"{printable(name)}: {total}": total.table() for name, total in self.kinds.items()}


def summarise(path: Path) -> Summary:
    """Read a ledger line by line, whatever its size.

    Raises:
        LedgerError: it cannot be read, or a line before its first message is not a ledger's; names the line.
    """
    summary = Summary(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise LedgerError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
                try:
                    entry = _parse(line)
                except ValueError:
                    if not summary.total.messages:
                        raise LedgerError(f"{path}, line {number}: is not a line of an egress ledger") from None
                    summary.unreadable += 1
                    continue
                if entry is not None:
                    summary.add(entry)
                elif line != b"\n":  # two processes that share a ledger may leave one
                    summary.torn += 1
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from None
    if not summary.total.messages:
        raise LedgerError(f"{path}: holds no message")
    return summary


def _parse(line: bytes) -> dict[str, Any] | None:
    """A message, with its time as a datetime; None for a line that was cut off or is blank; ValueError for others."""
    content = line.strip(b"\0\n")  # a power cut may leave zeros
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError):
        if len(line) < MAX_LINE_BYTES and begins_line(content):
            return None
        raise ValueError("not JSON") from None
    if not _has(entry, time=str, hospital=str, kind=str, records=list) or not all(
        _has(item, record=str, name=str, shape=list, dtype=str) for item in entry["records"]
    ):
        raise ValueError("not a message")
    numbers = [entry.get("bytes"), *(size for item in entry["records"] for size in (item.get("bytes"), *item["shape"]))]
    if type(entry.get("round")) not in (int, type(None)):  # a server chooses it, so any whole number is shown
        raise ValueError("not a round")
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("not a number")
    try:
        return {**entry, "time": datetime.fromisoformat(entry["time"]).astimezone(UTC)}
    except OverflowError:
        raise ValueError("not a time") from None


def _has(entry: object, **kinds: type) -> bool:
    """Whether it is an object with fields of these types."""
    return isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in kinds.items())


def _name_forms(forms: set[str]) -> str:
    return printable(", ".join(sorted(forms)), 60) if len(forms) <= MAX_FORMS else "several"
