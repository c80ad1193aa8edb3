"""Privacy spent by a round or by a final evaluation, and its line in a hospital's privacy account."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from federated_health.data.hospital import Hospital
from federated_health.ml.noisy_evaluation import EXCHANGE
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.privacy.accounting import Steps

LINE_START = b'{"time":'
"""First bytes of every line."""


@dataclass(frozen=True, kw_only=True)
class RoundSpend:
    """Privacy of training patients spent by one round: the figures of its run's plan, and the noise added.

    Attributes:
        split: which patients were held out (see `digest_of_split`); empty in lines of earlier versions.
    """

    run: str
    epsilon: float
    delta: float
    clip: float
    sampling_rate: float
    noise_multiplier: float
    steps: int
    rounds: int
    split: str = ""

    @classmethod
    def of(cls, plan: PrivacyPlan, split: str = "") -> "RoundSpend":
        figures = {field.name: getattr(plan, field.name) for field in fields(cls) if field.name != "split"}
        return cls(**figures, split=split)

    def times(self, rounds: int) -> Steps:
        """The noisy steps of this number of rounds."""
        return Steps(self.sampling_rate, self.noise_multiplier, rounds * self.steps)

    def exchanged(self, rounds: int) -> Steps:
        """The steps for `epsilon_of(..., exchange=True)`."""
        return self.times(rounds)


@dataclass(frozen=True, kw_only=True)
class EvaluationSpend:
    """Privacy of held-out patients spent by the final evaluation of a run.

    Attributes:
        evaluation_noise: standard deviation of the noise in each count, divided by the largest change by one patient.
        split: see `RoundSpend`.
    """

    run: str
    epsilon: float
    delta: float
    evaluation_noise: float
    split: str

    @classmethod
    def of(cls, plan: PrivacyPlan, split: str) -> "EvaluationSpend":
        return cls(
            run=plan.run,
            epsilon=plan.epsilon,
            delta=plan.delta,
            evaluation_noise=plan.evaluation_noise,
            split=split,
        )

    def times(self, evaluations: int) -> Steps:
        """This number of evaluations as noisy steps with every patient."""
        return Steps(1.0, self.evaluation_noise, evaluations)

    def exchanged(self, evaluations: int) -> Steps:
        """The steps for `epsilon_of(..., exchange=True)`, which counts a distance of 2."""
        return Steps(1.0, self.evaluation_noise * 2 / EXCHANGE, evaluations)


Spend = RoundSpend | EvaluationSpend


@lru_cache(maxsize=1024)
def digest_of_split(hospital: Hospital) -> str:
    """16 hex digits that are the same where the same rows are held out. They stay at the hospital.

    Where two runs hold out the same patients, no patient was in training in one and held out in the other.
    """
    digest = blake2b(digest_size=8)
    rows = hospital.test
    for array in (rows.values, rows.labels, rows.ids):
        digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()


def write_line(spend: Spend, time: datetime) -> bytes:
    """One round or evaluation as a line of JSON."""
    entry = {"time": time.isoformat(timespec="milliseconds"), **asdict(spend)}
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def read_line(line: bytes) -> tuple[Spend, datetime]:
    """The inverse of `write_line`; ValueError if it is no such line, or its figures are not those of a valid plan."""
    try:
        entry = json.loads(line)
        time = datetime.fromisoformat(entry.pop("time")).astimezone(UTC)
        kind = EvaluationSpend if "evaluation_noise" in entry else RoundSpend
        spend: Spend = kind(**entry)
        split = entry.pop("split", "")
        noise = entry.pop("evaluation_noise" if kind is EvaluationSpend else "noise_multiplier")
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise ValueError("not a line of a privacy account") from None
    figures = {**_ANY_TRAINING, **entry} if kind is EvaluationSpend else entry
    PrivacyPlan(**figures, learning_rate=1.0)  # checks types and ranges
    if type(noise) is not float or not 0 < noise < math.inf:
        raise ValueError("the noise is out of range")
    if type(split) is not str or re.fullmatch(r"[0-9a-f]{16}|", split) is None:
        raise ValueError("the split is not a digest")
    return spend, time


_ANY_TRAINING: dict[str, Any] = {"clip": 1.0, "sampling_rate": 1.0, "steps": 1, "rounds": 1}
"""Valid figures of a plan that an evaluation does not have."""


def is_incomplete(line: bytes) -> bool:
    """Whether it is the beginning of a line, possibly with the zero bytes that a power failure can leave."""
    start = line.rstrip(b"\0")[: len(LINE_START)]
    return (LINE_START.startswith(start) and not line.endswith(b"\n")) or line.startswith(b"\0")
