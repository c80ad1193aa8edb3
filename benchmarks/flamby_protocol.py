"""FLamby's Fed-Heart-Disease: the patients that it keeps, and its test patients.

Source: du Terrail et al. 2022, "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings", NeurIPS Datasets and Benchmarks; `flamby/datasets/fed_heart_disease/dataset.py` in
github.com/owkin/FLamby. It drops the columns slope, ca and thal, then every row in which a `?` is left, and divides
what remains of each hospital once, by scikit-learn's `train_test_split`. That split depends on the order of the rows,
which is UCI's in the project's table, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.task_files import HEART_DISEASE
from federated_health.names import HOSPITAL_COLUMN

DROPPED_COLUMNS = ("slope", "ca", "thal")
TRAIN_FRACTION = 0.66
SPLIT_SEED = 43

ZERO_COLUMNS = ("trestbps", "chol")
"""Columns in which UCI's files hold `?` and also 0 for missing. FLamby drops rows only for `?`; here both are empty."""

UNKNOWN_AT_VA = (42, 48, 107, 125, 157, 160, 165)
"""VA Long Beach's rows, from 0 in UCI's order, whose only missing cells are `?`, not 0, in ZERO_COLUMNS.

At the other hospitals no list is needed: Hungary's such rows all hold `?`, Switzerland's all 0, Cleveland has none.
"""

COLUMNS = list(HEART_DISEASE.column_names)
LABEL = HEART_DISEASE.label.name

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Split:
    """Training and test rows of one hospital, as ascending positions in the table."""

    train: Positions
    test: Positions


def keeps(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows of `read_uci().table` FLamby keeps: 740 of 920."""
    others = [name for name in COLUMNS if name not in (*DROPPED_COLUMNS, *ZERO_COLUMNS)]
    unknown = table[others].isna().any(axis=1).to_numpy(copy=True)
    hungary, va = ((table[HOSPITAL_COLUMN] == name).to_numpy() for name in ("hungary", "va-long-beach"))
    unknown |= hungary & table[list(ZERO_COLUMNS)].isna().any(axis=1).to_numpy()
    unknown[np.flatnonzero(va)[list(UNKNOWN_AT_VA)]] = True
    return ~unknown


def flamby_split(table: pd.DataFrame) -> dict[str, Split]:
    """FLamby's training and test rows of each hospital, 740 rows in total."""
    kept, splits = keeps(table), {}
    for name in table[HOSPITAL_COLUMN].unique():
        rows = np.flatnonzero(kept & (table[HOSPITAL_COLUMN] == name))
        labels = table[LABEL].to_numpy()[rows]
        classes, sizes = np.unique(labels, return_counts=True)
        train, test = train_test_split(
            rows,
            test_size=1.0 - TRAIN_FRACTION,
            train_size=TRAIN_FRACTION,
            random_state=SPLIT_SEED,
            shuffle=True,
            stratify=labels if len(classes) > 1 and sizes.min() > 2 else None,
        )
        splits[str(name)] = Split(np.sort(train), np.sort(test))
    return splits


def without_twins(table: pd.DataFrame, splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits without training rows that equal a test row of any hospital, apart from the label.

    FLamby's own split has one: VA Long Beach's training row 139 and its test row 187 are the same patient or a
    copy.
    """
    patients = table.groupby(COLUMNS, dropna=False).ngroup().to_numpy()
    tested = patients[np.concatenate([split.test for split in splits.values()])]
    return {
        name: Split(split.train[~np.isin(patients[split.train], tested)], split.test) for name, split in splits.items()
    }


def every_patient_split(table: pd.DataFrame) -> dict[str, Split]:
    """FLamby's test rows; all other rows of each hospital, also those with missing cells, are training rows."""
    splits = {}
    for name, split in flamby_split(table).items():
        rows = np.flatnonzero(table[HOSPITAL_COLUMN] == name)
        splits[name] = Split(np.setdiff1d(rows, split.test), split.test)
    return splits


def flamby_hospitals(table: pd.DataFrame) -> list[Hospital]:
    """FLamby's rows and columns without the twin, as the task's 13 columns, three of them missing in every row.

    A model gets the same information as from FLamby's ten columns, but a cholesterol of 0 counts as missing.
    """
    hidden = table.assign(**dict.fromkeys(DROPPED_COLUMNS, np.nan))
    return _hospitals(hidden, without_twins(table, flamby_split(table)))


def every_patient_hospitals(table: pd.DataFrame) -> list[Hospital]:
    """All patients except test patients and their twins as training rows, all 13 columns, and FLamby's test rows."""
    return _hospitals(table, without_twins(table, every_patient_split(table)))


def majority_accuracy(hospitals: list[Hospital]) -> dict[str, float]:
    """Share of each hospital's test patients who belong to the majority class of its training patients."""
    return {
        hospital.name: float((hospital.test.labels == float(hospital.train.labels.mean() > 0.5)).mean())
        for hospital in hospitals
    }


def _hospitals(table: pd.DataFrame, splits: Mapping[str, Split]) -> list[Hospital]:
    values = table[COLUMNS].to_numpy(dtype=np.float64)
    labels = table[LABEL].to_numpy(dtype=np.float32)

    def patients(rows: Positions) -> Patients:
        return Patients(values[rows], labels[rows])

    return [
        Hospital(name=name, task=HEART_DISEASE, train=patients(split.train), test=patients(split.test))
        for name, split in splits.items()
    ]
