"""Cells of tables: values that a page rounds when it shows them, and that files keep as they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from federated_health.ml.verdicts import Difference, Interval
from federated_health.report import formatting


@dataclass(frozen=True)
class Marked:
    """A figure with the mark *, which the note to its table explains."""

    value: float | Interval | None


@dataclass(frozen=True)
class Noisy:
    """A figure with the standard deviation of its noise."""

    value: float | None
    noise: float


@dataclass(frozen=True)
class Percent:
    """A share from 0 to 1, which is shown as a whole percentage."""

    value: float | None


Cell: TypeAlias = str | int | float | Interval | Marked | Noisy | Percent | None
"""Text as it is shown, a whole number, a figure (None where it is not defined), or a figure with what belongs to it."""


def figure_cell(row: Mapping[str, Any], name: str) -> Cell:
    """A figure of a row of metrics.json; the ROC-AUC has a mark where a class has too few rows for one."""
    value: Cell = row.get(name)
    return Marked(value) if name == "roc_auc" and row.get("small") and isinstance(value, float) else value


def is_defined(value: float | None) -> bool:
    """Whether there is a figure: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def show(cell: Cell) -> str:
    """The cell as a page shows it: figures with three decimals, a difference with its sign."""
    match cell:
        case str():
            return cell
        case Interval():
            ends = cell.value, cell.low, cell.high
            signed = isinstance(cell, Difference)
            return formatting.with_interval(cell, signed=signed) if all(map(is_defined, ends)) else show(cell.value)
        case Marked():
            shown = show(cell.value)
            return shown if shown == formatting.NOT_DEFINED else f"{shown} *"
        case Noisy():
            return f"{show(cell.value)} \N{PLUS-MINUS SIGN} {formatting.figure(cell.noise)}"
        case Percent():
            return formatting.percent_of(cell.value if is_defined(cell.value) else None)
        case int():
            return f"{cell:,}".replace("-", formatting.MINUS)
        case _:
            return formatting.figure(cell if is_defined(cell) else None)


def parts(cell: Cell) -> Mapping[str, str | int | float | None]:
    """The unrounded values of a cell by what they are: "" for the figure itself, low, high, noise and mark beside it.

    A figure that is not defined is None.
    """
    match cell:
        case Interval():
            ends = {"": cell.value, "low": cell.low, "high": cell.high}
            return {name: value if is_defined(value) else None for name, value in ends.items()}
        case Marked():
            inner = parts(cell.value)
            return {**inner, "mark": None if inner[""] is None else "*"}
        case Noisy():
            return {**parts(cell.value), "noise": cell.noise if is_defined(cell.noise) else None}
        case Percent():
            return parts(cell.value)
        case float():
            return {"": cell if is_defined(cell) else None}
        case _:
            return {"": cell}
