"""Attacks on held-out patients, from the sums over them that a hospital releases for weights which the server knows.

The attacker knows the candidates' records and computes what each would add to every sum: to the counts of outcomes, the
loss and the squared errors. It asks which candidates are held out; or, of those who are, what their outcomes are.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from federated_health.data.hospital import Patients
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

ERRORS = {name: 0.0 if name in COUNT_NAMES else 1e-5 for name in SUM_NAMES}
"""Released sum -> its error: hospitals compute log-odds in single precision."""


def sum_over_hospitals(evaluations: Mapping[str, Sequence[Evaluated]]) -> list[Evaluated]:
    """The sums over the rows of all hospitals together, which secure aggregation gives the server, by round."""
    together = []
    for parts in zip(*evaluations.values(), strict=True):
        names = [name for name in ERRORS if all(name in part.sums for part in parts)]
        sums = {name: sum(part.sums[name] for part in parts) for name in names}
        together.append(Evaluated(parts[0].weights, parts[0].threshold, sums))
    return together


def membership_equations(evaluations: Sequence[Evaluated], features: Floats, labels: Floats) -> Equations:
    """Equations for which candidates are held out: each adds its own outcome, loss and squared error."""
    equations = Equations.none(len(labels))
    for evaluated in evaluations:
        by_patient = _sums_by_patient(_risks(evaluated, features), labels, evaluated.threshold)
        equations += Equations(*_released(evaluated, by_patient))
    return equations


def outcome_equations(evaluations: Sequence[Evaluated], features: Floats) -> Equations:
    """Equations for which held-out patients have the label 1, if their columns are known and their labels are not.

    A sum is that of all patients with the label 0, and for each with the label 1 the difference.
    """
    equations = Equations.none(len(features))
    for evaluated in evaluations:
        risks = _risks(evaluated, features)
        ones, zeros = (
            _sums_by_patient(risks, np.full(len(features), label), evaluated.threshold) for label in (1.0, 0.0)
        )
        differences = {name: ones[name] - zeros[name] for name in ERRORS}
        terms, sums, errors = _released(evaluated, differences)
        base = [zeros[name].sum() for name in ERRORS if name in evaluated.sums]
        equations += Equations(terms, sums - np.array(base), errors)
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


def _risks(evaluated: Evaluated, features: Floats) -> Array:
    return probability(log_odds_of(layers_of(evaluated.weights), features))


def _sums_by_patient(risks: Array, labels: Floats, threshold: float) -> dict[str, Array]:
    """What each patient adds to every sum, [patients] (see `binary.count_outcomes`)."""
    predicted, actual = risks >= threshold, labels > 0.5
    given = np.maximum(np.where(actual, risks, 1.0 - risks), MIN_PROBABILITY)
    outcomes = predicted & actual, predicted & ~actual, ~predicted & ~actual, ~predicted & actual
    values = [*outcomes, -np.log(given), (1.0 - given) ** 2]
    return {name: part.astype(np.float64) for name, part in zip(ERRORS, values, strict=True)}


def _released(evaluated: Evaluated, by_patient: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    """The terms, sums and errors of the sums that were released."""
    names = [name for name in ERRORS if name in evaluated.sums]
    patients = len(by_patient[next(iter(ERRORS))])
    terms = np.array([by_patient[name] for name in names]).reshape(len(names), patients)
    return terms, np.array([evaluated.sums[name] for name in names]), np.array([ERRORS[name] for name in names])
