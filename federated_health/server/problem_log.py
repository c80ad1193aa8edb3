"""Problems of a run, counted by hospital: for metrics.json, and kept in checkpoints."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MAX_REASONS = 20
"""Largest number of different reasons kept for a hospital, which words some of them itself."""

OTHER_REASONS = "other reasons"


class ProblemLog:
    """Counts of problems.

    Attributes:
        rejected: number of replies that were rejected, by hospital and reason.
        unanswered: number of messages without a reply, or with an error in its place, by hospital and reason.
        absent: number of rounds that were averaged without the hospital, since it joined.
        repeated_rounds: number of attempts at a round that gave too few updates.
        resumed_after: number of rounds that were completed, for each time that the run was resumed.
    """

    def __init__(self) -> None:
        self.rejected: dict[str, Counter[str]] = {}
        self.unanswered: dict[str, Counter[str]] = {}
        self.absent: Counter[str] = Counter()
        self.repeated_rounds = 0
        self.resumed_after: list[int] = []

    def count_rejected(self, hospital: str, reason: str) -> None:
        _count(self.rejected.setdefault(hospital, Counter()), reason)

    def count_unanswered(self, hospital: str, reason: str) -> None:
        _count(self.unanswered.setdefault(hospital, Counter()), reason)

    def count_absent(self, hospitals: Iterable[str]) -> None:
        self.absent.update(hospitals)

    def to_json(self) -> dict[str, Any]:
        """The counts as in metrics.json, ordered by name."""
        return {
            "rejected": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.rejected.items())},
            "unanswered": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.unanswered.items())},
            "absent": dict(sorted(self.absent.items())),
            "repeated_rounds": self.repeated_rounds,
            "resumed_after": list(self.resumed_after),
        }

    def describe(self) -> list[str]:
        """The counts as lines, hospitals by name; none where there were no problems."""
        lines = []
        for name in sorted({*self.rejected, *self.unanswered, *self.absent}):
            parts = [
                _list_reasons(self.rejected.get(name), "reply was rejected", "replies were rejected"),
                _list_reasons(self.unanswered.get(name), "message got no reply", "messages got no reply"),
                f"{_number(rounds, 'round', 'rounds')} without it" if (rounds := self.absent[name]) else "",
            ]
            lines.append(f"{name}: {'; '.join(part for part in parts if part)}")
        if self.repeated_rounds:
            lines.append(_number(self.repeated_rounds, "round was repeated", "times a round was repeated"))
        if self.resumed_after:
            finished = ", ".join(map(str, self.resumed_after))
            lines.append(f"the server was interrupted, and the run resumed after round {finished}")
        return lines

    def restore(self, content: Mapping[str, Any]) -> None:
        """Replace the counts by those of `to_json`."""
        self.rejected = {name: Counter(reasons) for name, reasons in content["rejected"].items()}
        self.unanswered = {name: Counter(reasons) for name, reasons in content["unanswered"].items()}
        self.absent = Counter(content["absent"])
        self.repeated_rounds = content["repeated_rounds"]
        self.resumed_after = list(content["resumed_after"])


def _list_reasons(reasons: "Counter[str] | None", one: str, many: str) -> str:
    if not reasons:
        return ""
    counted = [f'"{reason}"{f" ({times})" if times > 1 else ""}' for reason, times in sorted(reasons.items())]
    return f"{_number(reasons.total(), one, many)}: {', '.join(counted)}"


def _number(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _count(reasons: "Counter[str]", reason: str) -> None:
    reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else OTHER_REASONS] += 1
