"""Columns of UCI's diabetes stays: their words and codes, and the numbers of the task readmission-30d for them.

The words and codes below are all that UCI's table has; `docs/own-data.md` states the source of each choice.

Source: IDs_mapping.csv of Clore, Cios, DeShazo and Strack 2014, UCI Machine Learning Repository, doi 10.24432/C5230J,
CC BY 4.0; groups of diagnoses: Strack et al. 2014, BioMed Research International 781670, table 2.
"""

from collections.abc import Collection, Mapping

STAY, PATIENT, LABEL = "encounter_id", "patient_nbr", "readmitted"
"""UCI's columns that number stays and patients, and the one that tells when a patient was readmitted."""

READMITTED = {"<30": 1, ">30": 0, "NO": 0}

UNKNOWN_GENDER = "Unknown/Invalid"

DIED_OR_HOSPICE = ("11", "13", "14", "19", "20", "21")
"""Discharge codes after which nobody can be readmitted, or would be to be cured (IDs_mapping.csv)."""

NUMBERS = {
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

Codes = Mapping[str, int | None]
"""UCI's cell -> the task's number; None is missing."""


def _by_group(groups: Mapping[int | None, str]) -> Codes:
    """Each cell's group, of the cells of each group, separated by spaces."""
    return {cell: group for group, cells in groups.items() for cell in cells.split()}


_DOSE: Codes = {"No": 0, "Steady": 1, "Up": 2, "Down": 3}

CODES: Mapping[str, tuple[str, Codes]] = {
    "age": ("age", {f"[{start}-{start + 10})": start + 5 for start in range(0, 100, 10)}),
    "sex": ("gender", {"Female": 0, "Male": 1, UNKNOWN_GENDER: None}),
    "admission_type": ("admission_type_id", _by_group({1: "1 7", 2: "2", 3: "3", None: "4 5 6 8"})),
    "admission_source": (
        "admission_source_id",
        _by_group(
            {
                1: "1 2 3",
                2: "7",
                3: "4 10 22",
                4: "5 6 18 19 25 26",
                None: "8 9 11 12 13 14 15 17 20 21 23 24",
            }
        ),
    ),
    "discharge": (
        "discharge_disposition_id",
        _by_group(
            {
                1: "1 12 16 17",
                2: "6 8",
                3: "3 4 15 24",
                4: "23",
                5: "22",
                6: "2 9 27 29",
                7: "5 30",
                8: "28",
                9: "7",
                None: " ".join(("10", "18", "25", "26", *DIED_OR_HOSPICE)),
            }
        ),
    ),
    "specialty": (
        "medical_specialty",
        _by_group(
            {
                1: "InternalMedicine Hospitalist InfectiousDiseases Rheumatology AllergyandImmunology",
                2: "Emergency/Trauma",
                3: "Family/GeneralPractice",
                4: "Cardiology",
                5: "Surgery-General Surgery-Colon&Rectal Surgery-Maxillofacial Surgery-Plastic "
                "Surgery-PlasticwithinHeadandNeck Surgeon SurgicalSpecialty Proctology",
                6: "Surgery-Cardiovascular Surgery-Cardiovascular/Thoracic Surgery-Thoracic",
                7: "Surgery-Vascular",
                8: "Neurology Neurophysiology Surgery-Neuro",
                9: "Orthopedics Orthopedics-Reconstructive SportsMedicine",
                10: "Nephrology",
                11: "Urology",
                12: "Gastroenterology",
                13: "Pulmonology",
                14: "Endocrinology Endocrinology-Metabolism",
                15: "Oncology Hematology Hematology/Oncology",
                16: "Radiology Radiologist",
                17: "Psychiatry Psychiatry-Addictive Psychiatry-Child/Adolescent Psychology",
                18: "PhysicalMedicineandRehabilitation",
                19: "ObstetricsandGynecology Obstetrics Gynecology Obsterics&Gynecology-GynecologicOnco Perinatology",
                20: "Pediatrics Pediatrics-AllergyandImmunology Pediatrics-CriticalCare Pediatrics-EmergencyMedicine "
                "Pediatrics-Endocrinology Pediatrics-Hematology-Oncology Pediatrics-InfectiousDiseases "
                "Pediatrics-Neurology Pediatrics-Pulmonology Anesthesiology-Pediatric Cardiology-Pediatric "
                "Surgery-Pediatric",
                21: "Otolaryngology Podiatry Ophthalmology Osteopath Anesthesiology Pathology OutreachServices "
                "DCPTEAM Dentistry Dermatology Resident Speech",
                None: "PhysicianNotFound",
            }
        ),
    ),
    "hba1c": ("A1Cresult", {"None": 0, "Norm": 1, ">7": 2, ">8": 3}),
    "glucose": ("max_glu_serum", {"None": 0, "Norm": 1, ">200": 2, ">300": 3}),
    "insulin": ("insulin", _DOSE),
    "metformin": ("metformin", _DOSE),
    "medication_change": ("change", {"No": 0, "Ch": 1}),
    "diabetes_medication": ("diabetesMed", {"No": 0, "Yes": 1}),
}
"""The task's column -> UCI's, and all words that UCI's column has."""

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

OPTIONAL: Mapping[str, Collection[str]] = {
    "race": ("AfricanAmerican", "Asian", "Caucasian", "Hispanic", "Other"),
    "payer_code": (
        "BC",
        "CH",
        "CM",
        "CP",
        "DM",
        "FR",
        "HM",
        "MC",
        "MD",
        "MP",
        "OG",
        "OT",
        "PO",
        "SI",
        "SP",
        "UN",
        "WC",
    ),
}
"""UCI's columns that are no input of the task, and their words; a copy may lack them."""

CARRIED = (
    PATIENT,
    *OPTIONAL,
    *(column for column, _ in CODES.values()),
    *NUMBERS.values(),
    *DIAGNOSES.values(),
    LABEL,
)
"""UCI's columns in the package's own copy of the table, in this order."""


def group_diagnosis(code: str) -> int | None:
    """Group of an ICD-9 code, None if it is missing; E and V codes are OTHER_DIAGNOSIS, as are those of no group."""
    if code == "?":
        return None
    if not code[0].isdecimal():
        return OTHER_DIAGNOSIS
    category = int(code.split(".")[0])
    return next((group for group, low, high in ICD9_GROUPS if low <= category <= high), OTHER_DIAGNOSIS)
