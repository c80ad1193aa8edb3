"""Proposes ranges for a measurement from one hospital's values, without revealing any of them.

All bounds come from the 5 % and 95 % quantiles, widened and rounded outward to round numbers, so that they reveal
neither the smallest nor the largest value. `docs/task-files.md` states the rule.
"""

from math import ceil, floor, log10
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from federated_health.data.exports.export_profile import MISSING_NUMBERS

Numbers = npt.NDArray[np.float64]

MIN_VALUES, MIN_DIFFERENT = 20, 10
"""Smallest numbers of values, and of different ones, from which a range is proposed."""

MAX_DOUBLINGS = 6
"""Largest number of doublings of the margin around the central values; values still outside count as errors."""


class Ranges(NamedTuple):
    """A plausible range, the typical range of a median (None if nearly all values are the same), and whether all values
    lie inside the plausible one."""

    plausible: tuple[float, float]
    typical: tuple[float, float] | None
    covers_all: bool


def propose_ranges(values: Numbers) -> Ranges | None:
    """Plausible and typical range of values; None if there are too few of them.

    The central 90 % of the values is widened at each end by its own width, which is doubled until all values lie
    inside; each bound is rounded outward to a multiple of a round number. A range has no negative numbers if the values
    have none.
    """
    if len(values) < MIN_VALUES or len(np.unique(values)) < MIN_DIFFERENT:
        return None
    low, high = np.quantile(values, [0.05, 0.95])
    least, most = float(values.min()), float(values.max())
    is_constant = low == high
    width = float(high - low) or (most - least) or abs(least) or 1.0
    upper = [_round_up(high + width * 2**k, width * 2**k) for k in range(MAX_DOUBLINGS + 1)]
    lower = [0.0 - _round_up(width * 2**k - low, width * 2**k) for k in range(MAX_DOUBLINGS + 1)]
    if least >= 0:
        lower = [max(bound, 0.0) + 0.0 for bound in lower]
    above = next((bound for bound in upper if bound > most), None)
    below = next((bound for bound in lower if bound < least or bound == least == 0), None)
    plausible = (lower[0] if below is None else below, upper[0] if above is None else above)
    typical = (max(0.0 - _round_up(-low, width / 2), plausible[0]), min(_round_up(high, width / 2), plausible[1]))
    return Ranges(plausible, None if is_constant else typical, above is not None and below is not None)


def _round_up(number: float, margin: float) -> float:
    """A number rounded up to a multiple of the largest of 1, 2, 5, 10, 20, ... that is at most the margin."""
    exponent = floor(log10(margin))
    step = max(digit * 10.0**exponent for digit in (1, 2, 5) if digit * 10.0**exponent <= margin * (1 + 1e-9))
    return float(f"{ceil(number / step - 1e-9) * step:.12g}") + 0.0


def find_missing_marks(values: Numbers, min_rows: int) -> list[int]:
    """Common missing-value markers that are in at least `min_rows` rows and far from all other values."""
    others = values[~np.isin(values, [0, *MISSING_NUMBERS])]
    if len(others) < MIN_VALUES:
        return []
    low, high = np.quantile(others, [0.05, 0.95])
    width, least, most = high - low, others.min(), others.max()
    spacing = float(np.median(np.diff(np.unique(others)))) if least < most else 0.0

    def is_far(mark: int) -> bool:
        if mark > least:
            return bool(mark > most and mark > high + width)
        return (mark < 0 <= least) or bool(least - mark > max(5 * spacing, width / 4))

    return [mark for mark in (0, *MISSING_NUMBERS) if is_far(mark) and np.count_nonzero(values == mark) >= min_rows]
