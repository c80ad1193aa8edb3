"""The canvas of all charts: matplotlib drawings as SVG in the colours and the font of the page around them.

A unit of a canvas is one of the picture's viewBox, and at least a CSS pixel on a phone of 360 pixels, where no text is
smaller than SMALL. On a desktop a drawing is up to 1.3 times as large.
"""

import io
import math
import re
import warnings
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from federated_health.report.formatting import with_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Imports of matplotlib are inside functions: they take half a second, and most runs draw nothing.

WIDTH = 330
PANEL = 142  # width of a small drawing, several of which stand beside each other: two on a phone, three in a column
LARGE, SMALL = 13.0, 11.1  # font sizes; SMALL is the default
BOLD = 1.15  # upper bound of the width of bold text, relative to regular text
ROW = 16.0  # height of one line of text
MAX_LINES = 12  # hospitals with a line or a panel in one picture; the others are counted

INK, MUTED, GRID, SHADE = "#010101", "#010102", "#010103", "#010104"
TONES = {"good": "#010121", "mixed": "#010122", "neutral": "#010123", "bad": "#010124"}
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SHADE: "--shade"}
VARIABLES |= {color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)}
VARIABLES |= {color: f"--{tone}" for tone, color in TONES.items()}
"""Placeholder colours to draw with -> the CSS variable that replaces each in the SVG."""
DARKEST = 0.85  # opacity of SHADE for a share of 1; ink is readable on it in light and in dark mode

_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "federated-health",
    "font.size": SMALL,
    "text.color": INK,
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    **dict.fromkeys(("text.parse_math", "legend.frameon", "axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor", "hatch.color"), MUTED),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
}


class Look(NamedTuple):
    """Style of a series. Marker and dashes tell series apart even without colour."""

    color: str
    marker: str
    dashes: tuple[float, tuple[float, ...]] = (0.0, ())


def look_of(number: int) -> Look:
    """The look of a series by its number, from 0; looks repeat from 12 on."""
    look = Look(SERIES[number % len(SERIES)], _MARKERS[number % len(_MARKERS)])
    return look._replace(dashes=(0.0, (4.0, 2.0))) if number // len(SERIES) % 2 else look


@dataclass(frozen=True)
class Canvas:
    """A picture of width x height units, measured from its top left corner. Made by `canvas`."""

    figure: "Figure"
    height: float
    width: float = WIDTH

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Axes on this rectangle; the labels of their ticks lie outside it."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write one line of text around (x, y), styled by arguments of matplotlib's Text."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **{"va": "center", "color": MUTED, **style})

    def explain(self, top: float, handles: Mapping[str, Any]) -> None:
        """Draw a legend of matplotlib's artists by name; it is `legend_height` high."""
        self.figure.legend(
            handles.values(),
            [shorten(name, WIDTH / 2 - 50) for name in handles],
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
        """The picture as an <svg> element. Equal drawings give equal elements."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        body = _as_part_of_page(file.getvalue())
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return (
            f'<svg {namespaces} viewBox="0 0 {self.width:g} {self.height:g}" stroke-linejoin="round">\n{body}\n</svg>'
        )


@contextmanager
def canvas(height: float, more: int = 0, noun: str = "hospitals", *, width: float = WIDTH) -> Iterator[Canvas]:
    """A canvas that ignores the user's matplotlibrc. Its last line counts `more` entries that are not shown."""
    from matplotlib import figure, style  # noqa: PLC0415  # slow to import, and used by drawings only

    height += ROW if more else 0
    with style.context(["default", _STYLE]), _missing_glyphs_allowed():
        paper = Canvas(figure.Figure(figsize=(width / 72, height / 72)), height, width)
        if more:
            paper.write(width, height - 6, f"and {more:,} more {noun}, not shown", ha="right", style="italic")
        yield paper


def warm_up() -> None:
    """Import matplotlib and load its font, which takes a second, before the first picture is drawn."""
    text_width("0")
    with canvas(1.0):
        pass


def legend_height(entries: int) -> float:
    """Height of a legend, with two entries per row."""
    return ROW * math.ceil(entries / 2) + 4


def text_width(text: str, size: float = SMALL) -> float:
    """Width of one line in DejaVu Sans, which is wider than most fonts that a browser may use."""
    from matplotlib import font_manager, textpath  # noqa: PLC0415  # slow to import, and used by drawings only

    font = font_manager.FontProperties(family="DejaVu Sans", size=size)
    with _missing_glyphs_allowed():
        return float(textpath.text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def shorten(text: str, room: float) -> str:
    """One line of text that is at most `room` wide. Long text loses its middle, since names differ at their ends."""
    if text_width(text) <= room:
        return text

    def cut(letters: int) -> str:
        tail = letters // 3
        return f"{text[: letters - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"

    return cut(1 + bisect(range(2, len(text)), room, key=lambda letters: text_width(cut(letters))))


def limits_of(values: Iterable[float | None]) -> tuple[float, float]:
    """Ends of an axis with some room around all values."""
    shown = [value for value in values if value is not None] or [0.0, 1.0]
    low, high = min(shown), max(shown)
    is_constant = high - low <= 1e-9 * max(abs(low), abs(high))
    around = (0.1 * abs(high) or 0.5) if is_constant else 0.06 * (high - low)
    return low - around, high + around


def ticks_between(low: float, high: float, *, most: int = 5, whole: bool = False) -> dict[float, str]:
    """Round numbers on an axis -> their labels, with as many digits as tell them apart."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415  # slow to import, and used by drawings only

    found = MaxNLocator(most, integer=whole, steps=[1, 2, 5, 10]).tick_values(low, high)
    digits = max(0, -math.floor(math.log10(found[1] - found[0]) + 1e-9))
    ticks = [round(float(tick), digits) + 0.0 for tick in found if low <= tick <= high]  # + 0.0: no minus before a zero
    style = f",.{digits}f" if max(map(abs, ticks), default=0) < 1e6 else ".6g"
    return {tick: with_minus(f"{tick:{style}}") for tick in ticks}


def set_ticks(axes: "Axes", axis: Literal["x", "y"], ticks: Mapping[float, str]) -> None:
    """Put the ticks on an axis, with a thin line across the panel at each."""
    (axes.set_xticks if axis == "x" else axes.set_yticks)(list(ticks), list(ticks.values()))
    axes.grid(visible=True, axis=axis)


def flow(drawings: Iterable[str], *, above: str = "", below: str = "") -> str:
    """Drawings as one picture, which stand beside each other as far as there is room, with a line above and below."""
    lines = [f'<p class="axis">{escape(text)}</p>' if text else "" for text in (above, below)]
    drawn = [own_ids(drawing, f"part{number}_") for number, drawing in enumerate(drawings)]
    return "\n".join([lines[0], *drawn, lines[1]])


def own_ids(svg: str, prefix: str) -> str:
    """The same picture with a prefix before all ids and references, so that pictures on one page do not clash."""
    return _in_tags(svg, lambda tag: re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", tag))


def _missing_glyphs_allowed() -> AbstractContextManager[None]:
    """Ignore warnings about letters that matplotlib's font lacks: the browser draws them."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _in_tags(svg: str, change: Callable[[str], str]) -> str:
    """Change the tags, and leave the text between them as it is."""
    return re.sub(r"<[^>]*>", lambda found: change(found[0]), svg)


def _as_part_of_page(drawing: str) -> str:
    """The content of matplotlib's SVG file, in the page's colours and font, and without what a page does not need."""
    body = drawing[drawing.index(">", drawing.index("<svg")) + 1 : drawing.rindex("</svg>")]
    # A <style> element would apply to the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    referred = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', body))

    def lighten(tag: str) -> str:
        tag = re.sub(r" font-family: [^;\"]*;?", "", tag)
        tag = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", tag)
        tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a unit cannot be seen
        tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", tag)
        tag = re.sub(r"#\w{6}", lambda found: f"var({VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], tag)
        return re.sub(r"\s+", " ", tag)

    return re.sub(r">\s*\n\s*<", ">\n<", _in_tags(body, lighten)).strip()
