"""What a run promises the patients whom it trains on, as the server tells it and each hospital checks and keeps it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from federated_health.messages.weights import MalformedMessageError
from federated_health.privacy.accounting import ACCOUNTANT, NEIGHBOURS, calibrate

PROMISE = (
    "neighbours differ by adding or removing one training row; which rows are held out and how many rows there are "
    "is public; held-out patients are not protected by it"
)

PREFIX = "dp-"
"""Of a plan's keys among a question's settings."""

MIN_EPSILON, MAX_EPSILON = 0.01, 100.0
MIN_DELTA = 1e-12
"""Below it the accountant's own rounding errors count."""

MIN_CLIP, MAX_CLIP = 1e-6, 1e6
"""Far from where a number in floating point becomes 0 or infinite, noise among them."""

MAX_STEPS = 100_000
"""Of a run, all rounds together."""

MIN_RATE = 1e-6
"""One patient of a million."""

RUN = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """(epsilon, delta)-differential privacy of every hospital's training patients, over a whole run.

    Attributes:
        epsilon: in [0.01, 100].
        delta: in [1e-12, 1).
        clip: L2 norm that one patient's gradient is clipped to, in [1e-6, 1e6].
        sampling_rate: each patient's chance to be in a step, in [1e-6, 1].
        steps: noisy local steps a round.
        learning_rate: of them.
        rounds: that may be charged: the run's, and spare ones for rounds that are repeated.
        run: a random token, 16 hex digits, that tells charges of one run from another's.

    Raises:
        ValueError: a figure is out of its range; says which.
    """

    epsilon: float
    delta: float
    clip: float
    sampling_rate: float
    steps: int
    learning_rate: float
    rounds: int
    run: str

    def __post_init__(self) -> None:
        allowed = {
            "epsilon": MIN_EPSILON <= self.epsilon <= MAX_EPSILON,
            "delta": MIN_DELTA <= self.delta < 1,
            "clip": MIN_CLIP <= self.clip <= MAX_CLIP,
            "sampling_rate": MIN_RATE <= self.sampling_rate <= 1,
            "steps": self.steps >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "rounds": self.rounds >= 1 and self.rounds * self.steps <= MAX_STEPS,
            "run": RUN.fullmatch(self.run) is not None,
        }
        for name, is_allowed in allowed.items():
            if not is_allowed:
                raise ValueError(f"its {_key(name)} is out of range")

    @cached_property
    def noise_multiplier(self) -> float:
        """Standard deviation of a step's noise over `clip`. Takes about a second; every side computes its own."""
        return calibrate(self.epsilon, self.delta, self.sampling_rate, self.rounds * self.steps)

    def describe(self) -> str:
        """In a line."""
        return (
            f"differential privacy of each training patient: epsilon {self.epsilon:g} at delta {self.delta:g} over "
            f"{self.rounds} rounds, with {self.noise_multiplier:g} times the clipping norm as noise in each step of "
            "each hospital"
        )

    def to_config(self) -> dict[str, str | int | float]:
        """Its keys and values among a question's settings."""
        return {_key(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PrivacyPlan | None":
        """The plan among a question's settings; None where they have no key of one.

        Raises:
            MalformedMessageError: a key is missing, unknown, or its value of the wrong type or out of range.
        """
        given = {name for name in config if name.startswith(PREFIX)}
        if not given:
            return None
        if given != {_key(field.name) for field in fields(cls)}:
            raise MalformedMessageError("its privacy plan has other keys")
        values = {field.name: config[_key(field.name)] for field in fields(cls)}
        for field in fields(cls):
            if type(values[field.name]) is not field.type:  # a bool is no number
                raise MalformedMessageError(f"its {_key(field.name)} has another type")
        try:
            return cls(**values)
        except ValueError as error:
            raise MalformedMessageError(str(error)) from None

    def to_json(self) -> dict[str, str | int | float]:
        """What metrics.json says of it."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "clip": self.clip,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "noise_multiplier": self.noise_multiplier,
            "rounds": self.rounds,
            "promise": PROMISE,
            "accountant": ACCOUNTANT,
            "neighbours": NEIGHBOURS,
        }


def _key(name: str) -> str:
    return PREFIX + name.replace("_", "-")
