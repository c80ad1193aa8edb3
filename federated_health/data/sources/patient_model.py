"""The model from which diabetes patients of two virtual hospitals are generated. No patient is real.

Each line is drawn given the lines above; s is never recorded. N is the normal distribution, sigmoid(x) = 1 / (1 +
exp(-x)), [a..b] clips, and x+ is max(x, 0). Figures of one hospital (`hospital.`) are in HOSPITALS; names in capitals
are constants of this module::

    age      = round(N(hospital.age_mean, hospital.age_sd)) [18..100]      decades = (age - 65) / 10
    male     ~ 0.48
    s        = N(hospital.severity + 0.2 decades, 1)                       severity
    type     : emergency with e = sigmoid(hospital.emergency + 0.6 s), urgent 0.4 (1 - e), elective 0.6 (1 - e)
    days     = round(exp(N(1.29 + 0.28 s, 0.55))) [1..14]
    labs     = round(exp(N(3.76 + 0.12 s + 0.03 (days - 4), 0.35))) [1..130]
    drugs    = round(exp(N(2.67 + 0.15 s + 0.03 (days - 4), 0.35))) [1..60]
    codes    = 1 + Poisson(exp(1.63 + 0.15 s + 0.08 decades)) [1..14]
    stays    = Poisson(exp(-0.72 + 0.6 s)) [0..15]
    visits   = Poisson(exp(-1.75 + 0.5 s)) [0..15]                         emergency visits
    home     ~ sigmoid(1.0 - 0.5 decades - 0.4 s)
    hba1c    = 4 + exp(N(HBA1C_LEVEL + HBA1C_AGE decades + HBA1C_VISITS min(visits, 3), HBA1C_SPREAD)),
               rounded to one decimal, [4.5..15.0]                         poor = hba1c - 7.5
    glucose  = round(exp(N(log(GLUCOSE_SHARE (28.7 hba1c - 46.7)), GLUCOSE_SPREAD))) [40..600]
    insulin  : each code in proportion to exp(INSULIN[code][0] + INSULIN[code][1] poor)
    tablets  = 1 with insulin, else ~ sigmoid(TABLETS[0] + TABLETS[1] poor)   any diabetes medication

28.7 hba1c - 46.7 is the mean glucose that goes with an HbA1c (Nathan et al. 2008, Diabetes Care 31:1473).

The record holds all of these but s, as the hospital writes them: diagnoses = codes + hospital.extra_codes,
lab_procedures = ceil(hospital.lab_share labs). Three cells are empty, independently given the true values, with
probability::

    HbA1c            1 - sigmoid(hospital.hba1c[0] + hospital.hba1c[1] poor [-2.5..4] + HBA1C_DAYS (days - 4))
    glucose          hospital.glucose_missing[band], bands as in GLUCOSE_BANDS
    admission type   hospital.type_missing[0], of an emergency hospital.type_missing[1]

So HbA1c and glucose are missing not at random: badly controlled patients are measured more often.

The label is 1 with the sigmoid of these log-odds, which are the same in both hospitals; coefficients are in LOG_ODDS
(`o.`). They depend on the true, rounded values, whether recorded or not, and not on s, type or labs::

    o.intercept + o.age decades + o.male male + o.codes (codes - 6) + o.stays min(stays, 4) + o.visits min(visits, 4)
    + o.tablets tablets + o.home home
    + o.short_stay (3 - days)+ + o.long_stay (days - 6)+        U-shapes: in days,
    + o.tight (-poor)+ + o.loose poor [0..5]                    in HbA1c, lowest at 7.5 %,
    + o.glucose[band]                                           and in glucose
    + (o.raised [insulin raised] + o.lowered [insulin lowered]) poor [-1.5..1.5]
    + o.age_drugs decades [-3..3] ((drugs - 16) / 6) [-2..3]
    + o.home_stays home min(stays, 4)

More insulin protects badly controlled patients and harms tightly controlled ones; less insulin does the opposite. Many
drugs harm old patients. Going home does not protect patients with many earlier stays.

Orders of magnitude (stays of 1 to 14 days with a mean of 4.4, 43 laboratory tests, 16 drugs, 7.4 diagnoses, 0.6 stays
and 0.2 emergency visits in the year before) follow Strack et al. 2014, BioMed Research International,
doi:10.1155/2014/781670 (UCI data set 296, doi:10.24432/C5230J). There HbA1c was measured in 18 % of stays and 11 % were
followed by a readmission within 30 days; here it is about 70 and 20 %, so that there is something to learn. The risk is
lowest near an HbA1c of 7.5 %, as mortality is in Currie et al. 2010, Lancet 375:481. The coefficients are invented, not
estimated from patients: their directions are plausible, but their sizes are far larger than in real patients, whose
readmission is hard to predict, so that models differ visibly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Columns = dict[str, Vector]
"""Column of the task -> its values, [patients]."""


@dataclass(frozen=True, kw_only=True)
class VirtualHospital:
    """Figures of one hospital's patients and recording habits; see the module.

    Attributes:
        share: share of all patients.
        hba1c: log-odds that HbA1c is recorded at 7.5 %, and their slope per %.
        glucose_missing: probability that glucose is not recorded, per band.
        type_missing: probability that the admission type is not recorded, of other admissions and of emergencies.
    """

    name: str
    share: float
    age_mean: float
    age_sd: float
    severity: float
    emergency: float
    extra_codes: int
    lab_share: float
    hba1c: tuple[float, float]
    glucose_missing: tuple[float, ...]
    type_missing: tuple[float, float]


HOSPITALS = (
    VirtualHospital(
        name="university",
        share=0.6,
        age_mean=62.0,
        age_sd=14.0,
        severity=0.1,
        emergency=-0.2,
        extra_codes=2,
        lab_share=1.0,
        hba1c=(1.1, 0.35),
        glucose_missing=(0.02, 0.12, 0.15, 0.08, 0.03),
        type_missing=(0.03, 0.06),
    ),
    VirtualHospital(
        name="community",
        share=0.4,
        age_mean=67.0,
        age_sd=12.0,
        severity=-0.1,
        emergency=0.4,
        extra_codes=0,
        lab_share=0.8,
        hba1c=(0.2, 0.6),
        glucose_missing=(0.05, 0.25, 0.30, 0.15, 0.05),
        type_missing=(0.10, 0.25),
    ),
)


@dataclass(frozen=True, kw_only=True)
class LogOdds:
    """Coefficients of the label's log-odds, for glucose one per band; see the module."""

    intercept: float = -3.28
    age: float = 0.35
    male: float = 0.10
    codes: float = 0.15
    stays: float = 0.50
    visits: float = 0.45
    tablets: float = -0.20
    home: float = -0.80
    short_stay: float = 0.50
    long_stay: float = 0.25
    tight: float = 1.20
    loose: float = 0.40
    glucose: tuple[float, ...] = (1.5, 0.5, 0.0, 0.4, 1.0)
    raised: float = -0.90
    lowered: float = 0.90
    age_drugs: float = 0.40
    home_stays: float = 0.35


LOG_ODDS = LogOdds()

GLUCOSE_BANDS = (70, 110, 180, 270)
"""Lower bounds, in mg/dl, of the second and each further band."""

HBA1C_LEVEL, HBA1C_AGE, HBA1C_VISITS, HBA1C_SPREAD, HBA1C_DAYS = 1.25, -0.04, 0.08, 0.42, 0.15
GLUCOSE_SHARE, GLUCOSE_SPREAD = 0.92, 0.38
INSULIN = ((0.0, 0.0), (-0.2, 0.10), (-0.3, 0.15), (-0.8, -0.15))
TABLETS = (0.8, 0.3)

AGES = np.arange(18, 101)
DAYS = np.arange(1, 15)
HBA1C_TENTHS = np.arange(45, 151)
GLUCOSES = np.arange(40, 601)
MAX_VISITS = 3
"""Number of emergency visits above which HbA1c rises no further."""


def draw_truth(hospital: Codes, generator: np.random.Generator) -> Columns:
    """True values of patients.

    Args:
        hospital: [patients], positions in HOSPITALS.
    """

    def normal(mean: Vector, deviation: Vector | float) -> Vector:
        return mean + deviation * generator.standard_normal(rows)

    def chance(probability: Vector | float) -> Vector:
        return (generator.random(rows) < probability).astype(np.float64)

    def poisson(log_mean: Vector, maximum: int) -> Vector:
        return np.minimum(generator.poisson(np.exp(log_mean)), maximum).astype(np.float64)

    rows = len(hospital)
    age = whole(normal(of_hospital("age_mean", hospital), of_hospital("age_sd", hospital)), AGES)
    decades = (age - 65) / 10
    severity = normal(of_hospital("severity", hospital) + 0.2 * decades, 1.0)
    emergency = chance(sigmoid(of_hospital("emergency", hospital) + 0.6 * severity))
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
    emergency = (truth["admission_type"] == 1).astype(np.int64)
    patient = np.arange(len(hospital))
    missing = {
        "admission_type": of_hospital("type_missing", hospital)[patient, emergency],
        "hba1c": 1.0 - hba1c_recorded(hospital, truth["hba1c"], truth["days_in_hospital"]),
        "glucose": of_hospital("glucose_missing", hospital)[patient, glucose_band(truth["glucose"])],
    }
    record = {
        **truth,
        "lab_procedures": np.ceil(truth["lab_procedures"] * of_hospital("lab_share", hospital)),
        "diagnoses": truth["diagnoses"] + of_hospital("extra_codes", hospital),
    }
    for name, probability in missing.items():
        record[name] = np.where(generator.random(len(hospital)) < probability, np.nan, record[name])
    return record


def true_risk(truth: Columns) -> Vector:
    """Probability of the label given the true values."""
    control = control_log_odds(truth["hba1c"], truth["insulin"])
    return sigmoid(other_log_odds(truth) + control + glucose_log_odds(truth["glucose"]))


def other_log_odds(truth: Columns) -> Vector:
    """Terms of the log-odds without HbA1c and glucose; their columns are never missing."""
    o = LOG_ODDS
    decades, stays = (truth["age"] - 65) / 10, np.minimum(truth["inpatient_visits"], 4)
    days, home = truth["days_in_hospital"], truth["discharged_home"]
    return (
        o.intercept
        + o.age * decades
        + o.male * truth["sex"]
        + o.codes * (truth["diagnoses"] - 6)
        + o.stays * stays
        + o.visits * np.minimum(truth["emergency_visits"], 4)
        + o.tablets * truth["diabetes_medication"]
        + o.home * home
        + o.short_stay * np.maximum(3 - days, 0)
        + o.long_stay * np.maximum(days - 6, 0)
        + o.age_drugs * np.clip(decades, -3, 3) * np.clip((truth["medications"] - 16) / 6, -2, 3)
        + o.home_stays * home * stays
    )


def control_log_odds(hba1c: Vector, insulin: Vector) -> Vector:
    """Terms of HbA1c, and of insulin with it, in the log-odds."""
    o = LOG_ODDS
    poor = hba1c - 7.5
    change = o.raised * (insulin == 2) + o.lowered * (insulin == 3)
    added: Vector = o.tight * np.maximum(-poor, 0) + o.loose * np.clip(poor, 0, 5) + change * np.clip(poor, -1.5, 1.5)
    return added


def glucose_log_odds(glucose: Vector) -> Vector:
    """Term of glucose in the log-odds."""
    added: Vector = np.array(LOG_ODDS.glucose)[glucose_band(glucose)]
    return added


def glucose_band(glucose: Vector) -> Codes:
    """Position of the band of a glucose in mg/dl."""
    return np.searchsorted(GLUCOSE_BANDS, glucose, side="right")


def hba1c_level(age: Vector, visits: Vector) -> Vector:
    """Mean of log(HbA1c - 4)."""
    return HBA1C_LEVEL + HBA1C_AGE * (age - 65) / 10 + HBA1C_VISITS * np.minimum(visits, MAX_VISITS)


def glucose_level(hba1c: Vector) -> Vector:
    """Mean of log(glucose)."""
    return np.log(GLUCOSE_SHARE * (28.7 * hba1c - 46.7))


def insulin_shares(hba1c: Vector) -> Vector:
    """Probability of each code of insulin, [..., codes]."""
    level, slope = np.array(INSULIN).T
    odds = np.exp(level + slope * (hba1c[..., None] - 7.5))
    shares: Vector = odds / odds.sum(axis=-1, keepdims=True)
    return shares


def tablets_share(hba1c: Vector) -> Vector:
    """Probability of a diabetes medication without insulin."""
    return sigmoid(TABLETS[0] + TABLETS[1] * (hba1c - 7.5))


def hba1c_recorded(hospital: Codes, hba1c: Vector, days: Vector) -> Vector:
    """Probability that HbA1c is recorded."""
    level, slope = np.moveaxis(of_hospital("hba1c", hospital), -1, 0)
    return sigmoid(level + slope * np.clip(hba1c - 7.5, -2.5, 4) + HBA1C_DAYS * (days - 4))


def of_hospital(name: str, hospital: Codes) -> Vector:
    """A figure of VirtualHospital for each patient, [patients, ...]."""
    figures: Vector = np.array([getattr(virtual, name) for virtual in HOSPITALS], dtype=np.float64)[hospital]
    return figures


def whole(values: Vector, allowed: Codes) -> Vector:
    """Values rounded to whole numbers and clipped to the range of the allowed ones."""
    rounded: Vector = np.clip(np.rint(values), allowed[0], allowed[-1])
    return rounded


def sigmoid(log_odds: Vector) -> Vector:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-log_odds))
