"""Tables of figures in the terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from federated_health.cli.console import console, figure
from federated_health.ml.metrics import SMALL_CLASS
from federated_health.names import FEDERATION
from federated_health.report.cells import Cell, Marked, figure_cell, show
from federated_health.report.formatting import capitalise, describe_missed, describe_rare, first_of, number_of

if TYPE_CHECKING:
    from federated_health.ml.targets import Target

MAX_ROWS = 200
"""Largest number of rows that a table shows."""

WORDS = "what it is"
"""Column of explanations, which are aligned on the left."""

MIN_NAME_WIDTH = 13
"""Smallest width of the column of names, of which longer ones continue on the next line."""

MIN_WORDS_WIDTH = 20
"""That of a column of words."""

_HEADS = {"observed_expected": "observed/expected"}

_HYPHENATED = {"precision": "preci- sion", "calibration": "cali- bration"}
"""Words of heads that are divided if a table does not fit otherwise."""


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
    shown = [key for key in target.shown_figures(figures) if key != "small"]
    notes = [describe_rare(figures)] if "accuracy" in figures and "accuracy" not in shown else []
    notes += describe_missed(target.label, {name: row for name, row in rows.items() if name != FEDERATION} or rows)
    chosen = {name: {key: figure_cell(row, key) for key in shown if key in row} for name, row in rows.items()}
    if any(isinstance(cell, Marked) for row in chosen.values() for cell in row.values()):
        notes.append(f"* {capitalise(target.describe_few(SMALL_CLASS))}: the ROC-AUC is too noisy to interpret.")
    return chosen, notes


def print_figures(
    title: str, figures: Mapping[str, Mapping[str, Any]], note: str = "", *, lead: Sequence[str] = ()
) -> None:
    """Print a table with a row per name and a column per figure; whole numbers as they are, others with three decimals.

    A table that is wider than the terminal breaks into blocks of columns, each with the names; see `layout_of`. If
    there are more than MAX_ROWS rows, only the first ones are shown.

    Args:
        lead: lines between the title and the table.
        note: paragraph below the table.
    """
    hidden = max(0, len(figures) - MAX_ROWS)
    figures = dict(list(figures.items())[:MAX_ROWS])
    names = list(dict.fromkeys(key for row in figures.values() for key in row))
    columns = [_Column(name, tuple(_write_cell(row.get(name, "")) for row in figures.values())) for name in names]
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    for line in lead:
        console.print(escape(f"  {line}"), soft_wrap=True)
    name_width, gap, blocks = layout_of(list(figures), columns, console.width - 1)
    for block in blocks:
        table = Table(box=SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column("", width=name_width, overflow="fold")
        for column, head, width in block:
            table.add_column(
                escape(head), width=width, overflow="fold", justify="left" if column.name == WORDS else "right"
            )
        for row, name in enumerate(figures):
            table.add_row(escape(name), *(escape(column.cells[row]) for column, _, _ in block))
        console.print(Padding(table, (1, 0, 0, 1), expand=False))
    console.print()
    if hidden:
        console.print(f"... and {hidden} more\n")
    if note:
        console.print(escape(note), "")


def print_verdicts(entries: Mapping[str, Mapping[str, Any]], target: "Target[Any]") -> bool:
    """Print what the verdicts on hospitals mean, where that says more than tables; whether there was anything to say.

    Args:
        entries: by hospital, those of `joining` in metrics.json, or of evidence.json.
    """
    from federated_health.report.verdict_sentences import describe_verdict, has_news  # noqa: PLC0415  # where there are any

    shown, more = first_of({name: entry for name, entry in entries.items() if has_news(entry)})
    for name, entry in shown.items():
        console.print(escape(f"- {name}: {describe_verdict(target, entry)}"))
    if more:
        console.print(f"- and {number_of(more, 'more hospital')}, in report.html")
    return bool(shown)


def _write_cell(cell: Cell) -> str:
    """Text of a cell: plain characters, with which every terminal aligns figures."""
    if isinstance(cell, int | str):
        return str(cell)
    if isinstance(cell, Marked):
        return f"{_write_cell(cell.value)}*"
    return figure(cell) if cell is None or isinstance(cell, float) else show(cell)


@dataclass(frozen=True)
class _Column:
    """A column of a table: its name, and the text of its cells."""

    name: str
    cells: tuple[str, ...]

    @property
    def head(self) -> str:
        return _HEADS.get(self.name) or self.name.removesuffix("_examples").replace("_", " ")

    @property
    def hyphenated(self) -> str:
        return " ".join(_HYPHENATED.get(word, word) for word in self.head.split(" "))

    @property
    def is_words(self) -> bool:
        """Whether its cells may continue on the next line."""
        return all(not re.search(r"\d", cell) for cell in self.cells)

    def width(self, *words: str) -> int:
        """Width that keeps each of these parts of the head on one line, and each cell but those of words."""
        longest = max(map(cell_len, self.cells), default=0)
        return max(min(longest, MIN_WORDS_WIDTH) if self.is_words else longest, *map(cell_len, words), 1)


Layout = tuple[int, int, list[list[tuple[_Column, str, int]]]]
"""Width of the column of names, spaces between columns, and blocks of columns, each with its head and width."""


def layout_of(names: Sequence[str], columns: Sequence[_Column], width: int) -> Layout:
    """How a table is laid out in a terminal of this width: as one block if heads of several lines allow it.

    Otherwise it breaks into as few blocks as possible. Names, words and cells that are wider than a block continue on
    the next line: nothing is cut.
    """
    longest = max(map(cell_len, names), default=0)
    shortest = min(longest, MIN_NAME_WIDTH)
    plain = [(column, column.head, column.width(column.head)) for column in columns]
    wrapped = [(column, column.head, column.width(*column.head.split())) for column in columns]
    hyphenated = [(column, column.hyphenated, column.width(*column.hyphenated.split())) for column in columns]
    for block, name_width, gap in (
        (plain, longest, 2),
        (wrapped, longest, 2),
        (wrapped, shortest, 2),
        (hyphenated, shortest, 1),
    ):
        free = width - name_width - sum(gap + part[2] for part in block)
        if free >= 0:
            widened = _widen(block, free)
            free -= sum(part[2] for part in widened) - sum(part[2] for part in block)
            return min(longest, name_width + free), gap, [widened]
    name_width = min(longest, max(shortest, width // 3))
    room = width - name_width
    gap = 2 if max(part[2] for part in wrapped) + 2 <= room else 1
    blocks: list[list[tuple[_Column, str, int]]] = [[]]
    for column, head, needed in wrapped:
        if blocks[-1] and sum(gap + part[2] for part in blocks[-1]) + gap + needed > room:
            blocks.append([])
        blocks[-1].append((column, head, max(1, min(needed, room - gap))))
    return name_width, gap, [_widen(block, room - sum(gap + part[2] for part in block)) for block in blocks]


def _widen(block: Sequence[tuple[_Column, str, int]], free: int) -> list[tuple[_Column, str, int]]:
    """The block with its columns of words as wide as they need, as far as there is room."""
    widened = []
    for column, head, width in block:
        more = max(0, min(free, max(map(cell_len, column.cells), default=0) - width)) if column.is_words else 0
        free -= more
        widened.append((column, head, width + more))
    return widened
