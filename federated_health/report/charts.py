"""Charts with one row or one line per hospital, as SVG. Charts with panels are in panels.py.

Names are shown in the order given; beyond a limit they are counted. Each function raises ValueError if there is nothing
to draw.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from federated_health.ml.metrics import Interval
from federated_health.names import FEDERATION
from federated_health.report import svg
from federated_health.report.formatting import MAX_ROWS, short_number, short_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLUMNS = 20
_MAX_NAME_WIDTH = 112
_BAR = 0.62
_BAR_ROW = 18.0
_PLOT_HEIGHT = 190


def draw_learning_curves(series: Mapping[str, Sequence[float | None]], *, quantity: str, rounds: Sequence[int]) -> str:
    """One line per hospital over the rounds, and a heavy one for the federation.

    Args:
        series: name -> one value per round; None or NaN leaves a gap.
        quantity: what the values are, with their unit.
        rounds: round numbers in order, as many as a series has values.
    """
    if any(len(values) != len(rounds) for values in series.values()):
        raise ValueError("a series does not have one value per round")
    hospitals = {name: values for name, values in series.items() if name != FEDERATION}
    shown, more = svg.first_of(hospitals or series, svg.MAX_LINES)
    looks = {name: svg.look_of(place) for place, name in enumerate(shown)}
    if FEDERATION in series:
        shown[FEDERATION], looks[FEDERATION] = series[FEDERATION], svg.Look(svg.INK, "o", (0.0, ()))
    every_value = [value for values in shown.values() for value in values]
    vertical = svg.limits_of(every_value)
    ticks = svg.ticks_between(*vertical)
    left = max(svg.text_width(label) for label in ticks.values()) + 8
    top, height = 22, _PLOT_HEIGHT
    with svg.canvas(top + height + 38 + svg.legend_height(shown), more, "hospitals") as paper:
        axes = paper.axes(left, top, svg.WIDTH - left - 8, height)
        handles = {}
        for name, values in shown.items():
            look, heavy = looks[name], name == FEDERATION
            (handles[name],) = axes.plot(
                list(rounds),
                [value if value is not None and svg.is_shown(value) else float("nan") for value in values],
                color=look.color,
                linestyle=look.dashes,
                linewidth=2.6 if heavy else 1.3,
                zorder=4 if heavy else 3,
                marker=look.marker,
                markersize=4,
                markevery=_marked(values, isolated_only=heavy),
            )
        if not any(map(svg.is_shown, every_value)):
            axes.text(0.5, 0.5, "no value in any round", transform=axes.transAxes, ha="center", color=svg.MUTED)
        axes.set_ylim(*vertical)
        svg.set_ticks(axes, "y", ticks)
        first, last = min(rounds), max(rounds)
        around = 0.03 * (last - first) or 0.5
        axes.set_xlim(first - around, last + around)
        across = svg.ticks_between(first, last, whole=True)
        axes.set_xticks(list(across), list(across.values()), size=svg.SMALL)
        paper.write(0, 8, svg.shorten(quantity, svg.WIDTH))
        paper.write(left + (svg.WIDTH - left) / 2, top + height + 24, "round", ha="center")
        paper.explain(top + height + 36, handles)
        return paper.svg()


def draw_labels(hospitals: Mapping[str, tuple[int, int]], *, positive: str, negative: str) -> str:
    """Class balance: one stacked bar per hospital of its patients with and without the label."""
    shown, more = svg.first_of(hospitals, MAX_ROWS)
    with_label, without = ([counts[part] for counts in shown.values()] for part in (0, 1))
    totals = [sum(counts) for counts in shown.values()]
    bars = {
        name: (float(total), f"{short_percent(shown[name][0] / total)} % of {short_number(total)}" if total else "none")
        for name, total in zip(shown, totals, strict=True)
    }
    with _bars(bars, (0, max(totals) or 1), 8 + 2 * svg.ROW, more, "hospitals") as (paper, axes, left):
        places = range(len(shown))
        axes.barh(places, with_label, height=_BAR, color=svg.SERIES[1])
        pale: dict[str, Any] = {"facecolor": (svg.SHADE, 0.5), "edgecolor": svg.SERIES[0], "linewidth": 0.7}
        axes.barh(places, without, left=with_label, height=_BAR, **pale)
        full = {"facecolor": (svg.SERIES[1], 1.0), "edgecolor": "none", "linewidth": 0.7}
        for line, (text, style) in enumerate([(f"{positive}, in per cent of all", full), (negative, pale)]):
            swatch = paper.axes(left, 4 + svg.ROW * line, 10, 8)
            swatch.set_axis_off()
            swatch.bar([0], [1], width=1, **style)
            swatch.set_xlim(-0.5, 0.5)
            swatch.set_ylim(0, 1)
            paper.write(left + 16, 8 + svg.ROW * line, svg.shorten(text, svg.WIDTH - left - 20), color=svg.INK)
        return paper.svg()


def draw_importance(columns: Mapping[str, float], *, quantity: str) -> str:
    """Column importance: one bar per column, longest first, at most MAX_COLUMNS; undefined values come last."""
    ordered = sorted(columns.items(), key=lambda item: -item[1] if svg.is_shown(item[1]) else math.inf)
    shown, more = svg.first_of(dict(ordered), MAX_COLUMNS)
    values = [value if svg.is_shown(value) else 0.0 for value in shown.values()]
    bars = {
        name: (max(value, 0.0), short_number(value)) if svg.is_shown(value) else (0.0, "not defined")
        for name, value in shown.items()
    }
    low, high = min(0.0, *values), max(0.0, *values)
    with _bars(bars, (low, high if high > low else low + 1), 20.0, more, "columns") as (paper, axes, _):
        axes.barh(range(len(shown)), values, height=_BAR, color=svg.SERIES[0])
        axes.axvline(0, color=svg.MUTED, linewidth=0.8, clip_on=False)
        paper.write(0, 8, svg.shorten(quantity, svg.WIDTH))
        return paper.svg()


@contextmanager
def _bars(
    bars: Mapping[str, tuple[float, str]], limits: tuple[float, float], top: float, more: int, noun: str
) -> Iterator[tuple[svg.Canvas, "Axes", float]]:
    """A canvas, axes for bars, name -> end and the note behind it, and the left edge of the axes."""
    labels = [svg.shorten(name, _MAX_NAME_WIDTH) for name in bars]
    left = max(map(svg.text_width, labels)) + 8
    room = svg.WIDTH - left - max(svg.text_width(note) for _, note in bars.values()) - 8
    height = _BAR_ROW * len(labels)
    low, high = limits
    with svg.canvas(top + height + 8, more, noun) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_axis_off()
        axes.set_xlim(low, high)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        for place, (label, (end, note)) in enumerate(zip(labels, bars.values(), strict=True)):
            y = top + _BAR_ROW * (place + 0.5)
            paper.write(left - 8, y, label, ha="right", color=svg.INK)
            paper.write(left + room * (end - low) / (high - low) + 5, y, note)
        yield paper, axes, left


def draw_intervals(groups: Mapping[str, Mapping[str, Interval]], *, quantity: str, reference: float | None) -> str:
    """Dots with whiskers: one group per hospital, one row per training setup, and a vertical line at `reference`."""
    setups = list(dict.fromkeys(setup for figures in groups.values() for setup in figures))
    shown, more = svg.first_of(groups, MAX_ROWS)
    while len(shown) > 1 and sum(map(len, shown.values())) > MAX_ROWS:
        shown.popitem()
        more += 1
    names = {setup: svg.shorten(setup, _MAX_NAME_WIDTH) for setup in setups}
    left = max(map(svg.text_width, names.values()), default=0.0) + 14
    ends = [end for figures in shown.values() for interval in figures.values() for end in _ends(interval)]
    horizontal = svg.limits_of([*ends, reference])
    room, top, step = svg.WIDTH - left - 8, 6.0, 15.0
    height = sum(svg.ROW + 4 + step * len(figures) for figures in shown.values()) + 4
    with svg.canvas(top + height + 38, more, "hospitals") as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_ylim(height, 0)
        axes.set_xlim(*horizontal)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = svg.ticks_between(*horizontal)
        axes.set_xticks(list(ticks), list(ticks.values()), size=svg.SMALL)
        y = 0.0
        for hospital, figures in shown.items():
            title = svg.shorten(hospital, svg.WIDTH / svg.BOLD)
            paper.write(0, top + y + svg.ROW / 2 + 2, title, color=svg.INK, weight="bold")
            y += svg.ROW + 4
            # Vertical lines beside the rows only, where they do not cross a long name.
            axes.vlines(list(ticks), y, y + step * len(figures), color=svg.GRID, linewidth=0.8, zorder=1)
            if reference is not None:
                axes.vlines(reference, y, y + step * len(figures), color=svg.MUTED, linewidth=1.2, zorder=1)
            for setup, interval in figures.items():
                centre = y + step / 2
                paper.write(left - 8, top + centre, names[setup], ha="right")
                _draw_interval(axes, interval, centre, svg.look_of(setups.index(setup)))
                if not svg.is_shown(interval.value):
                    paper.write(left + 4, top + centre, "not defined", style="italic")
                y += step
        paper.write(left + room / 2, top + height + 26, svg.shorten(quantity, svg.WIDTH - left), ha="center")
        return paper.svg()


def _marked(values: Sequence[float | None], *, isolated_only: bool) -> list[int]:
    """Places of the values with a marker: those without a neighbour, which no line shows, and about 8 others."""
    shown, every = [False, *map(svg.is_shown, values), False], -(-len(values) // 8)
    return [
        place
        for place in range(len(values))
        if shown[place + 1] and ((place % every == 0 and not isolated_only) or not (shown[place] or shown[place + 2]))
    ]


def _ends(interval: Interval) -> list[float]:
    """The parts of an interval that can be drawn; nothing without a value."""
    ends = (interval.low, interval.value, interval.high) if svg.is_shown(interval.value) else ()
    return [end for end in ends if end is not None and svg.is_shown(end)]


def _draw_interval(axes: "Axes", interval: Interval, y: float, look: svg.Look) -> None:
    if interval.value is not None and (ends := _ends(interval)):
        axes.plot([min(ends), max(ends)], [y, y], color=look.color, linewidth=1.6, linestyle=look.dashes)
        axes.plot([interval.value], [y], color=look.color, marker=look.marker, markersize=5.5, ls="none", clip_on=False)
