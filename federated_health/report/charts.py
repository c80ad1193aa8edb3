"""Charts with one row or one line per hospital, as SVG. Charts with panels are in panels.py.

Names are shown in the order given; beyond a limit they are counted. Each function raises ValueError if there is nothing
to draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from federated_health.ml.metrics import Interval
from federated_health.names import FEDERATION
from federated_health.report.formatting import MAX_ROWS, short_number, short_percent
from federated_health.report.svg import (
    BOLD,
    GRID,
    INK,
    MAX_LINES,
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
    set_ticks,
    shorten,
    text_width,
    ticks_between,
)

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
        rounds: round numbers in order.

    Raises:
        ValueError: nothing to draw, or a series that is not as long as `rounds`.
    """
    if any(len(values) != len(rounds) for values in series.values()):
        raise ValueError("a series does not have one value per round")
    hospitals = {name: values for name, values in series.items() if name != FEDERATION}
    shown, more = first_of(hospitals, MAX_LINES) if hospitals else first_of(series, 1)
    lines = [(name, values, look_of(place), False) for place, (name, values) in enumerate(shown.items())]
    if FEDERATION in series:
        lines = [line for line in lines if line[0] != FEDERATION]
        lines.append((FEDERATION, series[FEDERATION], Look(INK, "o", (0.0, ())), True))

    vertical = limits_of(value for _, values, _, _ in lines for value in values)
    ticks = ticks_between(*vertical)
    left = max(text_width(label) for label in ticks.values()) + 8
    top, height = 22, _PLOT_HEIGHT
    with canvas(top + height + 38 + legend_height([name for name, *_ in lines]) + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, WIDTH - left - 8, height)
        handles = {}
        for name, values, look, heavy in lines:
            (handles[name],) = axes.plot(
                list(rounds),
                [value if value is not None and is_shown(value) else float("nan") for value in values],
                color=look.color,
                linestyle=look.dashes,
                linewidth=2.6 if heavy else 1.3,
                zorder=4 if heavy else 3,
                marker=look.marker,
                markersize=4,
                markevery=_marked(values, isolated_only=heavy),
            )
        if not any(is_shown(value) for _, values, _, _ in lines for value in values):
            axes.text(0.5, 0.5, "no value in any round", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_ylim(*vertical)
        set_ticks(axes, "y", ticks)
        first, last = (min(rounds), max(rounds)) if rounds else (0, 1)
        around = 0.03 * (last - first) or 0.5
        axes.set_xlim(first - around, last + around)
        across = ticks_between(first, last, whole=True)
        axes.set_xticks(list(across), list(across.values()), size=SMALL)
        paper.write(0, 8, shorten(quantity, WIDTH))
        paper.write(left + (WIDTH - left) / 2, top + height + 24, "round", ha="center")
        paper.explain(top + height + 36, handles)
        paper.write_more(more, "hospitals")
        return paper.svg()


def draw_labels(hospitals: Mapping[str, tuple[int, int]], *, positive: str, negative: str) -> str:
    """Class balance: one stacked bar per hospital.

    Args:
        hospitals: name -> patients with and without the label.
        positive, negative: names of the two classes.
    """
    shown, more = first_of(hospitals, MAX_ROWS)
    with_label, without = ([counts[part] for counts in shown.values()] for part in (0, 1))
    totals = [sum(counts) for counts in shown.values()]
    notes = [
        f"{short_percent(count / total)} % of {short_number(total)}" if total else "none"
        for count, total in zip(with_label, totals, strict=True)
    ]
    with _bars(shown, totals, notes, (0, max(totals) or 1), 8 + 2 * ROW, more, "hospitals") as (paper, axes, left):
        places = range(len(shown))
        axes.barh(places, with_label, height=_BAR, color=SERIES[1])
        shade = (SHADE, 0.5)
        axes.barh(places, without, left=with_label, height=_BAR, facecolor=shade, edgecolor=SERIES[0], linewidth=0.7)
        legend = [(f"{positive}, in per cent of all", SERIES[1], 1.0), (negative, SHADE, 0.5)]
        for line, (text, color, alpha) in enumerate(legend):
            _draw_swatch(paper, left, 4 + ROW * line, color, alpha)
            paper.write(left + 16, 8 + ROW * line, shorten(text, WIDTH - left - 20), color=INK)
        return paper.svg()


def draw_importance(columns: Mapping[str, float], *, quantity: str) -> str:
    """Column importance: one bar per column, longest first, at most MAX_COLUMNS; undefined values come last.

    Args:
        columns: column -> importance; may be negative or NaN.
        quantity: what the values are, with their unit.
    """
    ordered = sorted(columns.items(), key=lambda item: (not is_shown(item[1]), -item[1] if is_shown(item[1]) else 0))
    shown, more = first_of(dict(ordered), MAX_COLUMNS)
    values = [value if is_shown(value) else 0.0 for value in shown.values()]
    notes = [short_number(value) if is_shown(value) else "not defined" for value in shown.values()]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    ends = [max(value, 0) for value in values]
    with _bars(shown, ends, notes, (low, high), 20.0, more, "columns") as (paper, axes, _):
        axes.barh(range(len(shown)), values, height=_BAR, color=SERIES[0])
        axes.axvline(0, color=MUTED, linewidth=0.8, clip_on=False)
        paper.write(0, 8, shorten(quantity, WIDTH))
        return paper.svg()


@contextmanager
def _bars(
    names: Mapping[str, object],
    ends: Sequence[float],
    notes: Sequence[str],
    limits: tuple[float, float],
    top: float,
    more: int,
    noun: str,
) -> Iterator[tuple[Canvas, "Axes", float]]:
    """A canvas with axes for horizontal bars, each with its name on the left and its note behind its end.

    Yields:
        The canvas, the axes, and the left edge of the axes.
    """
    labels = [shorten(name, _MAX_NAME_WIDTH) for name in names]
    left = max(map(text_width, labels)) + 8
    room = WIDTH - left - max(map(text_width, notes)) - 8
    height = _BAR_ROW * len(labels)
    low, high = limits
    with canvas(top + height + 8 + (ROW if more else 0)) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_axis_off()
        axes.set_xlim(low, high)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        for place, (label, end, note) in enumerate(zip(labels, ends, notes, strict=True)):
            y = top + _BAR_ROW * (place + 0.5)
            paper.write(left - 8, y, label, ha="right", color=INK)
            paper.write(left + room * (end - low) / (high - low) + 5, y, note)
        paper.write_more(more, noun)
        yield paper, axes, left


def draw_intervals(groups: Mapping[str, Mapping[str, Interval]], *, quantity: str, reference: float | None) -> str:
    """Dots with whiskers below each other: one group per hospital, one row per training setup.

    Args:
        groups: hospital -> training setup -> figure.
        quantity: what the figures are, with their unit.
        reference: where to draw a vertical line, such as 0 for differences.
    """
    setups = list(dict.fromkeys(setup for figures in groups.values() for setup in figures))
    shown, more = first_of(groups, MAX_ROWS)
    while len(shown) > 1 and sum(map(len, shown.values())) > MAX_ROWS:
        shown.popitem()
        more += 1
    names = {setup: shorten(setup, _MAX_NAME_WIDTH) for setup in setups}
    left = max(map(text_width, names.values()), default=0.0) + 14
    ends = [end for figures in shown.values() for interval in figures.values() for end in _ends(interval)]
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
            for setup, interval in figures.items():
                centre = y + step / 2
                paper.write(left - 8, top + centre, names[setup], ha="right")
                _draw_interval(axes, interval, centre, look_of(setups.index(setup)))
                if not is_shown(interval.value):
                    paper.write(left + 4, top + centre, "not defined", style="italic")
                y += step
        paper.write(left + room / 2, top + height + 26, shorten(quantity, WIDTH - left), ha="center")
        paper.write_more(more, "hospitals")
        return paper.svg()


def _marked(values: Sequence[float | None], *, isolated_only: bool) -> list[int]:
    """Places of the values with a marker: those without a neighbour, which no line shows, and about 8 others."""
    shown = [False, *map(is_shown, values), False]
    every = -(-len(values) // 8)
    return [
        place
        for place in range(len(values))
        if shown[place + 1] and ((place % every == 0 and not isolated_only) or not (shown[place] or shown[place + 2]))
    ]


def _ends(interval: Interval) -> list[float]:
    """The parts of an interval that can be drawn; nothing without a value."""
    if not is_shown(interval.value):
        return []
    return [end for end in (interval.low, interval.value, interval.high) if end is not None and is_shown(end)]


def _draw_interval(axes: "Axes", interval: Interval, y: float, look: Look) -> None:
    if interval.value is not None and (ends := _ends(interval)):
        axes.plot([min(ends), max(ends)], [y, y], color=look.color, linewidth=1.6, linestyle=look.dashes)
        axes.plot([interval.value], [y], color=look.color, marker=look.marker, markersize=5.5, ls="none", clip_on=False)


def _draw_swatch(paper: Canvas, left: float, top: float, color: str, alpha: float) -> None:
    axes = paper.axes(left, top, 10, 8)
    axes.set_axis_off()
    axes.bar([0], [1], width=1, facecolor=(color, alpha), edgecolor=SERIES[0] if alpha < 1 else "none", linewidth=0.7)
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(0, 1)
