"""Folds of a hospital's rows for stratified cross-validation, in the hash order of their patients."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.split import PatientIds, order_patients


def assign_folds(
    numbers: pd.DataFrame,
    label: str,
    folds: int,
    seed: int,
    patients: PatientIds | None = None,
    classes: Sequence[int] = (0, 1),
) -> npt.NDArray[np.intp]:
    """Fold of each row, from 0, for stratified cross-validation.

    The patients of each class go to the folds in turn, in the order in which `split_rows` in `data.split` holds them
    out. Each class starts at the fold where the one before stopped, so that folds have equal sizes. All rows of a
    patient share a fold.
    """
    patient_of_row, strata = order_patients(numbers, label, seed, patients, classes)
    ordered = np.concatenate(strata)
    fold_of_patient = np.zeros(len(ordered), dtype=np.intp)
    fold_of_patient[ordered] = np.arange(len(ordered)) % folds
    return fold_of_patient[patient_of_row]
