"""Tables of figures in the terminal."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from federated_health.cli.console import console, figure
from federated_health.report.cells import Cell, show
from federated_health.report.formatting import describe_rare

if TYPE_CHECKING:
    from federated_health.ml.targets import Target

MAX_ROWS = 200
"""Largest number of rows that a table shows."""

WORDS = "what it is"
"""Column of explanations, which are aligned on the left."""

MIN_NAME_WIDTH = 13
"""Smallest width of the column of names before a narrow terminal wraps it."""


_HEADS = {"observed_expected": "observed/expected"}
_TWO_LINES = {"average_precision": "average\nprec.", "calibration_slope": "calib.\nslope", "roc_auc": "roc\nauc"}
"""Heads of a table that has the first of these columns: with heads of one line, it would not fit into 80 columns."""


def difference(interval: Mapping[str, float | None]) -> str:
    """A difference with its interval (`value`, `low`, `high`); a dash where it is not defined."""
    if interval["value"] is None:
        return "-"
    return f"{interval['value']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"


def choose_figures(
    rows: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any], target: "Target[Any]"
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The figures that a table shows (see `Target.shown_figures`), and what to say of those that it does not.

    Args:
        figures: of all rows together.
    """
    shown = target.shown_figures(figures)
    notes = [describe_rare(figures)] if "accuracy" in figures and "accuracy" not in shown else []
    return {name: {key: row[key] for key in shown if key in row} for name, row in rows.items()}, notes


def _write_cell(cell: Cell) -> str:
    if isinstance(cell, int | str):
        return str(cell)
    return figure(cell) if cell is None or isinstance(cell, float) else show(cell)


def print_figures(
    title: str, figures: Mapping[str, Mapping[str, Any]], note: str = "", *, lead: Sequence[str] = ()
) -> None:
    """Print a table with a row per name and a column per figure; whole numbers as they are, others with three decimals.

    If there are more than MAX_ROWS rows, only the first ones are shown.

    Args:
        lead: lines between the title and the table.
        note: paragraph below the table.
    """
    hidden = max(0, len(figures) - MAX_ROWS)
    figures = dict(list(figures.items())[:MAX_ROWS])
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    heads = _HEADS | (_TWO_LINES if "average_precision" in columns else {})
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    # In a narrow terminal names and words wrap, so that figures do not.
    table.add_column("", overflow="fold", min_width=min(MIN_NAME_WIDTH, max(map(len, figures), default=0)))
    for column in columns:
        cells = [row.get(column, "") for row in figures.values()]
        are_words = all(isinstance(cell, str) and not re.search(r"\d", cell) for cell in cells)
        head = heads.get(column) or column.removesuffix("_examples").replace("_", " ")
        table.add_column(head, justify="left" if column == WORDS else "right", no_wrap=not are_words)
    for name, row in figures.items():
        cells = [row.get(column, "") for column in columns]
        table.add_row(escape(name), *map(_write_cell, cells))
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    for line in lead:
        console.print(escape(f"  {line}"), soft_wrap=True)
    console.print(Padding(table, (1, 0, 1, 1), expand=False))
    if hidden:
        console.print(f"... and {hidden} more\n")
    if note:
        console.print(escape(note), "")
