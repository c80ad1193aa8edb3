"""The column that identifies patients: its rule, and its identifiers as numbers."""

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.csv_reading import MISSING_MARKS, positions_and_cells

PATIENT_RULE = "an identifier of the patient, not empty"

MISSING = -1
"""Number of a patient whose identifier is missing."""


def hash_ids(cells: "pd.Series[Any]") -> npt.NDArray[np.int64]:
    """A hash of each row's identifier, not negative; MISSING where there is none."""
    positions, distinct = positions_and_cells(cells)
    numbers = [
        MISSING
        if cell.lower() in MISSING_MARKS
        else int.from_bytes(blake2b(cell.encode(), digest_size=8).digest(), "big") >> 1  # fits into int64
        for cell in map(str.strip, distinct)
    ]
    hashes: npt.NDArray[np.int64] = np.array(numbers, dtype=np.int64)[positions]
    return hashes


def number_patients(hashes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Running numbers of patients, from 1 in order of appearance, for a CSV without identifiers."""
    numbers: npt.NDArray[np.int64] = pd.factorize(hashes)[0].astype(np.int64) + 1
    return numbers
