"""The kinds of columns: a measurement with a unit, a category with codes, and the label, which is 0 or 1.

Each kind states which numbers it allows, how messages describe them, what server and hospital must agree on, and its
number of features, which `ml.keras_models.build_encoder` makes. `docs/extending.md` lists what a new kind needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def write_number(number: float) -> str:
    """A number in full precision, without trailing zeros."""
    return f"{number:.15g}"


@dataclass(frozen=True)
class Column(ABC):
    """A column of a task; `meaning` says what it holds, for people."""

    name: str
    meaning: str

    @property
    @abstractmethod
    def rule(self) -> str:
        """What a cell may hold, for messages."""

    @property
    def summary(self) -> str:
        """What server and hospital must agree on, as text."""
        return f"{self.meaning}: {self.rule}"

    @abstractmethod
    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        """Where the rule allows a number, [rows]; NaN is a missing cell."""


@dataclass(frozen=True)
class Measurement(Column):
    """A quantity with a unit, scaled by the normalisation that all hospitals share.

    Attributes:
        low, high: bounds of what is physically plausible, inclusive, in `unit`. Numbers outside are mistakes.
        zero_is_missing: a recorded 0 means "not measured" and is read as missing.
        typical_median: lowest and highest median, in `unit`, that a hospital usually has; the data check warns outside.
        other_units: other common unit -> factor and offset that convert it to `unit`, for mappings and the data check.
        scale: mean and standard deviation, in `unit`, of the normalisation under differential privacy; see
            `public_scale`.
        association: "positive" or "negative" if patients with the label 1 usually have higher or lower values, for the
            data check.
    """

    unit: str
    _: KW_ONLY
    low: float
    high: float
    zero_is_missing: bool = False
    typical_median: tuple[float, float] | None = None
    other_units: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scale: tuple[float, float] | None = None
    association: Literal["positive", "negative"] | None = None

    feature_width = 2  # scaled value and missing flag

    @property
    def rule(self) -> str:
        return f"a number from {write_number(self.low)} to {write_number(self.high)} ({self.unit}), or empty"

    @property
    def summary(self) -> str:
        zero = ", 0 is missing" if self.zero_is_missing else ""
        return f"{self.meaning}: {write_number(self.low)} to {write_number(self.high)} {self.unit}{zero}"

    @property
    def known_units(self) -> Mapping[str, tuple[float, float]]:
        """Unit -> factor and summand that convert it to `unit`, which is the first and never converted."""
        own = {self.unit: (1.0, 0.0)}
        return {**own, **self.other_units, **own}

    @property
    def public_scale(self) -> tuple[float, float]:
        """Mean and standard deviation from the declaration, which depend on no patient.

        `scale` if it is declared. Otherwise the middle of the range in which hospitals' medians typically lie, and half
        of its width; without such a range, the middle and a sixth of the plausible range.
        """
        if self.scale is not None:
            return self.scale
        low, high = self.typical_median or (self.low, self.high)
        return (low + high) / 2, (high - low) / (2 if self.typical_median else 6)

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return np.isnan(numbers) | (self.low <= numbers) & (numbers <= self.high)


@dataclass(frozen=True)
class Category(Column):
    """A code from a fixed list."""

    codes: Mapping[int, str]
    """Code -> its meaning."""

    risk_codes: tuple[int, ...] = ()
    """Codes whose patients have the label 1 more often than others, for the data check."""

    @property
    def feature_width(self) -> int:
        """One-hot width: each code, and "missing"."""
        return len(self.codes) + 1

    @property
    def rule(self) -> str:
        return f"one of {', '.join(f'{code} ({meaning})' for code, meaning in self.codes.items())}, or empty"

    @property
    def summary(self) -> str:
        return f"{self.meaning}: {', '.join(f'{code} {meaning}' for code, meaning in self.codes.items())}"

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return np.isnan(numbers) | np.isin(numbers, list(self.codes))


@dataclass(frozen=True)
class Label(Column):
    """The column that is predicted, never missing: 0 or 1. Its subclasses in `labels` are the other kinds.

    Attributes:
        kind: name of the kind in a task file, and of its target (see `ml.targets`).
        typical_share: usual share of rows with the label 1, around which the evaluation with differential privacy
            counts risks; None if it is not known.
    """

    kind: ClassVar[str] = "binary"
    _: KW_ONLY
    typical_share: float | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """Codes of its classes; empty if it is a quantity."""
        return (0, 1)

    @property
    def rule(self) -> str:
        return "0 or 1"

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return np.isin(numbers, (0, 1))
