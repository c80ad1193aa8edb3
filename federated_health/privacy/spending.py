"""Privacy spent by a round, and its line in a hospital's privacy account."""

import json
import math
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps

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
        raise ValueError("not a line of a privacy account") from None
    PrivacyPlan(**entry, learning_rate=1.0)  # checks types and ranges
    if type(noise_multiplier) is not float or not 0 < noise_multiplier < math.inf:
        raise ValueError("the noise multiplier is out of range")
    return spend, time


def is_incomplete(line: bytes) -> bool:
    """Whether it is the beginning of a line, possibly with the zero bytes that a power failure can leave."""
    start = line.rstrip(b"\0")[: len(LINE_START)]
    return (LINE_START.startswith(start) and not line.endswith(b"\n")) or line.startswith(b"\0")
