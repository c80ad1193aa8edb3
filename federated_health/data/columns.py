"""What a column of a task is: a measurement with a unit, a category with codes, or the label."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A quantity with a unit, scaled by statistics that all hospitals share.

    Attributes:
        low, high: bounds of what is physically plausible, inclusive, in `unit`. Outside is a mistake in the file.
        zero_is_missing: a recorded 0 stands for "not measured" and is read as missing.
        typical_median: between what, in `unit`, the median of a hospital's patients lies; a hint for its data check.
        other_units: units that files come in by mistake -> factor and summand that turn them into `unit`; a hint, too.
    """

    name: str
    meaning: str
    unit: str
    low: float
    high: float
    zero_is_missing: bool = False
    typical_median: tuple[float, float] | None = None
    other_units: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def rule(self) -> str:
        """What a cell may hold, in words."""
        return f"a number from {self.low:g} to {self.high:g} ({self.unit}), or empty"

    @property
    def summary(self) -> str:
        """All that two parties must agree on, in words."""
        zero = ", 0 is missing" if self.zero_is_missing else ""
        return f"{self.meaning}: {self.low:g} to {self.high:g} {self.unit}{zero}"


@dataclass(frozen=True, kw_only=True)
class Category:
    """A code out of a fixed list; "missing" is one more code of its own."""

    name: str
    meaning: str
    codes: Mapping[int, str]

    @property
    def rule(self) -> str:
        """What a cell may hold, in words."""
        return f"one of {', '.join(f'{code} ({word})' for code, word in self.codes.items())}, or empty"

    @property
    def summary(self) -> str:
        """All that two parties must agree on, in words."""
        return f"{self.meaning}: {', '.join(f'{code} {word}' for code, word in self.codes.items())}"


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is predicted: 1 where it is so, 0 where it is not."""

    name: str
    meaning: str

    @property
    def rule(self) -> str:
        """What a cell may hold, in words."""
        return "0 or 1"

    @property
    def summary(self) -> str:
        """All that two parties must agree on, in words."""
        return f"{self.meaning}: 0 or 1"


Column = Measurement | Category | Label
