"""The differential-privacy guarantee of a run to each patient; other runs do not load this module.

The server sends the plan with its first message; each hospital validates and remembers it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from federated_health.ml.noisy_evaluation import EXCHANGE
from federated_health.names import MAX_EPSILON, MAX_RATE, PRIVACY_PREFIX
from federated_health.setting_fields import MAX_CLIP, MAX_STEPS, MIN_CLIP, MIN_DELTA, MIN_EPSILON, MIN_RATE

GUARANTEE = (
    "two data sets are neighbours if one patient adds nothing in one of them (zero-out): no gradient of a training "
    "patient, no count of a held-out one; the numbers of rows and of patients and which of them are held out are the "
    "same in both; a patient is all rows with one identifier, or one row if no column identifies patients"
)
EXCHANGE_NOTE = (
    "epsilon is larger if a patient is exchanged for another on the same side of the split (replace-one), and larger "
    "still if one is added to the CSV or removed from it, which can exchange one patient on each side"
)
ACCOUNTANT = "privacy loss distributions (dp-accounting), Poisson-sampled Gaussian"


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """(epsilon, delta)-differential privacy of every hospital's patients over a whole run.

    It holds for the training patients over all rounds, and for the held-out patients in the final evaluation. Both are
    different patients, so that together they have the same epsilon (parallel composition).

    Attributes:
        epsilon: in [0.01, 100].
        delta: in [1e-12, 1).
        clip: L2 norm to which one patient's gradient is clipped, in [1e-6, 1e6].
        sampling_rate: each patient's probability to be in a step, in [1e-6, 1].
        steps: noisy local steps per round.
        learning_rate: size of these steps.
        rounds: number that a hospital may train: the run's, and spare ones for repeated rounds.
        run: a random token of 16 hex digits that identifies the run.

    Raises:
        ValueError: a value is of the wrong type or out of range; the message names its key, not the value.
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
        for field in fields(self):
            expected: Any = field.type
            got = type(getattr(self, field.name))
            if got is not expected:  # isinstance would accept a bool as a number
                raise ValueError(
                    f"its {_key(field.name)} has the wrong type: expected {expected.__name__}, got {got.__name__}"
                )
        is_valid = {
            "epsilon": MIN_EPSILON <= self.epsilon <= MAX_EPSILON,
            "delta": MIN_DELTA <= self.delta < 1,
            "clip": MIN_CLIP <= self.clip <= MAX_CLIP,
            "sampling_rate": MIN_RATE <= self.sampling_rate <= 1,
            "steps": self.steps >= 1,
            "learning_rate": 0 < self.learning_rate <= MAX_RATE,
            "rounds": self.rounds >= 1 and self.rounds * self.steps <= MAX_STEPS,
            "run": re.fullmatch(r"[0-9a-f]{16}", self.run) is not None,
        }
        for name, valid in is_valid.items():
            if not valid:
                raise ValueError(f"its {_key(name)} is out of range")

    @cached_property
    def noise_multiplier(self) -> float:
        """Standard deviation of a step's noise divided by `clip`. Takes about 1 s; each side computes it for itself."""
        from federated_health.privacy.accounting import calibrate  # noqa: PLC0415  # a plan is below the accountant

        return calibrate(self.epsilon, self.delta, self.sampling_rate, self.rounds * self.steps)

    @cached_property
    def evaluation_noise(self) -> float:
        """Standard deviation of the noise in each count of the final evaluation, divided by `largest_change`."""
        from federated_health.privacy.accounting import calibrate  # noqa: PLC0415  # as above

        return calibrate(self.epsilon, self.delta, 1.0, 1)

    @cached_property
    def exchange_epsilons(self) -> dict[str, float]:
        """Epsilon if one patient is exchanged for another: a training patient, a held-out one, one on each side."""
        from federated_health.privacy.accounting import Steps, epsilon_of  # noqa: PLC0415  # as above

        training = Steps(self.sampling_rate, self.noise_multiplier, self.rounds * self.steps)
        held_out = Steps(1.0, self.evaluation_noise * 2 / EXCHANGE, 1)  # the accountant counts a distance of 2
        sides = {"training": [training], "held_out": [held_out], "both": [training, held_out]}
        return {side: epsilon_of(steps, self.delta, exchange=True) for side, steps in sides.items()}

    def describe(self) -> str:
        """One line for the log."""
        exchanged = self.exchange_epsilons
        return (
            f"differential privacy of each patient: epsilon {self.epsilon:g} at delta {self.delta:g} over "
            f"{self.rounds} rounds and one final evaluation (zero-out); {exchanged['training']:.4g} if a training "
            f"patient is exchanged for another (replace-one), {exchanged['both']:.4g} if one is on each side; noise in "
            f"each step of each hospital: {self.noise_multiplier:g} times the clipping norm, in each held-out count: "
            f"{self.evaluation_noise:g} times the largest change by one patient"
        )

    def to_config(self) -> dict[str, str | int | float]:
        """The plan as keys and values of a message's config."""
        return {_key(field.name): getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PrivacyPlan | None":
        """The plan in a message's config; None without any of its keys, ValueError if one is missing or invalid."""
        keys = {name for name in config if name.startswith(PRIVACY_PREFIX)}
        if not keys:
            return None
        if keys != {_key(field.name) for field in fields(cls)}:
            raise ValueError("its privacy plan has missing or unknown keys")
        return cls(**{field.name: config[_key(field.name)] for field in fields(cls)})

    def to_json(self) -> dict[str, str | int | float]:
        """The entry `privacy` of metrics.json."""
        names = ("epsilon", "delta", "clip", "sampling_rate", "steps", "noise_multiplier", "rounds")
        figures = {name: getattr(self, name) for name in names}
        return {
            **figures,
            "evaluation_noise": self.evaluation_noise,
            **{f"epsilon_exchange_{side}": round(epsilon, 4) for side, epsilon in self.exchange_epsilons.items()},
            "promise": GUARANTEE,
            "accountant": ACCOUNTANT,
            "neighbours": "zero-out of one patient",
        }


def _key(name: str) -> str:
    return PRIVACY_PREFIX + name.replace("_", "-")
