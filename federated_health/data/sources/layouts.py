"""Layouts: how common files write the columns of a task. Declarations only; `source` reads the files.

Facts about the heart files, each checked against the UCI table in the repository: Kaggle's `heart.csv` (303 rows, or
1,025 with each patient three or four times) is Cleveland with shifted codes and an inverted label: target 1 means no
disease. Kaggle's `heart_disease_uci.csv` has all four hospitals, and words instead of codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from federated_health.data.columns import Column, Label
from federated_health.data.task_files import HEART_DISEASE, TASKS
from federated_health.data.tasks import Task

HOSPITAL_COLUMN = "hospital"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one kind of file writes the columns of a task.

    Attributes:
        title: name of the file's kind in messages.
        names: the task's column -> the file's column, where they differ.
        codes: the task's column or label -> {cell in the file, lower case, numbers in their shortest form -> the task's
            code, or "" for missing}, where they differ.
        hospital: the file's column with the hospital of a row; it is optional.
        missing_marks: marks for missing besides the usual ones.
        repeats_are_copies: whether equal rows are copies of one patient.
    """

    title: str
    task: Task
    names: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hospital: str = HOSPITAL_COLUMN
    missing_marks: frozenset[str] = frozenset()
    repeats_are_copies: bool = False

    @property
    def header(self) -> tuple[str, ...]:
        """Columns that the file must have, under its own names."""
        return tuple(self.name_in_file(column) for column in self.task.labelled_columns)

    @property
    def label_is_inverted(self) -> bool:
        return self.codes.get(self.task.label.name, {}).get("1") == "0"

    def name_in_file(self, column: Column) -> str:
        return self.names.get(column.name, column.name)

    def rule(self, column: Column) -> str:
        """What a cell of the file may hold, for messages."""
        if column.name not in self.codes:
            return column.rule
        codes = ", ".join(self.codes[column.name])
        return f"one of {codes}" + ("" if isinstance(column, Label) else ", or empty")

    def describe_mappings(self) -> list[str]:
        """Names and codes that differ from the task's, one line per column."""
        lines = []
        for column in self.task.labelled_columns:
            codes = ", ".join(
                f"{cell} -> {code or 'missing'}" for cell, code in self.codes.get(column.name, {}).items()
            )
            renamed = f" is {column.name}" if column.name in self.names else ""
            if renamed or codes:
                lines.append(f"{self.name_in_file(column)}{renamed}" + (f": {codes}" if codes else ""))
        return lines


_DIAGNOSIS = {"0": "0", "1": "1", "2": "1", "3": "1", "4": "1"}
_UCI_MISSING = frozenset({"-9", "-9.0"})
"""UCI's mark in the files from which `processed.*.data` were made."""

CANONICAL = tuple(Layout(title=f"the columns of the task {task.name}", task=task) for task in TASKS.values())

UCI = Layout(
    title="UCI's heart disease table",
    task=HEART_DISEASE,
    names={"disease": "num"},
    codes={"disease": _DIAGNOSIS},
    missing_marks=_UCI_MISSING,
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
    missing_marks=_UCI_MISSING,
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
    missing_marks=_UCI_MISSING,
    repeats_are_copies=True,
)

LAYOUTS = (*CANONICAL, UCI, KAGGLE_UCI, KAGGLE_HEART)

UCI_FILES: Mapping[str, str] = {
    "processed.cleveland.data": "cleveland",
    "processed.hungarian.data": "hungary",
    "processed.switzerland.data": "switzerland",
    "processed.va.data": "va-long-beach",
}
"""UCI's own files -> their hospital; they have no header."""
