"""What is gained against what it costs: panels with a mark and a whisker a choice, as SVG (svg.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from federated_health.ml.metrics import Interval
from federated_health.report.svg import (
    BOLD,
    INK,
    MUTED,
    ROW,
    WIDTH,
    canvas,
    is_shown,
    legend_height,
    limits_of,
    look_of,
    set_ticks,
    shorten,
    text_width,
    ticks_between,
)

_SIDE = 104.0
_TICKS = 4


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity of every choice.

    Attributes:
        title: what is drawn upwards.
        marks: choice -> its place across and its figure upwards; None where it has none.
        reference: where a horizontal line is drawn.
    """

    title: str
    marks: Mapping[str, tuple[float | None, Interval]]
    reference: float


def draw_tradeoff(panels: Sequence[Panel], *, across: str) -> str:
    """Panels, two in a line, with the same scale across.

    Args:
        across: what is drawn across in all of them.

    Raises:
        ValueError: there is nothing to draw.
    """
    choices = list(dict.fromkeys(choice for panel in panels for choice in panel.marks))
    if not choices:
        raise ValueError("there is nothing to draw")
    horizontal = limits_of(x for panel in panels for x, _ in panel.marks.values())
    x_ticks = ticks_between(*horizontal, most=_TICKS)
    limits = [limits_of([panel.reference, *_ends(panel)]) for panel in panels]
    y_ticks = [ticks_between(*ends, most=_TICKS) for ends in limits]
    left = max(text_width(label) for ticks in y_ticks for label in ticks.values()) + 8
    width = (WIDTH - 2 * left - 8) / 2
    step = ROW + _SIDE + 30
    lines = -(-len(panels) // 2)
    with canvas(4 + lines * step + ROW + legend_height(choices)) as paper:
        handles = {}
        for place, (panel, vertical, ticks) in enumerate(zip(panels, limits, y_ticks, strict=True)):
            x, y = left + place % 2 * (width + left), 4 + place // 2 * step + ROW
            paper.write(x, y - 8, shorten(panel.title, width / BOLD), color=INK, weight="bold")
            axes = paper.axes(x, y, width, _SIDE)
            axes.set_xlim(*horizontal)
            axes.set_ylim(*vertical)
            set_ticks(axes, "x", x_ticks)
            set_ticks(axes, "y", ticks)
            axes.axhline(panel.reference, color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)), zorder=1)
            for choice, (along, one) in panel.marks.items():
                number = choices.index(choice)
                look = look_of(number)
                at = float("nan") if along is None else along
                shown = [end for end in (one.low, one.value, one.high) if end is not None and is_shown(end)]
                if shown:
                    axes.plot([at, at], [min(shown), max(shown)], color=look.color, linewidth=1.3, zorder=2)
                # An earlier mark is larger and hollow, so that it is seen around a later one in the same place.
                (handles[choice],) = axes.plot(
                    [at],
                    [float("nan") if one.value is None else one.value],
                    color=look.color,
                    marker=look.marker,
                    markersize=9 if number == 0 else 5.5,
                    markerfacecolor="none" if number == 0 else look.color,
                    linestyle="none",
                    clip_on=False,
                    zorder=3,
                )
        bottom = 4 + lines * step
        paper.write(WIDTH / 2, bottom, shorten(f"→ {across}", WIDTH), ha="center")
        paper.explain(bottom + ROW, {choice: handles[choice] for choice in choices})
        return paper.svg()


def _ends(panel: Panel) -> list[float]:
    return [
        end
        for _, one in panel.marks.values()
        for end in (one.low, one.value, one.high)
        if end is not None and is_shown(end)
    ]
