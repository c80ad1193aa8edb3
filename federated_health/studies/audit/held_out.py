"""Attacks on held-out patients, from the sums over them that a hospital releases for weights which the server knows.

The attacker knows the candidates' records and computes what each would add to every sum: to the counts of outcomes, the
loss and the squared errors. It asks which candidates are held out; or, of those who are, what their outcomes are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from federated_health.data.hospital import Patients
from federated_health.hospital.disclosure import DECIMALS
from federated_health.ml import normalisation
from federated_health.ml.normalisation import ColumnSums, column_sums
from federated_health.ml.targets.binary import MIN_PROBABILITY, probability
from federated_health.studies.audit.observations import (
    COUNT_NAMES,
    SUM_NAMES,
    Array,
    Evaluated,
    Floats,
    layers_of,
    log_odds_of,
)
from federated_health.studies.audit.subset_recovery import Equations

ERROR = 1e-5
"""Error of a sum of losses: hospitals compute log-odds in single precision."""


def sum_over_hospitals(evaluations: Mapping[str, Sequence[Evaluated]]) -> list[Evaluated]:
    """The sums over the rows of all hospitals together, which secure aggregation gives the server, by round."""
    together = []
    for parts in zip(*evaluations.values(), strict=True):
        names = [name for name in SUM_NAMES if all(name in part.sums for part in parts)]
        sums = {name: sum(part.sums[name] for part in parts) for name in names}
        cells = np.sum([part.cells for part in parts], axis=0) if all(part.cells for part in parts) else ()
        together.append(Evaluated(parts[0].weights, parts[0].threshold, sums, tuple(cells), parts[0].edges))
    return together


def membership_equations(evaluations: Sequence[Evaluated], features: Floats, labels: Floats) -> Equations:
    """Equations for which candidates are held out: each adds its own outcome, loss and squared error."""
    equations = Equations.none(len(labels))
    for evaluated in evaluations:
        equations += Equations(_terms(evaluated, features, labels), *_released(evaluated))
    return equations


def outcome_equations(evaluations: Sequence[Evaluated], features: Floats) -> Equations:
    """Equations for which held-out patients have the label 1, if their columns are known and their labels are not.

    A sum is that of all patients with the label 0, and for each with the label 1 the difference.
    """
    equations = Equations.none(len(features))
    for evaluated in evaluations:
        ones, zeros = (_terms(evaluated, features, np.full(len(features), label)) for label in (1.0, 0.0))
        sums, errors = _released(evaluated)
        equations += Equations(ones - zeros, sums - zeros.sum(axis=1), errors)
    return equations


def registration_equations(sums: ColumnSums, candidates: Patients, positions: Sequence[int]) -> Equations:
    """Equations for which candidates are held out, from the sums over those who are not.

    Args:
        sums: of the registration, over the training rows; 0 where they are withheld.
        candidates: all rows of the hospital.
        positions: of the measurements among the columns.
    """
    values = candidates.values[:, list(positions)]
    everyone, observed = column_sums(values), ~np.isnan(values)
    present = np.where(observed, values, 0.0)
    is_released = sums.count > 0
    terms = np.concatenate([part.T[is_released] for part in (observed.astype(np.float64), present, present**2)])
    known = [getattr(everyone, name) - getattr(sums, name) for name in normalisation.SUM_NAMES]
    held_out = np.concatenate([part[is_released] for part in known])
    scale = np.maximum(np.abs(terms).max(axis=1, initial=1.0), 1.0)
    return Equations(terms / scale[:, None], held_out / scale, np.full(len(held_out), 1e-9))


def _terms(evaluated: Evaluated, features: Floats, labels: Floats) -> Array:
    """What each patient adds to every released sum, [sums, patients] (see `binary.count_outcomes`)."""
    log_odds = log_odds_of(layers_of(evaluated.weights), features)
    actual = labels > 0.5
    if evaluated.cells:
        bins = len(evaluated.edges) + 1
        cell = actual * bins + np.searchsorted(evaluated.edges, log_odds, side="right")
        return np.eye(2 * bins)[:, cell]
    risks = probability(log_odds)
    predicted = risks >= evaluated.threshold
    given = np.maximum(np.where(actual, risks, 1.0 - risks), MIN_PROBABILITY)
    outcomes = predicted & actual, predicted & ~actual, ~predicted & ~actual, ~predicted & actual
    by_name = dict(zip(SUM_NAMES, [*outcomes, -np.log(given), (1.0 - given) ** 2], strict=True))
    names = [name for name in SUM_NAMES if name in evaluated.sums]
    return np.array([by_name[name] for name in names], dtype=np.float64).reshape(len(names), len(labels))


def _released(evaluated: Evaluated) -> tuple[Array, Array]:
    """The released sums, and the largest error of each: means of losses may have been rounded."""
    if evaluated.cells:
        return np.array(evaluated.cells), np.zeros(len(evaluated.cells))
    rows = sum(evaluated.sums.get(name, 0.0) for name in COUNT_NAMES)
    values = {name: evaluated.sums[name] for name in SUM_NAMES if name in evaluated.sums}
    errors = [0.0 if name in COUNT_NAMES else ERROR + _rounding(value, rows) for name, value in values.items()]
    return np.array(list(values.values())), np.array(errors)


def _rounding(value: float, rows: float) -> float:
    """The error of a sum whose mean is rounded as disclosure control rounds it; 0 if it is not."""
    mean = value / rows if rows else 0.0
    is_rounded = abs(mean - round(mean, DECIMALS)) < 1e-12
    return rows * 0.5 * 10.0**-DECIMALS if is_rounded else 0.0
