"""UCI's Diabetes 130-US Hospitals for Years 1999-2008 as the task readmission-30d.

A copy of the table, however it was written, becomes UCI's own words in order of `encounter_id` (`read_stays`), and
these the task's columns (`to_task`), by the codes of `diabetes_columns`.

Source: Clore, Cios, DeShazo and Strack 2014, UCI Machine Learning Repository, doi 10.24432/C5230J, CC BY 4.0; described
by Strack et al. 2014, BioMed Research International 781670.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Mask
from federated_health.data.csv_reading import (
    MISSING_MARKS,
    distinct_cells,
    positions_and_cells,
    refuse_repeated_or_empty,
)
from federated_health.data.reading_errors import describe_first_invalid
from federated_health.data.sources.diabetes_columns import (
    CARRIED,
    CODES,
    DIAGNOSES,
    DIED_OR_HOSPICE,
    LABEL,
    NUMBERS,
    OPTIONAL,
    PATIENT,
    READMITTED,
    STAY,
    UNKNOWN_GENDER,
    group_diagnosis,
)
from federated_health.data.sources.short_cells import shorten_distinct
from federated_health.data.task_files import READMISSION_30D
from federated_health.errors import DataError

TITLE = "UCI's Diabetes 130-US Hospitals, 1999-2008"

STAYS_FILE = "diabetic_data.csv"
"""UCI's name of the table."""

MAPPINGS = (
    "readmitted is readmitted_30d: <30 -> 1, >30 and NO -> 0",
    "age: a band of ten years -> its middle",
    "diag_1, diag_2, diag_3: ICD-9 codes -> the 9 groups of Strack et al. 2014",
    "medical_specialty: 72 names -> 21 groups",
    "all columns and codes: docs/own-data.md, Columns of readmission-30d",
)
"""How UCI's words become the task's columns, for people."""

MAX_INVALID = 0.01
"""Largest share of rows with an invalid cell in one column at which these count as typing errors."""

MIN_SHARED_COLUMNS = 8
"""Smallest number of UCI's columns in a header that is taken for a copy of the table, whole or not."""

_REQUIRED = (STAY, *(column for column in CARRIED if column not in OPTIONAL))

_NEVER_MISSING = (STAY, PATIENT, LABEL)

_WORDS: Mapping[str, Collection[str]] = {**dict(CODES.values()), **OPTIONAL, LABEL: READMITTED}

_BOUNDS = {
    NUMBERS[column.name]: (int(column.low), int(column.high))
    for column in READMISSION_30D.measurements
    if column.name in NUMBERS
}

IDENTIFIER = re.compile("[1-9][0-9]{0,14}")

ICD9_CODE = re.compile(r"([0-9]{1,3}|e[0-9]{3}|v[0-9]{2})(\.[0-9]{1,2})?")
"""An ICD-9 code in lower case."""

_PATTERNS = {STAY: IDENTIFIER, PATIENT: IDENTIFIER, **dict.fromkeys(DIAGNOSES.values(), ICD9_CODE)}


def looks_like_stays(header: Collection[str]) -> bool:
    """Whether a header is that of a copy of UCI's table, or of a file that was made from it."""
    return len(set(map(str.lower, header)) & set(map(str.lower, _REQUIRED))) >= MIN_SHARED_COLUMNS


def read_stays(text: pd.DataFrame, name: str, *, drop_invalid: bool = False) -> tuple[pd.DataFrame, int]:
    """UCI's words in a copy of the table, in order of `encounter_id`, patients numbered; and rows dropped as invalid.

    Upper and lower case, other columns, the order of rows and columns, and numbers such as 1.0 make no difference, nor
    do empty cells in place of UCI's "?" and "None".

    Args:
        text: the copy; every cell is text.
        name: name of the file in errors.
        drop_invalid: whether rows are dropped for a cell that UCI's table cannot have, unless it is an identifier or
            the label.

    Returns:
        The columns CARRIED, as text, without those of OPTIONAL that the copy lacks; then the copy's other columns.

    Raises:
        DataError: a column is missing, a cell cannot be UCI's, or a stay is there twice. The text quotes no cell.
    """
    columns = _find_columns(text, name)
    words: dict[str, pd.Categorical] = {}
    is_dropped = np.zeros(len(text), dtype=bool)
    for column, own in columns.items():
        positions, cells = distinct_cells(text[own])
        codes, spelled = pd.factorize(np.array(_spell(column, shorten_distinct(cells)), dtype=object))
        words[column] = pd.Categorical.from_codes(codes[positions], pd.Index(spelled, dtype=str))
        invalid = codes[positions] == -1  # None has no code
        if not invalid.any():
            continue
        can_drop = column not in _NEVER_MISSING and invalid.mean() <= MAX_INVALID
        if not (drop_invalid and can_drop):
            raise DataError(f"{name}: {_describe_invalid(text[own], column, invalid, can_drop=can_drop)}")
        is_dropped |= invalid
    known = {column.lower() for column in columns}
    others = [column for column in dict.fromkeys(text.columns) if column.lower() not in known]
    stays = pd.concat([pd.DataFrame(words), text[others]], axis=1)
    _refuse_repeated(stays[STAY], columns[STAY], name)
    stays = stays[~is_dropped]
    if stays.empty:
        raise DataError(f"{name}: no stays are left; expected at least one valid row")
    stays = stays.iloc[np.argsort(stays.pop(STAY).astype(np.int64))].reset_index(drop=True)
    stays[PATIENT] = (pd.factorize(stays[PATIENT])[0] + 1).astype(str)
    return stays, int(is_dropped.sum())


def _refuse_repeated(numbers: "pd.Series[Any]", column: str, name: str) -> None:
    """Raise a DataError if a stay has several rows.

    Args:
        numbers: number of each row's stay.
        column: its column in the file.
        name: name of the file.
    """
    repeated = numbers[numbers.duplicated(keep=False)]
    if len(repeated):
        first, second = repeated.index[repeated == repeated.iloc[0]][:2] + 1
        more = f"; {len(repeated)} rows are of a stay that has several" if len(repeated) > 2 else ""
        raise DataError(
            f"{name}: column {column}, rows {first} and {second}: expected one row per stay, got two of the same{more}"
        )


def _find_columns(text: pd.DataFrame, name: str) -> dict[str, str]:
    """UCI's column -> its name in the file; a DataError unless the file has each required one once."""
    own = {column.lower(): column for column in text.columns}
    if missing := [column for column in _REQUIRED if column.lower() not in own]:
        noun = "column" if len(missing) == 1 else "columns"
        hint = "; without it, a patient's stays cannot be kept together" if missing == [PATIENT] else ""
        raise DataError(
            f"{name}: looks like {TITLE}, but lacks the {noun} {', '.join(missing)}{hint}; expected "
            f"UCI's {STAYS_FILE} or a copy with all columns that the task uses"
        )
    columns = {column: own[column.lower()] for column in (STAY, *CARRIED) if column.lower() in own}
    refuse_repeated_or_empty(name, text.set_axis(text.columns.str.lower(), axis=1), map(str.lower, columns))
    return columns


def _spell(column: str, cells: Iterable[str]) -> list[str | None]:
    """UCI's spelling of cells in lower case, numbers in their shortest form; None where UCI's table cannot have one."""
    words: dict[str, str | None] = {word.lower(): word for word in _WORDS.get(column, ())}
    default = None if column in _NEVER_MISSING else UNKNOWN_GENDER if column == "gender" else "?"
    words = {**dict.fromkeys(MISSING_MARKS, words.get("none", default)), **words}
    return [words[cell] if cell in words else cell.upper() if _is_allowed(column, cell) else None for cell in cells]


def _is_allowed(column: str, cell: str) -> bool:
    """Whether a column that holds no words may have a cell."""
    if column in _BOUNDS:
        low, high = _BOUNDS[column]
        return re.fullmatch("[0-9]{1,9}", cell) is not None and low <= int(cell) <= high
    return column in _PATTERNS and _PATTERNS[column].fullmatch(cell) is not None


def _rule(column: str) -> str:
    """What a cell of a column of UCI's may be, for messages."""
    if column in _BOUNDS:
        low, high = _BOUNDS[column]
        rule = f"a whole number from {low} to {high}"
    elif column in DIAGNOSES.values():
        rule = "an ICD-9 code, such as 250.01"
    elif column in (STAY, PATIENT):
        rule = "a whole number"
    elif column == CODES["specialty"][0]:
        rule = "one of UCI's specialties, such as InternalMedicine"
    else:
        words = sorted(_WORDS[column], key=lambda word: int(word) if word.isdecimal() else 0)
        rule = f"one of {', '.join(words)}"
    return rule + (", never empty" if column in _NEVER_MISSING else ", or empty")


def _describe_invalid(text: "pd.Series[str]", column: str, invalid: Mask, *, can_drop: bool) -> str:
    """The first of the cells of a column that UCI's table cannot have, and what to do about them."""
    first = describe_first_invalid(text, pd.Series(invalid), _rule(column))
    rows = int(invalid.sum())
    more = f"; {rows} of {len(invalid)} rows have no such cell" if rows > 1 else ""
    drop = ", or leave such rows out: --drop-invalid" if can_drop else ""
    return f"{first}{more}; correct the file{drop}"


def to_task(stays: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """The stays that the task keeps, as its table, and as they are; and reason -> stays left out.

    Args:
        stays: UCI's words, in order of `encounter_id`.
    """
    ended = stays["discharge_disposition_id"].isin(DIED_OR_HOSPICE)
    unknown = stays["gender"] == UNKNOWN_GENDER
    dropped = {
        "stays that ended in death or hospice": int(ended.sum()),
        "stays of unknown gender": int((unknown & ~ended).sum()),
    }
    stays = stays[~ended & ~unknown].reset_index(drop=True)
    columns = {name: _to_numbers(stays[column], codes.get) for name, (column, codes) in CODES.items()}
    columns |= {name: _to_numbers(stays[column], _to_number) for name, column in NUMBERS.items()}
    columns |= {name: _to_numbers(stays[column], group_diagnosis) for name, column in DIAGNOSES.items()}
    table = pd.DataFrame({name: columns[name] for name in READMISSION_30D.column_names})
    table[READMISSION_30D.label.name] = _to_numbers(stays[LABEL], READMITTED.get).astype(np.int64)
    table[str(READMISSION_30D.patient)] = pd.factorize(stays[PATIENT])[0] + 1
    return table, stays, dropped


def _to_numbers(cells: "pd.Series[Any]", number: Callable[[str], float | None]) -> npt.NDArray[np.float64]:
    """The number of each cell, NaN for None; each distinct cell is converted once."""
    positions, distinct = positions_and_cells(cells)
    return np.array([number(cell) for cell in distinct], dtype=np.float64)[positions]


def _to_number(cell: str) -> float | None:
    return None if cell == "?" else float(cell)
