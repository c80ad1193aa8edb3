"""UCI's Diabetes 130-US Hospitals table as the task readmission-30d: which stays, and how its words become codes.

Source: Clore, Cios, DeShazo and Strack 2014, UCI Machine Learning Repository, doi 10.24432/C5230J, CC BY 4.0; described
by Strack et al. 2014, "Impact of HbA1c Measurement on Hospital Readmission Rates", BioMed Research International 781670.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from federated_health.data.sources.source import Source
from federated_health.data.task_files import READMISSION_30D

DIED_OR_HOSPICE = frozenset({"11", "13", "14", "19", "20", "21"})
"""Discharge codes after which a patient cannot be readmitted, or would not be for treatment (IDs_mapping.csv)."""

UNKNOWN_GENDER = "Unknown/Invalid"

PLAIN = {
    "days_in_hospital": "time_in_hospital",
    "lab_procedures": "num_lab_procedures",
    "procedures": "num_procedures",
    "medications": "num_medications",
    "diagnoses": "number_diagnoses",
    "outpatient_visits": "number_outpatient",
    "emergency_visits": "number_emergency",
    "inpatient_visits": "number_inpatient",
}
"""The task's column -> UCI's, for numbers that are taken as they are."""

_DOSE = {"No": 0, "Steady": 1, "Up": 2, "Down": 3}

CODES: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "sex": ("gender", {"Female": 0, "Male": 1}),
    "admission_type": ("admission_type_id", {"1": 1, "2": 2, "3": 3, "4": 4, "7": 4}),
    "admission_source": (
        "admission_source_id",
        {
            **dict.fromkeys(("1", "2", "3"), 1),
            "7": 2,
            **dict.fromkeys(("4", "5", "6", "10", "18", "19", "22", "25", "26"), 3),
            **dict.fromkeys(("8", "11", "12", "13", "14", "23", "24"), 4),
        },
    ),
    "discharge": (
        "discharge_disposition_id",
        {
            "1": 1,
            **dict.fromkeys(("6", "8"), 2),
            **dict.fromkeys(("3", "4", "15", "24"), 3),
            "23": 4,
            "22": 5,
            **dict.fromkeys(("2", "9", "10", "12", "29"), 6),
            **dict.fromkeys(("5", "30"), 7),
            "28": 8,
            "7": 9,
            **dict.fromkeys(("16", "17", "27"), 10),
        },
    ),
    "hba1c": ("A1Cresult", {"None": 0, "": 0, "Norm": 1, ">7": 2, ">8": 3}),
    "glucose": ("max_glu_serum", {"None": 0, "": 0, "Norm": 1, ">200": 2, ">300": 3}),
    "insulin": ("insulin", _DOSE),
    "metformin": ("metformin", _DOSE),
    "medication_change": ("change", {"No": 0, "Ch": 1}),
    "diabetes_medication": ("diabetesMed", {"No": 0, "Yes": 1}),
}
"""The task's column -> UCI's, and UCI's cell -> the task's code; other cells are missing."""

DIAGNOSES = {"diagnosis_1": "diag_1", "diagnosis_2": "diag_2", "diagnosis_3": "diag_3"}

ICD9_GROUPS = (
    (1, 390, 459),
    (1, 785, 785),
    (2, 460, 519),
    (2, 786, 786),
    (3, 520, 579),
    (3, 787, 787),
    (4, 250, 250),
    (5, 800, 999),
    (6, 710, 739),
    (7, 580, 629),
    (7, 788, 788),
    (8, 140, 239),
)
"""Code of a group, and the first and the last of its ICD-9 categories (Strack et al. 2014, table 2)."""

OTHER_DIAGNOSIS = 9

SPECIALTIES = {
    "InternalMedicine": 1,
    "Emergency/Trauma": 2,
    "Family/GeneralPractice": 3,
    "Cardiology": 4,
    "Nephrology": 6,
    "Orthopedics": 7,
    "Orthopedics-Reconstructive": 7,
    "Radiologist": 8,
    "Radiology": 8,
    "Pulmonology": 9,
    "PhysicalMedicineandRehabilitation": 14,
}
SPECIALTY_STARTS = {"Surg": 5, "Psych": 10, "Obst": 11, "Gyn": 11, "Onc": 12, "Hemat": 12, "Pediatrics": 13}
OTHER_SPECIALTY = 15


def group_diagnosis(code: str) -> float:
    """Group of an ICD-9 code; NaN if it is missing. E and V codes are other."""
    if code in ("?", ""):
        return np.nan
    if not code[0].isdigit():
        return OTHER_DIAGNOSIS
    category = int(code.split(".")[0])
    return next((group for group, low, high in ICD9_GROUPS if low <= category <= high), OTHER_DIAGNOSIS)


def group_specialty(name: str) -> float:
    """Group of a specialty; NaN if it is missing."""
    if name in ("?", ""):
        return np.nan
    if name in SPECIALTIES:
        return SPECIALTIES[name]
    return next((group for start, group in SPECIALTY_STARTS.items() if name.startswith(start)), OTHER_SPECIALTY)


def to_task(text: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """The stays that the task keeps: its columns, UCI's columns as text, and reason -> stays left out.

    Args:
        text: UCI's table in order of `encounter_id`, every cell text.
    """
    ended = text["discharge_disposition_id"].isin(DIED_OR_HOSPICE)
    unknown = text["gender"] == UNKNOWN_GENDER
    dropped = {"stays that ended in death or hospice": int(ended.sum()), "unknown gender": int((unknown & ~ended).sum())}
    text = text[~ended & ~unknown].reset_index(drop=True)
    table = pd.DataFrame(index=text.index)
    table["age"] = text["age"].str.extract(r"(\d+)")[0].astype(float) + 5
    for name, column in PLAIN.items():
        table[name] = text[column].astype(float)
    for name, (column, codes) in CODES.items():
        table[name] = text[column].map(codes).astype(float)
    for name, column in DIAGNOSES.items():
        table[name] = text[column].map({code: group_diagnosis(code) for code in text[column].unique()})
    names = {name: group_specialty(name) for name in text["medical_specialty"].unique()}
    table["specialty"] = text["medical_specialty"].map(names)
    task = READMISSION_30D
    table = table[list(task.column_names)]
    table[task.label.name] = (text["readmitted"] == "<30").astype(int)
    table["patient"] = pd.factorize(text["patient_nbr"])[0] + 1
    return table, text, dropped


def read_diabetes() -> Source:
    """The 99,340 stays of the package's own copy of the table."""
    from federated_health.data.examples import DIABETES_STAYS

    text = pd.read_csv(DIABETES_STAYS, dtype=str, keep_default_na=False)
    table, stays, dropped = to_task(text)
    return Source(
        name="diabetes",
        task=READMISSION_30D,
        title="UCI's Diabetes 130-US Hospitals, 1999-2008",
        dropped=dropped,
        table=table,
        columns=stays,
    )
