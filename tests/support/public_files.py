"""Copies of public heart disease files, made from UCI's table by the inverse of each file's layout.

The recodings are written here a second time, independently of the package. Tables hold text; their index is the row's
number in UCI's table, so that a test can compare each row with UCI's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from federated_health.data.examples import HEART_DISEASE_TABLE

MEASUREMENTS = ["age", "trestbps", "chol", "thalach", "oldpeak"]
COLUMNS = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal"),
    "num",
]

Recoding = Mapping[str, Mapping[str, str]]


def uci_rows() -> pd.DataFrame:
    """UCI's 920 rows as text, "" for missing: the hospital, 13 columns and num."""
    return pd.read_csv(HEART_DISEASE_TABLE, dtype=str, keep_default_na=False)


def cleveland() -> pd.DataFrame:
    rows = uci_rows()
    return rows[rows["hospital"] == "cleveland"]


def expected_labels(rows: pd.DataFrame) -> list[int]:
    """UCI's label of each row of a table of this module."""
    return (uci_rows()["num"][rows.index] != "0").astype(int).tolist()


def recode(rows: pd.DataFrame, recoding: Recoding) -> pd.DataFrame:
    """A table with other codes; cells without a new code stay as they are."""
    return rows.assign(**{name: rows[name].replace(dict(codes)) for name, codes in recoding.items()})


def _label(rows: pd.DataFrame, healthy: str, ill: str) -> "pd.Series[str]":
    return rows["num"].map(lambda num: healthy if num == "0" else ill)


KAGGLE_CODES: Recoding = {
    "cp": {"4": "0", "2": "1", "3": "2", "1": "3"},
    "restecg": {"2": "0", "0": "1", "1": "2"},
    "slope": {"3": "0", "2": "1", "1": "2"},
    "ca": {"": "4"},
    "thal": {"": "0", "6": "1", "3": "2", "7": "3"},
}
FROM_0: Recoding = {"cp": {"1": "0", "2": "1", "3": "2", "4": "3"}, "slope": {"1": "0", "2": "1", "3": "2"}}


def kaggle_heart() -> pd.DataFrame:
    """303 rows of Cleveland in Kaggle's codes; target 1 means no disease."""
    rows = recode(cleveland(), KAGGLE_CODES)[COLUMNS]
    return rows.assign(num=_label(rows, "1", "0")).rename(columns={"num": "target"})


def kaggle_output() -> pd.DataFrame:
    """The same with the shorter names of another copy."""
    shorter = {"trestbps": "trtbps", "thalach": "thalachh", "exang": "exng", "slope": "slp", "ca": "caa"}
    return kaggle_heart().rename(columns={**shorter, "thal": "thall", "target": "output"})


def cleveland_upload() -> pd.DataFrame:
    """297 complete rows of Cleveland, codes from 0; condition 1 means disease."""
    rows = cleveland()
    rows = recode(rows[(rows != "").all(axis=1)], {**FROM_0, "thal": {"3": "0", "6": "1", "7": "2"}})[COLUMNS]
    return rows.assign(num=_label(rows, "0", "1")).rename(columns={"num": "condition"})


def from_0_with_target() -> pd.DataFrame:
    """303 rows of Cleveland with Kaggle's header, UCI's codes counted from 0, and target 1 for disease."""
    rows = recode(cleveland(), {**FROM_0, "thal": {"3": "1", "6": "2", "7": "3"}})[COLUMNS]
    return rows.assign(num=_label(rows, "0", "1")).rename(columns={"num": "target"})


def uci_codes(label: str) -> Callable[[], pd.DataFrame]:
    """A builder of 303 rows of Cleveland in UCI's codes, with another label, 1 for disease."""

    def build() -> pd.DataFrame:
        rows = cleveland()[COLUMNS]
        return rows.assign(num=_label(rows, "0", "1")).rename(columns={"num": label})

    return build


def _without_ca_and_thal() -> pd.DataFrame:
    """918 rows of the four hospitals with 0 for a missing cholesterol or pressure, and no other missing cell."""
    rows = uci_rows()
    rows = rows[~rows[COLUMNS].duplicated()].drop(columns=["ca", "thal"])
    for name in ("trestbps", "chol"):
        rows[name] = rows[name].replace("", "0")
    generator = np.random.default_rng(1)
    for name in rows.columns:
        is_missing = rows[name] == ""
        rows.loc[is_missing, name] = generator.choice(rows.loc[~is_missing, name].to_numpy(), is_missing.sum())
    return rows[[name for name in COLUMNS if name in rows]]


def heart_918() -> pd.DataFrame:
    """918 rows of the four hospitals, letters and words for codes."""
    words = {
        "sex": {"1": "M", "0": "F"},
        "cp": {"1": "TA", "2": "ATA", "3": "NAP", "4": "ASY"},
        "restecg": {"0": "Normal", "1": "ST", "2": "LVH"},
        "exang": {"1": "Y", "0": "N"},
        "slope": {"1": "Up", "2": "Flat", "3": "Down"},
    }
    rows = recode(_without_ca_and_thal(), words)
    names = ["Age", "Sex", "ChestPainType", "RestingBP", "Cholesterol", "FastingBS", "RestingECG", "MaxHR"]
    rows = rows.assign(num=_label(rows, "0", "1"))
    return rows.set_axis([*names, "ExerciseAngina", "Oldpeak", "ST_Slope", "HeartDisease"], axis="columns")


def heart_1190() -> pd.DataFrame:
    """The 918 rows, 272 of them a second time, one of which first gets a slope of 0."""
    rows = _without_ca_and_thal()
    rows = rows.assign(num=_label(rows, "0", "1"))
    rows.iloc[0, list(rows.columns).index("slope")] = "0"
    rows = pd.concat([rows, rows[:272]])
    names = ["age", "sex", "chest pain type", "resting bp s", "cholesterol", "fasting blood sugar", "resting ecg"]
    return rows.set_axis([*names, "max heart rate", "exercise angina", "oldpeak", "ST slope", "target"], axis="columns")


def islr() -> pd.DataFrame:
    """303 rows of Cleveland with an index column, words for cp, thal and the label, and NA for missing."""
    words = {
        "cp": {"1": "typical", "2": "nontypical", "3": "nonanginal", "4": "asymptomatic"},
        "thal": {"3": "normal", "6": "fixed", "7": "reversable", "": "NA"},
        "ca": {"": "NA"},
    }
    rows = recode(cleveland(), words)[COLUMNS]
    rows = rows.assign(num=_label(rows, "No", "Yes"))
    names = ["Age", "Sex", "ChestPain", "RestBP", "Chol", "Fbs", "RestECG", "MaxHR", "ExAng", "Oldpeak", "Slope"]
    rows = rows.set_axis([*names, "Ca", "Thal", "AHD"], axis="columns")
    rows.insert(0, "", [str(number) for number in range(1, len(rows) + 1)])
    return rows


def statlog() -> pd.DataFrame:
    """270 complete rows of Cleveland with decimals; the label is 1 for absence and 2 for presence. Without a header."""
    rows = cleveland()
    rows = rows[(rows != "").all(axis=1)].sample(270, random_state=1)[COLUMNS]
    label = _label(rows, "1", "2")
    return rows.map(lambda cell: f"{float(cell):.1f}").assign(num=label)


def uci_with_header() -> pd.DataFrame:
    return uci_rows()[COLUMNS]


def uci_with_ids() -> pd.DataFrame:
    rows = uci_rows()[COLUMNS].replace("", "?")
    rows.insert(0, "patient_id", [str(1000 + number) for number in range(len(rows))])
    return rows


def heart_disease_uci() -> pd.DataFrame:
    """920 rows of the four hospitals in words, with ids and the column dataset."""
    words = {
        "sex": {"1": "Male", "0": "Female"},
        "cp": {"1": "typical angina", "2": "atypical angina", "3": "non-anginal", "4": "asymptomatic"},
        "fbs": {"1": "TRUE", "0": "FALSE"},
        "restecg": {"0": "normal", "1": "st-t abnormality", "2": "lv hypertrophy"},
        "exang": {"1": "TRUE", "0": "FALSE"},
        "slope": {"1": "upsloping", "2": "flat", "3": "downsloping"},
        "thal": {"3": "normal", "6": "fixed defect", "7": "reversable defect"},
        "hospital": {
            "cleveland": "Cleveland",
            "hungary": "Hungary",
            "switzerland": "Switzerland",
            "va-long-beach": "VA Long Beach",
        },
    }
    rows = recode(uci_rows(), words).rename(columns={"hospital": "dataset", "thalach": "thalch"})
    rows.insert(0, "id", [str(number) for number in range(1, len(rows) + 1)])
    order = ["id", "age", "sex", "dataset", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak"]
    return rows[[*order, "slope", "ca", "thal", "num"]]


@dataclass(frozen=True, kw_only=True)
class PublicFile:
    """A kind of public file.

    Attributes:
        label: its label's column.
        ill: the cells of the label that mean disease, as `--label-means` names them.
        chest_pain: its column for cp; `chest_pain_codes` are the cells for UCI's 1 to 4.
        measurements: its columns for MEASUREMENTS.
        rows: number of its patients, without repeats.
        is_recoded: whether numbers mean something else than in UCI's table, so that codes must be confirmed.
    """

    build: Callable[[], pd.DataFrame]
    label: str
    ill: str = "1"
    chest_pain: str = "cp"
    chest_pain_codes: tuple[str, ...] = ("1", "2", "3", "4")
    measurements: tuple[str, ...] = tuple(MEASUREMENTS)
    rows: int = 303
    is_recoded: bool = False
    separator: str = ","
    has_header: bool = True

    def text(self, rows: pd.DataFrame | None = None, separator: str | None = None) -> str:
        table = self.build() if rows is None else rows
        return table.to_csv(index=False, header=self.has_header, sep=separator or self.separator, lineterminator="\n")


_CAPITALS = ("Age", "RestBP", "Chol", "MaxHR", "Oldpeak")
_FROM_0_CODES = ("0", "1", "2", "3")
_WORDS = ("typical angina", "atypical angina", "non-anginal", "asymptomatic")

PUBLIC_FILES: dict[str, PublicFile] = {
    "Kaggle's heart.csv": PublicFile(
        build=kaggle_heart,
        label="target",
        ill="0",
        chest_pain_codes=("3", "1", "2", "0"),
        is_recoded=True,
    ),
    "Kaggle's heart.csv with output": PublicFile(
        build=kaggle_output,
        label="output",
        ill="0",
        chest_pain_codes=("3", "1", "2", "0"),
        measurements=("age", "trtbps", "chol", "thalachh", "oldpeak"),
        is_recoded=True,
    ),
    "heart_cleveland_upload.csv": PublicFile(
        build=cleveland_upload, label="condition", chest_pain_codes=_FROM_0_CODES, rows=297, is_recoded=True
    ),
    "codes from 0 with target": PublicFile(
        build=from_0_with_target, label="target", chest_pain_codes=_FROM_0_CODES, is_recoded=True
    ),
    "UCI's codes with target": PublicFile(build=uci_codes("target"), label="target"),
    "UCI's codes with HeartDisease": PublicFile(build=uci_codes("HeartDisease"), label="HeartDisease"),
    "heart.csv of 918 patients": PublicFile(
        build=heart_918,
        label="HeartDisease",
        chest_pain="ChestPainType",
        chest_pain_codes=("TA", "ATA", "NAP", "ASY"),
        measurements=("Age", "RestingBP", "Cholesterol", "MaxHR", "Oldpeak"),
        rows=918,
    ),
    "the 1190 rows": PublicFile(
        build=heart_1190,
        label="target",
        chest_pain="chest pain type",
        measurements=("age", "resting bp s", "cholesterol", "max heart rate", "oldpeak"),
        rows=918,
    ),
    "ISLR's Heart.csv": PublicFile(
        build=islr,
        label="AHD",
        ill="Yes",
        chest_pain="ChestPain",
        chest_pain_codes=("typical", "nontypical", "nonanginal", "asymptomatic"),
        measurements=_CAPITALS,
    ),
    "Statlog's heart.dat": PublicFile(
        build=statlog,
        label="num",
        ill="2",
        chest_pain_codes=("1.0", "2.0", "3.0", "4.0"),
        rows=270,
        separator=" ",
        has_header=False,
    ),
    "UCI's table with a header": PublicFile(build=uci_with_header, label="num", ill="1", rows=920),
    "UCI's table with ids": PublicFile(build=uci_with_ids, label="num", ill="1", rows=920),
    "UCI's table without a header": PublicFile(
        build=lambda: cleveland()[COLUMNS].replace("", "?"), label="num", ill="1", has_header=False
    ),
    "heart_disease_uci.csv": PublicFile(
        build=heart_disease_uci,
        label="num",
        ill="1",
        chest_pain_codes=_WORDS,
        measurements=("age", "trestbps", "chol", "thalch", "oldpeak"),
        rows=920,
    ),
}
