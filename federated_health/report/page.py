"""Plain content of a page, and its HTML: one file that needs no network and no script.

Knows nothing of medicine, of federated learning or of how pictures are drawn.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.etree import ElementTree

from federated_health.report.svg import own_ids
from federated_health.report.template import STYLE, TEMPLATE

if TYPE_CHECKING:
    from jinja2 import Template

Tone: TypeAlias = Literal["good", "neutral", "bad"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True)
class Caution:
    """A note that stands out."""

    words: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. The first cell of a row is its header; columns of numbers are aligned right.

    Raises:
        ValueError: a row does not have one cell per column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: expected {len(self.columns)} cells, got {len(row)} in row {number}")

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Whether each column holds numbers only; the first column never counts as such."""
        return tuple(place > 0 and _is_numeric([row[place] for row in self.rows]) for place in range(len(self.columns)))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: an <svg> element made by this package, which is not escaped, and a description as `alt`.

    Raises:
        ValueError: `svg` is not one well-formed <svg> element, or `alt` is empty.
    """

    svg: str
    alt: str
    caption: str

    def __post_init__(self) -> None:
        try:
            root = ElementTree.fromstring(self.svg).tag
        except ElementTree.ParseError as error:
            raise ValueError(f"{self.caption}: not well-formed ({error})") from None
        if not self.svg.startswith("<svg") or root != "{http://www.w3.org/2000/svg}svg":
            raise ValueError(f"{self.caption}: not an <svg> element")
        if not self.alt.strip():
            raise ValueError(f"{self.caption}: the picture has no alternative text")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A name, a short verdict and an explanation."""

    name: str
    verdict: str
    tone: Tone
    words: str


@dataclass(frozen=True)
class Cards:
    """Cards beside each other."""

    items: tuple[Card, ...]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    items: tuple[tuple[str, str], ...]


Block: TypeAlias = Text | Caution | Bullets | Table | Picture | Cards | Facts


@dataclass(frozen=True)
class Section:
    """A part of a page. A folded section shows its title only, until it is opened or printed."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: `lead` is the summary below its title."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    footer: str = ""


def render(page: Page) -> str:
    """The page as HTML, with all text escaped. The same page gives the same characters."""
    slugs = _slugs(section.title for section in page.sections)
    return _template().render(page=page, sections=list(zip(slugs, page.sections, strict=True)), style=STYLE)


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  # most processes render nothing

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["own_ids"] = own_ids
    return environment.from_string(TEMPLATE)


def _slugs(titles: Iterable[str]) -> Iterator[str]:
    """A unique id for each title, different from the template's own ids and from those in pictures."""
    taken = {"top", "content", "contents"}
    for title in titles:
        plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
        stem = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"
        slug, count = stem, 1
        while slug in taken:
            count += 1
            slug = f"{stem}-{count}"
        taken.add(slug)
        yield slug


_NUMBER = re.compile(
    r"""[<>≤≥~±+\-\N{MINUS SIGN}([]*\s?\d   # starts with a digit, after signs
    (?:[\d\s.,:;%±+\-\N{MINUS SIGN}\N{EN DASH}()\[\]/]|e[+-]?\d|\bto\b|\bof\b)*""",
    re.VERBOSE,
)
_NO_VALUE = frozenset({"", "-", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}", "n/a", "not defined"})


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell.strip() for cell in cells if cell.strip() not in _NO_VALUE]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
