"""Attacks of an active server, which sends weights of its own making in place of the average.

`isolating_weights` let each unit of the first layer respond to few patients. A unit that responds to one patient alone
is moved along that patient's features, and nobody else moves it: the row is rebuilt from the sum of any number of
updates (Fowl et al. 2022, "Robbing the Fed"; Boenisch et al. 2023, "When the curious abandon honesty").
`counting_weights` predict 1 for patients above a value, so that the outcome counts say how many there are.
"""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from federated_health.data.columns import Measurement
from federated_health.data.tasks import Task
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import Normalisation
from federated_health.studies.audit.observations import COUNT_NAMES, Array, Step, layers_of

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of a network's weights by name: kernel and bias of each layer."""

MIN_MOVEMENT = 1e-6
"""Smallest movement of a bias that is more than rounding: weights are in single precision."""

STEEPNESS = 1000.0
"""Log-odds per standard deviation from the value above which counting weights predict 1."""

MAX_MIXED = 0.05
"""Largest error of a flag, which is 0 or 1, in a row that is taken to be a single patient's."""


def isolating_weights(task: Task, shapes: Shapes, rows: int, generator: np.random.Generator) -> Weights:
    """Weights whose first layer has units that each respond to about one of this many rows.

    A unit responds to the rows that are extreme in a random direction of the measurements, which are scaled to about
    normal distributions.
    """
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    (kernel, bias), *others = _layer_names(shapes)
    inputs, units = shapes[kernel]
    directions = np.zeros((inputs, units))
    scaled = _scaled_values(task)
    directions[scaled] = generator.normal(size=(len(scaled), units))
    directions /= np.linalg.norm(directions, axis=0)
    weights[kernel] = directions.astype(np.float32)
    weights[bias] = np.full(units, -NormalDist().inv_cdf(1.0 - 1.0 / max(rows, 2)), dtype=np.float32)
    for other, _ in others:
        weights[other] = np.ones(shapes[other], dtype=np.float32)
    return weights


def isolated_rows(task: Task, step: Step, shrinkage: float) -> Array:
    """Features of the patients that isolating weights rebuild from an update or an average, [patients, width].

    Rows whose flags are not 0 or 1 are mixtures of several patients, or noise, and are left out.

    Args:
        shrinkage: factor by which the L2 penalty alone scales a kernel during the training, or on average over several
            hospitals' trainings.
    """
    ((before, bias_before), *_), ((after, bias_after), *_) = layers_of(step.before), layers_of(step.after)
    moved, rows = bias_after - bias_before, list[Array]()
    for unit in np.flatnonzero(np.abs(moved) > MIN_MOVEMENT):
        features = (after[:, unit] - shrinkage * before[:, unit]) / moved[unit]
        is_patient = all(_is_one_hot(flags) for flags in _flags(task, features))
        if is_patient and not any(np.allclose(features, row, atol=2 * MAX_MIXED) for row in rows):
            rows.append(features)
    return np.array(rows).reshape(len(rows), len(before))


def counting_weights(task: Task, shapes: Shapes, normalisation: Normalisation, position: int, bound: float) -> Weights:
    """Weights that predict 1 for exactly the patients with a value above a bound.

    Args:
        position: of the measurement among the measurements.
        bound: in the measurement's unit.
    """
    weights = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    (kernel, bias), *others = _layer_names(shapes)
    mean, deviation = normalisation.mean[position], normalisation.variance[position] ** 0.5
    weights[kernel][_scaled_values(task)[position], 0] = STEEPNESS
    weights[bias][0] = -STEEPNESS * (bound - mean) / deviation
    for other, _ in others:
        weights[other][0, 0] = 1.0
    if others:  # the unit is 0 up to the bound, and log-odds of 0 would be a prediction of 1
        weights[others[-1][1]][0] = -1e-3
    return weights


class CountingServer:
    """A search for the values of a measurement among held-out patients, one question per round.

    Each question is how many patients of each outcome are above a bound. Values are taken to be whole numbers.

    Args:
        measurement: the measurement whose values are searched.
        start: the first bound, such as the mean.
    """

    def __init__(self, measurement: Measurement, start: float) -> None:
        self._start = int(start)
        self._low, self._high = int(np.ceil(measurement.low)) - 1, int(np.floor(measurement.high))
        self._above: dict[int, tuple[int, int]] = {}
        self._unanswered: set[int] = set()

    def next_bound(self) -> int:
        """The middle of the interval about which most remains to be learned; the first bound if nothing does."""
        if not self._above and self._start not in self._unanswered:
            return self._start
        best, bound = 0.0, self._start
        for (low, high), (positives, negatives) in self._intervals().items():
            between = [middle for middle in range(low + 1, high) if middle not in self._unanswered]
            worth = (positives + negatives) * np.log2(high - low)
            if between and worth > best:
                best, bound = worth, between[len(between) // 2]
        return bound

    def note(self, bound: int, sums: Mapping[str, float]) -> None:
        """Take the answer to a question: the released sums under `counting_weights` of this bound."""
        if not all(name in sums for name in COUNT_NAMES):
            self._unanswered.add(bound)
            return
        true_positives, false_positives = int(sums["true_positives"]), int(sums["false_positives"])
        self._above[bound] = (true_positives, false_positives)
        self._above[self._high] = (0, 0)
        self._above[self._low] = (
            true_positives + int(sums["false_negatives"]),
            false_positives + int(sums["true_negatives"]),
        )

    def found(self) -> Counter[tuple[int, int]]:
        """How many patients are known to have a value and an outcome, by (value, outcome)."""
        known: Counter[tuple[int, int]] = Counter()
        for (low, high), counts in self._intervals().items():
            if high - low == 1:
                known.update({(high, outcome): count for outcome, count in zip((1, 0), counts, strict=True) if count})
        return known

    def _intervals(self) -> dict[tuple[int, int], tuple[int, int]]:
        """Patients by outcome, 1 and 0, in each interval: above a bound and up to the next one."""
        bounds = sorted(self._above)
        return {
            (low, high): (self._above[low][0] - self._above[high][0], self._above[low][1] - self._above[high][1])
            for low, high in pairwise(bounds)
        }


def _layer_names(shapes: Shapes) -> list[tuple[str, str]]:
    """Names of kernel and bias of each layer."""
    names = list(shapes)
    return list(zip(names[::2], names[1::2], strict=True))


def _scaled_values(task: Task) -> list[int]:
    """Positions among the features of the measurements' scaled values."""
    pairs = zip(task.columns, task.feature_slices, strict=True)
    return [place.start for column, place in pairs if isinstance(column, Measurement)]


def _flags(task: Task, features: Array) -> list[Array]:
    """The features of each category, and of each measurement the missing flag and its complement."""
    parts = []
    for column, place in zip(task.columns, task.feature_slices, strict=True):
        part = features[place]
        parts.append(np.array([part[1], 1.0 - part[1]]) if isinstance(column, Measurement) else part)
    return parts


def _is_one_hot(flags: Array) -> bool:
    """Whether one flag is 1 and all others are 0."""
    expected = np.zeros(len(flags))
    expected[flags.argmax()] = 1.0
    return bool(np.abs(flags - expected).max() <= MAX_MIXED)
