"""Hospitals by a column of the data: a natural partition, in which hospitals differ as the column's groups do.

Each value is a hospital, and rows without a value are one, too. A patient belongs to the value of the first of the
patient's rows. Values of too few patients become one hospital.
"""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Category
from federated_health.data.csv_reading import MISSING_MARKS, distinct_cells
from federated_health.data.reading_errors import case_hint, describe_header
from federated_health.data.sources.short_cells import shorten_distinct
from federated_health.data.sources.source import Source
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN, hospital_name_from, printable

FLAG = "--hospital-column"

MAX_VALUES = 1000
"""Largest number of different values of a column: with more it is a quantity, a date or an identifier."""

MISSING, OTHER = "missing", "other"
"""Names of the hospital with the rows that have no value, and of the one with the values that have too few patients."""

MIN_LETTERS = 4
"""Smallest number of letters of a value that is a hospital's name by itself; shorter ones follow the column's name."""

Vector = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnGroups:
    """How a column divides the rows of a table.

    Attributes:
        names: the hospitals, by number of patients, the largest first; OTHER is last.
        numbers: number of each row's hospital, from 0.
        merged: name of a value in OTHER -> its number of patients, the largest first.
        min_patients: smallest number of different patients of a hospital.
        with_several_values: number of patients whose rows have several values.
    """

    names: list[str]
    numbers: Vector
    merged: Mapping[str, int]
    min_patients: int
    with_several_values: int


def group_by_column(source: Source, column: str, units: Vector, patients: Vector, min_patients: int) -> ColumnGroups:
    """Divide a table by a column of the data or of the task; where both have it, codes are the task's.

    Values with too few patients are merged into OTHER. While OTHER itself has too few, the value with the fewest
    patients of the remaining ones joins it.

    Args:
        units: number of each row's unit, from 0; the rows of a unit stay together.
        patients: number of each row's patient, from 0, by which patients are counted.

    Raises:
        DataError: there is no such column, or it does not divide the patients into hospitals of this size. The text
            holds no cell.
    """
    values, texts = _read_values(source, column)
    title = f"{FLAG} {printable(column)}"
    if len(texts) > MAX_VALUES:
        raise DataError(f"{title}: expected at most {MAX_VALUES} different values, got {len(texts)}")
    first = np.unique(units, return_index=True)[1]
    value_of_row = values[first][units]
    pairs = np.unique(units * len(texts) + values)
    several = int((np.bincount(pairs // len(texts)) > 1).sum())
    counts = np.bincount(np.unique(value_of_row * (patients.max() + 1) + patients) // (patients.max() + 1))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]  # without values that no first row has
    unmerged = int((counts[order] >= min_patients).sum())
    while (
        0 < unmerged < len(order) and len(np.unique(patients[np.isin(value_of_row, order[unmerged:])])) < min_patients
    ):
        unmerged -= 1
    if (hospitals := unmerged + (unmerged < len(order))) < 2:
        raise DataError(
            f"{title}: expected at least 2 groups of {min_patients} different patients, got {hospitals} from "
            f"{len(order)} {'value' if len(order) == 1 else 'values'}; see --min-patients"
        )
    names = _name_values([texts[value] for value in order], column, {OTHER} if unmerged < len(order) else set())
    number_of_value = np.full(len(texts), unmerged)
    number_of_value[order[:unmerged]] = np.arange(unmerged)
    merged = {name: int(counts[value]) for name, value in zip(names[unmerged:], order[unmerged:], strict=True)}
    return ColumnGroups(
        names=[*names[:unmerged], *([OTHER] if merged else [])],
        numbers=number_of_value[value_of_row],
        merged=merged,
        min_patients=min_patients,
        with_several_values=several,
    )


def _read_values(source: Source, column: str) -> tuple[Vector, list[str]]:
    """Number of each row's value, from 0, and the values' text, which is empty for missing ones."""
    table, text = source.table, source.columns
    categories = {category.name: category.codes for category in source.task.columns if isinstance(category, Category)}
    times = list(text.columns).count(column)
    if column in categories:
        codes, numbers = pd.factorize(table[column], use_na_sentinel=False)
        return codes, ["" if np.isnan(number) else categories[column][int(number)] for number in numbers]
    if times > 1:
        raise DataError(f"{FLAG} {printable(column)}: expected one column of this name in the data, got {times}")
    if times == 1:
        positions, cells = distinct_cells(text[column])
        short = ["" if cell in MISSING_MARKS else cell for cell in shorten_distinct(cells)]
        codes, values = pd.factorize(np.array(short, dtype=object))
        used, codes = np.unique(codes[positions], return_inverse=True)
        return codes, [str(values[number]) for number in used]
    if column in table:
        codes, numbers = pd.factorize(table[column], use_na_sentinel=False)
        return codes, ["" if pd.isna(number) else _write(number) for number in numbers]
    own = list(map(str, text.columns))
    others = [name for name in table.columns if name not in own]
    known = ", ".join([*([describe_header(text, own)] if own else []), *others])
    hint = case_hint([*own, *others], [column])
    raise DataError(f"{FLAG}: expected a column of the data or the task: {known}; got {printable(column)!r}{hint}")


def _write(value: object) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"


def _name_values(texts: Sequence[str], column: str, taken: Set[str]) -> list[str]:
    """A hospital's name for each value, all different: where several values would have one name, numbers follow it."""
    letters = [len(re.findall("[a-z]", hospital_name_from(text))) for text in texts if text]
    prefix = f"{column} " if column != HOSPITAL_COLUMN and min(letters, default=0) < MIN_LETTERS else ""
    used = {*taken, MISSING}
    names = []
    for text in texts:
        title = hospital_name_from(prefix + text.replace("<", "below ").replace(">", "above ")) or "group"
        candidates = (title, *(f"{title[:58].rstrip('-')}-{number}" for number in range(2, len(texts) + 3)))
        names.append(next(candidate for candidate in candidates if candidate not in used) if text else MISSING)
        used.add(names[-1])
    return names
