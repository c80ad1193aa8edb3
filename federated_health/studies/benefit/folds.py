"""Folds of a hospital's rows for stratified cross-validation, in the hash order of their patients."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.split import PatientIds, order_patients


def assign_folds(
    numbers: pd.DataFrame, label: str, folds: int, seed: int, patients: PatientIds | None = None
) -> npt.NDArray[np.intp]:
    """Fold of each row, from 0, for stratified cross-validation.

    The patients of each class go to the folds in turn, in the order in which `split_rows` in `data.split` holds them
    out. The second class starts at the fold where the first one stopped, so that folds have equal sizes. All rows of a
    patient share a fold.
    """
    patient_of_row, positives, negatives = order_patients(numbers, label, seed, patients)
    fold_of_patient = np.zeros(len(positives) + len(negatives), dtype=np.intp)
    fold_of_patient[np.concatenate([positives, negatives])] = np.arange(len(fold_of_patient)) % folds
    return fold_of_patient[patient_of_row]
