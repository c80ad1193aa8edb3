"""Which layout a file has: by its header, and by its codes where two layouts are easily mistaken for one another."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from federated_health.data.columns import Category
from federated_health.data.csv_reading import distinct_cells, hint_at_case, name_columns, refuse_repeated_or_empty
from federated_health.data.sources.layouts import (
    EASILY_MISTAKEN,
    HOSPITAL_COLUMN,
    LAYOUTS,
    UCI,
    UCI_FILES,
    UCI_HEADER,
    Layout,
)
from federated_health.data.tables import parse_table
from federated_health.errors import DataError


@dataclass(frozen=True, eq=False)
class RecognisedFile:
    """One file as text, and its layout.

    Attributes:
        name: what messages call it.
    """

    name: str
    text: pd.DataFrame
    layout: Layout


def recognise(name: str, content: bytes, path: Path) -> RecognisedFile:
    """A file of a source, with the layout whose columns its header has.

    Args:
        name, content: of the file.
        path: of the source, which may be a folder or an archive.

    Raises:
        DataError: no layout is known, or its header and its codes do not belong together; never quotes a patient.
    """
    label = str(path if path.name == name else path / name)
    if name in UCI_FILES:
        text = parse_table(content, label, UCI_HEADER)
        return RecognisedFile(label, text.assign(**{HOSPITAL_COLUMN: UCI_FILES[name]}), UCI)
    text = parse_table(content, label)
    layout = next((layout for layout in LAYOUTS if set(layout.header) <= set(text.columns)), None)
    if layout is None:
        raise DataError(f"{label}: is no source that is known. {_describe_closest(text)}")
    refuse_repeated_or_empty(label, text, (*layout.header, layout.hospital))
    _refuse_other_codes(label, text, layout)
    return RecognisedFile(label, text, layout)


def _describe_closest(text: pd.DataFrame) -> str:
    header = list(text.columns)
    closest = max(LAYOUTS, key=lambda layout: len(set(layout.header) & set(header)))
    lacking = [name for name in closest.header if name not in header]
    hint = hint_at_case(header, lacking)
    told = f"; lacking: {', '.join(lacking)}{hint}" if len(lacking) < len(closest.header) else hint
    return (
        f"The closest is {closest.title}: expected {', '.join(closest.header)}; got "
        f"{name_columns(text, closest.header)}{told}"
    )


def _refuse_other_codes(label: str, text: pd.DataFrame, layout: Layout) -> None:
    """Refuse a file with one layout's header and another one's codes: its label may be the other one's, too."""
    for one, rival in EASILY_MISTAKEN:
        if layout is one and _count_codes(text, rival, one) > _count_codes(text, one, one) + len(text) // 10:
            name = one.written(one.task.label)
            raise DataError(
                f"{label}: has the header of {one.title}, but the codes of {rival.title}, so it cannot be known what "
                f"its {name} means: with Kaggle's codes it must be called target, and with UCI's codes disease or num"
            )


def _count_codes(text: pd.DataFrame, codes_of: Layout, names_of: Layout) -> int:
    """Cells of the task's categories, under one layout's names, that hold another one's codes."""
    total = 0
    for column in names_of.task.columns:
        if isinstance(column, Category):
            codes = codes_of.codes.get(column.name, [str(code) for code in column.codes])
            total += int(shorten(text[names_of.written(column)]).isin(list(codes)).sum())
    return total


def shorten(cells: "pd.Series[str]") -> "pd.Series[str]":
    """Cells without surrounding space, in lower case, numbers in their shortest form: 63.0 and 063 are 63."""
    places, distinct = distinct_cells(cells)
    return pd.Series(distinct.map(_shortest).to_numpy()[places], index=cells.index, dtype=str)


def _shortest(cell: str) -> str:
    if re.fullmatch(r"[-+.\de]+", cell, re.ASCII) is None:  # float() takes other alphabets' digits, and 1_0
        return cell
    try:
        return f"{float(cell) + 0.0:.15g}"
    except ValueError:
        return cell
