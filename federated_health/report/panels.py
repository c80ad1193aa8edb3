"""Charts with small panels, two per line, and the heat map, as SVG; see charts.py for what all charts share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.report import svg
from federated_health.report.formatting import MAX_ROWS, MINUS, short_number, short_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.floating[Any]]

_MAX_NAME_WIDTH = 104
_MIN_CELL_WIDTH, _MAX_CELL_WIDTH, _CELL_HEIGHT = 18.0, 24.0, 15.0  # of a heat map


def draw_roc(curves: Mapping[str, Curve]) -> str:
    """ROC curves: share of the negative that are called positive (x), share of the positive that are found (y)."""
    x_title = f"1 {MINUS} specificity: share of the negative called positive"
    with _unit_panels(curves, x_title, "sensitivity: share of the positive found") as (paper, panels):
        for axes, curve in panels:
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=svg.SERIES[0], alpha=0.22, linewidth=0)
            axes.plot(curve.x, curve.y, color=svg.SERIES[0], linewidth=1.8, marker="o" if len(curve.x) == 1 else None)
        return paper.svg()


def draw_calibration(curves: Mapping[str, CalibrationCurve]) -> str:
    """Predicted risk (x) and observed share (y) of each bin of patients; the more patients, the larger the point."""
    most = max((int(curve.patients.max(initial=0)) for curve in curves.values()), default=0) or 1
    y_title = "observed share; the larger a point, the more patients"
    with _unit_panels(curves, "predicted risk", y_title) as (paper, panels):
        for axes, curve in panels:
            shown = np.isfinite(curve.predicted) & np.isfinite(curve.observed) & (curve.patients > 0)
            x, y, patients = curve.predicted[shown], curve.observed[shown], curve.patients[shown]
            low, high = (np.where(np.isfinite(end[shown]), end[shown], y) for end in (curve.low, curve.high))
            axes.vlines(x, low, high, color=svg.SERIES[0], linewidth=1.2)
            axes.scatter(x, y, s=5 + 45 * patients / most, color=svg.SERIES[0], linewidth=0, clip_on=False, zorder=3)
        return paper.svg()


@contextmanager
def _unit_panels(
    curves: Mapping[str, Any], x_title: str, y_title: str
) -> Iterator[tuple[svg.Canvas, "list[tuple[Axes, Any]]"]]:
    """Square panels with both axes from 0 to 1 and the diagonal: one large panel, or small ones, two per line."""
    shown, more = svg.first_of(curves, svg.MAX_LINES)
    left, gap, right = 22.0, 26.0, 8.0
    side = (svg.WIDTH - left - right - gap) / 2 if len(shown) > 1 else 236.0
    top, step = 22.0, side + svg.ROW + 26
    bottom = top + step * -(-len(shown) // 2)
    with svg.canvas(bottom + 14, more) as paper:
        panels = []
        for place, (name, curve) in enumerate(shown.items()):
            x = left + place % 2 * (side + gap)
            y = top + place // 2 * step + svg.ROW
            paper.write(x, y - 8, svg.shorten(name, side / svg.BOLD), color=svg.INK, weight="bold")
            axes = paper.axes(x, y, side, side)
            axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.02)
            for axis in ("x", "y"):
                svg.set_ticks(axes, axis, {0.0: "0", 0.5: "0.5", 1.0: "1"})
            panels.append((axes, curve))
        paper.write(0, 8, f"↑ {y_title}")
        paper.write(left, bottom + 2, f"→ {x_title}")
        yield paper, panels


def draw_confusion(matrices: Mapping[str, Sequence[int]]) -> str:
    """Confusion matrices, name -> TN, FP, FN and TP: counts, and shares of the actual class."""
    shown, more = svg.first_of(matrices, svg.MAX_LINES)
    left, gap, width, height = 50.0, 60.0, 54.0, 38.0
    top, step = 4.0, 2 * height + 56
    with svg.canvas(top + step * -(-len(shown) // 2), more) as paper:
        for place, (name, counts) in enumerate(shown.items()):
            x = left + place % 2 * (2 * width + gap)
            y = top + place // 2 * step + svg.ROW
            paper.write(x, y - 7, svg.shorten(name, 2 * width / svg.BOLD), color=svg.INK, weight="bold")
            table = np.array(counts, dtype=np.float64).reshape(2, 2)
            actual = table.sum(axis=1, keepdims=True)
            shares = np.divide(table, actual, out=np.zeros_like(table), where=actual > 0)
            _draw_shades(paper.axes(x, y, 2 * width, 2 * height), shares)
            for (row, column), count in np.ndenumerate(table):
                across, down = x + (column + 0.5) * width, y + (row + 0.5) * height
                paper.write(across, down - 6, short_number(count), ha="center", color=svg.INK, size=svg.LARGE)
                if actual[row, 0]:
                    share = f"{short_percent(shares[row, column])} %"
                    paper.write(across, down + 8, share, ha="center", color=svg.INK, size=svg.TINY)
            for number, label in enumerate(("negative", "positive")):
                across, down = x + (number + 0.5) * width, y + (number + 0.5) * height
                paper.write(x - 5, down - 6, "actually", ha="right", size=svg.TINY)
                paper.write(x - 5, down + 5, label, ha="right", size=svg.TINY)
                paper.write(across, y + 2 * height + 8, "predicted", ha="center", size=svg.TINY)
                paper.write(across, y + 2 * height + 19, label, ha="center", size=svg.TINY)
        return paper.svg()


def draw_heat_map(rows: Sequence[str], columns: Sequence[str], shares: Floats) -> str:
    """A table of shares, in per cent and as shades; cells that were not released are hatched.

    Columns that do not fit beside each other go below.

    Args:
        shares: [rows, columns], from 0 to 1; NaN where not released.

    Raises:
        ValueError: nothing to draw, a shape that does not fit the names, or a share that is not from 0 to 1.
    """
    if shares.shape != (len(rows), len(columns)):
        raise ValueError(f"expected shares of shape {(len(rows), len(columns))}, got {shares.shape}")
    if not shares.size:
        raise ValueError("there is nothing to draw")
    if ((shares < 0) | (shares > 1)).any():
        raise ValueError("a share is not between 0 and 1")
    more, shares = max(0, len(rows) - MAX_ROWS), shares[:MAX_ROWS]
    names, titles = ([svg.shorten(name, _MAX_NAME_WIDTH) for name in group] for group in (rows[:MAX_ROWS], columns))
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
                        paper.write(x, y, short_percent(share), ha="center", color=svg.INK, size=svg.TINY)
            _draw_shades(paper.axes(left, top, width * len(block), body), shares[:, block])
            top += body + 8
        paper.write(left, top + 6, "numbers are per cent")
        if has_hidden:
            _draw_shades(paper.axes(left, top + svg.ROW, 16, 10), np.array([[np.nan]]))
            paper.write(left + 21, top + 5 + svg.ROW, "not released")
        return paper.svg()


def _draw_shades(axes: "Axes", shares: Floats) -> None:
    """One rectangle per cell, darker for a larger share and hatched for NaN; the first row on top."""
    from matplotlib.collections import PolyCollection  # noqa: PLC0415  # loaded for a drawing only: see svg.py
    from matplotlib.patches import Rectangle  # noqa: PLC0415  # slow to import, and used by drawings only

    axes.set_axis_off()
    axes.set_xlim(0, shares.shape[1])
    axes.set_ylim(shares.shape[0], 0)
    shaded = np.argwhere(shares > 0)
    corners = [[(x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1)] for y, x in shaded]
    shades = [(svg.SHADE, svg.DARKEST * shares[y, x]) for y, x in shaded]
    axes.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0), autolim=False)
    for row, column in np.argwhere(np.isnan(shares)):
        axes.add_artist(Rectangle((column, row), 1, 1, facecolor="none", hatch="/////", linewidth=0))
    for line in range(shares.shape[0] + 1):
        axes.axhline(line, color=svg.GRID, linewidth=0.8, clip_on=False)
    for line in range(shares.shape[1] + 1):
        axes.axvline(line, color=svg.GRID, linewidth=0.8, clip_on=False)
