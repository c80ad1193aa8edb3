"""The files that people have on their disks: how each writes a task's columns. Declarations, read by `sources`.

Facts of the heart files, each checked against the UCI table that the project carries: Kaggle's `heart.csv` (303 rows,
or 1,025 in which the same patients stand three and four times) is Cleveland with shifted codes and its label turned
round: target 1 is no disease. Kaggle's `heart_disease_uci.csv` has all four hospitals and words for codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federated_health.data.columns import Column, Label
from federated_health.data.tasks import HEART_DISEASE, TASKS, Task

HOSPITAL_COLUMN = "hospital"

Codes = Mapping[str, str]
"""A cell as a file writes it, lower-case, numbers in their shortest form -> the canonical cell; "" for missing."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one kind of file writes the columns of a task.

    Attributes:
        title: what the file is called.
        names: the task's column -> the file's, where that is another one.
        codes: the task's column or label -> how its cells are written, where that is another way.
        hospital: the column that says which hospital a row is from; it may be lacking.
        missing: marks for missing beside the usual ones.
        repeats_are_copies: rows that are equal in everything are copies of one patient.
    """

    title: str
    task: Task
    names: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Codes] = field(default_factory=dict)
    hospital: str = HOSPITAL_COLUMN
    missing: frozenset[str] = frozenset()
    repeats_are_copies: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """The task's columns and its label."""
        return (*self.task.columns, self.task.label)

    @property
    def header(self) -> tuple[str, ...]:
        """The columns that the file must have, under its own names."""
        return tuple(self.written(column) for column in self.columns)

    @property
    def label_is_turned(self) -> bool:
        """Whether the file's label is 1 for those whom the task's label calls 0."""
        return self.codes.get(self.task.label.name, {}).get("1") == "0"

    def written(self, column: Column) -> str:
        """The file's name of a column."""
        return self.names.get(column.name, column.name)

    def rule(self, column: Column) -> str:
        """What a cell of the file may hold, in words."""
        if column.name not in self.codes:
            return column.rule
        allowed = ", ".join(self.codes[column.name])
        return f"one of {allowed}" + ("" if isinstance(column, Label) else ", or empty")

    def mappings(self) -> list[str]:
        """What is read as something else, in words."""
        lines = []
        for column in self.columns:
            name = self.written(column)
            into = "" if name == column.name else f" is {column.name}"
            pairs = self.codes.get(column.name, {}).items()
            codes = ", ".join(f"{written} -> {canonical or 'missing'}" for written, canonical in pairs)
            if into or codes:
                lines.append(f"{name}{into}" + (f": {codes}" if codes else ""))
        return lines


_DIAGNOSIS = {"0": "0", "1": "1", "2": "1", "3": "1", "4": "1"}
_UCI_MISSING = frozenset({"-9", "-9.0"})
"""UCI's own mark in the files that `processed.*.data` were made from."""

CANONICAL = tuple(Layout(title=f"the columns of the task {task.name}", task=task) for task in TASKS.values())

UCI = Layout(
    title="UCI's heart disease table",
    task=HEART_DISEASE,
    names={"disease": "num"},
    codes={"disease": _DIAGNOSIS},
    missing=_UCI_MISSING,
)

KAGGLE_UCI = Layout(
    title="Kaggle's heart_disease_uci.csv",
    task=HEART_DISEASE,
    names={"thalach": "thalch", "disease": "num"},
    codes={
        "sex": {"male": "1", "female": "0"},
        "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
        "fbs": {"true": "1", "false": "0"},
        "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
        "exang": {"true": "1", "false": "0"},
        "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
        "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
        "disease": _DIAGNOSIS,
    },
    hospital="dataset",
    missing=_UCI_MISSING,
)

KAGGLE_HEART = Layout(
    title="Kaggle's heart.csv",
    task=HEART_DISEASE,
    names={"disease": "target"},
    codes={
        "cp": {"0": "4", "1": "2", "2": "3", "3": "1"},
        "restecg": {"0": "2", "1": "0", "2": "1"},
        "slope": {"0": "3", "1": "2", "2": "1"},
        "ca": {"0": "0", "1": "1", "2": "2", "3": "3", "4": ""},
        "thal": {"0": "", "1": "6", "2": "3", "3": "7"},
        "disease": {"0": "1", "1": "0"},
    },
    missing=_UCI_MISSING,
    repeats_are_copies=True,
)

LAYOUTS = (*CANONICAL, UCI, KAGGLE_UCI, KAGGLE_HEART)

EASILY_MISTAKEN = (
    (KAGGLE_HEART, UCI),
    (UCI, KAGGLE_HEART),
    *((one, KAGGLE_HEART) for one in CANONICAL if one.task is HEART_DISEASE),
)
"""A layout, and another one whose codes a file with its header may hold; then its label may be turned round."""

UCI_HEADER = (*HEART_DISEASE.column_names, "num")
UCI_FILES: Mapping[str, str] = {
    "processed.cleveland.data": "cleveland",
    "processed.hungarian.data": "hungary",
    "processed.switzerland.data": "switzerland",
    "processed.va.data": "va-long-beach",
}
"""UCI's own files, which have no header and are a hospital each."""
