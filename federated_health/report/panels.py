"""Charts with a small panel a hospital or regime, two beside each other, and the heat map; as SVG (svg.py).

Of many names the first are shown, and the others counted. Each function raises ValueError where there is nothing to
draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.report.svg import (
    BOLD,
    DARKEST,
    GRID,
    INK,
    LARGE,
    MAX_LINES,
    MAX_ROWS,
    MINUS,
    MUTED,
    ROW,
    SERIES,
    SHADE,
    TINY,
    WIDTH,
    Canvas,
    canvas,
    first_of,
    number,
    percent,
    set_ticks,
    shorten,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.floating[Any]]

_NAMES = 104
"""The widest that names of rows may be, and the longest that those of columns may be."""
_NARROWEST, _WIDEST, _CELL_HEIGHT = 18.0, 24.0, 15.0
"""Cells of a heat map; columns beyond those that have room beside each other go below."""


def draw_roc(curves: Mapping[str, Curve]) -> str:
    """ROC curves: the share of the negative that are called positive (x) and the share of the positive found (y)."""
    axes_titles = (
        f"1 {MINUS} specificity: share of the negative called positive",
        "sensitivity: share of the positive found",
    )
    with _unit_panels(curves, axes_titles) as (paper, panels):
        for axes, band in panels:
            if band.low is not None and band.high is not None:
                axes.fill_between(band.x, band.low, band.high, color=SERIES[0], alpha=0.22, linewidth=0)
            axes.plot(band.x, band.y, color=SERIES[0], linewidth=1.8, marker="o" if len(band.x) == 1 else None)
        return paper.svg()


def draw_calibration(curves: Mapping[str, CalibrationCurve]) -> str:
    """Predicted risk (x) and observed share (y) of each bin of patients; the more patients, the larger the point."""
    most = max((int(one.patients.max(initial=0)) for one in curves.values()), default=0) or 1
    with _unit_panels(curves, ("predicted risk", "observed share; the larger a point, the more patients")) as (
        paper,
        panels,
    ):
        for axes, one in panels:
            there = np.isfinite(one.predicted) & np.isfinite(one.observed) & (one.patients > 0)
            x, y, patients = one.predicted[there], one.observed[there], one.patients[there]
            low, high = (np.where(np.isfinite(end[there]), end[there], y) for end in (one.low, one.high))
            axes.vlines(x, low, high, color=SERIES[0], linewidth=1.2)
            axes.scatter(x, y, s=5 + 45 * patients / most, color=SERIES[0], linewidth=0, clip_on=False, zorder=3)
        return paper.svg()


def draw_confusion(matrices: Mapping[str, Sequence[int]]) -> str:
    """What was predicted of the patients of each actual class: counts, and shares of the class.

    Args:
        matrices: name -> true negatives, false positives, false negatives, true positives.
    """
    shown, more = first_of(matrices, MAX_LINES)
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    left, gap, cell = 50.0, 60.0, (54.0, 38.0)
    top, step = 4.0, 2 * cell[1] + 56
    with canvas(top + step * lines + (ROW if more else 0)) as paper:
        for place, (name, counts) in enumerate(shown.items()):
            x = left + place % 2 * (2 * cell[0] + gap)
            y = top + place // 2 * step + ROW
            paper.write(x, y - 7, shorten(name, 2 * cell[0] / BOLD), color=INK, weight="bold")
            true_negatives, false_positives, false_negatives, true_positives = counts
            table = np.array([[true_negatives, false_positives], [false_negatives, true_positives]], dtype=np.float64)
            actual = table.sum(axis=1, keepdims=True)
            shares = np.divide(table, actual, out=np.zeros_like(table), where=actual > 0)
            axes = paper.axes(x, y, 2 * cell[0], 2 * cell[1])
            _shade(axes, shares)
            for (row, column), count in np.ndenumerate(table):
                centre = (x + (column + 0.5) * cell[0], y + (row + 0.5) * cell[1])
                paper.write(centre[0], centre[1] - 6, number(count), ha="center", color=INK, size=LARGE)
                if actual[row, 0]:
                    share = f"{percent(shares[row, column])} %"
                    paper.write(centre[0], centre[1] + 8, share, ha="center", color=INK, size=TINY)
            for row, word in enumerate(("negative", "positive")):
                across = y + (row + 0.5) * cell[1]
                paper.write(x - 5, across - 6, "actually", ha="right", size=TINY)
                paper.write(x - 5, across + 5, word, ha="right", size=TINY)
                down = x + (row + 0.5) * cell[0]
                paper.write(down, y + 2 * cell[1] + 8, "predicted", ha="center", size=TINY)
                paper.write(down, y + 2 * cell[1] + 19, word, ha="center", size=TINY)
        _say_more(paper, more)
        return paper.svg()


def draw_heat_map(rows: Sequence[str], columns: Sequence[str], shares: Floats) -> str:
    """A share in each cell, in per cent and as a shade; where it is not released, the cell is hatched.

    Args:
        shares: of shape (rows, columns), from 0 to 1; NaN where it is not released.

    Raises:
        ValueError: nothing to draw, a shape that does not fit the names, or what is not a share.
    """
    if shares.shape != (len(rows), len(columns)):
        raise ValueError(f"{shares.shape} shares of {len(rows)} rows and {len(columns)} columns")
    if not shares.size:
        raise ValueError("there is nothing to draw")
    if ((shares < 0) | (shares > 1)).any():
        raise ValueError("a share is not between 0 and 1")
    more = max(0, len(rows) - MAX_ROWS)
    shares = shares[:MAX_ROWS]
    names = [shorten(name, _NAMES) for name in rows[:MAX_ROWS]]
    left = max(map(text_width, names)) + 6
    lines = -(-len(columns) // int((WIDTH - left) / _NARROWEST))
    across = -(-len(columns) // lines)
    cell = min(_WIDEST, (WIDTH - left) / across)
    blocks = [range(start, min(start + across, len(columns))) for start in range(0, len(columns), across)]
    titles = [shorten(name, _NAMES) for name in columns]
    heads = [max(text_width(titles[column]) for column in block) + 10 for block in blocks]
    body = _CELL_HEIGHT * len(names)
    hidden = bool(np.isnan(shares).any())
    with canvas(sum(heads) + (body + 8) * len(blocks) + ROW * (1 + hidden + bool(more))) as paper:
        top = 0.0
        for block, head in zip(blocks, heads, strict=True):
            top += head
            for place, column in enumerate(block):
                x = left + (place + 0.5) * cell
                paper.write(x, top - 5, titles[column], rotation=90, rotation_mode="anchor", color=INK)
            for row, name in enumerate(names):
                y = top + (row + 0.5) * _CELL_HEIGHT
                paper.write(left - 6, y, name, ha="right", color=INK)
                for place, column in enumerate(block):
                    if not np.isnan(shares[row, column]):
                        words = percent(shares[row, column])
                        x = left + (place + 0.5) * cell
                        paper.write(x, y, words, ha="center", color=INK, size=TINY)
            axes = paper.axes(left, top, cell * len(block), body)
            _shade(axes, shares[:, block])
            top += body + 8
        paper.write(left, top + 6, "numbers are per cent")
        if hidden:
            _shade(paper.axes(left, top + ROW, 16, 10), np.array([[np.nan]]))
            paper.write(left + 21, top + 5 + ROW, "not released")
        _say_more(paper, more)
        return paper.svg()


class _Panels(NamedTuple):
    paper: Canvas
    panels: "list[tuple[Axes, Any]]"


@contextmanager
def _unit_panels(curves: Mapping[str, Any], titles: tuple[str, str]) -> Iterator[_Panels]:
    """Square panels with both axes from 0 to 1 and the diagonal; one large panel, or small ones, two in a line."""
    shown, more = first_of(curves, MAX_LINES)
    columns = min(2, len(shown))
    left, gap, right = 22.0, 26.0, 8.0
    side = (WIDTH - left - right - gap) / 2 if columns == 2 else 236.0
    top, step = 22.0, side + ROW + 26
    lines = -(-len(shown) // columns)
    height = top + step * lines + 14 + (ROW if more else 0)
    with canvas(height) as paper:
        panels = []
        for place, (name, curve) in enumerate(shown.items()):
            x = left + place % 2 * (side + gap)
            y = top + place // 2 * step + ROW
            paper.write(x, y - 8, shorten(name, side / BOLD), color=INK, weight="bold")
            axes = paper.axes(x, y, side, side)
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            for axis in ("x", "y"):
                set_ticks(axes, axis, {0.0: "0", 0.5: "0.5", 1.0: "1"})
            panels.append((axes, curve))
        paper.write(0, 8, f"↑ {titles[1]}")
        paper.write(left, top + step * lines + 2, f"→ {titles[0]}")
        _say_more(paper, more)
        yield _Panels(paper, panels)


def _shade(axes: "Axes", shares: Floats) -> None:
    """A rectangle a cell, darker for a larger share and hatched for NaN; the first row on top."""
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    axes.set_axis_off()
    axes.set_xlim(0, shares.shape[1])
    axes.set_ylim(shares.shape[0], 0)
    cells = [(row, column, share) for (row, column), share in np.ndenumerate(shares) if share > 0]
    corners = [[(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)] for row, column, _ in cells]
    shades = [(SHADE, DARKEST * share) for _, _, share in cells]
    axes.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0), autolim=False)
    for row, column in np.argwhere(np.isnan(shares)):
        axes.add_artist(Rectangle((column, row), 1, 1, facecolor="none", hatch="/////", linewidth=0))
    for line in range(shares.shape[0] + 1):
        axes.axhline(line, color=GRID, linewidth=0.8, clip_on=False)
    for line in range(shares.shape[1] + 1):
        axes.axvline(line, color=GRID, linewidth=0.8, clip_on=False)


def _say_more(paper: Canvas, more: int) -> None:
    if more:
        paper.write(WIDTH, paper.height - 6, f"and {more:,} more, not shown", ha="right", style="italic")
