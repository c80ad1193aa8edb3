"""Charts of a label of several classes as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federated_health.report import svg
from federated_health.report.charts import BAR_HEIGHT, Floats, bar_chart, draw_shades
from federated_health.report.formatting import first_of, short_number, short_percent

MAX_COUNTED_CLASSES = 6
"""Largest number of classes whose confusion matrices have room for counts, and of which every hospital has one."""

_MAX_NAME_WIDTH, _MAX_CELL_WIDTH = 80, 42.0
_PALE = 0.45  # opacity of classes whose colour an earlier class has, too


def draw_class_confusion(matrices: Mapping[str, NDArray[np.int64]], names: Mapping[int, str]) -> str:
    """Confusion matrices, [classes, classes]: a row per actual class, with counts and shares of that class.

    Args:
        names: code of each class -> its name in rows; columns have the codes.
    """
    titles = [svg.shorten(name, _MAX_NAME_WIDTH) for name in names.values()]
    has_counts = len(names) <= MAX_COUNTED_CLASSES
    left, height = max(map(svg.text_width, titles)) + 8, 32.0 if has_counts else 20.0
    width = min(_MAX_CELL_WIDTH, (svg.WIDTH - left - 2) / len(names))
    across, body, top = width * len(names), height * len(names), 2 * svg.ROW + 4
    drawings = []
    for name, matrix in matrices.items():
        with svg.canvas(top + body + 4, width=max(svg.PANEL, left + across + 2)) as paper:
            paper.write(0, 8, svg.shorten(name, paper.width / svg.BOLD), color=svg.INK, weight="bold")
            actual = matrix.sum(axis=1, keepdims=True)
            shares: Floats = matrix / np.maximum(actual, 1)
            draw_shades(paper.axes(left, top, across, body), shares)
            for number, (code, title) in enumerate(zip(names, titles, strict=True)):
                paper.write(left + (number + 0.5) * width, top - 8, str(code), ha="center")
                paper.write(left - 5, top + (number + 0.5) * height, title, ha="right")
            for (row, column), count in np.ndenumerate(matrix):
                if not actual[row, 0]:
                    continue
                centre, middle = left + (column + 0.5) * width, top + (row + 0.5) * height
                style: dict[str, Any] = {"ha": "center", "color": svg.INK}
                percent = short_percent(float(shares[row, column]))
                if has_counts:
                    paper.write(centre, middle - 7, short_number(float(count)), **style)
                    paper.write(centre, middle + 7, f"{percent} %", **style)
                else:
                    paper.write(centre, middle, percent, **style)
            drawings.append(paper.svg())
    what = "counts, and percentages of a row" if has_counts else "percentages of a row"
    return svg.flow(drawings, below=f"rows: actual class; columns: predicted; {what}")


def draw_class_balance(hospitals: Mapping[str, Sequence[int]], names: Sequence[str]) -> str:
    """Class balance: one stacked bar per hospital, with its patients of each class."""
    from matplotlib import patches  # noqa: PLC0415  # slow to import, and used by drawings only

    shown, more = first_of(hospitals)
    totals = {name: sum(counts) for name, counts in shown.items()}
    bars = {name: (total, short_number(total) if total else "none") for name, total in totals.items()}
    top = 6 + svg.legend_height(len(names))
    with bar_chart(bars, (0, max(totals.values()) or 1), top, more) as (paper, axes, _):
        ends, handles = np.zeros(len(shown)), {}
        for number, name in enumerate(names):
            color, is_repeated = svg.SERIES[number % len(svg.SERIES)], number >= len(svg.SERIES)
            style: dict[str, Any] = {
                "facecolor": (color, _PALE if is_repeated else 1.0),
                "edgecolor": color,
                "linewidth": 0.7,
            }
            counts = np.array([of_hospital[number] for of_hospital in shown.values()], dtype=np.float64)
            axes.barh(range(len(shown)), counts, left=ends, height=BAR_HEIGHT, **style)
            handles[name] = patches.Patch(**style)
            ends += counts
        paper.explain(0, handles)
        return paper.svg()
