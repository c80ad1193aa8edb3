"""What a prediction task is: its columns, their units, kinds, ranges and codes, and its label.

A task is a declaration. Everything else derives from it: validation and its messages, the order of the columns, the
statistics that hospitals share, the width of the network's input and the saved model's inputs.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from federated_health.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A quantity with a unit, scaled by statistics that all hospitals share.

    Attributes:
        low, high: bounds of what is physically plausible, inclusive, in `unit`. Outside is a mistake in the file.
        zero_is_missing: a recorded 0 stands for "not measured" and is read as missing.
    """

    name: str
    meaning: str
    unit: str
    low: float
    high: float
    zero_is_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Category:
    """A code out of a fixed list; "missing" is one more code of its own."""

    name: str
    meaning: str
    codes: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is predicted: 1 where it is so, 0 where it is not."""

    name: str
    meaning: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One prediction task.

    Attributes:
        name: as settings and saved models name it.
        columns: inputs of the model, in the order of every array and CSV.
        label: the column that is predicted; always 0 or 1, never missing.
    """

    name: str
    columns: tuple[Measurement | Category, ...]
    label: Label

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        return tuple(column for column in self.columns if isinstance(column, Measurement))

    @cached_property
    def measurement_positions(self) -> tuple[int, ...]:
        """Positions of the measurements among the columns."""
        return tuple(i for i, column in enumerate(self.columns) if isinstance(column, Measurement))

    @cached_property
    def feature_width(self) -> int:
        """Numbers that a patient becomes: value and missing flag a measurement, one-hot with "missing" a category."""
        return sum(2 if isinstance(column, Measurement) else len(column.codes) + 1 for column in self.columns)

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256, in hex, of all that makes two parties' rows mean the same."""
        declaration = {
            "name": self.name,
            "columns": [{"kind": type(column).__name__, **asdict(column)} for column in self.columns],
            "label": asdict(self.label),
        }
        return hashlib.sha256(json.dumps(declaration, sort_keys=True).encode()).hexdigest()

    @property
    def terms(self) -> dict[str, str]:
        """What server and hospital must agree on, as either tells the other."""
        return {"task": self.name, "schema": self.schema_hash}


HEART_DISEASE = Task(
    name="heart-disease",
    columns=(
        Measurement(name="age", meaning="age", unit="years", low=0, high=120),
        Category(name="sex", meaning="sex", codes={0: "female", 1: "male"}),
        Category(
            name="cp",
            meaning="chest pain",
            codes={1: "typical angina", 2: "atypical angina", 3: "non-anginal pain", 4: "asymptomatic"},
        ),
        Measurement(
            name="trestbps",
            meaning="resting blood pressure on admission",
            unit="mm Hg",
            low=50,
            high=300,
            zero_is_missing=True,
        ),
        Measurement(name="chol", meaning="serum cholesterol", unit="mg/dl", low=50, high=1000, zero_is_missing=True),
        Category(name="fbs", meaning="fasting blood sugar above 120 mg/dl", codes={0: "no", 1: "yes"}),
        Category(
            name="restecg",
            meaning="resting electrocardiogram",
            codes={0: "normal", 1: "ST-T wave abnormality", 2: "left ventricular hypertrophy"},
        ),
        Measurement(
            name="thalach",
            meaning="maximum heart rate achieved",
            unit="beats/min",
            low=30,
            high=250,
            zero_is_missing=True,
        ),
        Category(name="exang", meaning="exercise-induced angina", codes={0: "no", 1: "yes"}),
        Measurement(
            name="oldpeak", meaning="ST depression induced by exercise against rest", unit="mm", low=-10, high=10
        ),
        Category(name="slope", meaning="slope of the peak exercise ST segment", codes={1: "up", 2: "flat", 3: "down"}),
        Category(
            name="ca",
            meaning="major vessels coloured by fluoroscopy",
            codes={0: "none", 1: "one", 2: "two", 3: "three"},
        ),
        Category(
            name="thal",
            meaning="thallium stress test",
            codes={3: "normal", 6: "fixed defect", 7: "reversible defect"},
        ),
    ),
    label=Label(name="disease", meaning="at least 50 % narrowing of a major coronary vessel (UCI's num > 0)"),
)

TASKS: Mapping[str, Task] = {task.name: task for task in (HEART_DISEASE,)}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        SettingsError: there is none.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise SettingsError(f"task: expected one of {', '.join(TASKS)}, got {name!r}") from None
