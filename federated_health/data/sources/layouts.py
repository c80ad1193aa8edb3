"""Layouts: how common files write the columns of a task. Declarations only; `source` reads the files.

A layout is a guess from the header; `layout_confirmation` checks it on patients who are also in UCI's table. Facts
about the heart files, each checked against that table:

- Kaggle's `heart.csv` (303 rows, or 1,025 with each patient three or four times) is Cleveland with other codes and an
  inverted label: target 1 means no disease. A copy with shorter names calls the label `output`.
- Kaggle's `heart_disease_uci.csv` has all four hospitals, and words instead of codes.
- `heart_cleveland_upload.csv` is the 297 complete rows of Cleveland, its codes counted from 0; condition 1 is disease.
- `heart.csv` of 918 rows, with HeartDisease, is all four hospitals without ca and thal, and without repeats.
- `heart_statlog_cleveland_hungary_final.csv` is the same patients, 270 of Cleveland's twice: Statlog's table is 270 of
  Cleveland's rows. 1,190 rows, 272 exact repeats, and in one row a slope of 0.
- Statlog's `heart.dat` has UCI's codes, and the label 1 for absence and 2 for presence.
- `Heart.csv` of the book "An Introduction to Statistical Learning" is Cleveland, with words for cp, thal and the label.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from federated_health.data.columns import Column, Label
from federated_health.data.task_files import HEART_DISEASE, TASKS
from federated_health.data.tasks import Task
from federated_health.names import HOSPITAL_COLUMN


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one kind of file writes the columns of a task.

    Attributes:
        title: name of the file's kind in messages.
        names: the task's column -> the file's column, where they differ.
        codes: the task's column or label -> {cell in the file, lower case, numbers in their shortest form -> the task's
            code, or "" for missing}, where they differ.
        absent: the task's columns that the file does not have; they are missing in every row.
        hospital: the file's column with the hospital of a row; it is optional.
        missing_marks: missing-value markers besides the usual ones.
        repeats_are_copies: whether equal rows are copies of one patient.
    """

    title: str
    task: Task
    names: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    hospital: str = HOSPITAL_COLUMN
    missing_marks: frozenset[str] = frozenset()
    repeats_are_copies: bool = False

    @property
    def header(self) -> tuple[str, ...]:
        """Columns that the file must have, under its own names."""
        columns = (column for column in self.task.labelled_columns if column.name not in self.absent)
        patient = [self.task.patient] if self.task.patient else []
        return (*(self.name_in_file(column) for column in columns), *patient)

    @property
    def label_name(self) -> str:
        """The label's column in the file."""
        return self.name_in_file(self.task.label)

    @property
    def label_codes(self) -> Mapping[str, str]:
        """Cell of a binary label in the file -> the task's label, "0" or "1"."""
        return self.codes.get(self.task.label.name, {"0": "0", "1": "1"})

    @property
    def is_task_s_own(self) -> bool:
        """Whether names and codes are the task's own, so that nothing is guessed."""
        return not (self.names or self.codes or self.absent)

    @property
    def recoded(self) -> list[str]:
        """The task's columns whose codes are numbers that mean something else in the file."""
        return [
            column.name
            for column in self.task.columns
            if any(cell.isdigit() and code not in ("", cell) for cell, code in self.codes.get(column.name, {}).items())
        ]

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
            if column.name in self.absent:
                lines.append(f"{column.name} is not in the file: missing in every row")
        return lines


def own_layout(task: Task) -> Layout:
    """The layout of a file in a task's own columns."""
    return Layout(title=f"the columns of the task {task.name}", task=task)


def uci_layout(known: Iterable[Layout]) -> Layout | None:
    """How UCI's own files, which have no header, are read: as UCI, or for a task that predicts one of their columns."""
    return next((layout for layout in known if layout is UCI or _is_of_uci_columns(layout)), None)


def _is_of_uci_columns(layout: Layout) -> bool:
    return layout.is_task_s_own and set(layout.header) <= set(UCI.header)


def layouts_of(task: Task) -> tuple[Layout, ...]:
    """The layouts of files with a task's data; a task that is not shipped has its own columns only."""
    return (own_layout(task), *(layout for layout in LAYOUTS if layout.task is task and not layout.is_task_s_own))


_DIAGNOSIS = {"0": "0", "1": "1", "2": "1", "3": "1", "4": "1"}
_UCI_MISSING = frozenset({"-9", "-9.0"})
"""UCI's mark in the files from which `processed.*.data` were made."""

CANONICAL = tuple(own_layout(task) for task in TASKS.values())

UCI = Layout(
    title="UCI's heart disease table",
    task=HEART_DISEASE,
    names={"disease": "num"},
    codes={"disease": _DIAGNOSIS},
    missing_marks=_UCI_MISSING,
)

STATLOG = Layout(
    title="Statlog's heart.dat",
    task=HEART_DISEASE,
    names={"disease": "num"},
    codes={"disease": {"1": "0", "2": "1"}},
)
"""It has no header; `num` is the name that its last column gets here."""

UCI_WITH_OTHER_LABELS = tuple(
    Layout(
        title=f"UCI's heart disease table with the label {label}",
        task=HEART_DISEASE,
        names={"disease": label},
        codes={"disease": {"0": "0", "1": "1"}},
        missing_marks=_UCI_MISSING,
    )
    for label in ("target", "condition", "HeartDisease")
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

_KAGGLE_CODES = {
    "cp": {"0": "4", "1": "2", "2": "3", "3": "1"},
    "restecg": {"0": "2", "1": "0", "2": "1"},
    "slope": {"0": "3", "1": "2", "2": "1"},
    "ca": {"0": "0", "1": "1", "2": "2", "3": "3", "4": ""},
    "thal": {"0": "", "1": "6", "2": "3", "3": "7"},
    "disease": {"0": "1", "1": "0"},
}

KAGGLE_HEART = Layout(
    title="Kaggle's heart.csv",
    task=HEART_DISEASE,
    names={"disease": "target"},
    codes=_KAGGLE_CODES,
    missing_marks=_UCI_MISSING,
    repeats_are_copies=True,
)

KAGGLE_OUTPUT = Layout(
    title="Kaggle's heart.csv with the label output",
    task=HEART_DISEASE,
    names={
        "trestbps": "trtbps",
        "thalach": "thalachh",
        "exang": "exng",
        "slope": "slp",
        "ca": "caa",
        "thal": "thall",
        "disease": "output",
    },
    codes=_KAGGLE_CODES,
    missing_marks=_UCI_MISSING,
    repeats_are_copies=True,
)

_CODES_FROM_0 = {
    "cp": {"0": "1", "1": "2", "2": "3", "3": "4"},
    "slope": {"0": "1", "1": "2", "2": "3"},
    "disease": {"0": "0", "1": "1"},
}

CLEVELAND_UPLOAD = Layout(
    title="heart_cleveland_upload.csv",
    task=HEART_DISEASE,
    names={"disease": "condition"},
    codes={**_CODES_FROM_0, "thal": {"0": "3", "1": "6", "2": "7"}},
)

FROM_0_WITH_TARGET = Layout(
    title="UCI's codes counted from 0, with the label target",
    task=HEART_DISEASE,
    names={"disease": "target"},
    codes={**_CODES_FROM_0, "thal": {"0": "", "1": "3", "2": "6", "3": "7"}},
    repeats_are_copies=True,
)

HEART_918 = Layout(
    title="Kaggle's heart.csv of 918 patients",
    task=HEART_DISEASE,
    names={
        "age": "Age",
        "sex": "Sex",
        "cp": "ChestPainType",
        "trestbps": "RestingBP",
        "chol": "Cholesterol",
        "fbs": "FastingBS",
        "restecg": "RestingECG",
        "thalach": "MaxHR",
        "exang": "ExerciseAngina",
        "oldpeak": "Oldpeak",
        "slope": "ST_Slope",
        "disease": "HeartDisease",
    },
    codes={
        "sex": {"m": "1", "f": "0"},
        "cp": {"ta": "1", "ata": "2", "nap": "3", "asy": "4"},
        "restecg": {"normal": "0", "st": "1", "lvh": "2"},
        "exang": {"y": "1", "n": "0"},
        "slope": {"up": "1", "flat": "2", "down": "3"},
        "disease": {"0": "0", "1": "1"},
    },
    absent=frozenset({"ca", "thal"}),
)

HEART_1190 = Layout(
    title="heart_statlog_cleveland_hungary_final.csv",
    task=HEART_DISEASE,
    names={
        "cp": "chest pain type",
        "trestbps": "resting bp s",
        "chol": "cholesterol",
        "fbs": "fasting blood sugar",
        "restecg": "resting ecg",
        "thalach": "max heart rate",
        "exang": "exercise angina",
        "slope": "ST slope",
        "disease": "target",
    },
    codes={"slope": {"0": "", "1": "1", "2": "2", "3": "3"}, "disease": {"0": "0", "1": "1"}},
    absent=frozenset({"ca", "thal"}),
    repeats_are_copies=True,
)

ISLR = Layout(
    title="Heart.csv of An Introduction to Statistical Learning",
    task=HEART_DISEASE,
    names={
        "age": "Age",
        "sex": "Sex",
        "cp": "ChestPain",
        "trestbps": "RestBP",
        "chol": "Chol",
        "fbs": "Fbs",
        "restecg": "RestECG",
        "thalach": "MaxHR",
        "exang": "ExAng",
        "oldpeak": "Oldpeak",
        "slope": "Slope",
        "ca": "Ca",
        "thal": "Thal",
        "disease": "AHD",
    },
    codes={
        "cp": {"typical": "1", "nontypical": "2", "nonanginal": "3", "asymptomatic": "4"},
        "thal": {"normal": "3", "fixed": "6", "reversable": "7"},
        "disease": {"no": "0", "yes": "1"},
    },
)

LAYOUTS = (
    *CANONICAL,
    UCI,
    STATLOG,
    KAGGLE_UCI,
    KAGGLE_HEART,
    KAGGLE_OUTPUT,
    CLEVELAND_UPLOAD,
    FROM_0_WITH_TARGET,
    *UCI_WITH_OTHER_LABELS,
    HEART_918,
    HEART_1190,
    ISLR,
)
"""Several have the same header; the first that patients of UCI's table confirm is taken."""

WITHOUT_HEADER = (UCI, STATLOG)
"""Layouts of files that have no header."""

UCI_FILES: Mapping[str, str] = {
    "processed.cleveland.data": "cleveland",
    "processed.hungarian.data": "hungary",
    "processed.switzerland.data": "switzerland",
    "processed.va.data": "va-long-beach",
}
"""UCI's own files -> their hospital; they have no header."""
