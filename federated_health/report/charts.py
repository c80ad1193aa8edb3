"""Charts with a row or a line a hospital, as SVG to stand in a page (svg.py). Other charts: panels.py.

Names are hospitals or regimes and are shown in the order given. Of many the first are shown, and the others counted.
Each function raises ValueError where there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from federated_health.ml.bootstrap import Interval
from federated_health.names import FEDERATION
from federated_health.report.svg import (
    BOLD,
    GRID,
    INK,
    MAX_LINES,
    MAX_ROWS,
    MUTED,
    ROW,
    SERIES,
    SHADE,
    SMALL,
    WIDTH,
    Canvas,
    Look,
    canvas,
    first_of,
    is_shown,
    legend_height,
    limits_of,
    look_of,
    number,
    percent,
    set_ticks,
    shorten,
    text_width,
    ticks_between,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLUMNS = 20
_NAMES = 112
"""The widest that names beside rows may be."""
_BAR = 0.62
_MAX_PLOT = 190


def draw_learning_curves(series: Mapping[str, Sequence[float | None]], *, quantity: str, rounds: Sequence[int]) -> str:
    """A line a hospital over the rounds, and a heavy one of the federation.

    Args:
        series: name -> a value a round; None or NaN where there is none, which leaves a gap.
        quantity: what the values are, with their unit.
        rounds: numbers of the rounds, in order.

    Raises:
        ValueError: nothing to draw, or a series is not as long as `rounds`.
    """
    if any(len(values) != len(rounds) for values in series.values()):
        raise ValueError("a series has not one value a round")
    hospitals = {name: values for name, values in series.items() if name != FEDERATION}
    shown, more = first_of(hospitals, MAX_LINES) if hospitals else first_of(series, 1)
    lines = [(name, values, look_of(place), False) for place, (name, values) in enumerate(shown.items())]
    if FEDERATION in series:
        lines = [line for line in lines if line[0] != FEDERATION]
        lines.append((FEDERATION, series[FEDERATION], Look(INK, "o", (0.0, ())), True))

    vertical = limits_of(value for _, values, _, _ in lines for value in values)
    ticks = ticks_between(*vertical)
    left = max(text_width(label) for label in ticks.values()) + 8
    explained = legend_height([name for name, *_ in lines])
    top, height = 22, _MAX_PLOT
    with canvas(top + height + 38 + explained + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, WIDTH - left - 8, height)
        handles = {}
        for name, values, look, heavy in lines:
            places = [value if value is not None and is_shown(value) else float("nan") for value in values]
            (handles[name],) = axes.plot(
                list(rounds),
                places,
                color=look.color,
                linestyle=look.dashes,
                linewidth=2.6 if heavy else 1.3,
                zorder=4 if heavy else 3,
                marker=look.marker,
                markersize=4,
                markevery=_marked(values, alone=heavy),
            )
        if not any(is_shown(value) for _, values, _, _ in lines for value in values):
            axes.text(0.5, 0.5, "no value in any round", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_ylim(*vertical)
        set_ticks(axes, "y", ticks)
        first, last = (min(rounds), max(rounds)) if rounds else (0, 1)
        around = 0.03 * (last - first) or 0.5
        axes.set_xlim(first - around, last + around)
        axes.set_xticks(list(across := ticks_between(first, last, whole=True)), list(across.values()), size=SMALL)
        paper.write(0, 8, shorten(quantity, WIDTH))
        paper.write(left + (WIDTH - left) / 2, top + height + 24, "round", ha="center")
        paper.explain(top + height + 36, handles)
        _say_more(paper, more, "hospitals")
        return paper.svg()


def draw_labels(hospitals: Mapping[str, tuple[int, int]], *, positive: str, negative: str) -> str:
    """Who holds what: a stacked bar a hospital.

    Args:
        hospitals: name -> patients with and without the label.
        positive, negative: what these are called.
    """
    shown, more = first_of(hospitals, MAX_ROWS)
    notes = [
        f"{percent(ill / (ill + well))} % of {number(ill + well)}" if ill + well else "none"
        for ill, well in shown.values()
    ]
    names = [shorten(name, _NAMES) for name in shown]
    left = max(map(text_width, names)) + 8
    room = WIDTH - left - max(map(text_width, notes)) - 8
    top = 8 + 2 * ROW
    height = 18.0 * len(shown)
    with canvas(top + height + 8 + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_axis_off()
        places = list(range(len(shown)))
        ill, well = ([counts[part] for counts in shown.values()] for part in (0, 1))
        axes.barh(places, ill, height=_BAR, color=SERIES[1])
        axes.barh(places, well, left=ill, height=_BAR, facecolor=(SHADE, 0.5), edgecolor=SERIES[0], linewidth=0.7)
        most = max(map(sum, shown.values())) or 1
        axes.set_xlim(0, most)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        for place, (name, note, counts) in enumerate(zip(names, notes, shown.values(), strict=True)):
            y = top + 18.0 * (place + 0.5)
            paper.write(left - 8, y, name, ha="right", color=INK)
            paper.write(left + room * sum(counts) / most + 5, y, note)
        for line, (words, color, alpha) in enumerate(
            [(f"{positive}, in per cent of all", SERIES[1], 1.0), (negative, SHADE, 0.5)]
        ):
            _swatch(paper, left, 4 + ROW * line, color, alpha)
            paper.write(left + 16, 8 + ROW * line, shorten(words, WIDTH - left - 20), color=INK)
        _say_more(paper, more, "hospitals")
        return paper.svg()


def draw_importance(columns: Mapping[str, float], *, quantity: str) -> str:
    """How much each column matters: a bar a column, the longest first, at most 20; what is not defined comes last.

    Args:
        columns: column -> importance; may be negative or NaN.
        quantity: what the values are, with their unit.
    """
    ordered = sorted(columns.items(), key=lambda item: (not is_shown(item[1]), -item[1] if is_shown(item[1]) else 0))
    shown, more = first_of(dict(ordered), MAX_COLUMNS)
    values = [value if is_shown(value) else 0.0 for value in shown.values()]
    notes = [number(value) if is_shown(value) else "not defined" for value in shown.values()]
    names = [shorten(name, _NAMES) for name in shown]
    left = max(map(text_width, names)) + 8
    room = WIDTH - left - max(map(text_width, notes)) - 8
    top, height = 20.0, 18.0 * len(shown)
    with canvas(top + height + 8 + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_axis_off()
        axes.barh(range(len(shown)), values, height=_BAR, color=SERIES[0])
        low, high = min(0.0, *values), max(0.0, *values)
        high = high if high > low else low + 1
        axes.set_xlim(low, high)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.axvline(0, color=MUTED, linewidth=0.8, clip_on=False)
        for place, (name, note, value) in enumerate(zip(names, notes, values, strict=True)):
            y = top + 18.0 * (place + 0.5)
            paper.write(left - 8, y, name, ha="right", color=INK)
            paper.write(left + room * (max(value, 0) - low) / (high - low) + 5, y, note)
        paper.write(0, 8, shorten(quantity, WIDTH))
        _say_more(paper, more, "columns")
        return paper.svg()


def draw_intervals(groups: Mapping[str, Mapping[str, Interval]], *, quantity: str, reference: float | None) -> str:
    """Dots with whiskers, one under the other: a group a hospital, a row a regime.

    Args:
        groups: hospital -> regime -> figure.
        quantity: what the figures are, with their unit.
        reference: where to draw a vertical line, such as 0 for differences.
    """
    regimes = list(dict.fromkeys(regime for figures in groups.values() for regime in figures))
    shown, more = first_of(groups, MAX_ROWS)
    while len(shown) > 1 and sum(map(len, shown.values())) > MAX_ROWS:
        shown.popitem()
        more += 1
    names = {regime: shorten(regime, _NAMES) for regime in regimes}
    left = max(map(text_width, names.values()), default=0.0) + 14
    ends = [end for figures in shown.values() for one in figures.values() for end in _ends(one)]
    horizontal = limits_of([*ends, reference])
    room, top, step = WIDTH - left - 8, 6.0, 15.0
    height = sum(ROW + 4 + step * len(figures) for figures in shown.values()) + 4
    with canvas(top + height + 38 + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_ylim(height, 0)
        axes.set_xlim(*horizontal)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = ticks_between(*horizontal)
        axes.set_xticks(list(ticks), list(ticks.values()), size=SMALL)
        y = 0.0
        for hospital, figures in shown.items():
            paper.write(0, top + y + ROW / 2 + 2, shorten(hospital, WIDTH / BOLD), color=INK, weight="bold")
            y += ROW + 4
            # Vertical lines beside the rows only, where they do not cross a long name.
            axes.vlines(list(ticks), y, y + step * len(figures), color=GRID, linewidth=0.8, zorder=1)
            if reference is not None:
                axes.vlines(reference, y, y + step * len(figures), color=MUTED, linewidth=1.2, zorder=1)
            for regime, one in figures.items():
                look = look_of(regimes.index(regime))
                centre = y + step / 2
                paper.write(left - 8, top + centre, names[regime], ha="right")
                _dot_and_whisker(axes, one, centre, look)
                if not is_shown(one.value):
                    paper.write(left + 4, top + centre, "not defined", style="italic")
                y += step
        paper.write(left + room / 2, top + height + 26, shorten(quantity, WIDTH - left), ha="center")
        _say_more(paper, more, "hospitals")
        return paper.svg()


def _marked(values: Sequence[float | None], *, alone: bool) -> list[int]:
    """Which values get a marker: those without a neighbour, whom no line shows, and, unless `alone`, some others."""
    there = [False, *map(is_shown, values), False]
    every = -(-len(values) // 8)
    return [
        place
        for place in range(len(values))
        if there[place + 1] and ((place % every == 0 and not alone) or not (there[place] or there[place + 2]))
    ]


def _ends(one: Interval) -> list[float]:
    """What there is of a figure to draw."""
    if not is_shown(one.value):
        return []
    return [end for end in (one.low, one.value, one.high) if end is not None and is_shown(end)]


def _dot_and_whisker(axes: "Axes", one: Interval, y: float, look: Look) -> None:
    if one.value is not None and (ends := _ends(one)):
        axes.plot([min(ends), max(ends)], [y, y], color=look.color, linewidth=1.6, linestyle=look.dashes)
        axes.plot(
            [one.value], [y], color=look.color, marker=look.marker, markersize=5.5, linestyle="none", clip_on=False
        )


def _swatch(paper: Canvas, left: float, top: float, color: str, alpha: float) -> None:
    axes = paper.axes(left, top, 10, 8)
    axes.set_axis_off()
    axes.bar([0], [1], width=1, facecolor=(color, alpha), edgecolor=SERIES[0] if alpha < 1 else "none", linewidth=0.7)
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(0, 1)


def _say_more(paper: Canvas, more: int, what: str) -> None:
    if more:
        paper.write(WIDTH, paper.height - 6, f"and {more:,} more {what}, not shown", ha="right", style="italic")
