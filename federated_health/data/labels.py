"""The kinds of labels besides the binary one: classes, a number with a unit, a count of events.

Loaded only for a task with such a label, and by what drafts and converts tables.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Label, Mask, write_number


@dataclass(frozen=True)
class ClassLabel(Label):
    """One of several classes."""

    codes: Mapping[int, str]
    """Code -> its meaning, in the order of the network's outputs."""

    kind: ClassVar[str] = "classes"

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(self.codes)

    @property
    def rule(self) -> str:
        return f"one of {', '.join(f'{code} ({meaning})' for code, meaning in self.codes.items())}"

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return np.isin(numbers, list(self.codes))


@dataclass(frozen=True)
class NumberLabel(Label):
    """A quantity with a unit.

    Attributes:
        low, high: bounds of what is plausible, inclusive, in `unit`.
        scale: mean and standard deviation, in `unit`, with which the network's output is scaled; see `public_scale`.
    """

    unit: str
    _: KW_ONLY
    low: float
    high: float
    scale: tuple[float, float] | None = None

    kind: ClassVar[str] = "number"
    classes = ()

    @property
    def rule(self) -> str:
        return f"a number from {write_number(self.low)} to {write_number(self.high)} ({self.unit})"

    @property
    def summary(self) -> str:
        mean, deviation = map(write_number, self.public_scale)
        return f"{self.meaning}: {self.rule}, scaled by mean {mean} and standard deviation {deviation}"

    @property
    def public_scale(self) -> tuple[float, float]:
        """`scale` if it is declared; else the middle and a sixth of the range. It depends on no patient."""
        return self.scale or ((self.low + self.high) / 2, (self.high - self.low) / 6)

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return (self.low <= numbers) & (numbers <= self.high)


@dataclass(frozen=True)
class CountLabel(Label):
    """A number of events, such as admissions per year.

    Attributes:
        high: largest plausible number, inclusive.
    """

    _: KW_ONLY
    high: int

    kind: ClassVar[str] = "count"
    classes = ()

    @property
    def rule(self) -> str:
        return f"a whole number from 0 to {self.high}"

    def allows(self, numbers: npt.NDArray[np.float64]) -> Mask:
        return np.isin(numbers, np.arange(self.high + 1))
