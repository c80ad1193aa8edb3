"""Prediction tasks: their columns and labels.

A task is a declaration. Everything else derives from it: validation and its messages, the order of the columns, the
normalisation that hospitals share, the width of the network's input and the inputs of a saved model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from federated_health.data.columns import Category, Column, Label, Measurement
from federated_health.errors import SettingsError

MAX_AGREEMENT_CHARACTERS = 65_536
"""Largest size of a task agreement that another side sent, as text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A prediction task. Its columns are the model's inputs, in the order of every array and CSV."""

    name: str
    columns: tuple[Measurement | Category, ...]
    label: Label

    @property
    def labelled_columns(self) -> tuple[Column, ...]:
        return (*self.columns, self.label)

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        return tuple(column for column in self.columns if isinstance(column, Measurement))

    @cached_property
    def measurement_positions(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if isinstance(column, Measurement))

    @cached_property
    def feature_slices(self) -> tuple[slice, ...]:
        """Features of each column."""
        ends = accumulate(column.feature_width for column in self.columns)
        return tuple(slice(end - column.feature_width, end) for end, column in zip(ends, self.columns, strict=True))

    @cached_property
    def feature_width(self) -> int:
        return sum(column.feature_width for column in self.columns)

    @cached_property
    def agreement(self) -> dict[str, str]:
        """What server and hospital must agree on: name -> text; compared by `find_difference`."""
        return {
            "task": self.name,
            "columns": ", ".join(self.column_names),
            **{f"column {column.name}": column.summary for column in self.columns},
            f"label {self.label.name}": self.label.summary,
        }

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256, in hex, of the agreement: equal where rows mean the same."""
        return hashlib.sha256(json.dumps(list(self.agreement.items())).encode()).hexdigest()


AGE = Measurement("age", "age", "years", low=0, high=120, typical_median=(30, 90), other_units={"months": (1 / 12, 0)})
SEX = Category("sex", "sex", {0: "female", 1: "male"})

HEART_DISEASE = Task(
    name="heart-disease",
    columns=(
        AGE,
        SEX,
        Category(
            "cp", "chest pain", {1: "typical angina", 2: "atypical angina", 3: "non-anginal pain", 4: "asymptomatic"}
        ),
        Measurement(
            "trestbps",
            "resting blood pressure on admission",
            "mm Hg",
            low=50,
            high=300,
            zero_is_missing=True,
            typical_median=(100, 180),
            other_units={"kPa": (7.50062, 0), "cm Hg": (10, 0)},
        ),
        Measurement(
            "chol",
            "serum cholesterol",
            "mg/dl",
            low=50,
            high=1000,
            zero_is_missing=True,
            typical_median=(120, 350),
            other_units={"mmol/l": (38.67, 0)},
        ),
        Category("fbs", "fasting blood sugar above 120 mg/dl", {0: "no", 1: "yes"}),
        Category(
            "restecg",
            "resting electrocardiogram",
            {0: "normal", 1: "ST-T wave abnormality", 2: "left ventricular hypertrophy"},
        ),
        Measurement(
            "thalach",
            "maximum heart rate achieved",
            "beats/min",
            low=30,
            high=250,
            zero_is_missing=True,
            typical_median=(90, 190),
            other_units={"beats/s": (60, 0)},
        ),
        Category("exang", "exercise-induced angina", {0: "no", 1: "yes"}),
        Measurement(
            "oldpeak",
            "ST depression induced by exercise against rest",
            "mm",
            low=-10,
            high=10,
            typical_median=(0, 3),
            other_units={"microvolts": (0.01, 0)},
        ),
        Category("slope", "slope of the peak exercise ST segment", {1: "up", 2: "flat", 3: "down"}),
        Category("ca", "major vessels coloured by fluoroscopy", {0: "none", 1: "one", 2: "two", 3: "three"}),
        Category("thal", "thallium stress test", {3: "normal", 6: "fixed defect", 7: "reversible defect"}),
    ),
    label=Label("disease", "at least 50 % narrowing of a major coronary vessel (UCI's num > 0)"),
)

READMISSION = Task(
    name="readmission",
    columns=(
        AGE,
        SEX,
        Category("admission_type", "kind of admission", {1: "emergency", 2: "urgent", 3: "elective"}),
        Measurement(
            "days_in_hospital",
            "length of the stay",
            "days",
            low=0,
            high=365,
            typical_median=(1, 21),
            other_units={"hours": (1 / 24, 0)},
        ),
        Measurement(
            "lab_procedures", "laboratory tests in the stay", "tests", low=0, high=500, typical_median=(5, 150)
        ),
        Measurement(
            "medications", "different drugs given in the stay", "drugs", low=0, high=100, typical_median=(2, 40)
        ),
        Measurement("diagnoses", "diagnoses coded", "codes", low=1, high=50, typical_median=(2, 20)),
        Measurement(
            "emergency_visits", "emergency visits in the year before", "visits", low=0, high=100, typical_median=(0, 5)
        ),
        Measurement(
            "inpatient_visits", "hospital stays in the year before", "stays", low=0, high=100, typical_median=(0, 5)
        ),
        Measurement(
            "hba1c",
            "glycated haemoglobin HbA1c",
            "%",
            low=3,
            high=20,
            zero_is_missing=True,
            typical_median=(5, 11),
            other_units={"mmol/mol": (0.09148, 2.152)},
        ),
        Measurement(
            "glucose",
            "blood glucose on admission",
            "mg/dl",
            low=20,
            high=1500,
            zero_is_missing=True,
            typical_median=(80, 350),
            other_units={"mmol/l": (18.016, 0)},
        ),
        Category(
            "insulin", "insulin dose, changed in the stay", {0: "no insulin", 1: "unchanged", 2: "raised", 3: "lowered"}
        ),
        Category("diabetes_medication", "any diabetes medication", {0: "no", 1: "yes"}),
        Category("discharged_home", "discharged to home", {0: "no", 1: "yes"}),
    ),
    label=Label("readmitted", "readmitted to a hospital within 30 days of discharge"),
)

TASKS: Mapping[str, Task] = {task.name: task for task in (HEART_DISEASE, READMISSION)}
DEFAULT_TASK = HEART_DISEASE.name


def get_task(name: str) -> Task:
    """The task with a name; a SettingsError if there is none."""
    if name not in TASKS:
        raise SettingsError(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def find_difference(other: Mapping[str, str], server: Mapping[str, str], whose: str = "hospital") -> str | None:
    """The first entry that differs between the server's task agreement and the other side's, as a text for both."""
    for name in dict.fromkeys([*server, *other]):
        if other.get(name) != server.get(name):
            theirs, servers = other.get(name, "not declared"), server.get(name, "not declared")
            return f"the {whose}'s {name} is {theirs}; the server's is {servers}"
    return None


def write_agreement(agreement: Mapping[str, str]) -> str:
    """A task agreement as ASCII text; the inverse of `read_agreement`."""
    return json.dumps(agreement)


def read_agreement(text: str) -> dict[str, str]:
    """The task agreement that another side wrote; a ValueError if it is too long, or not names and texts in JSON."""
    if len(text) > MAX_AGREEMENT_CHARACTERS:
        raise ValueError("too long")
    try:
        agreement = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(agreement, dict) or not all(isinstance(text, str) for text in agreement.values()):
        raise ValueError("not names and texts")
    return agreement
