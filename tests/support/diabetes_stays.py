"""UCI's Diabetes 130-US Hospitals: where its zip may be, and made-up stays with its 50 columns and its words."""

import pandas as pd

from tests.conftest import PROJECT

RAW_ZIP = PROJECT.parent / "shared" / "data" / "diabetes130" / "dataset_diabetes.zip"
"""UCI's own file, which is not part of the project; tests that need it are skipped without it."""

HEADER = (
    "encounter_id,patient_nbr,race,gender,age,weight,admission_type_id,discharge_disposition_id,admission_source_id,"
    "time_in_hospital,payer_code,medical_specialty,num_lab_procedures,num_procedures,num_medications,number_outpatient,"
    "number_emergency,number_inpatient,diag_1,diag_2,diag_3,number_diagnoses,max_glu_serum,A1Cresult,metformin,"
    "repaglinide,nateglinide,chlorpropamide,glimepiride,acetohexamide,glipizide,glyburide,tolbutamide,pioglitazone,"
    "rosiglitazone,acarbose,miglitol,troglitazone,tolazamide,examide,citoglipton,insulin,glyburide-metformin,"
    "glipizide-metformin,glimepiride-pioglitazone,metformin-rosiglitazone,metformin-pioglitazone,change,diabetesMed,"
    "readmitted"
)

STAY = dict.fromkeys(HEADER.split(","), "No") | {
    "encounter_id": "1000",
    "patient_nbr": "500",
    "race": "Caucasian",
    "gender": "Female",
    "age": "[70-80)",
    "weight": "?",
    "admission_type_id": "1",
    "discharge_disposition_id": "1",
    "admission_source_id": "7",
    "time_in_hospital": "3",
    "payer_code": "?",
    "medical_specialty": "?",
    "num_lab_procedures": "44",
    "num_procedures": "0",
    "num_medications": "15",
    "number_outpatient": "0",
    "number_emergency": "0",
    "number_inpatient": "0",
    "diag_1": "428",
    "diag_2": "250.01",
    "diag_3": "?",
    "number_diagnoses": "8",
    "max_glu_serum": "None",
    "A1Cresult": "None",
    "readmitted": "NO",
}

CHANGES: list[dict[str, str]] = [
    {"encounter_id": "3000", "patient_nbr": "77", "readmitted": "<30", "A1Cresult": ">8", "diag_3": "V27"},
    {"encounter_id": "200", "patient_nbr": "9", "gender": "Male", "max_glu_serum": "Norm", "payer_code": "MC"},
    {"encounter_id": "1500", "patient_nbr": "9", "readmitted": ">30", "medical_specialty": "Surgery-Vascular"},
    {"encounter_id": "1400", "patient_nbr": "500", "gender": "Unknown/Invalid"},
    {"encounter_id": "1450", "patient_nbr": "31", "discharge_disposition_id": "11"},
    {"encounter_id": "1300", "patient_nbr": "32", "discharge_disposition_id": "18", "insulin": "Up", "change": "Ch"},
    {
        "encounter_id": "1200",
        "patient_nbr": "33",
        "medical_specialty": "InternalMedicine",
        "diag_1": "785",
        "race": "?",
    },
    {"encounter_id": "1100", "patient_nbr": "34", "time_in_hospital": "14", "diabetesMed": "Yes", "metformin": "Down"},
]
"""Stays that differ from STAY; not in order of `encounter_id`, as in UCI's file."""


def made_up_stays() -> pd.DataFrame:
    """The stays as text, in the order of a file."""
    return pd.DataFrame([STAY, *({**STAY, **change} for change in CHANGES)])
