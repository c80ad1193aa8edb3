"""A split by row of stays that resemble each other within a patient flatters a model; the split by patient does not.

A model that recognises patients predicts rows of patients whom it has seen, and is of no use for others.
"""

from statistics import fmean

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from federated_health.data.split import PatientIds, split_rows
from federated_health.studies.benefit.folds import assign_folds

PATIENTS, COLUMNS, SEEDS = 250, 5, range(5)
CLASSIFIERS = [KNeighborsClassifier(3), RandomForestClassifier(50, random_state=0)]


def made_up_stays(seed: int) -> tuple[pd.DataFrame, PatientIds]:
    """Stays, and the number of each one's patient.

    A patient's stays have nearly the same values and mostly the same label, which no value of another patient predicts.
    """
    generator = np.random.default_rng(seed)
    ids = generator.permutation(np.repeat(np.arange(PATIENTS), generator.integers(1, 7, PATIENTS)))
    values = generator.normal(size=(PATIENTS, COLUMNS))[ids] + 0.1 * generator.normal(size=(len(ids), COLUMNS))
    often = generator.choice([0.1, 0.9], PATIENTS, p=[0.6, 0.4])
    table = pd.DataFrame(values, columns=[f"value_{number}" for number in range(COLUMNS)])
    return table.assign(label=(generator.random(len(ids)) < often[ids]).astype(float)), ids


def roc_auc_of(
    classifier: RandomForestClassifier, stays: pd.DataFrame, train: npt.NDArray[np.intp], test: npt.NDArray[np.intp]
) -> float:
    values = stays.drop(columns="label").to_numpy()
    fitted = classifier.fit(values[train], stays["label"].to_numpy()[train])
    return float(roc_auc_score(stays["label"].to_numpy()[test], fitted.predict_proba(values[test])[:, 1]))


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda classifier: type(classifier).__name__)
def test_a_split_by_row_flatters_a_model_that_recognises_patients(classifier: RandomForestClassifier) -> None:
    by_row, by_patient = [], []
    for seed in SEEDS:
        stays, ids = made_up_stays(seed)
        by_row.append(roc_auc_of(classifier, stays, *split_rows(stays, "label", seed)))
        by_patient.append(roc_auc_of(classifier, stays, *split_rows(stays, "label", seed, ids)))

    assert fmean(by_patient) == pytest.approx(0.5, abs=0.06)
    assert fmean(by_row) > fmean(by_patient) + 0.2


def test_folds_by_patient_give_what_group_folds_of_scikit_learn_give() -> None:
    stays, ids = made_up_stays(1)
    values, labels = stays.drop(columns="label").to_numpy(), stays["label"].to_numpy()
    fold_of = assign_folds(stays, "label", 5, 1, ids)
    splits = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(5)]

    own, of_groups = (
        roc_auc_score(labels, cross_val_predict(CLASSIFIERS[0], values, labels, cv=cv, method="predict_proba")[:, 1])
        for cv in (splits, list(GroupKFold(5).split(values, labels, ids)))
    )

    assert own == pytest.approx(of_groups, abs=0.06)
    assert own < 0.6
