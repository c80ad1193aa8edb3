"""The problems of a run by hospital, counted and in words."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

MAX_REASONS = 20
"""Largest number of different reasons kept per hospital, since a hospital writes some of them itself."""

OTHER_REASONS = "other reasons"


class ProblemLog:
    """Counts of problems during a run.

    Attributes:
        rejected: number of replies that were rejected, by hospital and reason.
        unanswered: number of messages without a reply, or with an error in its place, by hospital and reason.
        absent: number of rounds that were averaged without the hospital, since it joined.
        repeated_rounds: number of attempts at a round that gave too few updates.
        resumed_after: number of rounds that were completed, for each time that the run was resumed.
        data_warnings: what is suspicious in what a hospital sent, by hospital.
        suppressed: what a hospital's disclosure control suppressed, by hospital: release -> reason.
        opposed_updates: number of rounds with an update that was opposed to the others' (see that module), by hospital.
    """

    def __init__(self) -> None:
        self.rejected: dict[str, Counter[str]] = {}
        self.unanswered: dict[str, Counter[str]] = {}
        self.absent: Counter[str] = Counter()
        self.repeated_rounds = 0
        self.resumed_after: list[int] = []
        self.data_warnings: dict[str, list[str]] = {}
        self.suppressed: dict[str, dict[str, str]] = {}
        self.opposed_updates: Counter[str] = Counter()

    def warn(self, hospital: str, text: str) -> None:
        """Record what is suspicious in what a hospital sends, once."""
        texts = self.data_warnings.setdefault(hospital, [])
        if text not in texts and len(texts) < MAX_REASONS:
            texts.append(text)

    def count(self, hospital: str, reason: str, *, has_answered: bool = True) -> None:
        """Count a reply that was rejected, or a message that was not answered."""
        reasons = (self.rejected if has_answered else self.unanswered).setdefault(hospital, Counter())
        reasons[reason if reason in reasons or len(reasons) < MAX_REASONS else OTHER_REASONS] += 1

    def to_json(self) -> dict[str, Any]:
        """The counts as in metrics.json, ordered by name."""
        suppressed = {name: dict(sorted(parts.items())) for name, parts in sorted(self.suppressed.items())}
        return {
            "rejected": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.rejected.items())},
            "unanswered": {name: dict(sorted(reasons.items())) for name, reasons in sorted(self.unanswered.items())},
            "absent": dict(sorted(self.absent.items())),
            "repeated_rounds": self.repeated_rounds,
            "resumed_after": list(self.resumed_after),
            "data_warnings": {name: list(texts) for name, texts in sorted(self.data_warnings.items())},
            "opposed_updates": dict(sorted(self.opposed_updates.items())),
            **({"suppressed": suppressed} if suppressed else {}),
        }

    def describe_data_warnings(self) -> list[str]:
        """What is suspicious in hospitals' data, as lines, hospitals by name."""
        return [f"{name}: {text}" for name, texts in sorted(self.data_warnings.items()) for text in texts]

    def describe_suppressed(self) -> list[str]:
        """What was suppressed, as lines, hospitals by name."""
        return [
            f"{name}: suppressed {', '.join(sorted(key for key in parts if parts[key] == reason))}: {reason}"
            for name, parts in sorted(self.suppressed.items())
            for reason in sorted(set(parts.values()))
        ]

    def describe(self) -> list[str]:
        """The counts as lines, hospitals by name; none where there were no problems."""
        lines = [*self.describe_data_warnings(), *self.describe_suppressed()]
        for name in sorted({*self.rejected, *self.unanswered, *self.absent}):
            parts = [
                _list_reasons(self.rejected.get(name), "reply was rejected", "replies were rejected"),
                _list_reasons(self.unanswered.get(name), "message got no reply", "messages got no reply"),
                f"{_number(rounds, 'round', 'rounds')} without it" if (rounds := self.absent[name]) else "",
            ]
            lines.append(f"{name}: {'; '.join(part for part in parts if part)}")
        if self.repeated_rounds:
            attempts = _number(self.repeated_rounds, "attempt at a round", "attempts at a round")
            lines.append(f"{attempts} had too few updates")
        if self.resumed_after:
            noun = "rounds" if len(self.resumed_after) > 1 else "round"
            completed = ", ".join(map(str, self.resumed_after))
            lines.append(f"the server was interrupted, and the run resumed after {noun} {completed}")
        return lines

    def restore(self, content: Mapping[str, Any]) -> None:
        """Replace the counts by those of `to_json`."""
        self.rejected = {name: Counter(reasons) for name, reasons in content["rejected"].items()}
        self.unanswered = {name: Counter(reasons) for name, reasons in content["unanswered"].items()}
        self.absent = Counter(content["absent"])
        self.repeated_rounds = content["repeated_rounds"]
        self.resumed_after = list(content["resumed_after"])
        self.data_warnings = {name: list(texts) for name, texts in content.get("data_warnings", {}).items()}
        self.opposed_updates = Counter(content.get("opposed_updates", {}))
        self.suppressed = {name: dict(parts) for name, parts in content.get("suppressed", {}).items()}


def _list_reasons(reasons: Counter[str] | None, singular: str, plural: str) -> str:
    if not reasons:
        return ""
    counted = [f'"{reason}"{f" ({times})" if times > 1 else ""}' for reason, times in sorted(reasons.items())]
    return f"{_number(reasons.total(), singular, plural)}: {', '.join(counted)}"


def _number(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"
