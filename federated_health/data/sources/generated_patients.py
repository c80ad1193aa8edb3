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
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.sources import patient_model as model
from federated_health.data.sources.patient_model import Codes, Columns, Vector
from federated_health.data.split import DEFAULT_SPLIT_SEED, split_rows
from federated_health.data.task_files import READMISSION
from federated_health.names import HOSPITAL_COLUMN

HBA1C = model.HBA1C_TENTHS / 10
"""Possible values, in %."""

MAX_ROWS = 2000
"""Largest number of rows whose sums, of up to 530 terms each, are in memory at a time."""


@dataclass(frozen=True, eq=False)
class GeneratedPatients:
    """A table as in a `Source`, and the probability of each row's label given the row and its hospital."""

    table: pd.DataFrame
    probability: Vector


def generate_patients(patients: int, seed: int) -> GeneratedPatients:
    """Draw at least one patient, the first hospital's before the second's; equal arguments give equal patients."""
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


def held_out_probability(patients: GeneratedPatients) -> tuple[Vector, npt.NDArray[np.float32]]:
    """Best predictions and labels of all hospitals' test rows under the default split seed, [rows] each.

    Hospitals are in the order of the table, rows in the order of each hospital's test rows.
    """
    label = READMISSION.label.name
    tests = []
    for _, rows in patients.table.groupby(HOSPITAL_COLUMN, sort=False):
        _, test = split_rows(rows.drop(columns=HOSPITAL_COLUMN), label, DEFAULT_SPLIT_SEED)
        tests.append(rows.iloc[test])
    held_out = pd.concat(tests)
    return patients.probability[held_out.index], held_out[label].to_numpy(dtype=np.float32)


def expected_roc_auc(probability: Vector) -> float:
    """Expected ROC-AUC of scores, [patients], that are the true probabilities of their labels.

    It is the share of pairs of a positive and a negative patient in which the positive one has the higher score, equal
    scores counting half; both sums over pairs are expectations over the labels. A ValueError if no two patients can be
    of different classes.
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
    no_hba1c, no_glucose = np.isnan(record["hba1c"]), np.isnan(record["glucose"])
    for lacks_hba1c, lacks_glucose in product((False, True), repeat=2):
        alike = np.flatnonzero((no_hba1c == lacks_hba1c) & (no_glucose == lacks_glucose))
        for start in range(0, len(alike), MAX_ROWS):
            rows = alike[start : start + MAX_ROWS]
            cells = {name: column[rows] for name, column in record.items()}
            risk[rows] = _mean_risk(hospital[rows], cells, lacks_hba1c, lacks_glucose)
    return risk


def _mean_risk(hospital: Codes, cells: Columns, lacks_hba1c: bool, lacks_glucose: bool) -> Vector:
    """Mean of the true risk, [rows], over the values of HbA1c and bands of glucose that empty cells may stand for."""
    hba1c_chances, glucose_chances, band_chances = _tabulate_chances()
    weights = np.ones((len(hospital), 1))  # [rows, values of HbA1c or 1]
    hba1c = HBA1C[None] if lacks_hba1c else cells["hba1c"][:, None]
    if lacks_hba1c:
        visits = np.minimum(_integers(cells["emergency_visits"]), model.MAX_VISITS)
        weights = hba1c_chances[visits, _integers(cells["age"]) - model.AGES[0]] * _treatment_chances(cells)
        weights *= 1.0 - model.hba1c_recorded(hospital[:, None], hba1c, cells["days_in_hospital"][:, None])
    if lacks_glucose:
        if not lacks_hba1c:
            band_chances = band_chances[_integers(cells["hba1c"] * 10)[:, None] - model.HBA1C_TENTHS[0]]
        joint = weights[:, :, None] * band_chances * model.GLUCOSE_MISSING[hospital][:, None, :]
        band_log_odds = model.GLUCOSE_LOG_ODDS[None]
    else:
        if lacks_hba1c:
            weights *= glucose_chances[:, _integers(cells["glucose"]) - model.GLUCOSES[0]].T
        joint = weights[:, :, None]
        band_log_odds = model.GLUCOSE_LOG_ODDS[model.glucose_band(cells["glucose"])[:, None]]
    other = model.other_log_odds({**cells, "diagnoses": cells["diagnoses"] - model.EXTRA_CODES[hospital]})
    log_odds = other[:, None] + model.control_log_odds(hba1c, cells["insulin"][:, None])
    risks = model.sigmoid(log_odds[:, :, None] + band_log_odds[:, None, :])
    mean: Vector = (joint * risks).sum(axis=(1, 2)) / joint.sum(axis=(1, 2))
    return mean


def _treatment_chances(cells: Columns) -> Vector:
    """Chance of the recorded insulin and diabetes medication for each value of HbA1c, [rows, values]."""
    insulin, tablets = _integers(cells["insulin"]), model.tablets_share(HBA1C)
    medication = np.where(cells["diabetes_medication"][:, None] == 1, tablets, 1.0 - tablets)
    chances: Vector = model.insulin_shares(HBA1C).T[insulin] * np.where(insulin[:, None] > 0, 1.0, medication)
    return chances


@cache
def _tabulate_chances() -> tuple[Vector, Vector, Vector]:
    """Chances of each HbA1c, [visits, ages, values]; of each glucose, and of each band of it, [values, ...]."""
    level = model.hba1c_level(model.AGES.astype(np.float64), np.arange(model.MAX_VISITS + 1.0)[:, None])
    hba1c = _cell_chances(np.log((model.HBA1C_TENTHS[:-1] + 0.5) / 10 - 4), level, model.HBA1C_SPREAD)
    glucose = _cell_chances(np.log(model.GLUCOSES[:-1] + 0.5), model.glucose_level(HBA1C), model.GLUCOSE_SPREAD)
    starts = np.searchsorted(model.GLUCOSES, model.GLUCOSE_BANDS)
    return hba1c, glucose, np.add.reduceat(glucose, [0, *starts], axis=1)


def _cell_chances(edges: Vector, mean: Vector, deviation: float) -> Vector:
    """Probabilities, [..., edges + 1], of the cells into which edges divide a normal variable."""
    distance = (mean[..., None] - edges) / (deviation * math.sqrt(2.0))
    below = 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(distance)
    cells: Vector = np.diff(below, axis=-1, prepend=0.0, append=1.0)
    return cells


def _integers(cells: Vector) -> Codes:
    return np.rint(cells).astype(np.int64)
