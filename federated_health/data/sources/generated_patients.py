"""Generates diabetes patients of two virtual hospitals, and the best prediction that each record allows.

`patient_model` states how patients are drawn and recorded. As the model is known, so is the probability of the label
given a record, and with it the highest expected ROC-AUC of any model. That probability is the mean of the true risk
over the values that an empty cell may stand for (106 of HbA1c, 5 bands of glucose), weighted by Bayes' rule::

    P(hba1c | age, visits) P(insulin, tablets | hba1c) P(HbA1c is empty | hba1c, days, hospital)
    P(glucose | hba1c) or, where it is empty, P(band | hba1c) P(glucose is empty | band, hospital)

All of these are discrete, so the sum is exact. An empty admission type needs no sum, nor does severity: given the other
cells, neither the label nor HbA1c and glucose, recorded or not, depend on them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.sources import patient_model as model
from federated_health.data.sources.layouts import HOSPITAL_COLUMN
from federated_health.data.sources.patient_model import Codes, Columns, Vector
from federated_health.data.split import DEFAULT_SPLIT_SEED, split_rows
from federated_health.data.tasks import READMISSION

BANDS = np.arange(len(model.GLUCOSE_BANDS) + 1)

MAX_TERMS = 1_000_000
"""Largest number of terms of the sums that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class GeneratedPatients:
    """Generated patients.

    Attributes:
        table: `hospital`, the task's columns in order (float64, NaN for missing), then the label, int64 0 or 1.
        probability: float64 [rows], probability of the label given the recorded row and its hospital.
    """

    table: pd.DataFrame
    probability: Vector


def generate_patients(patients: int, seed: int) -> GeneratedPatients:
    """Draw patients, the first hospital's before the second's; equal arguments give equal patients.

    Args:
        patients: number of patients, at least 1.
    """
    generator = np.random.default_rng([seed, patients])
    hospital = (np.arange(patients) >= round(patients * model.FIRST_SHARE)).astype(np.int64)
    truth = model.draw_truth(hospital, generator)
    label = generator.random(patients) < model.true_risk(truth)
    record = model.draw_record(hospital, truth, generator)
    table = pd.DataFrame(
        {
            HOSPITAL_COLUMN: np.array(model.HOSPITALS)[hospital],
            **{name: record[name] for name in READMISSION.column_names},
            READMISSION.label.name: label.astype(np.int64),
        }
    )
    return GeneratedPatients(table=table, probability=expected_risk(hospital, record))


def held_out_probability(
    patients: GeneratedPatients, split_seed: int = DEFAULT_SPLIT_SEED
) -> tuple[Vector, npt.NDArray[np.float32]]:
    """Best predictions and labels of the test rows of all hospitals, [rows] each.

    Hospitals are in the order of the table, rows in the order of each hospital's test rows.
    """
    probability, labels = [], []
    label = READMISSION.label.name
    for _, rows in patients.table.groupby(HOSPITAL_COLUMN, sort=False):
        _, test = split_rows(rows.drop(columns=HOSPITAL_COLUMN), label, split_seed)
        probability.append(patients.probability[rows.index[test]])
        labels.append(rows[label].to_numpy(dtype=np.float32)[test])
    return np.concatenate(probability), np.concatenate(labels)


def expected_roc_auc(probability: Vector) -> float:
    """Expected ROC-AUC of scores that are the true probabilities of their labels.

    It is the share of pairs of a positive and a negative patient in which the positive one has the higher score, equal
    scores counting half; both sums over pairs are expectations over the labels.

    Args:
        probability: [patients].

    Raises:
        ValueError: no two patients can be of different classes.
    """
    _, score = np.unique(probability, return_inverse=True)
    positive = np.bincount(score, probability)
    negative = np.bincount(score, 1.0 - probability)
    with_itself = np.bincount(score, probability * (1.0 - probability))
    pairs = positive.sum() * negative.sum() - with_itself.sum()
    if len(probability) < 2 or not pairs > 0:
        raise ValueError("the AUC is not defined: no two patients can be of different classes")
    below = np.cumsum(negative) - negative
    return float((positive * below + 0.5 * (positive * negative - with_itself)).sum() / pairs)


def expected_risk(hospital: Codes, record: Columns) -> Vector:
    """Probability of the label given the recorded cells alone, [patients].

    Args:
        hospital: [patients], positions in `patient_model.HOSPITALS`.
        record: columns as from `patient_model.draw_record`.
    """
    risk = np.empty(len(hospital))
    other = model.other_log_odds({**record, "diagnoses": record["diagnoses"] - model.EXTRA_CODES[hospital]})
    for rows, no_hba1c, no_glucose in _group_by_missing(np.isnan(record["hba1c"]), np.isnan(record["glucose"])):
        cells = {name: column[rows] for name, column in record.items()}
        hba1c = model.HBA1C_TENTHS[None] / 10 if no_hba1c else cells["hba1c"][:, None]
        control = model.control_log_odds(hba1c, cells["insulin"][:, None])
        bands = BANDS[None] if no_glucose else model.glucose_band(cells["glucose"])[:, None]
        log_odds = (other[rows, None] + control)[:, :, None] + model.GLUCOSE_LOG_ODDS[bands][:, None, :]
        risks = model.sigmoid(log_odds)
        weights = _bayes_weights(hospital[rows], cells, no_hba1c, no_glucose)
        risk[rows] = (weights * risks).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
    return risk


def _group_by_missing(
    no_hba1c: npt.NDArray[np.bool_], no_glucose: npt.NDArray[np.bool_]
) -> Iterator[tuple[Codes, bool, bool]]:
    """Chunks of rows that lack the same cells, with what they lack."""
    for lacks_hba1c in (False, True):
        for lacks_glucose in (False, True):
            rows = np.flatnonzero((no_hba1c == lacks_hba1c) & (no_glucose == lacks_glucose))
            values = len(model.HBA1C_TENTHS) if lacks_hba1c else 1
            step = MAX_TERMS // (values * (len(BANDS) if lacks_glucose else 1))
            for start in range(0, len(rows), step):
                yield rows[start : start + step], lacks_hba1c, lacks_glucose


def _bayes_weights(hospital: Codes, cells: Columns, no_hba1c: bool, no_glucose: bool) -> Vector:
    """Weight of each HbA1c and band of glucose, [rows, values or 1, bands or 1], up to a factor per row.

    A recorded cell is one value of weight 1.
    """
    chances = _tabulate_chances()
    if no_hba1c:
        insulin, tablets = _position(cells["insulin"]), _position(cells["diabetes_medication"])
        visits = np.minimum(_position(cells["emergency_visits"]), model.MAX_VISITS)
        weights = chances.hba1c[visits, _position(cells["age"], model.AGES)] * chances.treatment[insulin, tablets]
        weights *= chances.unrecorded[hospital, _position(cells["days_in_hospital"], model.DAYS)]
        if not no_glucose:
            weights *= chances.glucose[_position(cells["glucose"], model.GLUCOSES)]
        band = chances.band[None]
    else:
        weights = np.ones((len(hospital), 1))
        band = chances.band[_position(cells["hba1c"] * 10, model.HBA1C_TENTHS)[:, None]]
    joint: Vector = weights[:, :, None]
    return joint * band * model.GLUCOSE_MISSING[hospital][:, None, :] if no_glucose else joint


@dataclass(frozen=True, eq=False)
class _Chances:
    """Factors of Bayes' rule for each value of HbA1c.

    Attributes:
        hba1c: [visits, ages, values], chance of that value.
        treatment: [insulin, tablets, values], chance of insulin's code with or without a diabetes medication.
        unrecorded: [hospitals, days, values], chance that HbA1c is empty.
        glucose: [glucoses, values], chance of that glucose.
        band: [values, bands], chance of that band.
    """

    hba1c: Vector
    treatment: Vector
    unrecorded: Vector
    glucose: Vector
    band: Vector


@cache
def _tabulate_chances() -> _Chances:
    values = model.HBA1C_TENTHS / 10
    level = model.hba1c_level(model.AGES.astype(np.float64), np.arange(model.MAX_VISITS + 1.0)[:, None])
    glucose = _cell_chances(np.log(model.GLUCOSES[:-1] + 0.5), model.glucose_level(values), model.GLUCOSE_SPREAD)
    shares, tablets = model.insulin_shares(values).T, model.tablets_share(values)
    treatment = np.stack([np.zeros_like(shares), shares], axis=1)  # with insulin, always a medication
    treatment[0] = shares[0] * (1.0 - tablets), shares[0] * tablets
    hospital, days = np.arange(len(model.HOSPITALS))[:, None, None], model.DAYS[:, None].astype(np.float64)
    return _Chances(
        hba1c=_cell_chances(np.log((model.HBA1C_TENTHS[:-1] + 0.5) / 10 - 4), level, model.HBA1C_SPREAD),
        treatment=treatment,
        unrecorded=1.0 - model.hba1c_recorded(hospital, values, days),
        glucose=np.ascontiguousarray(glucose.T),
        band=np.add.reduceat(glucose, [0, *np.searchsorted(model.GLUCOSES, model.GLUCOSE_BANDS)], axis=1),
    )


def _cell_chances(edges: Vector, mean: Vector, deviation: float) -> Vector:
    """Probabilities, [..., edges + 1], of the cells into which edges divide a normal variable."""
    distance = (mean[..., None] - edges) / (deviation * math.sqrt(2.0))
    below = 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(distance)
    cells: Vector = np.diff(below, axis=-1, prepend=0.0, append=1.0)
    return cells


def _position(cells: Vector, values: Codes | None = None) -> Codes:
    """Positions of cells among consecutive whole numbers, from 0 unless given."""
    return np.rint(cells).astype(np.int64) - (0 if values is None else values[0])
