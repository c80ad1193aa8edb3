"""Subgroups of patients that a task file declares, by the codes of a category or by bands of a measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.columns import Category, Label, Mask, Measurement, write_number
from federated_health.data.tasks import Task
from federated_health.data.toml_reading import TomlTable, is_number

CODES = "codes"
"""What a task file says of a category whose codes are the groups."""

MAX_SUBGROUPS = 12
"""Largest number of subgroups of a task: of more, each is small, and some differ by chance."""


@dataclass(frozen=True)
class Subgroup:
    """A group of rows by one column; rows in which the column is missing are in no group of it.

    Attributes:
        column: name of the column.
        name: of the group among those of the column, as people read it.
        position: of the column among those of the task.
        low, high: bounds of the column's values; `low` is inclusive. A code is its own lower bound.
    """

    column: str
    name: str
    position: int
    low: float
    high: float

    def mask(self, values: npt.NDArray[np.float64]) -> Mask:
        """The rows in the group, [rows], of `values`, [rows, columns of the task]."""
        cells = values[:, self.position]
        mask: Mask = (self.low <= cells) & (cells < self.high)
        return mask


def subgroups_of(task: Task) -> tuple[Subgroup, ...]:
    """The subgroups of a task, column by column."""
    groups = []
    for name, edges in task.subgroups.items():
        position = task.column_names.index(name)
        column = task.columns[position]
        if isinstance(column, Category):
            bounds = [(text, float(code), float(code + 1)) for code, text in column.codes.items()]
        else:
            bounds = _bands(edges)
        groups += [Subgroup(name, text, position, low, high) for text, low, high in bounds]
    return tuple(groups)


def _bands(edges: Sequence[float]) -> list[tuple[str, float, float]]:
    """Name and bounds of each band of a measurement."""
    words = [write_number(edge) for edge in edges]
    names = [f"under {words[0]}", *(f"{low} to under {high}" for low, high in pairwise(words)), f"{words[-1]} and over"]
    return [(name, low, high) for name, (low, high) in zip(names, pairwise([-np.inf, *edges, np.inf]), strict=True)]


def check_subgroups(
    groups: Mapping[str, Any], columns: Sequence[Category | Measurement], label: Label, top: TomlTable
) -> None:
    """Raise a DataError if the table [subgroups] of a task file is not valid."""
    if label.kind != "binary":
        problem = f"expected none, since only a binary label has subgroups, got a label of the kind {label.kind}"
        raise top.error(problem, "subgroups")
    by_name, number = {column.name: column for column in columns}, 0
    for name, value in groups.items():
        column = by_name.get(name)
        if column is None:
            raise top.error(f"expected one of the columns {', '.join(by_name)}", "subgroups", name)
        if isinstance(column, Category):
            if value != CODES:
                raise top.error(f'expected "{CODES}", since {name} is a category', "subgroups", name)
            if len(set(column.codes.values())) < len(column.codes):
                raise top.error(
                    f"expected codes of {name} with different meanings, which name the groups", "subgroups", name
                )
            number += len(column.codes)
            continue
        if not _are_edges(value, column):
            low, high = write_number(column.low), write_number(column.high)
            raise top.error(
                f"expected edges of bands above {low} and below {high}, each higher than the one before, "
                f"such as [{write_number((column.low + column.high) / 2)}]",
                "subgroups",
                name,
            )
        number += len(value) + 1
    if number > MAX_SUBGROUPS:
        raise top.error(f"expected at most {MAX_SUBGROUPS} groups in all, got {number}", "subgroups")


def _are_edges(value: object, column: Measurement) -> bool:
    if not isinstance(value, list) or not value or not all(map(is_number, value)):
        return False
    ends = [column.low, *value, column.high]
    return all(low < high for low, high in pairwise(ends))
