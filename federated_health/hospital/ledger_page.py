"""A hospital's egress ledger, summarised: its messages by kind, and the values in them by release."""

import json
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from federated_health.errors import LedgerError
from federated_health.hospital.ledger import ERROR, TERMS, begins_line
from federated_health.hospital.value_words import describe_value
from federated_health.messages.accepted_terms import ASKED_PERSON, HASH, LOOPBACK, POLICY
from federated_health.messages.content import DISCLOSURE
from federated_health.messages.release_records import release_of
from federated_health.messages.releases import RELEASES
from federated_health.messages.run_terms import HASH_DIGITS
from federated_health.names import printable
from federated_health.report.formatting import number_of
from federated_health.transport.stream_client import UNFIT

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line that is read; a line has about 150 bytes per value, and messages have far fewer values."""

MAX_FORMS = 3
"""Largest number of shapes, or types, of one value that a table names."""

UNEXPLAINED = "not explained"
"""What stands in place of a release for values that none explains, such as those of another version."""

NOT_EXPLAINED = (
    "Values that this version does not know, such as those of another version. Ask its authors what they are."
)

ACCEPTED_BY = {
    ASKED_PERSON: "by a person who was asked",
    HASH: "by --accept with their hash",
    POLICY: "by the hospital's policy",
    LOOPBACK: "without a question, since server and hospital are on one machine",
}
"""What accepted run terms (see `accepted_terms`), in words."""

NEVER = (
    "a patient's row or a cell of it, one patient's score, a row's number",
    "the CSV, its hash, any path or file name",
    "the egress ledger. Keep it at the hospital: with its hashes, a guessed small count can be confirmed",
)
"""No message holds any of these (see `messages`)."""


@dataclass
class Total:
    """Totals over messages of one kind, or over all.

    Attributes:
        errors: number of messages that say why there is no reply.
        rounds: numbers of the rounds to which the messages belong.
        times: of the first and the last message.
    """

    messages: int = 0
    bytes: int = 0
    errors: int = 0
    rounds: set[int] = field(default_factory=set)
    times: tuple[datetime, datetime] | None = None

    def add(self, entry: Mapping[str, Any], size: int) -> None:
        times = entry["time"], *(self.times or ())
        self.times = min(times), max(times)
        self.messages += 1
        self.bytes += size
        self.errors += entry["kind"] == UNFIT or any(item["record"] == ERROR for item in entry["records"])
        if entry.get("round") is not None:
            self.rounds.add(entry["round"])

    @property
    def period(self) -> str:
        """Times of the first and the last message; empty if there is none."""
        return "from {:%Y-%m-%d %H:%M:%S} to {:%Y-%m-%d %H:%M:%S} UTC".format(*self.times) if self.times else ""

    @property
    def round_range(self) -> str:
        """The rounds, without the word; empty if there are none."""
        first, last = min(self.rounds, default=0), max(self.rounds, default=0)
        return (f"{first}" if first == last else f"{first} to {last}") if self.rounds else ""

    def __str__(self) -> str:
        parts = [number_of(self.messages, "message"), number_of(self.bytes, "byte")]
        if self.rounds:
            parts.append(f"round{'s' if ' ' in self.round_range else ''} {self.round_range}")
        return ", ".join(parts)


@dataclass
class ReleaseTotal(Total):
    """Totals over the values of one release, whose bytes are those of the values.

    Attributes:
        values: record and name of a value -> its row of the table, with shapes and dtypes still as sets.
        suppressed: reason -> number of replies in which the release was suppressed, wholly or in part.
    """

    values: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    suppressed: Counter[str] = field(default_factory=Counter)

    @property
    def has_left(self) -> bool:
        """Whether more was sent than the statement that the release was suppressed."""
        return any(record != DISCLOSURE for record, _ in self.values)

    def list_suppressed(self) -> list[str]:
        """One line per reason for which the release was suppressed."""
        how = "suppressed, wholly or in part," if self.has_left else "suppressed"
        return [f"{how} {number_of(times, 'time')}: {printable(reason)}" for reason, times in self.suppressed.items()]

    def add_values(self, entry: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        self.add(entry, sum(item["bytes"] for item in items))
        for item in items:
            new = {"shape": set(), "dtype": set(), "times": 0, "bytes": 0}
            value = self.values.setdefault((item["record"], item["name"]), new)
            value["shape"].add("x".join(map(str, item["shape"])))
            value["dtype"].add(item["dtype"])
            value["times"] += 1
            value["bytes"] += item["bytes"]

    def table(self) -> dict[str, dict[str, object]]:
        """One row per value."""
        return {
            printable(" ".join(name)): {
                **row,
                "shape": _name_forms(row["shape"]),
                "dtype": _name_forms(row["dtype"]),
                "what it is": printable(describe_value(*name)) or UNEXPLAINED,
            }
            for name, row in self.values.items()
        }


@dataclass
class Accepted:
    """Run terms that the hospital accepted.

    Attributes:
        terms: see `RunTerms`.
        how: by whom or by what they were accepted, in words; the first time.
        times: when they were accepted.
    """

    terms: Mapping[str, Any]
    how: str
    times: list[datetime]


@dataclass
class Summary:
    """Totals of a ledger.

    Attributes:
        hospitals: names in the ledger; several where files were put together.
        kinds: total per kind, in the order in which they were first sent.
        releases: total per release, in the order of `RELEASES`, and of values that no release explains as UNEXPLAINED.
        accepted: terms by their hash.
        torn: number of lines that were cut off, as by a power cut.
        unreadable: number of lines after the first message that are not lines of a ledger.
    """

    path: Path
    hospitals: set[str] = field(default_factory=set)
    total: Total = field(default_factory=Total)
    kinds: dict[str, Total] = field(default_factory=dict)
    releases: dict[str, ReleaseTotal] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    torn: int = 0
    unreadable: int = 0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.hospitals.add(entry["hospital"])
        if entry["kind"] == TERMS and isinstance(terms := entry.get("terms"), dict):  # nothing was sent
            how = ACCEPTED_BY.get(str(entry.get("accepted")), "in an unknown way")
            accepted = self.accepted.setdefault(str(entry.get("sha256"))[:HASH_DIGITS], Accepted(terms, how, []))
            accepted.times.append(entry["time"])
            return
        for total in (self.total, self.kinds.setdefault(entry["kind"], Total())):
            total.add(entry, entry["bytes"])
        items: dict[str, list[Mapping[str, Any]]] = {}
        for item in entry["records"]:
            release = release_of(entry["kind"], item["record"], item["name"]) or UNEXPLAINED
            items.setdefault(release, []).append(item)
        for release, of_release in items.items():
            self.releases.setdefault(release, ReleaseTotal()).add_values(entry, of_release)
        disclosure = entry.get(DISCLOSURE)
        for release, reason in disclosure.items() if isinstance(disclosure, dict) else ():
            if release in RELEASES:
                self.releases.setdefault(release, ReleaseTotal()).suppressed[str(reason)] += 1

    @property
    def name(self) -> str:
        """The hospital, or the hospitals, whose ledger it is."""
        return printable(", ".join(sorted(self.hospitals)))

    @property
    def title(self) -> str:
        """The page's first line."""
        return f"What left {self.name}, according to {self.path}"

    def lines(self) -> list[str]:
        """Times, totals, errors and accepted terms."""
        values = sum(total.bytes for total in self.releases.values())
        lines = [
            self.total.period or "nothing was sent",
            f"{self.total}",
            f"{values:,} of these bytes are the values below; the others are names, types and lengths",
            f"messages answered with an error: {self.errors or 'none'}",
        ]
        lines += [f"suppressed: {', '.join(self.suppressed)}"] if self.suppressed else []
        for digest, accepted in self.accepted.items():
            times = ", ".join(f"{time:%Y-%m-%d %H:%M:%S} UTC" for time in accepted.times)
            lines.append(f"accepted the terms {printable(digest)}: {times} ({printable(accepted.how)})")
        if self.torn:
            lines.append(f"{number_of(self.torn, 'line')} cut off (power cut or full disk), not counted")
        if self.unreadable:
            lines.append(f"{number_of(self.unreadable, 'line')} unreadable, not counted")
        return lines

    @property
    def errors_by_kind(self) -> dict[str, int]:
        """Number of messages without an answer per kind, of kinds that have some."""
        return {printable(kind): total.errors for kind, total in self.kinds.items() if total.errors}

    @property
    def errors(self) -> str:
        """The same in words; empty if there are none."""
        return ", ".join(f"{kind} {number}" for kind, number in self.errors_by_kind.items())

    @property
    def suppressed(self) -> list[str]:
        """Names of releases that were suppressed in some reply."""
        return [name for name, total in self.ordered_releases().items() if total.suppressed]

    def ordered_releases(self) -> dict[str, ReleaseTotal]:
        """The releases in the order of `RELEASES`, what no release explains last."""
        return {name: self.releases[name] for name in (*RELEASES, UNEXPLAINED) if name in self.releases}

    def messages(self) -> dict[str, dict[str, object]]:
        """One row per kind of message."""
        return {
            printable(name): {"messages": total.messages, "bytes": total.bytes, "rounds": total.round_range}
            for name, total in self.kinds.items()
        }


def explain(release: str) -> str:
    """What a release is, in plain words."""
    return RELEASES[release].words if release in RELEASES else NOT_EXPLAINED


def summarise(path: Path, start: int = 0) -> Summary:
    """Read a ledger line by line, whatever its size.

    Args:
        start: size in bytes of the lines to leave out; of a ledger that is shorter, all are read.

    Raises:
        LedgerError: it cannot be read, or a line before its first message is not a ledger's; names the line.
    """
    summary = Summary(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe could block forever
            raise LedgerError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            file.seek(start if start <= path.stat().st_size else 0)
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), b""), start=1):
                try:
                    entry = _parse(line)
                except ValueError:
                    if not summary.hospitals:
                        raise LedgerError(f"{path}, line {number}: is not a line of an egress ledger") from None
                    summary.unreadable += 1
                    continue
                if entry is not None:
                    summary.add(entry)
                elif line != b"\n":  # two processes that share a ledger may leave one
                    summary.torn += 1
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from None
    if not summary.total.messages and not summary.accepted:
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
