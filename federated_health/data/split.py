"""Splits a hospital's rows into training and held-out rows, or into folds, by a keyed hash of their content."""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

DEFAULT_SPLIT_SEED = 42
TEST_FRACTION = 0.25

Positions = npt.NDArray[np.intp]
"""Positions of rows in a table."""


def split_rows(numbers: pd.DataFrame, label: str, seed: int) -> tuple[Positions, Positions]:
    """Positions of training and of held-out rows of a hospital, each ascending.

    A quarter of the patients of each class is held out for testing, at least one of a class with two or more. A keyed
    hash of a row's content decides which. So the order of the file changes nothing, and a new patient moves at most
    one other patient. Rows that are equal except for the label are one patient and land on the same side.

    Args:
        numbers: all rows of the hospital, with the label column.
        seed: the hospital's own split seed.
    """
    patient_of_row, positives, negatives = _order_patients(numbers, label, seed)
    held_out = np.zeros(len(positives) + len(negatives), dtype=bool)
    for patients in (positives, negatives):
        held_out[patients[: int(len(patients) * TEST_FRACTION + 0.5)]] = True  # 0 of 1, 1 of 2 to 5
    is_test = held_out[patient_of_row]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def assign_folds(numbers: pd.DataFrame, label: str, folds: int, seed: int) -> npt.NDArray[np.intp]:
    """Fold of each row, from 0, for stratified cross-validation.

    The patients of each class go to the folds in turn, in the order in which `split_rows` holds them out. The second
    class starts at the fold where the first one stopped, so that folds have equal sizes. Equal rows share a fold.
    """
    patient_of_row, positives, negatives = _order_patients(numbers, label, seed)
    fold_of_patient = np.zeros(len(positives) + len(negatives), dtype=np.intp)
    fold_of_patient[np.concatenate([positives, negatives])] = np.arange(len(fold_of_patient)) % folds
    return fold_of_patient[patient_of_row]


def _order_patients(numbers: pd.DataFrame, label: str, seed: int) -> tuple[Positions, Positions, Positions]:
    """Number of each row's patient, from 0; numbers of the positive and of the negative patients, in hash order.

    A patient of several rows is positive where any of them is.
    """
    content = numbers.drop(columns=label).to_numpy(dtype=np.float64) + 0.0  # -0.0 becomes the 0.0 that it equals
    key = seed.to_bytes(16, "big", signed=True)
    hashes = np.array([blake2b(row.tobytes(), digest_size=8, key=key).hexdigest() for row in content])
    patients, patient_of_row = np.unique(hashes, return_inverse=True)
    is_positive = np.zeros(len(patients), dtype=bool)
    is_positive[patient_of_row[numbers[label].to_numpy() == 1]] = True
    return patient_of_row, np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
