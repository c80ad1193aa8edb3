"""Trade-off charts of costs and benefits: panels with a mark and a whisker per choice, as SVG."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from federated_health.ml.verdicts import Interval
from federated_health.report import svg

_HEIGHT = 104.0
_MAX_TICKS = 4


class Panel(NamedTuple):
    """One quantity of every choice, and a horizontal line at `reference`.

    Marks: choice -> its horizontal position and its quantity; None where undefined.
    """

    title: str
    marks: Mapping[str, tuple[float | None, Interval]]
    reference: float


def draw_tradeoff(panels: Sequence[Panel], *, across: str) -> str:
    """Panels, two per line, with the same horizontal scale; `across` names the quantity on it."""
    choices = list(dict.fromkeys(choice for panel in panels for choice in panel.marks))
    x_limits = svg.limits_of(x for panel in panels for x, _ in panel.marks.values())
    x_ticks = svg.ticks_between(*x_limits, most=_MAX_TICKS)
    y_limits = [
        svg.limits_of([panel.reference, *(end for _, mark in panel.marks.values() for end in vars(mark).values())])
        for panel in panels
    ]
    y_ticks = [svg.ticks_between(*limits, most=_MAX_TICKS) for limits in y_limits]
    left = max(svg.text_width(label) for ticks in y_ticks for label in ticks.values()) + 8
    width = (svg.WIDTH - 2 * left - 8) / 2
    step = svg.ROW + _HEIGHT + 30
    bottom = 4 + -(-len(panels) // 2) * step
    with svg.canvas(bottom + svg.ROW + svg.legend_height(len(choices))) as canvas:
        handles = {}
        for place, (panel, limits, ticks) in enumerate(zip(panels, y_limits, y_ticks, strict=True)):
            x, y = left + place % 2 * (width + left), 4 + place // 2 * step + svg.ROW
            canvas.write(x, y - 8, svg.shorten(panel.title, width / svg.BOLD), color=svg.INK, weight="bold")
            axes = canvas.axes(x, y, width, _HEIGHT)
            axes.set_xlim(*x_limits)
            axes.set_ylim(*limits)
            svg.set_ticks(axes, "x", x_ticks)
            svg.set_ticks(axes, "y", ticks)
            axes.axhline(panel.reference, color=svg.MUTED, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
            for choice, (position, mark) in panel.marks.items():
                number = choices.index(choice)
                look = svg.look_of(number)
                # Undefined values become NaN, which matplotlib does not draw.
                at, low, value, high = np.array([position, mark.low, mark.value, mark.high], dtype=np.float64)
                axes.plot([at, at], [low, high], color=look.color, linewidth=1.3, zorder=2)
                # The first choice's mark is larger and hollow, so that it is seen around another in the same place.
                (handles[choice],) = axes.plot(
                    [at],
                    [value],
                    color=look.color,
                    marker=look.marker,
                    markersize=9 if number == 0 else 5.5,
                    markerfacecolor="none" if number == 0 else look.color,
                    linestyle="none",
                    clip_on=False,
                    zorder=3,
                )
        canvas.write(svg.WIDTH / 2, bottom, svg.shorten(f"→ {across}", svg.WIDTH), ha="center")
        canvas.explain(bottom + svg.ROW, {choice: handles[choice] for choice in choices})
        return canvas.svg()
