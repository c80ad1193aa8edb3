"""Splits a hospital's rows into training and held-out rows, by a keyed hash of their patients."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

DEFAULT_SPLIT_SEED = 42
TEST_FRACTION = 0.25

Positions = npt.NDArray[np.intp]
"""Positions of rows in a table."""

PatientIds = npt.NDArray[np.int64]
"""Number of each row's patient; equal for the rows of one patient."""


def split_rows(
    numbers: pd.DataFrame, label: str, seed: int, patients: PatientIds | None = None, classes: Sequence[int] = (0, 1)
) -> tuple[Positions, Positions]:
    """Positions of training and of held-out rows of a hospital, each ascending.

    A quarter of the patients of each class is held out for testing, at least one of a class with two or more; of all
    patients if the label is a quantity. A keyed hash of the patient's number, or else of the row's content, decides
    which. So the order of the file changes nothing, and a new patient moves at most one other patient, which bounds
    between groups of a quantity would not allow. All rows of a patient land on the same side; without numbers, rows
    that are equal except for the label are one patient.

    Args:
        numbers: all rows of the hospital, with the label column.
        seed: the hospital's own split seed.
        patients: number of each row's patient, if known.
        classes: codes of the label's classes; empty for a quantity.
    """
    patient_of_row, strata = order_patients(numbers, label, seed, patients, classes)
    held_out = np.zeros(sum(map(len, strata)), dtype=bool)
    for ordered in strata:
        held_out[ordered[: int(len(ordered) * TEST_FRACTION + 0.5)]] = True  # 0 of 1, 1 of 2 to 5
    is_test = held_out[patient_of_row]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def order_patients(
    numbers: pd.DataFrame, label: str, seed: int, patients: PatientIds | None, classes: Sequence[int]
) -> tuple[Positions, list[Positions]]:
    """Number of each row's patient, from 0; numbers of the patients of each class, in hash order.

    The class with the largest code comes first, to which a patient of several rows belongs where any of them does.
    Without classes, all patients are one.
    """
    if patients is None:
        content = numbers.drop(columns=label).to_numpy(dtype=np.float64, copy=True)
        content += 0.0  # -0.0 becomes the 0.0 that it equals
        different, patient_of_row = np.unique(_hash_rows(content, seed), return_inverse=True)
    else:
        known, known_of_row = np.unique(patients, return_inverse=True)
        different, patient_of_known = np.unique(_hash_rows(known[:, np.newaxis], seed), return_inverse=True)
        patient_of_row = patient_of_known[known_of_row]
    if not classes:
        return patient_of_row, [np.arange(len(different))]
    largest = np.full(len(different), -np.inf)
    np.maximum.at(largest, patient_of_row, numbers[label].to_numpy(dtype=np.float64))
    return patient_of_row, [np.flatnonzero(largest == code) for code in sorted(classes, reverse=True)]


def _hash_rows(content: npt.NDArray[np.float64 | np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Hash of each row, [rows], keyed by a seed."""
    keyed = blake2b(digest_size=8, key=seed.to_bytes(16, "big", signed=True))

    def digest(row: memoryview) -> bytes:
        copy = keyed.copy()
        copy.update(row)
        return copy.digest()

    width = content.shape[1] * content.itemsize
    view = np.ascontiguousarray(content).view(np.uint8).ravel().data
    digests = b"".join([digest(view[start : start + width]) for start in range(0, len(view), width)])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)
