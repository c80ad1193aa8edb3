"""What all charts share: a canvas that becomes SVG in the colours and the font of the page around it.

One unit of a canvas is a unit of the picture's viewBox. All pictures are equally wide, so that their text is equally
large: a unit is 1.6 CSS pixels on a screen, and 1 on a phone of 360.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

MINUS = "\N{MINUS SIGN}"

WIDTH = 330
LARGE, SMALL, TINY = 11.0, 9.0, 8.0
"""Sizes of letters."""
BOLD = 1.15
"""How much wider bold letters may be than others."""
ROW = 14.0
"""From one line of text to the next."""
MAX_LINES, MAX_ROWS = 12, 40
"""Of how many hospitals a picture shows lines or panels, or rows; the others are counted."""

INK, MUTED, GRID, SHADE = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SHADE: "--shade",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)},
}
"""Colours to draw with, none of which is ever seen -> the CSS variable that stands in the SVG instead."""
DARKEST = 0.85
"""Opacity of SHADE for a share of 1; ink is readable on it in either mode."""

_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "federated-health",
    "text.parse_math": False,
    "text.color": INK,
    "font.size": SMALL,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.6,
}
_NARROWEST = 0.27
"""Of the widths of letters, as a share of their size."""
_FARTHEST = 1e100
"""Beyond it a margin could overflow."""


class Look(NamedTuple):
    """What tells one series from another: its colour, and without colour its marker and its dashes."""

    color: str
    marker: str
    dashes: tuple[float, tuple[float, ...]]


def look_of(number: int) -> Look:
    """Of the series of this number, from 0; they repeat from 12 on."""
    dashes = (0.0, (4.0, 2.0)) if number // len(SERIES) % 2 else (0.0, ())
    return Look(SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)], dashes)


class Canvas:
    """A picture of WIDTH x height units, measured from its top left corner. Made by `canvas`."""

    def __init__(self, height: float) -> None:
        from matplotlib.figure import Figure  # takes half a second to import, and most runs draw nothing

        self.height = height
        self._figure = Figure(figsize=(WIDTH / 72, height / 72))

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Axes on this rectangle; what their ticks and titles need lies outside it."""
        bottom = self.height - top - height
        return self._figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))

    def write(self, x: float, y: float, words: str, **how: Any) -> None:
        """One line of text around (x, y); `how` is of matplotlib's Text."""
        how = {"va": "center", "size": SMALL, "color": MUTED, **how}
        self._figure.text(x / WIDTH, 1 - y / self.height, words, **how)

    def explain(self, top: float, handles: Mapping[str, Any]) -> None:
        """A legend of matplotlib's artists; it is `legend_height` high."""
        names = [shorten(name, WIDTH / 2 - 50) for name in handles]
        self._figure.legend(
            handles.values(),
            names,
            loc="upper left",
            bbox_to_anchor=(0, 1 - top / self.height),
            ncols=2,
            borderaxespad=0,
            borderpad=0.2,
            labelspacing=ROW / SMALL - 1,
            handlelength=2.6,
            columnspacing=1.5,
            labelcolor=INK,
        )

    def svg(self) -> str:
        """An <svg> element to stand in a page beside others: its ids are its own, its colours and font the page's.

        The same drawing gives the same characters.
        """
        file = io.StringIO()
        with _unknown_letters_allowed():
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            self._figure.savefig(file, format="svg", metadata=nothing)
        return _finish(file.getvalue(), self.height)


@contextmanager
def canvas(height: float) -> Iterator[Canvas]:
    """A canvas to draw on as long as the context lasts, whatever a user's own matplotlibrc says."""
    from matplotlib import style

    with style.context(["default", _STYLE]):
        yield Canvas(height)


def get_ready() -> None:
    """Import what drawing needs, and look its font up: a second, which may pass while something else is awaited."""
    text_width("0")
    with canvas(1.0):
        pass


def legend_height(names: Iterable[str]) -> float:
    """Of a legend with two names in a row, in the canvas's units."""
    return ROW * math.ceil(len(list(names)) / 2) + 4


def first_of(things: Mapping[str, T], most: int) -> tuple[dict[str, T], int]:
    """The first few, and how many there are beyond them.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not things:
        raise ValueError("there is nothing to draw")
    return dict(list(things.items())[:most]), max(0, len(things) - most)


def text_width(words: str, size: float = SMALL) -> float:
    """Of one line in matplotlib's own font, than which few are wider; its box for an unknown letter is wide, too."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with _unknown_letters_allowed():
        width, _, _ = text_to_path.get_text_width_height_descent(
            words, FontProperties(family="DejaVu Sans", size=size), ismath=False
        )
    return float(width)


def shorten(words: str, room: float, size: float = SMALL) -> str:
    """One line of words, not wider than `room`: what is too long loses its middle, since names differ at their ends."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    most = int(room / (_NARROWEST * size)) + 1
    if len(line) <= most and text_width(line, size) <= room:
        return line
    fits, too_many = 1, min(len(line), most)
    while too_many - fits > 1:
        kept = (fits + too_many) // 2
        fits, too_many = (kept, too_many) if text_width(_ends(line, kept), size) <= room else (fits, kept)
    return _ends(line, fits)


def is_shown(value: float | None) -> bool:
    """Whether there is a number that a picture has a place for."""
    return value is not None and abs(value) < _FARTHEST


def limits_of(values: Iterable[float | None]) -> tuple[float, float]:
    """The ends of an axis on which all the values have some room around them."""
    shown = [float(value) for value in values if value is not None and is_shown(value)] or [0.0, 1.0]
    low, high = min(shown), max(shown)
    is_constant = high - low <= 1e-9 * max(abs(low), abs(high))
    around = (0.1 * abs(high) or 0.5) if is_constant else 0.06 * (high - low)
    return low - around, high + around


def ticks_between(low: float, high: float, *, most: int = 5, whole: bool = False) -> dict[float, str]:
    """Round numbers on an axis, with as many digits as tell them apart."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(most, integer=whole, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [0.0 if abs(tick) < 1e-9 * (high - low) else float(tick) for tick in found if low <= tick <= high]
    return dict(zip(ticks, _labels(ticks), strict=True))


def number(value: float) -> str:
    """A count or a figure in little room."""
    if float(value).is_integer() and abs(value) < 1e8:
        return _tidy(f"{value + 0.0:,.0f}")  # and no minus before a zero
    return _tidy(f"{value:.3g}")


def percent(share: float) -> str:
    """In whole per cent, without the sign; what is not quite none or all is not said to be."""
    if 0 < share < 0.005:
        return "<1"
    if 0.995 <= share < 1:
        return ">99"
    return f"{100 * share:.0f}"


def set_ticks(axes: "Axes", axis: Literal["x", "y"], ticks: Mapping[float, str]) -> None:
    """Put the ticks on an axis, with a thin line across the panel at each."""
    (axes.set_xticks if axis == "x" else axes.set_yticks)(list(ticks), list(ticks.values()), size=SMALL)
    axes.grid(visible=True, axis=axis)


def own_ids(svg: str, prefix: str) -> str:
    """The same picture with this before every id and every reference to one, so that pictures do not mix in a page."""
    return _in_tags(svg, lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", tag))


def _ends(line: str, kept: int) -> str:
    tail = kept // 3
    return f"{line[: kept - tail].rstrip()}…{line[len(line) - tail :].lstrip()}"


def _labels(ticks: Sequence[float]) -> list[str]:
    for digits in range(7):
        labels = [f"{tick:,.{digits}f}" for tick in ticks]
        if _are_exact(labels, ticks):
            break
    if not _are_exact(labels, ticks) or max(map(abs, ticks), default=0) >= 1e6:
        labels = [f"{tick:.6g}" for tick in ticks]
    return [_tidy(label) for label in labels]


def _tidy(written: str) -> str:
    """With a minus sign, and an exponent as people write it: 1e6, not 1e+06."""
    return re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), written).replace("-", MINUS)


def _are_exact(labels: Sequence[str], ticks: Sequence[float]) -> bool:
    written = [float(label.replace(",", "")) for label in labels]
    return all(math.isclose(value, tick, rel_tol=1e-9) for value, tick in zip(written, ticks, strict=True))


@contextmanager
def _unknown_letters_allowed() -> Iterator[None]:
    """The letters are drawn by the page, so that they need not be in matplotlib's font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from", category=UserWarning)
        yield


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Change the tags, and leave the words between them alone, whatever they look like."""
    return re.sub(r"<[^>]*>", lambda found: change(found[0]), svg)


def _finish(drawn: str, height: float) -> str:
    body = drawn[drawn.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL
    )  # it would hold for the whole page
    referred = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))

    def lighten(tag: str) -> str:
        tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
        tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a unit cannot be seen
        tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", tag)
        tag = re.sub(r"#\w{6}", lambda found: f"var({VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], tag)
        return re.sub(r"\s+", " ", tag)

    body = re.sub(r">\s*\n\s*<", ">\n<", _in_tags(body, lighten)).strip()
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {WIDTH} {height:g}" stroke-linejoin="round">\n'
    )
    return own_ids(f"{head}{body}\n</svg>", f"p{sha256(body.encode()).hexdigest()[:8]}-")
