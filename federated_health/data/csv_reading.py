"""Cells as people write them -> numbers, checked against the task's rules by pandera. No message holds a value."""

import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.data.columns import Column, Label, Measurement
from federated_health.data.tables import read_table
from federated_health.data.tasks import Task
from federated_health.errors import DataError
from federated_health.ml.backend import hidden

if TYPE_CHECKING:
    import pandera.pandas as pa

MISSING_MARKS = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True, eq=False)
class Reading:
    """Cells of declared columns, read.

    Attributes:
        columns: what was read, in order.
        numbers: float64, a column each; NaN where a cell is missing or is no number.
        is_text: where a cell holds what is neither a number nor a mark for missing.
        outside: where a number breaks its column's rule, or a label is missing.
    """

    columns: tuple[Column, ...]
    numbers: pd.DataFrame
    is_text: pd.DataFrame
    outside: pd.DataFrame

    @cached_property
    def invalid(self) -> pd.DataFrame:
        """Where a cell is not what its column allows."""
        return self.is_text | self.outside

    def raise_first(self, path: Path, text: pd.DataFrame) -> None:
        """Refuse a file in which any cell is invalid.

        Args:
            text: what was read.

        Raises:
            DataError: names column, row (1 is the first below the header) and rule of the first invalid cell.
        """
        invalid = self.invalid
        for column in self.columns:
            if rows := np.flatnonzero(invalid[column.name]).tolist():
                first = describe_cell(column.name, rows[0], column.rule, text[column.name].iloc[rows[0]])
                others = int(invalid.to_numpy().sum()) - 1
                more = f" (and {others} more cells that break a rule)" if others else ""
                raise DataError(
                    f"{path}: {first}{more}",
                    reason=f"its column {column.name} holds what is not {column.rule}",
                )


def read_patients(path: Path, task: Task, *, labelled: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A CSV of patients, as written and as numbers.

    Args:
        path: UTF-8 CSV with a header. Columns that the task does not know are left alone.
        labelled: whether the label column is needed, too.

    Returns:
        The table as text, and float64 columns of the task (then the label) under the same index, NaN for missing.

    Raises:
        DataError: names the file and, where there is one, the column, the row (1 is the first below the header) and
            the rule; never a value.
    """
    columns = declared_columns(task, labelled=labelled)
    text = read_columns(path, columns)
    reading = read_cells(text, columns)
    reading.raise_first(path, text)
    return text, reading.numbers


def describe_cell(column: str, row: int, rule: str, cell: str) -> str:
    """Where a cell is, counting rows from 1, what it may hold, and what kind of thing it holds instead."""
    written, got = cell.strip(), ""
    if re.fullmatch(r"-?\d+,\d+", written):
        got = "; got a decimal comma: numbers need a point"
    elif written.lower() not in MISSING_MARKS and pd.isna(pd.to_numeric(written, errors="coerce")):
        got = "; got text" if re.search(r"\d", rule) else ""  # else it is text that is expected
    return f"column {column}, row {row + 1}: expected {rule}{got}"


def declared_columns(task: Task, *, labelled: bool) -> tuple[Column, ...]:
    """The task's columns, and the label after them where it is needed."""
    return (*task.columns, task.label) if labelled else task.columns


def read_columns(path: Path, columns: Sequence[Column]) -> pd.DataFrame:
    """A CSV with at least one patient and each of these columns once, all of its cells as text.

    Raises:
        DataError: it is not.
    """
    text = read_table(path)
    _refuse_lacking(path, text, columns)
    refuse_repeated_or_empty(str(path), text, [column.name for column in columns])
    return text


def _refuse_lacking(path: Path, text: pd.DataFrame, columns: Sequence[Column]) -> None:
    header = list(text.columns)
    if lacking := [column.name for column in columns if column.name not in header]:
        noun = "column" if len(lacking) == 1 else "columns"
        hint = hint_at_case(header, lacking)
        if columns[-1].name in lacking and isinstance(columns[-1], Label):
            hint += "; create_dataset.py --source reads other layouts, such as Kaggle's, too"
        raise DataError(
            f"{path}: lacks the {noun} {', '.join(lacking)}; its header is: "
            f"{name_columns(text, [column.name for column in columns])}{hint}",
            reason=f"its file lacks the {noun} {', '.join(lacking)}",
        )


def refuse_repeated_or_empty(name: str, text: pd.DataFrame, columns: Iterable[str]) -> None:
    """Refuse a table that has one of the columns more than once, or no row.

    Raises:
        DataError: it is such a table; `name` is what the message calls it.
    """
    header = list(text.columns)
    if repeated := [column for column in columns if header.count(column) > 1]:
        words = f"the column {', '.join(repeated)} more than once"
        raise DataError(f"{name}: has {words}", reason=f"its file has {words}")
    if text.empty:
        raise DataError(f"{name}: has a header and no patients", reason="its file has no patients")


def hint_at_case(header: Iterable[str], lacking: Iterable[str]) -> str:
    """Words for a header that has a lacking column in upper or lower case; empty where it has none."""
    in_other_case = {name.lower() for name in header} & {name.lower() for name in lacking}
    return " (upper and lower case matter)" if in_other_case else ""


def name_columns(text: pd.DataFrame, known: Collection[str]) -> str:
    """A table's header as a message may show it; a first line that may be a patient is not shown.

    It is a header where it has one of the known names, or where words stand above a column of numbers. Of a header,
    what does not look like a name is left out.
    """
    names = [name for name in text.columns if looks_like_name(name)]
    has_known = {name.lower() for name in names} & {name.lower() for name in known}
    above_numbers = any(
        looks_like_name(name) and pd.to_numeric(text.iloc[:, place], errors="coerce").notna().any()
        for place, name in enumerate(text.columns)
    )
    return ", ".join(names) if has_known or above_numbers else "a first line that does not look like a header"


def looks_like_name(name: str) -> bool:
    """Whether a column's name may be one, and not a patient's cell in a file without a header."""
    return re.fullmatch(r"[A-Za-z_][\w .-]{0,40}", name) is not None


def read_cells(text: pd.DataFrame, columns: Sequence[Column], missing: Collection[str] = ()) -> Reading:
    """Read the declared columns of a table of text, whatever is in it.

    Missing cells may be empty or one of ?, NA, N/A, NaN, null, None; a 0 that stands for "not measured" is read as
    missing.

    Args:
        text: has all of the columns, each once.
        missing: further marks for missing, in lower case.
    """
    marks = MISSING_MARKS | set(missing)
    numbers, no_number = {}, {}
    for column in columns:
        places, distinct = distinct_cells(text[column.name])  # a column has few different cells
        is_missing = distinct.isin(marks)
        cells = pd.to_numeric(distinct.mask(is_missing), errors="coerce").astype(np.float64)
        no_number[column.name] = (cells.isna() & ~is_missing).to_numpy()[places]
        if isinstance(column, Measurement) and column.zero_is_missing:
            cells = cells.mask(cells == 0)
        numbers[column.name] = cells.to_numpy()[places]
    table, no_numbers = (pd.DataFrame(read, index=text.index) for read in (numbers, no_number))
    outside = _break_rules(table, columns) & ~no_numbers
    return Reading(columns=tuple(columns), numbers=table, is_text=no_numbers, outside=outside)


def distinct_cells(cells: "pd.Series[str]") -> tuple[npt.NDArray[np.intp], "pd.Series[str]"]:
    """The different cells of a column, trimmed and in lower case, and the position in them of each row's cell."""
    places, distinct = pd.factorize(cells)
    return places, pd.Series(distinct, dtype=str).str.strip().str.lower()


def count_zeros(cells: "pd.Series[str]") -> int:
    """Rows whose cell is the number 0, however it is written."""
    places, distinct = distinct_cells(cells)
    return int((pd.to_numeric(distinct, errors="coerce") == 0).to_numpy()[places].sum())


def _break_rules(numbers: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Where pandera finds a number that its column does not allow."""
    _prepare_pandera()
    import pandera.pandas as pa

    outside = np.zeros(numbers.shape, dtype=bool)
    table = numbers.reset_index(drop=True)
    try:
        _schema(columns).validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        failures = error.failure_cases
        outside[failures["index"].astype(int), table.columns.get_indexer(failures["column"])] = True
    return pd.DataFrame(outside, index=numbers.index, columns=numbers.columns)


@cache
def _prepare_pandera() -> None:
    """Import pandera without hypothesis, which it takes where tests have it installed, to make up tables.

    That is a quarter of a second, a fifth less than with it: who reads no patients does without.
    """
    with hidden("hypothesis"):
        import pandera.backends.pandas.builtin_checks
        import pandera.pandas  # noqa: F401  # for what it leaves in sys.modules


def _schema(columns: Sequence[Column]) -> "pa.DataFrameSchema":
    import pandera.pandas as pa

    schema: dict[Hashable, pa.Column] = {}
    for column in columns:
        if isinstance(column, Measurement):
            check = pa.Check.in_range(column.low, column.high)
        elif isinstance(column, Label):
            check = pa.Check.isin([0.0, 1.0])
        else:
            check = pa.Check.isin([float(code) for code in column.codes])
        schema[column.name] = pa.Column(float, check, nullable=not isinstance(column, Label))
    return pa.DataFrameSchema(schema)
