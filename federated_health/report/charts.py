"""Charts of runs and studies as SVG. Names are shown in the order given.

`class_charts` and `quantity_charts` have those of labels of classes and quantities, `tradeoff` that of an audit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.ml.verdicts import Interval
from federated_health.names import FEDERATION
from federated_health.report import svg
from federated_health.report.formatting import MAX_ROWS, MINUS, first_of, short_number, short_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

MAX_COLUMNS = 20
_MAX_NAME_WIDTH = 112
BAR_HEIGHT = 0.62
MAX_CARDS = 6
"""Largest number of hospitals that are shown with more room: as cards, and as rows far apart."""
_TONE_MARKERS = {"good": "^", "mixed": "D", "bad": "v"}  # as the symbols of `page.SYMBOLS`
_GUIDE: dict[str, Any] = {"color": svg.MUTED, "linewidth": 0.9, "linestyle": (0, (3, 3))}
_BAR_ROW = 20.0
_MIN_CELL_WIDTH, _MAX_CELL_WIDTH, _CELL_HEIGHT = 26.0, 30.0, 18.0  # of a heat map


def draw_learning_curves(series: Mapping[str, Sequence[float | None]], *, quantity: str, rounds: Sequence[int]) -> str:
    """One line per hospital over the rounds, for the first MAX_LINES hospitals, and a thick one for the federation.

    A series has one value per round; None leaves a gap.
    """
    shown, more = first_of({name: values for name, values in series.items() if name != FEDERATION}, svg.MAX_LINES)
    looks = {name: svg.look_of(place) for place, name in enumerate(shown)}
    if FEDERATION in series:
        shown[FEDERATION], looks[FEDERATION] = series[FEDERATION], svg.Look(svg.INK, "o")
    vertical = svg.limits_of(value for values in shown.values() for value in values)
    ticks = svg.ticks_between(*vertical)
    left = max(map(svg.text_width, ticks.values())) + 8
    top, height = 22, 176
    with svg.canvas(top + height + 40 + svg.legend_height(len(shown)), more) as paper:
        axes = paper.axes(left, top, svg.WIDTH - left - 8, height)
        handles = {}
        for name, look in looks.items():
            values, heavy = np.array(shown[name], dtype=np.float64), name == FEDERATION
            (handles[name],) = axes.plot(
                rounds,
                values,
                color=look.color,
                linestyle=look.dashes,
                linewidth=2.6 if heavy else 1.3,
                zorder=4 if heavy else 3,
                marker=look.marker,
                markersize=4,
                markevery=_marked(values, isolated_only=heavy),
            )
        axes.set_ylim(*vertical)
        svg.set_ticks(axes, "y", ticks)
        first, last = min(rounds), max(rounds)
        around = 0.03 * (last - first) or 0.5
        axes.set_xlim(first - around, last + around)
        across = svg.ticks_between(first, last, whole=True)
        axes.set_xticks(list(across), list(across.values()))
        paper.write(0, 8, svg.shorten(quantity, svg.WIDTH))
        paper.write(left + (svg.WIDTH - left) / 2, top + height + 24, "round", ha="center")
        paper.explain(top + height + 36, handles)
        return paper.svg()


def _marked(values: Floats, *, isolated_only: bool) -> list[int]:
    """Positions of the values with a marker: those without a neighbour, which no line shows, and about 8 others."""
    shown = np.pad(~np.isnan(values), 1)
    marked = ~(shown[:-2] | shown[2:])
    if not isolated_only:
        marked[:: -(-len(values) // 8)] = True
    places: list[int] = np.flatnonzero(marked & shown[1:-1]).tolist()
    return places


def draw_labels(hospitals: Mapping[str, tuple[int, int]], *, positive: str, negative: str) -> str:
    """Class balance: one stacked bar per hospital, of its patients with and without the label."""
    shown, more = first_of(hospitals)
    with_label, without = zip(*shown.values(), strict=True)
    totals = {name: sum(counts) for name, counts in shown.items()}
    bars = {
        name: (total, f"{short_percent(shown[name][0] / total)} % of {short_number(total)}" if total else "none")
        for name, total in totals.items()
    }
    with bar_chart(bars, (0, max(totals.values()) or 1), 8 + 2 * svg.ROW, more) as (paper, axes, left):
        full: dict[str, Any] = {"facecolor": (svg.SERIES[1], 1.0)}
        pale: dict[str, Any] = {"facecolor": (svg.SHADE, 0.5), "edgecolor": svg.SERIES[0], "linewidth": 0.7}
        axes.barh(range(len(shown)), with_label, height=BAR_HEIGHT, **full)
        axes.barh(range(len(shown)), without, left=with_label, height=BAR_HEIGHT, **pale)
        for line, (text, style) in enumerate([(f"{positive}, as a percentage of all", full), (negative, pale)]):
            swatch = paper.axes(left, 4 + svg.ROW * line, 10, 8)
            swatch.set_axis_off()
            swatch.bar(0, 1, width=1, **style)
            swatch.margins(0)
            paper.write(left + 16, 8 + svg.ROW * line, svg.shorten(text, svg.WIDTH - left - 20), color=svg.INK)
        return paper.svg()


def draw_importance(columns: Mapping[str, float], *, quantity: str) -> str:
    """One bar per column, at most MAX_COLUMNS."""
    shown, more = first_of(columns, MAX_COLUMNS)
    low, high = min(0.0, *shown.values()), max(0.0, *shown.values())
    bars = {name: (max(value, 0.0), short_number(value)) for name, value in shown.items()}
    with bar_chart(bars, (low, high if high > low else low + 1), 2.0, more, "columns") as (paper, axes, _):
        axes.barh(range(len(shown)), list(shown.values()), height=BAR_HEIGHT, color=svg.SERIES[0])
        axes.axvline(0, color=svg.MUTED, linewidth=0.8, clip_on=False)
        return svg.flow([paper.svg()], above=quantity)


@contextmanager
def bar_chart(
    bars: Mapping[str, tuple[float, str]], limits: tuple[float, float], top: float, more: int, noun: str = "hospitals"
) -> Iterator[tuple[svg.Canvas, "Axes", float]]:
    """Canvas and axes of a bar chart, and the left edge of the axes.

    Args:
        bars: name -> end of its bar, and the note after it.
    """
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
    setups = list(next(iter(groups.values())))
    shown, more = first_of(groups, MAX_ROWS // len(setups))
    names = {setup: svg.shorten(setup, _MAX_NAME_WIDTH) for setup in setups}
    left = max(map(svg.text_width, names.values())) + 14
    intervals = [interval for figures in shown.values() for interval in figures.values()]
    horizontal = svg.limits_of([reference, *(end for part in intervals for end in (part.low, part.value, part.high))])
    room, top, step = svg.WIDTH - left - 8, 6.0, 17.0
    height = (svg.ROW + 4 + step * len(setups)) * len(shown) + 4
    with svg.canvas(top + height + 38, more) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_ylim(height, 0)
        axes.set_xlim(*horizontal)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = svg.ticks_between(*horizontal)
        axes.set_xticks(list(ticks), list(ticks.values()))
        y = 0.0
        for hospital, figures in shown.items():
            title = svg.shorten(hospital, svg.WIDTH / svg.BOLD)
            paper.write(0, top + y + svg.ROW / 2 + 2, title, color=svg.INK, weight="bold")
            y += svg.ROW + 4
            # Vertical lines beside the rows only, where they do not cross a long name.
            axes.vlines(list(ticks), y, y + step * len(setups), color=svg.GRID, linewidth=0.8, zorder=1)
            if reference is not None:
                axes.vlines(reference, y, y + step * len(setups), color=svg.MUTED, linewidth=1.2, zorder=1)
            for number, (setup, interval) in enumerate(figures.items()):
                paper.write(left - 8, top + y + step / 2, names[setup], ha="right")
                if interval.value is None or interval.low is None or interval.high is None:
                    paper.write(left + 4, top + y + step / 2, "not defined", style="italic")
                else:
                    look, middle = svg.look_of(number), y + step / 2
                    ends = [interval.low, interval.high]
                    axes.plot(ends, [middle] * 2, color=look.color, linewidth=1.6, linestyle=look.dashes)
                    dot: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 5.5}
                    axes.plot(interval.value, middle, linestyle="none", clip_on=False, **dot)
                y += step
        paper.write(left + room / 2, top + height + 26, svg.shorten(quantity, svg.WIDTH - left), ha="center")
        return paper.svg()


def draw_forest(rows: Mapping[str, tuple[Interval, str]], *, quantity: str, is_difference: bool = True) -> str:
    """Dots with whiskers: one row per hospital, by name with its tone.

    Args:
        rows: name -> figure, hollow if its interval is not known, and a tone of `svg.TONES` or another.
        is_difference: whether figures are differences of two models, above 0 where the federated one is better.
    """
    names = [svg.shorten(name, _MAX_NAME_WIDTH) for name in rows]
    left, step = max(map(svg.text_width, names)) + 10, 14.5
    if len(rows) <= MAX_CARDS:
        step = 30.0 if is_difference else 20.0
    zero = [0.0] if is_difference else []
    horizontal = svg.limits_of(
        [*zero, *(end for part, _ in rows.values() for end in (part.low, part.value, part.high))]
    )
    top, room, height = 22.0, svg.WIDTH - left - 8, step * len(rows) + 4
    with svg.canvas(top + height + (40 if is_difference else 22)) as paper:
        axes = paper.axes(left, top, room, height)
        axes.set_ylim(height, 0)
        axes.set_xlim(*horizontal)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        ticks = svg.ticks_between(*horizontal, most=4)
        axes.set_xticks(list(ticks), list(ticks.values()))
        for place, (name, (interval, tone)) in enumerate(zip(names, rows.values(), strict=True)):
            start, middle = 2 + step * place, 2 + step * (place + 0.5)
            paper.write(left - 10, top + middle, name, ha="right", color=svg.INK)
            if interval.value is None:
                paper.write(left + 4, top + middle, "too few patients", style="italic")
                continue
            # Vertical lines in rows with a figure only, where they do not cross words.
            axes.vlines(list(ticks), start, start + step, color=svg.GRID, linewidth=0.8, zorder=1)
            axes.vlines(zero, start, start + step, color=svg.MUTED, linewidth=1.2, zorder=1)
            color = svg.TONES.get(tone, svg.MUTED)
            marker, filling = _TONE_MARKERS.get(tone, "o"), "none"
            if interval.low is not None and interval.high is not None:
                axes.plot([interval.low, interval.high], [middle] * 2, color=color, linewidth=1.8)
                filling = color
            axes.plot(interval.value, middle, color=color, marker=marker, markersize=6, markerfacecolor=filling)
        paper.write(0, 8, svg.shorten(quantity, svg.WIDTH / svg.BOLD), color=svg.INK, weight="bold")
        if is_difference:
            words, y = ("\N{LEFTWARDS ARROW} own better", "federated better \N{RIGHTWARDS ARROW}"), top + height + 30
            middle = left + room * (0 - horizontal[0]) / (horizontal[1] - horizontal[0])
            edge = min(max(middle, svg.text_width(words[0]) + 6), svg.WIDTH - svg.text_width(words[1]) - 6)
            paper.write(edge - 6, y, words[0], ha="right")
            paper.write(edge + 6, y, words[1], ha="left")
        return paper.svg()


def draw_roc(curves: Mapping[str, Curve]) -> str:
    """ROC curves: false-positive rate (x) and sensitivity (y)."""

    def draw(axes: "Axes", curve: Curve) -> None:
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=svg.SERIES[0], alpha=0.22, linewidth=0)
        axes.plot(curve.x, curve.y, color=svg.SERIES[0], linewidth=1.8)

    x_title = f"1 {MINUS} specificity: share of negatives predicted positive"
    return draw_panels(curves, draw, x_title, "sensitivity: share of positives found")


def draw_precision_recall(curves: Mapping[str, tuple[Curve, float]]) -> str:
    """Precision-recall curves: recall (x) and precision (y), with a line at the share of positives.

    Args:
        curves: name -> curve, and share of positives.
    """

    def draw(axes: "Axes", part: tuple[Curve, float]) -> None:
        curve, share = part
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.x, curve.low, curve.high, color=svg.SERIES[0], alpha=0.22, linewidth=0)
        axes.plot(curve.x, curve.y, color=svg.SERIES[0], linewidth=1.8)
        axes.plot((0, 1), (share, share), **_GUIDE)

    x_title = "recall (sensitivity): share of positives found"
    y_title = "precision: share of positives among those predicted positive"
    return draw_panels(curves, draw, x_title, y_title, has_diagonal=False)


def draw_calibration(curves: Mapping[str, CalibrationCurve]) -> str:
    """Predicted risk (x) and observed share (y) of each bin of patients; a larger point has more patients."""
    most = max(int(curve.patients.max()) for curve in curves.values())
    highest = max(max(curve.high.max(), curve.predicted.max()) for curve in curves.values())
    end = 1.0 if highest > 0.5 else float(np.ceil(10 * highest) / 10)  # risks of a rare outcome are all small

    def draw(axes: "Axes", curve: CalibrationCurve) -> None:
        axes.vlines(curve.predicted, curve.low, curve.high, color=svg.SERIES[0], linewidth=1.2)
        x, y, sizes = curve.predicted, curve.observed, 5 + 45 * curve.patients / most
        axes.scatter(x, y, s=sizes, color=svg.SERIES[0], linewidth=0, clip_on=False, zorder=3)

    titles = "predicted risk", "observed share; a larger point has more patients"
    return draw_panels(curves, draw, *titles, ends=(0.0, end))


def draw_panels(
    curves: Mapping[str, Any],
    draw: Callable[["Axes", Any], None],
    x_title: str,
    y_title: str,
    ends: tuple[float, float] = (0.0, 1.0),
    *,
    has_diagonal: bool = True,
) -> str:
    """Square panels with the same ends of both axes: one large panel, or small ones beside each other."""
    unit = ends == (0.0, 1.0)
    ticks = {0.0: "0", 0.5: "0.5", 1.0: "1"} if unit else svg.ticks_between(*ends, most=3)
    left, right, top = max(map(svg.text_width, ticks.values())) + 7, 6.0, svg.ROW + 6
    width = svg.PANEL if len(curves) > 1 else 260
    side = width - left - right
    around = 0.02 * (ends[1] - ends[0])
    drawings = []
    for name, curve in curves.items():
        with svg.canvas(top + side + 24, width=width) as paper:
            paper.write(0, 8, svg.shorten(name, width / svg.BOLD), color=svg.INK, weight="bold")
            axes = paper.axes(left, top, side, side)
            if has_diagonal:
                axes.plot(ends, ends, **_GUIDE)
            axes.set_xlim(ends[0] - around, ends[1] + around)
            axes.set_ylim(ends[0] - around, ends[1] + around)
            for axis in ("x", "y"):
                svg.set_ticks(axes, axis, ticks)
            draw(axes, curve)
            drawings.append(paper.svg())
    return svg.flow(drawings, above=f"↑ {y_title}", below=f"→ {x_title}")


def draw_confusion(matrices: Mapping[str, Sequence[int]]) -> str:
    """Confusion matrices, name -> TN, FP, FN and TP: counts, and shares of the actual class."""
    left, cell, height, top = 30.0, 54.0, 40.0, svg.ROW + 22
    drawings = []
    for name, counts in matrices.items():
        with svg.canvas(top + 2 * height + 6, width=svg.PANEL) as paper:
            paper.write(0, 8, svg.shorten(name, svg.PANEL / svg.BOLD), color=svg.INK, weight="bold")
            table = np.array(counts, dtype=np.float64).reshape(2, 2)
            actual = table.sum(axis=1, keepdims=True)
            shares = table / np.maximum(actual, 1)
            draw_shades(paper.axes(left, top, 2 * cell, 2 * height), shares)
            for (row, column), count in np.ndenumerate(table):
                across, down = left + (column + 0.5) * cell, top + (row + 0.5) * height
                paper.write(across, down - 7, short_number(count), ha="center", color=svg.INK, size=svg.LARGE)
                if actual[row, 0]:
                    share = f"{short_percent(shares[row, column])} %"
                    paper.write(across, down + 9, share, ha="center", color=svg.INK)
            for number, label in enumerate(("neg.", "pos.")):
                paper.write(left - 4, top + (number + 0.5) * height, label, ha="right")
                paper.write(left + (number + 0.5) * cell, top - 8, label, ha="center")
            drawings.append(paper.svg())
    return svg.flow(drawings, above="→ predicted negative, positive; ↓ actually negative, positive")


def draw_heat_map(rows: Mapping[str, Sequence[float]], columns: Sequence[str]) -> str:
    """A heat map of shares, as percentages and shades; NaN, for values that were not released, is hatched.

    Columns that do not fit side by side continue below.
    """
    shown, more = first_of(rows)
    shares = np.array(list(shown.values()), dtype=np.float64)
    names, titles = ([svg.shorten(name, _MAX_NAME_WIDTH) for name in group] for group in (shown, columns))
    left = max(map(svg.text_width, names)) + 6
    lines = -(-len(columns) // int((svg.WIDTH - left) / _MIN_CELL_WIDTH))
    across = -(-len(columns) // lines)
    width = min(_MAX_CELL_WIDTH, (svg.WIDTH - left) / across)
    blocks = [range(start, min(start + across, len(columns))) for start in range(0, len(columns), across)]
    heads = [max(svg.text_width(titles[column]) for column in block) + 10 for block in blocks]
    body = _CELL_HEIGHT * len(names)
    has_hidden = bool(np.isnan(shares).any())
    with svg.canvas(sum(heads) + (body + 8) * len(blocks) + svg.ROW * (1 + has_hidden), more) as paper:
        top = 0.0
        for block, head in zip(blocks, heads, strict=True):
            top += head
            centres = [left + (place + 0.5) * width for place in range(len(block))]
            for x, column in zip(centres, block, strict=True):
                paper.write(x, top - 5, titles[column], rotation=90, rotation_mode="anchor", color=svg.INK)
            for row, name in enumerate(names):
                y = top + (row + 0.5) * _CELL_HEIGHT
                paper.write(left - 6, y, name, ha="right", color=svg.INK)
                for x, share in zip(centres, shares[row, block], strict=True):
                    if not np.isnan(share):
                        paper.write(x, y, short_percent(share), ha="center", color=svg.INK)
            draw_shades(paper.axes(left, top, width * len(block), body), shares[:, block])
            top += body + 8
        paper.write(left, top + 6, "numbers are percentages")
        if has_hidden:
            draw_shades(paper.axes(left, top + svg.ROW, 16, 10), np.array([[np.nan]]))
            paper.write(left + 21, top + 5 + svg.ROW, "not released")
        return paper.svg()


def draw_shades(axes: "Axes", shares: Floats) -> None:
    """One rectangle per cell, darker for a larger share and hatched for NaN; the first row on top."""
    from matplotlib import collections, patches  # noqa: PLC0415  # slow to import, and used by drawings only

    axes.set_axis_off()
    axes.set_xlim(0, shares.shape[1])
    axes.set_ylim(shares.shape[0], 0)
    shaded = np.argwhere(shares > 0)
    corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in shaded]
    shades = [(svg.SHADE, svg.DARKEST * shares[y, x]) for y, x in shaded]
    axes.add_collection(collections.PolyCollection(corners, facecolors=shades, linewidths=0), autolim=False)
    for row, column in np.argwhere(np.isnan(shares)):
        axes.add_artist(patches.Rectangle((column, row), 1, 1, facecolor="none", hatch="/////", linewidth=0))
    for line in range(shares.shape[0] + 1):
        axes.axhline(line, color=svg.GRID, linewidth=0.8, clip_on=False)
    for line in range(shares.shape[1] + 1):
        axes.axvline(line, color=svg.GRID, linewidth=0.8, clip_on=False)
