"""Splits a hospital's rows into training and held-out rows, by a keyed hash of their patients."""

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
    numbers: pd.DataFrame, label: str, seed: int, patients: PatientIds | None = None
) -> tuple[Positions, Positions]:
    """Positions of training and of held-out rows of a hospital, each ascending.

    A quarter of the patients of each class is held out for testing, at least one of a class with two or more. A keyed
    hash of the patient's number, or else of the row's content, decides which. So the order of the file changes
    nothing, and a new patient moves at most one other patient. All rows of a patient land on the same side; without
    numbers, rows that are equal except for the label are one patient.

    Args:
        numbers: all rows of the hospital, with the label column.
        seed: the hospital's own split seed.
        patients: number of each row's patient, if known.
    """
    patient_of_row, positives, negatives = order_patients(numbers, label, seed, patients)
    held_out = np.zeros(len(positives) + len(negatives), dtype=bool)
    for ordered in (positives, negatives):
        held_out[ordered[: int(len(ordered) * TEST_FRACTION + 0.5)]] = True  # 0 of 1, 1 of 2 to 5
    is_test = held_out[patient_of_row]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def order_patients(
    numbers: pd.DataFrame, label: str, seed: int, patients: PatientIds | None
) -> tuple[Positions, Positions, Positions]:
    """Number of each row's patient, from 0; numbers of the positive and of the negative patients, in hash order.

    A patient of several rows is positive where any of them is.
    """
    if patients is None:
        content = numbers.drop(columns=label).to_numpy(dtype=np.float64, copy=True)
        content += 0.0  # -0.0 becomes the 0.0 that it equals
        different, patient_of_row = np.unique(_hash_rows(content, seed), return_inverse=True)
    else:
        known, known_of_row = np.unique(patients, return_inverse=True)
        different, patient_of_known = np.unique(_hash_rows(known[:, np.newaxis], seed), return_inverse=True)
        patient_of_row = patient_of_known[known_of_row]
    is_positive = np.zeros(len(different), dtype=bool)
    is_positive[patient_of_row[numbers[label].to_numpy() == 1]] = True
    return patient_of_row, np.flatnonzero(is_positive), np.flatnonzero(~is_positive)


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
