"""The section with decision curves of runs and studies."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from federated_health.ml.decision_curves import (
    THRESHOLDS,
    DecisionCounts,
    counts_of_cells,
    last_threshold,
    merge_decisions,
    net_benefit,
)
from federated_health.report import svg
from federated_health.report.cells import Cell
from federated_health.report.formatting import figure, list_some
from federated_health.report.page import Block, Picture, Section
from federated_health.report.sections import figures_table, largest_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from federated_health.messages.content import Evaluation
    from federated_health.report.run_page import RunSummary

TITLE = "Decision curves"

READING = (
    "Treating from a risk of 10 % on means accepting 9 wrong treatments for 1 right one. Net benefit is the share "
    "of patients who are rightly treated, minus that of those who are wrongly treated, weighted accordingly. A model "
    "helps at thresholds where its curve is above both treating everybody and treating nobody (0). Choose the "
    "thresholds that matter before you look at the curve."
)

MODEL = "federated"
"""Name of the curve of a run."""

FINE_END = 0.4
"""End of the thresholds up to which each has a point; of more, every second one has."""

Curves = Mapping[str, Mapping[str, DecisionCounts]]
"""Hospital, or all together -> model -> counts; the first model is the federated one."""


def curves_of_run(evaluations: Mapping[str, "Evaluation"], everyone: str, *, are_patients: bool) -> tuple[Curves, str]:
    """Curves from released groups of scores, of each hospital that has both classes, and of all together.

    Of many hospitals only the largest have a curve of their own, as the sentence beside the curves then says.

    Args:
        evaluations: final evaluations by hospital, or of all together.
        are_patients: whether each row is a patient of its own.
    """
    none, counts = np.zeros((0, 3)), {}
    for name, evaluation in evaluations.items():
        cells = [evaluation.scores.get(of_class, none) for of_class in ("positives", "negatives")]
        tn, fp, fn, tp = evaluation.counts.matrix if evaluation.has_counts else (0, 0, 0, 0)  # type: ignore[attr-defined]  # of a binary label
        rows = (tp + fn, fp + tn) if evaluation.has_counts else None
        if (found := counts_of_cells(cells[0], cells[1], rows, are_patients=are_patients)) is not None:
            counts[name] = found
    drawn, which = largest_panels(counts, {name: int(of.rows) for name, of in counts.items()})
    curves = {name: {MODEL: of} for name, of in drawn.items()}
    if counts and everyone not in counts:
        curves[everyone] = {MODEL: merge_decisions(counts.values())}
    return curves, which


def sections_of_run(run: "RunSummary") -> Iterator[Section]:
    """Decision curves of a run without differential privacy; nothing for other labels than binary ones."""
    if run.task.label.kind != "binary" or run.config.privacy:
        return
    curves, which = curves_of_run(run.evaluations, run.everyone, are_patients=run.task.patient is None)
    notes = ["Held-out patients, spread evenly in their groups of scores."]
    notes += ["Classes were weighted, so risks are not calibrated, which costs net benefit."] * bool(
        run.config.class_weights
    )
    lacking = [] if which else [name for name in run.evaluations if name not in curves]
    notes += [which or f"Without a curve: {list_some(lacking, ', ')}."] if which or lacking else []
    yield from decision_sections(curves, " ".join(notes), run.everyone, _at_threshold(run))


def _at_threshold(run: "RunSummary") -> str:
    """The exact net benefit at the run's threshold; empty if no counts are known."""
    counts = [evaluation.counts for evaluation in run.evaluations.values() if evaluation.has_counts]
    threshold = run.config.threshold
    if not counts or threshold >= 1:
        return ""
    tn, fp, fn, tp = np.sum([of.matrix for of in counts], axis=0)  # type: ignore[attr-defined]  # of a binary label
    odds, rows = threshold / (1 - threshold), tn + fp + fn + tp
    benefit, everybody = net_benefit(tp, fp, rows, odds), net_benefit(tp + fn, tn + fp, rows, odds)
    return (
        f"At the run's threshold of {threshold} the net benefit is {figure(float(benefit))}; treating everybody gives "
        f"{figure(float(everybody))}."
    )


def decision_sections(curves: Curves, patients: str, everyone: str = "", text: str = "") -> Iterator[Section]:
    """Decision curves and net benefits at some thresholds; nothing if there are none.

    Args:
        patients: sentence that names the patients.
        everyone: name of all hospitals together in `curves`, by which the range of thresholds is chosen.
        text: further sentence.
    """
    if not curves:
        return
    widest = curves.get(everyone) or max(curves.values(), key=lambda models: next(iter(models.values())).rows)
    first = next(iter(widest.values()))
    end, models = last_threshold(first), list(widest)
    shown = [round(end * part / 4, 3) for part in (1, 2, 3)]
    places = [int(np.abs(THRESHOLDS - threshold).argmin()) for threshold in shown]
    rows = {name: _cells(of, places) for name, of in curves.items()}
    last = {everyone: rows.pop(everyone)} if everyone in rows else {}
    middle = places[1]
    alt = list_some(
        f"{name} {', '.join(f'{model} {figure(float(of.net_benefit[middle]))}' for model, of in models_of.items())}, "
        f"everybody {figure(float(next(iter(models_of.values())).treat_all[middle]))}"
        for name, models_of in curves.items()
    )
    lines = ["thick: the federated model", *(f"thin: {model}" for model in models[1:])]
    band = ", with 95 % intervals at each point" if first.band else ""
    caption = f"Net benefit by threshold{band}; {', '.join(lines)}; dashed: treating everybody. {patients}"
    blocks: list[Block] = [
        Picture(
            svg=draw_decision_curves(curves, end),
            alt=f"Decision curves. Net benefit at a threshold of {THRESHOLDS[middle]:g}: {alt}.",
            caption=caption,
        ),
        f"{READING} {text}".strip(),
        figures_table("Net benefit at some thresholds", rows, last=last),
    ]
    yield Section(TITLE, blocks)


def _cells(models: Mapping[str, DecisionCounts], places: list[int]) -> dict[str, Cell]:
    first = next(iter(models.values()))
    cells: dict[str, Cell] = {}
    for place in places:
        of_models = {model: float(of.net_benefit[place]) for model, of in models.items()}
        for name, value in {**of_models, "everybody": float(first.treat_all[place])}.items():
            cells[f"{name}, {THRESHOLDS[place]:g}"] = value
    return cells


def draw_decision_curves(curves: Curves, end: float) -> str:
    """Net benefit (y) by threshold (x) up to `end`: one large panel, or small ones with the same axes."""
    step = 2 if end > FINE_END else 1
    shown = (end >= THRESHOLDS) & (np.arange(1, len(THRESHOLDS) + 1) % step == 0)
    firsts = [next(iter(models.values())) for models in curves.values()]
    high = max(max(of.net_benefit[shown].max(), of.treat_all[shown].max(), 0.01) for of in firsts)
    low = -0.2 * high
    down, across = svg.ticks_between(low, high, most=4), svg.ticks_between(0.0, end, most=3)
    left, top = max(map(svg.text_width, down.values())) + 7, svg.ROW + 6
    width = svg.PANEL if len(curves) > 1 else 260.0
    drawings = []
    for name, models in curves.items():
        with svg.canvas(top + width - left + 24, width=width) as paper:
            paper.write(0, 8, svg.shorten(name, width / svg.BOLD), color=svg.INK, weight="bold")
            axes = paper.axes(left, top, width - left - 6, width - left - 6)
            axes.set_xlim(-0.02 * end, 1.02 * end)
            axes.set_ylim(low, 1.04 * high)
            svg.set_ticks(axes, "x", across)
            svg.set_ticks(axes, "y", down)
            _draw(axes, models, shown)
            drawings.append(paper.svg())
    return svg.flow(drawings, above="↑ net benefit", below="→ threshold: risk from which patients are treated")


def _draw(axes: "Axes", models: Mapping[str, DecisionCounts], shown: Any) -> None:
    x, first = THRESHOLDS[shown], next(iter(models.values()))
    axes.axhline(0, color=svg.MUTED, linewidth=0.9)
    axes.plot(x, first.treat_all[shown], color=svg.MUTED, linewidth=1.1, linestyle=(0, (3, 3)))
    if first.band:
        axes.fill_between(x, *(part[shown] for part in first.band), color=svg.SERIES[0], alpha=0.22, linewidth=0)
    for number, of in reversed(list(enumerate(models.values()))):
        look = svg.look_of(number)
        axes.plot(x, of.net_benefit[shown], color=look.color, linewidth=1.1 if number else 2.2)
