"""Plain content of a page, and its HTML: one file that needs no network and no script.

Independent of medicine, of federated learning and of how pictures are drawn.
"""

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from federated_health import __version__
from federated_health.errors import RunError, StorageError
from federated_health.files import write_text
from federated_health.names import slug_of
from federated_health.report import tables_folder
from federated_health.report.cells import Cell, show
from federated_health.report.formatting import MAX_ROWS
from federated_health.report.svg import own_ids
from federated_health.report.template import STYLE, TEMPLATE

SYMBOLS = {"good": "▲", "mixed": "◆", "neutral": "●", "bad": "▼", "unknown": "○"}
"""Tone of a verdict -> the symbol that tells it apart even without colour."""

FOOTER = f"Made by Federated Health {__version__}. This page is one file: it loads nothing and sends nothing."

TABLES_BESIDE = "Its tables, with figures that are not rounded, are in the folder {} beside it, as CSV, LaTeX and JSON."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caution:
    """A note that stands out."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with names in its first column, and numbers in all others.

    A page shows the first MAX_ROWS rows and the `last` ones, and the number of the others.

    Attributes:
        last: number of rows at the end that sum up the others.
        words: columns of words besides the first, by name; others hold numbers.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    words: tuple[str, ...] = ()
    last: int = 0

    @property
    def hidden(self) -> int:
        """Number of rows that the page does not show."""
        return max(0, len(self.rows) - self.last - MAX_ROWS)

    @property
    def shown_rows(self) -> list[list[str]]:
        """The rows that the page shows, as text."""
        first = len(self.rows) - self.last - self.hidden
        shown = [*self.rows[:first], *self.rows[first + self.hidden :]]
        return [[show(cell) for cell in row] for row in shown]

    @property
    def shown_note(self) -> str:
        """The note below the table, with the number of rows that it does not show."""
        more = f"And {self.hidden:,} more, not shown. " if self.hidden else ""
        return f"{more}{self.note}".strip()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with a description as `alt`. Consecutive pictures of a section stand two abreast on a desktop.

    `svg` is made by `report.svg` and not escaped: one <svg> element, or several, which flow beside each other.
    """

    svg: str
    alt: str
    caption: str
    title: str = ""

    @property
    def width(self) -> str:
        """Width of each drawing in CSS pixels at which its text has its own size; more room makes it larger."""
        found = re.search(r'viewBox="0 0 ([\d.]+)', self.svg)
        return found[1] if found else "330"

    @property
    def is_small(self) -> bool:
        """Whether it consists of small drawings, so that it can be as wide as the page."""
        return float(self.width) < 200 and self.svg.count("<svg ") > 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """A name, a short verdict with its tone (one of SYMBOLS), and an explanation."""

    name: str
    verdict: str
    tone: str
    text: str


@dataclass(frozen=True)
class Cards:
    """Cards beside each other."""

    items: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many there are of one kind, None where they need not be counted, with a tone (one of SYMBOLS)."""

    number: int | None
    text: str
    tone: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A bar divided into parts, as wide as their numbers, such as hospitals by verdict."""

    title: str
    parts: Sequence[Share]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A figure in large type with its name above and an explanation below."""

    name: str
    value: str
    text: str


@dataclass(frozen=True)
class Numbers:
    """Large figures beside each other; beside the picture that follows them in a page's summary."""

    items: Sequence[Number]


@dataclass(frozen=True)
class Folded:
    """Blocks below a line that is all there is to see until it is opened or printed."""

    title: str
    blocks: Sequence["Block"]


Block: TypeAlias = str | list[str] | dict[str, str] | Caution | Table | Picture | Cards | Strip | Numbers | Folded
"""A paragraph, a bulleted list, names with values, or one of the classes above."""


@dataclass(frozen=True)
class Section:
    """A part of a page. A folded section shows its title only, until it is opened or printed."""

    title: str
    blocks: list[Block]
    folded: bool = False

    @property
    def slug(self) -> str:
        """Id of the section, as unique as its title."""
        return slug_of(self.title)


def _tables_of(blocks: Sequence[Block]) -> Iterator[Table]:
    """The tables among blocks, and in folded ones."""
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Folded):
            yield from _tables_of(block.blocks)


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page. All but its sections fits on the first screen of a desktop.

    Attributes:
        lead: the question that the page answers.
        byline: short facts below it, such as the date.
        summary: the answer at a glance: a strip, large numbers and a picture.
    """

    title: str
    lead: str
    sections: list[Section]
    byline: Sequence[str] = ()
    summary: Sequence[Block] = ()

    @property
    def tables(self) -> list[tuple[Section, Table]]:
        """Its tables, each with its section."""
        return [(part, table) for part in self.sections for table in _tables_of(part.blocks)]


def render(page: Page, tables: str = "") -> str:
    """The page as HTML, with all text escaped. Equal pages give equal HTML.

    Args:
        tables: name of the folder beside the page that holds its tables, if there is one.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # most processes render nothing

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["own_ids"] = own_ids
    footer = f"{FOOTER} {TABLES_BESIDE.format(tables)}" if tables else FOOTER
    return environment.from_string(TEMPLATE).render(page=page, style=STYLE, footer=footer, symbols=SYMBOLS)


def write_report(path: Path, make: Callable[[], Page], *, with_tables: bool = True) -> None:
    """Write a page, and its tables to a folder beside it (see `tables_folder`).

    Raises:
        RunError: the page could not be made or written; all other results are saved.
    """
    folder = tables_folder.folder_of(path)
    try:
        page = make()
        write_text(path, render(page, folder.name if with_tables and page.tables else ""))
        if with_tables:
            tables_folder.write_tables(folder, page)
    except StorageError:
        raise
    except Exception as error:
        # Only the place of the error, since the exception's text may hold patients' values.
        frames = traceback.extract_tb(error.__traceback__)
        logger.debug("".join(traceback.format_list(frames)))
        what = f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise RunError(f"{path}: could not be written ({what}); all other results are saved") from error
