"""What training rows were charged, round by round, and the lines of a hospital's account that say so."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime

from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of

OPENING = b'{"time":'
"""What every line begins with."""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One round of a run: its plan's figures (see `PrivacyPlan`), and the noise that was added."""

    run: str
    epsilon: float
    delta: float
    clip: float
    sampling_rate: float
    noise_multiplier: float
    steps: int
    rounds: int

    @classmethod
    def of(cls, plan: PrivacyPlan) -> "Charge":
        return cls(**{field.name: getattr(plan, field.name) for field in fields(cls)})

    @property
    def promise(self) -> tuple[str, float, float, float, float, int, int]:
        """All but the noise that follows from it."""
        return self.run, self.epsilon, self.delta, self.clip, self.sampling_rate, self.steps, self.rounds

    def times(self, rounds: int) -> Steps:
        """The noisy steps of so many rounds."""
        return Steps(self.sampling_rate, self.noise_multiplier, rounds * self.steps)


@dataclass
class Charges:
    """All charges of an account.

    Attributes:
        rounds: how often each was charged, in the order in which they first were.
        first, last: when each run was charged.
    """

    rounds: Counter[Charge] = field(default_factory=Counter)
    first: dict[str, datetime] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)

    def add(self, charge: Charge, time: datetime) -> None:
        self.rounds[charge] += 1
        self.first.setdefault(charge.run, time)
        self.last[charge.run] = time

    @property
    def delta(self) -> float | None:
        """The smallest that was ever promised."""
        return min((charge.delta for charge in self.rounds), default=None)

    def of(self, run: str) -> dict[Charge, int]:
        """A run's charges, several where its noise changed, and how many rounds of each."""
        return {charge: rounds for charge, rounds in self.rounds.items() if charge.run == run}

    def epsilon(self, delta: float, more: Steps | None = None) -> float:
        """What all of them, and more, cost together."""
        return epsilon_of([*self._steps(), *([more] if more else [])], delta)

    def _steps(self) -> Iterator[Steps]:
        yield from (charge.times(rounds) for charge, rounds in self.rounds.items())


def write_line(charge: Charge, time: datetime) -> bytes:
    """A charge as a line of an account: JSON, with the time."""
    entry = {"time": time.isoformat(timespec="milliseconds"), **asdict(charge)}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def read_line(line: bytes) -> tuple[Charge, datetime]:
    """The inverse of `write_line`.

    Raises:
        ValueError: it is no charge, or has figures that no plan has.
    """
    try:
        entry = json.loads(line)
        time = datetime.fromisoformat(entry.pop("time")).astimezone(UTC)
        charge = Charge(**entry)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ValueError("no charge") from None
    if any(type(getattr(charge, field.name)) is not field.type for field in fields(Charge)):
        raise ValueError("figures of other types")
    plan = {name: value for name, value in entry.items() if name != "noise_multiplier"}
    PrivacyPlan(**plan, learning_rate=1.0)
    if not 0 < charge.noise_multiplier < float("inf"):
        raise ValueError("no noise")
    return charge, time


def read_lines(content: bytes) -> tuple[list[tuple[Charge, datetime]], int]:
    """The charges in an account's bytes, and how many of the bytes they take.

    A last line that was cut off, as by a power cut or a full disk, or whose beginning was not written yet is left out:
    whoever wrote it had not drawn any noise. One that is whole but for its end counts.

    Raises:
        ValueError: a line is something else; says its number, from 1.
    """
    charges, kept = [], 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            if line != b"\n":  # which may follow on a line that had no end
                charges.append(read_line(line))
        except ValueError:
            if number == len(lines) and _is_torn(line):
                break
            raise ValueError(str(number)) from None
        kept += len(line)
    return charges, kept


def _is_torn(line: bytes) -> bool:
    """Whether it is part of a line of ours, with zeros where a power cut left some."""
    begun = line.rstrip(b"\0")
    is_ours = begun[: len(OPENING)] == OPENING[: len(begun)]
    return (is_ours and not line.endswith(b"\n")) or line.startswith(b"\0")
