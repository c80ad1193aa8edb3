"""Privacy spent on a hospital's training rows, per round, and the lines of its file `privacy-NAME.jsonl`."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime

from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps, epsilon_of

LINE_START = b'{"time":'
"""First bytes of every line."""


@dataclass(frozen=True, kw_only=True)
class RoundSpend:
    """Privacy spent by one round of a run: the figures of its plan (see `PrivacyPlan`), and the noise added."""

    run: str
    epsilon: float
    delta: float
    clip: float
    sampling_rate: float
    noise_multiplier: float
    steps: int
    rounds: int

    @classmethod
    def of(cls, plan: PrivacyPlan) -> "RoundSpend":
        return cls(**{field.name: getattr(plan, field.name) for field in fields(cls)})

    def times(self, rounds: int) -> Steps:
        """The noisy steps of this number of rounds."""
        return Steps(self.sampling_rate, self.noise_multiplier, rounds * self.steps)


@dataclass
class Spending:
    """Everything spent on a hospital's training rows.

    Attributes:
        rounds: how often each kind of round was spent, in the order of their first occurrence.
        first, last: run -> when it first and last spent.
    """

    rounds: Counter[RoundSpend] = field(default_factory=Counter)
    first: dict[str, datetime] = field(default_factory=dict)
    last: dict[str, datetime] = field(default_factory=dict)

    def add(self, spend: RoundSpend, time: datetime) -> None:
        self.rounds[spend] += 1
        self.first.setdefault(spend.run, time)
        self.last[spend.run] = time

    @property
    def delta(self) -> float | None:
        """Smallest delta of all runs so far."""
        return min((spend.delta for spend in self.rounds), default=None)

    def of(self, run: str) -> Counter[RoundSpend]:
        """Rounds of one run; several kinds if its noise multiplier changed."""
        return Counter({spend: rounds for spend, rounds in self.rounds.items() if spend.run == run})

    def epsilon(self, delta: float, more: Steps | None = None) -> float:
        """Epsilon of everything spent, and of more steps, together."""
        steps = [spend.times(rounds) for spend, rounds in self.rounds.items()]
        return epsilon_of([*steps, more] if more else steps, delta)


def write_line(spend: RoundSpend, time: datetime) -> bytes:
    """One round as a line of JSON."""
    entry = {"time": time.isoformat(timespec="milliseconds"), **asdict(spend)}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def read_line(line: bytes) -> tuple[RoundSpend, datetime]:
    """The inverse of `write_line`; ValueError if it is no such line, or its figures are not those of a valid plan."""
    try:
        entry = json.loads(line)
        time = datetime.fromisoformat(entry.pop("time")).astimezone(UTC)
        spend = RoundSpend(**entry)
        noise_multiplier = entry.pop("noise_multiplier")
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ValueError("not a line of a privacy budget") from None
    PrivacyPlan(**entry, learning_rate=1.0)  # checks types and ranges
    if type(noise_multiplier) is not float or not 0 < noise_multiplier < math.inf:
        raise ValueError("the noise multiplier is out of range")
    return spend, time


def is_incomplete(line: bytes) -> bool:
    """Whether it is the beginning of a line, possibly with the zero bytes that a power failure can leave."""
    start = line.rstrip(b"\0")[: len(LINE_START)]
    return (LINE_START.startswith(start) and not line.endswith(b"\n")) or line.startswith(b"\0")
