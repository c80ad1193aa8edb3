"""The model from which diabetes patients of two virtual hospitals are generated. No patient is real.

`draw_truth` draws the true values, most of them given a severity that is never recorded. `draw_record` states what a
hospital writes down. HbA1c, glucose and the admission type may be empty, independently given the true values. HbA1c and
glucose are missing not at random: badly controlled patients are measured more often.

The label has the same log-odds in both hospitals. They depend on the true, rounded values, whether recorded or not, and
not on severity, admission type or laboratory tests. They have U-shapes in days, HbA1c (lowest at 7.5 %) and glucose,
and interactions: more insulin protects badly controlled patients and harms tightly controlled ones, and less insulin
does the opposite; many drugs harm old patients; going home does not protect patients with many earlier stays.

Orders of magnitude (stays of 1 to 14 days with a mean of 4.4, 43 laboratory tests, 16 drugs, 7.4 diagnoses, 0.6 stays
and 0.2 emergency visits in the year before) follow Strack et al. 2014, BioMed Research International,
doi:10.1155/2014/781670 (UCI data set 296, doi:10.24432/C5230J). There HbA1c was measured in 18 % of stays and 11 % were
followed by a readmission within 30 days; here it is about 70 and 20 %, so that there is something to learn. The risk is
lowest near an HbA1c of 7.5 %, as mortality is in Currie et al. 2010, Lancet 375:481. The coefficients are invented, not
estimated from patients: their directions are plausible, but their sizes are far larger than in real patients, whose
readmission is hard to predict, so that models differ visibly.
"""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Columns = dict[str, Vector]
"""Column of the task -> its values, [patients]."""

HOSPITALS = ("university", "community")
FIRST_SHARE = 0.6
"""Share of the patients who are at the first hospital."""

AGE_MEAN, AGE_SD = np.array([62.0, 67.0]), np.array([14.0, 12.0])
SEVERITY, EMERGENCY = np.array([0.1, -0.1]), np.array([-0.2, 0.4])
EXTRA_CODES, LAB_SHARE = np.array([2.0, 0.0]), np.array([1.0, 0.8])
HBA1C_RECORDED, HBA1C_RECORDED_SLOPE = np.array([1.1, 0.2]), np.array([0.35, 0.6])
GLUCOSE_MISSING = np.array([[0.02, 0.12, 0.15, 0.08, 0.03], [0.05, 0.25, 0.30, 0.15, 0.05]])
TYPE_MISSING, EMERGENCY_MISSING = np.array([0.03, 0.10]), np.array([0.06, 0.25])
"""One figure per hospital, of GLUCOSE_MISSING one per band: its patients and its recording habits."""

GLUCOSE_BANDS = (70, 110, 180, 270)
"""Lower bounds, in mg/dl, of the second and each further band."""

GLUCOSE_LOG_ODDS = np.array([1.5, 0.5, 0.0, 0.4, 1.0])
HBA1C_SPREAD, GLUCOSE_SPREAD = 0.42, 0.38
"""Standard deviations of log(HbA1c - 4) and of log(glucose)."""

INSULIN = ((0.0, 0.0), (-0.2, 0.10), (-0.3, 0.15), (-0.8, -0.15))
"""Code of insulin -> intercept and slope, per % of HbA1c above 7.5, of the logarithm of its odds."""

AGES, DAYS, HBA1C_TENTHS, GLUCOSES = np.arange(18, 101), np.arange(1, 15), np.arange(45, 151), np.arange(40, 601)
"""Possible values."""

MAX_VISITS = 3
"""Number of emergency visits above which HbA1c rises no further."""


def draw_truth(hospital: Codes, generator: np.random.Generator) -> Columns:
    """True values of patients, given their hospitals' positions in HOSPITALS, [patients]."""

    def normal(mean: Vector, deviation: Vector | float) -> Vector:
        return mean + deviation * generator.standard_normal(rows)

    def chance(probability: Vector | float) -> Vector:
        return (generator.random(rows) < probability).astype(np.float64)

    def poisson(log_mean: Vector, maximum: int) -> Vector:
        return np.minimum(generator.poisson(np.exp(log_mean)), maximum).astype(np.float64)

    rows = len(hospital)
    age = whole(normal(AGE_MEAN[hospital], AGE_SD[hospital]), AGES)
    decades = (age - 65) / 10
    severity = normal(SEVERITY[hospital] + 0.2 * decades, 1.0)
    emergency = chance(sigmoid(EMERGENCY[hospital] + 0.6 * severity))
    days = whole(np.exp(normal(1.29 + 0.28 * severity, 0.55)), DAYS)
    visits = poisson(-1.75 + 0.5 * severity, 15)
    hba1c = whole(10 * (4 + np.exp(normal(hba1c_level(age, visits), HBA1C_SPREAD))), HBA1C_TENTHS) / 10
    insulin = (np.cumsum(insulin_shares(hba1c)[:, :-1], axis=1) < generator.random((rows, 1))).sum(axis=1)
    return {
        "age": age,
        "sex": chance(0.48),
        "admission_type": np.where(emergency == 1, 1.0, 2.0 + chance(0.6)),
        "days_in_hospital": days,
        "lab_procedures": whole(np.exp(normal(3.76 + 0.12 * severity + 0.03 * (days - 4), 0.35)), np.arange(1, 131)),
        "medications": whole(np.exp(normal(2.67 + 0.15 * severity + 0.03 * (days - 4), 0.35)), np.arange(1, 61)),
        "diagnoses": 1 + poisson(1.63 + 0.15 * severity + 0.08 * decades, 13),
        "emergency_visits": visits,
        "inpatient_visits": poisson(-0.72 + 0.6 * severity, 15),
        "hba1c": hba1c,
        "glucose": whole(np.exp(normal(glucose_level(hba1c), GLUCOSE_SPREAD)), GLUCOSES),
        "insulin": insulin.astype(np.float64),
        "diabetes_medication": np.where(insulin > 0, 1.0, chance(tablets_share(hba1c))),
        "discharged_home": chance(sigmoid(1.0 - 0.5 * decades - 0.4 * severity)),
    }


def draw_record(hospital: Codes, truth: Columns, generator: np.random.Generator) -> Columns:
    """What the hospitals record of the true values, NaN for missing."""
    is_emergency = truth["admission_type"] == 1
    missing = {
        "admission_type": np.where(is_emergency, EMERGENCY_MISSING[hospital], TYPE_MISSING[hospital]),
        "hba1c": 1.0 - hba1c_recorded(hospital, truth["hba1c"], truth["days_in_hospital"]),
        "glucose": GLUCOSE_MISSING[hospital, glucose_band(truth["glucose"])],
    }
    record = {
        **truth,
        "lab_procedures": np.ceil(truth["lab_procedures"] * LAB_SHARE[hospital]),
        "diagnoses": truth["diagnoses"] + EXTRA_CODES[hospital],
    }
    for name, probability in missing.items():
        record[name] = np.where(generator.random(len(hospital)) < probability, np.nan, record[name])
    return record


def true_risk(truth: Columns) -> Vector:
    """Probability of the label given the true values."""
    control = control_log_odds(truth["hba1c"], truth["insulin"])
    return sigmoid(other_log_odds(truth) + control + GLUCOSE_LOG_ODDS[glucose_band(truth["glucose"])])


def other_log_odds(truth: Columns) -> Vector:
    """Terms of the log-odds without HbA1c and glucose; their columns are never missing."""
    decades, stays = (truth["age"] - 65) / 10, np.minimum(truth["inpatient_visits"], 4)
    days, home = truth["days_in_hospital"], truth["discharged_home"]
    return (
        -3.28
        + 0.35 * decades
        + 0.10 * truth["sex"]
        + 0.15 * (truth["diagnoses"] - 6)
        + 0.50 * stays
        + 0.45 * np.minimum(truth["emergency_visits"], 4)
        - 0.20 * truth["diabetes_medication"]
        - 0.80 * home
        + 0.50 * np.maximum(3 - days, 0)
        + 0.25 * np.maximum(days - 6, 0)
        + 0.40 * np.clip(decades, -3, 3) * np.clip((truth["medications"] - 16) / 6, -2, 3)
        + 0.35 * home * stays
    )


def control_log_odds(hba1c: Vector, insulin: Vector) -> Vector:
    """Terms of HbA1c, and of insulin with it, in the log-odds."""
    poor = hba1c - 7.5
    change = -0.90 * (insulin == 2) + 0.90 * (insulin == 3)
    terms: Vector = 1.20 * np.maximum(-poor, 0) + 0.40 * np.clip(poor, 0, 5) + change * np.clip(poor, -1.5, 1.5)
    return terms


def glucose_band(glucose: Vector) -> Codes:
    """Position of the band of a glucose in mg/dl."""
    return np.searchsorted(GLUCOSE_BANDS, glucose, side="right")


def hba1c_level(age: Vector, visits: Vector) -> Vector:
    """Mean of log(HbA1c - 4)."""
    return 1.25 + -0.04 * (age - 65) / 10 + 0.08 * np.minimum(visits, MAX_VISITS)


def glucose_level(hba1c: Vector) -> Vector:
    """Mean of log(glucose). 28.7 HbA1c - 46.7 is the mean glucose (Nathan et al. 2008, Diabetes Care 31:1473)."""
    return np.log(0.92 * (28.7 * hba1c - 46.7))


def insulin_shares(hba1c: Vector) -> Vector:
    """Probability of each code of insulin, [..., codes]."""
    level, slope = np.array(INSULIN).T
    odds = np.exp(level + slope * (hba1c[..., None] - 7.5))
    shares: Vector = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def tablets_share(hba1c: Vector) -> Vector:
    """Probability of a diabetes medication without insulin."""
    return sigmoid(0.8 + 0.3 * (hba1c - 7.5))


def hba1c_recorded(hospital: Codes, hba1c: Vector, days: Vector) -> Vector:
    """Probability that HbA1c is recorded."""
    slope = HBA1C_RECORDED_SLOPE[hospital]
    return sigmoid(HBA1C_RECORDED[hospital] + slope * np.clip(hba1c - 7.5, -2.5, 4) + 0.15 * (days - 4))


def whole(values: Vector, allowed: Codes) -> Vector:
    """Values rounded to whole numbers and clipped to the range of the allowed ones."""
    rounded: Vector = np.clip(np.rint(values), allowed[0], allowed[-1])
    return rounded


def sigmoid(log_odds: Vector) -> Vector:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-log_odds))
