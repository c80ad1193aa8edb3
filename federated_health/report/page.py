"""Plain content of a page, and its HTML: one file that needs no network and no script.

Independent of medicine, of federated learning and of how pictures are drawn.
"""

import logging
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from federated_health import __version__
from federated_health.errors import RunError
from federated_health.files import write_text
from federated_health.report.svg import own_ids
from federated_health.report.template import STYLE, TEMPLATE

FOOTER = f"Made by Federated Health {__version__}. This page is one file: it loads nothing and sends nothing."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caution:
    """A note that stands out."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with names in its first column, and numbers in all others."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: an <svg> element made by this package, which is not escaped, and a description as `alt`."""

    svg: str
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A name, a short verdict, and an explanation. The tone is good, neutral or bad."""

    name: str
    verdict: str
    tone: str
    text: str


@dataclass(frozen=True)
class Cards:
    """Cards beside each other."""

    items: Sequence[Card]


Block: TypeAlias = str | list[str] | dict[str, str] | Caution | Table | Picture | Cards
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
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: `lead` is the summary below its title."""

    title: str
    lead: str
    sections: list[Section]


def render(page: Page) -> str:
    """The page as HTML, with all text escaped. Equal pages give equal HTML."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # most processes render nothing

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["own_ids"] = own_ids
    return environment.from_string(TEMPLATE).render(page=page, style=STYLE, footer=FOOTER)


def write_report(path: Path, make: Callable[[], Page]) -> None:
    """Write a page.

    Raises:
        RunError: the page could not be made or written; all other results are saved.
    """
    try:
        text = render(make())
    except Exception as error:
        # Only the place of the error, since the exception's text may hold patients' values.
        frames = traceback.extract_tb(error.__traceback__)
        logger.debug("".join(traceback.format_list(frames)))
        what = f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise RunError(f"{path}: could not be written ({what}); all other results are saved") from error
    write_text(path, text)
