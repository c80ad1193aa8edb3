"""Virtual diabetes patients of two hospitals, and for each the best prediction that its record allows.

What is drawn, recorded and predicted is stated in `patient_model`. As the model is known, so is the probability
of the label given a record, and with it the ROC AUC that no model can be expected to exceed. It is the mean of the true
risk over what an empty cell may stand for, the 106 values of HbA1c and the five bands of glucose, weighted by Bayes'
rule::

    P(hba1c | age, visits) P(insulin, tablets | hba1c) P(HbA1c is empty | hba1c, days, hospital)
    P(glucose | hba1c) or, where it is empty, P(band | hba1c) P(glucose is empty | band, hospital)

All of these are discrete, so that the sum is exact. An empty admission type needs no sum, nor does severity: given the
other cells, neither the label nor HbA1c and glucose, recorded or not, depend on them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.hospital import DEFAULT_SPLIT_SEED, split_rows
from federated_health.data.sources.layouts import HOSPITAL_COLUMN
from federated_health.data.sources.patient_model import (
    AGES,
    DAYS,
    GLUCOSE_BANDS,
    GLUCOSE_SPREAD,
    GLUCOSES,
    HBA1C_SPREAD,
    HBA1C_TENTHS,
    HOUSES,
    LOG_ODDS,
    MAX_VISITS,
    Codes,
    Columns,
    Vector,
    control_log_odds,
    draw_record,
    draw_truth,
    glucose_level,
    glucose_log_odds,
    hba1c_level,
    hba1c_recorded,
    insulin_shares,
    of_house,
    other_log_odds,
    sigmoid,
    tablets_share,
    true_risk,
)
from federated_health.data.tasks import READMISSION

Labels = npt.NDArray[np.float32]

MAX_TERMS = 1_000_000
"""Terms of the sums that are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Records:
    """Drawn patients.

    Attributes:
        table: `hospital`, the task's columns in order (float64, NaN for missing), then the label, int64 0 or 1.
        probability: float64 [rows], of the label being 1 given the row as recorded and its hospital.
    """

    table: pd.DataFrame
    probability: Vector


def generate_patients(patients: int, seed: int) -> Records:
    """Draw patients, the first hospital's before the second's; the same for the same arguments.

    Args:
        patients: at least 1.
    """
    generator = np.random.default_rng([seed, patients])
    house = (np.arange(patients) >= round(patients * HOUSES[0].share)).astype(np.int64)
    truth = draw_truth(house, generator)
    label = generator.random(patients) < true_risk(truth)
    record = draw_record(house, truth, generator)
    table = pd.DataFrame(
        {
            HOSPITAL_COLUMN: np.array([one.name for one in HOUSES])[house],
            **{name: record[name] for name in READMISSION.column_names},
            READMISSION.label.name: label.astype(np.int64),
        }
    )
    return Records(table=table, probability=expected_risk(house, record))


def held_out_probability(records: Records, split_seed: int = DEFAULT_SPLIT_SEED) -> tuple[Vector, Labels]:
    """What the generator knows of those whom the hospitals hold out, with their labels, float32 [patients].

    Hospitals are in the order of the table, rows in the order of each hospital's held-out rows.
    """
    probability, labels = [], []
    label = READMISSION.label.name
    for _, rows in records.table.groupby(HOSPITAL_COLUMN, sort=False):
        _, held_out = split_rows(rows.drop(columns=HOSPITAL_COLUMN), label, split_seed)
        probability.append(records.probability[rows.index[held_out]])
        labels.append(rows[label].to_numpy(dtype=np.float32)[held_out])
    return np.concatenate(probability), np.concatenate(labels)


def expected_roc_auc(probability: Vector) -> float:
    """The ROC AUC that these probabilities reach, as scores, over labels that are drawn from them.

    Of all pairs of a positive and a negative patient, the share in which the positive one's score is higher, half of
    it where they are equal; both sums over pairs are taken in expectation.

    Args:
        probability: [patients].

    Raises:
        ValueError: no two patients can be of different classes.
    """
    _, members = np.unique(probability, return_inverse=True)
    positive = np.bincount(members, probability)
    negative = np.bincount(members, 1.0 - probability)
    with_himself = np.bincount(members, probability * (1.0 - probability))
    pairs = positive.sum() * negative.sum() - with_himself.sum()
    if len(probability) < 2 or not pairs > 0:
        raise ValueError("the AUC is not defined: no two patients can be of different classes")
    below = np.cumsum(negative) - negative
    return float((positive * below + 0.5 * (positive * negative - with_himself)).sum() / pairs)


def expected_risk(house: Codes, record: Columns) -> Vector:
    """Probability of the label given what was recorded, and nothing else.

    Args:
        house: [patients], positions in HOUSES.
        record: as `draw_record` gives it.
    """
    risk = np.empty(len(house))
    other = other_log_odds({**record, "diagnoses": record["diagnoses"] - of_house("extra_codes", house)})
    for rows, no_hba1c, no_glucose in _alike(np.isnan(record["hba1c"]), np.isnan(record["glucose"])):
        cells = {name: column[rows] for name, column in record.items()}
        hba1c = HBA1C_TENTHS[None] / 10 if no_hba1c else cells["hba1c"][:, None]
        band = np.array(LOG_ODDS.glucose)[None] if no_glucose else glucose_log_odds(cells["glucose"])[:, None]
        control = control_log_odds(hba1c, cells["insulin"][:, None])
        risks = sigmoid((other[rows, None] + control)[:, :, None] + band[:, None, :])
        weights = _weights(house[rows], cells, no_hba1c, no_glucose)
        risk[rows] = (weights * risks).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
    return risk


def _alike(no_hba1c: npt.NDArray[np.bool_], no_glucose: npt.NDArray[np.bool_]) -> Iterator[tuple[Codes, bool, bool]]:
    """Chunks of rows that lack the same of the two cells, with what they lack."""
    for lacks_hba1c in (False, True):
        for lacks_glucose in (False, True):
            rows = np.flatnonzero((no_hba1c == lacks_hba1c) & (no_glucose == lacks_glucose))
            agreement = (len(HBA1C_TENTHS) if lacks_hba1c else 1) * (len(GLUCOSE_BANDS) + 1 if lacks_glucose else 1)
            step = MAX_TERMS // agreement
            for start in range(0, len(rows), step):
                yield rows[start : start + step], lacks_hba1c, lacks_glucose


def _weights(house: Codes, cells: Columns, no_hba1c: bool, no_glucose: bool) -> Vector:
    """Of each HbA1c and band of glucose, [rows, values or 1, bands or 1], up to a factor a row.

    What is recorded is one value of weight 1.
    """
    chances = _chances()
    values = np.arange(len(HBA1C_TENTHS))[None] if no_hba1c else _place(cells["hba1c"] * 10, HBA1C_TENTHS)[:, None]
    weights = np.ones(values.shape)
    if no_hba1c:
        insulin, tablets = _place(cells["insulin"]), _place(cells["diabetes_medication"])
        visits = np.minimum(_place(cells["emergency_visits"]), MAX_VISITS)
        weights = chances.hba1c[visits, _place(cells["age"], AGES)] * chances.treatment[insulin, tablets]
        weights *= chances.unrecorded[house, _place(cells["days_in_hospital"], DAYS)]
        if not no_glucose:
            weights *= chances.glucose[_place(cells["glucose"], GLUCOSES)]
    if not no_glucose:
        return weights[:, :, None]
    return weights[:, :, None] * chances.band[values] * of_house("glucose_missing", house)[:, None, :]


@dataclass(frozen=True, eq=False)
class _Chances:
    """The factors of Bayes' rule for each value that HbA1c can have.

    Attributes:
        hba1c: [visits, ages, values], of that value.
        treatment: [insulin, tablets, values], of insulin's code with or without a diabetes medication.
        unrecorded: [hospitals, days, values], that HbA1c is empty.
        glucose: [glucoses, values], of that glucose.
        band: [values, bands], of that band.
    """

    hba1c: Vector
    treatment: Vector
    unrecorded: Vector
    glucose: Vector
    band: Vector


@cache
def _chances() -> _Chances:
    values = HBA1C_TENTHS / 10
    level = hba1c_level(AGES.astype(np.float64), np.arange(MAX_VISITS + 1.0)[:, None])
    glucose = _between(np.log(GLUCOSES[:-1] + 0.5), glucose_level(values), GLUCOSE_SPREAD)
    shares, tablets = insulin_shares(values).T, tablets_share(values)
    house, days = np.arange(len(HOUSES))[:, None, None], DAYS[:, None].astype(np.float64)
    return _Chances(
        hba1c=_between(np.log((HBA1C_TENTHS[:-1] + 0.5) / 10 - 4), level, HBA1C_SPREAD),
        treatment=np.stack(
            [
                np.stack([shares[0] * (1.0 - tablets), shares[0] * tablets]),
                *(np.stack([np.zeros(len(values)), share]) for share in shares[1:]),
            ]
        ),
        unrecorded=1.0 - hba1c_recorded(house, values, days),
        glucose=np.ascontiguousarray(glucose.T),
        band=np.add.reduceat(glucose, [0, *np.searchsorted(GLUCOSES, GLUCOSE_BANDS)], axis=1),
    )


def _between(edges: Vector, mean: Vector, deviation: float) -> Vector:
    """Probabilities, [..., edges + 1], of the cells that edges divide a normal variable into."""
    distance = (mean[..., None] - edges) / (deviation * math.sqrt(2.0))
    below = 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(distance)
    cells: Vector = np.diff(below, axis=-1, prepend=0.0, append=1.0)
    return cells


def _place(cells: Vector, values: Codes | None = None) -> Codes:
    """Positions of cells among consecutive whole numbers, from 0 if none are given."""
    return np.rint(cells).astype(np.int64) - (0 if values is None else values[0])
