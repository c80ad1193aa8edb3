"""A page of plain content, and its HTML: one file that needs no network and no script.

Knows nothing of medicine, of federations or of how pictures are drawn.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias
from xml.etree import ElementTree

from federated_health.report.svg import own_ids
from federated_health.report.template import STYLE, TEMPLATE

if TYPE_CHECKING:
    from jinja2 import Template

Tone: TypeAlias = Literal["good", "neutral", "bad"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    words: str


@dataclass(frozen=True, kw_only=True)
class Caution:
    """A note that nobody should miss."""

    words: str


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. The first cell of a row is its header; columns of numbers are set flush right.

    Raises:
        ValueError: a row has not one cell a column.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(f"{self.caption}: {len(row)} cells in row {number}, {len(self.columns)} columns")

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Of each column, whether all that stands in its cells looks like numbers; never of the first one."""
        return tuple(place > 0 and _is_numeric([row[place] for row in self.rows]) for place in range(len(self.columns)))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture.

    Attributes:
        svg: an <svg> element of our own making; it goes into the page as it is.
        alt: what is to be seen, for those who do not see it.

    Raises:
        ValueError: it is not one well-formed <svg> element, or there is no `alt`.
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
            raise ValueError(f"{self.caption}: a picture needs words for those who do not see it")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What matters about one of several: a name, a verdict in a word or two, and a sentence."""

    name: str
    verdict: str
    tone: Tone
    words: str


@dataclass(frozen=True, kw_only=True)
class Cards:
    """Cards beside each other."""

    items: tuple[Card, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values."""

    items: tuple[tuple[str, str], ...]


Block: TypeAlias = Text | Caution | Bullets | Table | Picture | Cards | Facts


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page; a folded one shows its title only, until it is opened or printed."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: `lead` says under its title what it is."""

    title: str
    lead: str
    sections: tuple[Section, ...]
    footer: str = ""


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A block in its place: tables and pictures are numbered through the page, and ids differ."""

    block: Block
    number: int

    @property
    def kind(self) -> str:
        return type(self.block).__name__

    @property
    def svg(self) -> str:
        assert isinstance(self.block, Picture)
        return own_ids(self.block.svg, f"figure{self.number}_")


def render(page: Page) -> str:
    """The page as HTML. The same page gives the same characters; all words in it are escaped."""
    numbers: dict[type[Block], int] = {}
    slugs = _slugs([section.title for section in page.sections])
    sections = []
    for slug, section in zip(slugs, page.sections, strict=True):
        placed = []
        for block in section.blocks:
            numbers[type(block)] = numbers.get(type(block), 0) + 1
            placed.append(_Placed(block=block, number=numbers[type(block)]))
        sections.append((slug, section, placed))
    return _template().render(page=page, sections=sections, style=STYLE)


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE)


def _slugs(titles: Sequence[str]) -> Iterator[str]:
    """An id for each title, all different, and different from the template's own and from those in pictures."""
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
_NOTHING = frozenset({"", "-", "\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}", "n/a", "not defined"})


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell.strip() for cell in cells if cell.strip() not in _NOTHING]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)
