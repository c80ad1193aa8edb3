"""Differencing: two registrations of one hospital, before and after it added patients, subtract to those patients.

The sums of a measurement over the training rows differ by the new patients' values. A new patient can also move another
one between training and held-out rows (see `data.split`), so that one value enters the sums and another one leaves.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from federated_health.data.columns import Measurement
from federated_health.data.hospital import Patients
from federated_health.data.tasks import Task
from federated_health.messages.content import Registration

MAX_ADDED = 4
"""Largest number of added patients whose values are searched: the solutions of more are many."""

MAX_SOLUTIONS = 100
"""The search ends after as many solutions: one that is not nearly unique tells little."""

DRAWS = 100

ERROR = 1e-6
"""Error of a released sum, as a share of it: sums are float64."""

Solution = tuple[float, ...]
"""Values in ascending order, one per patient."""


def added_values(
    earlier: Registration, later: Registration, measurements: Sequence[Measurement]
) -> list[list[Solution]]:
    """The values that may have been added to each measurement between two registrations, as far as these tell.

    Returns:
        A list per measurement of all possible sets of values: one set if they are known for certain, the empty set
        alone if nobody's value was added, and no set at all where nothing can be said.
    """
    if not (earlier.sums.are_released and later.sums.are_released):
        return [[] for _ in measurements]
    found: list[list[Solution]] = []
    for position, measurement in enumerate(measurements):
        before, after = (
            tuple(float(getattr(part.sums, name)[position]) for name in ("count", "total", "squares"))
            for part in (earlier, later)
        )
        if not before[0] or not after[0]:  # withheld, since too few patients have a value
            found.append([])
            continue
        added, total, squares = (new - old for new, old in zip(after, before, strict=True))
        slack = ERROR * max(1.0, after[2])
        if added == 0 and abs(total) > ERROR * max(1.0, abs(after[1])):
            found.append(_exchanged_value(total, squares, measurement))
        elif 0 <= added <= MAX_ADDED:
            found.append(values_with_sums(int(added), total, squares, measurement.low, measurement.high, slack=slack))
        else:
            found.append([])
    return found


def _exchanged_value(total: float, squares: float, measurement: Measurement) -> list[Solution]:
    """The value x that entered the sums while a value y left them: x - y and x² - y² are known."""
    value = (squares / total + total) / 2
    return [(value,)] if measurement.allows(np.array([value, value - total])).all() else []


def values_with_sums(
    count: int, total: float, squares: float, low: float, high: float, *, slack: float = 1e-6
) -> list[Solution]:
    """Sets of this many values between two bounds with this sum and sum of squares; of whole numbers from three on.

    One value is its sum, and two are the roots of an equation. More are searched among whole numbers, as most
    measurements are recorded. At most MAX_SOLUTIONS sets are returned.
    """
    if count == 0:
        return [()] if abs(total) <= slack else []
    if count <= 2:
        half = total / count
        spread = max(squares / count - half**2, 0.0) ** 0.5 if count == 2 else 0.0
        values = (half,) if count == 1 else (half - spread, half + spread)
        fits = abs(sum(value**2 for value in values) - squares) <= max(slack, ERROR * squares)
        return [values] if fits and low - slack <= values[0] and values[-1] <= high + slack else []
    if abs(total - round(total)) > slack or abs(squares - round(squares)) > slack:
        return []
    lowest, highest = int(np.ceil(low)), int(np.floor(high))
    return [
        tuple(map(float, values)) for values in _whole_numbers(count, round(total), round(squares), lowest, highest)
    ]


@lru_cache(maxsize=2**16)
def _whole_numbers(count: int, total: int, squares: int, low: int, high: int) -> tuple[tuple[int, ...], ...]:
    """Ascending whole numbers from `low` to `high` with these sums; at most MAX_SOLUTIONS of them."""
    if count == 1:
        return ((total,),) if low <= total <= high and total**2 == squares else ()
    found: list[tuple[int, ...]] = []
    for first in range(low, min(high, total // count) + 1):  # the smallest is at most the mean
        rest, rest_squares = total - first, squares - first**2
        if rest_squares * (count - 1) < rest**2 or rest > (count - 1) * high:  # Cauchy-Schwarz
            continue
        found += [(first, *others) for others in _whole_numbers(count - 1, rest, rest_squares, first, high)]
        if len(found) >= MAX_SOLUTIONS:
            break
    return tuple(found[:MAX_SOLUTIONS])


def share_told_by_sums(patients: Patients, task: Task, number: int, seed: int, draws: int = DRAWS) -> float | None:
    """How often count, sum and sum of squares over this many patients have one solution, so that they tell all values.

    The mean over the measurements that are recorded in whole numbers, each with random draws of patients; None without
    such a measurement.
    """
    generator, shares = np.random.default_rng([seed, 5]), []
    for position, measurement in zip(task.measurement_positions, task.measurements, strict=True):
        cells = patients.values[:, position]
        cells = cells[~np.isnan(cells)]
        if len(cells) < number or (cells % 1).any():
            continue
        told = 0
        for _ in range(draws):
            values = generator.choice(cells, number, replace=False)
            sums = float(values.sum()), float((values**2).sum())
            told += len(values_with_sums(number, *sums, measurement.low, measurement.high)) == 1
        shares.append(told / draws)
    return float(np.mean(shares)) if shares else None
