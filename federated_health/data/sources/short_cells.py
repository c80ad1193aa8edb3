"""Cells of a file in their shortest form, by which copies that write them differently are compared."""

from collections.abc import Iterable

import pandas as pd

from federated_health.data import csv_reading


def shorten(cells: "pd.Series[str]") -> "pd.Series[str]":
    """Cells trimmed, in lower case, and numbers in their shortest form: 63.0 and 063 become 63."""
    positions, distinct = csv_reading.distinct_cells(cells)
    return pd.Series(shorten_distinct(distinct).to_numpy()[positions], index=cells.index, dtype=str)


def shorten_distinct(cells: Iterable[str]) -> "pd.Series[str]":
    """The shortest form of cells that are trimmed and in lower case."""
    distinct = pd.Series(cells, dtype=str)
    numbers = pd.to_numeric(distinct, errors="coerce") + 0.0  # -0.0 becomes 0.0
    return distinct.where(numbers.isna(), numbers.map("{:.15g}".format))
