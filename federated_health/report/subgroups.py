"""Sections with the figures of subgroups, and what differs clearly between groups."""

from collections.abc import Iterator, Mapping
from typing import Any

from federated_health.data.tasks import Task
from federated_health.ml.metrics import MIN_CELL_SIZE, figure_title
from federated_health.ml.subgroup_figures import COMPARED
from federated_health.ml.verdicts import MIN_CLASS_SIZE, SIGNIFICANCE, Interval
from federated_health.names import FEDERATION
from federated_health.report.cells import Cell
from federated_health.report.charts import draw_intervals
from federated_health.report.formatting import INTERVAL, capitalise, list_some, number_of, with_interval
from federated_health.report.page import Block, Picture, Section
from federated_health.report.sections import figures_table

TITLE = "Subgroups"

SHOWN = (*COMPARED, "calibration_intercept", "calibration_slope")
"""Figures in the table."""

DRAWN = ("roc_auc", "sensitivity", "specificity")
"""Figures in the picture: those between 0 and 1."""

READING = (
    "Sensitivity and specificity have Wilson intervals. The ROC-AUC is over pairs of patients of one hospital; like "
    f"observed/expected and calibration, it needs {MIN_CLASS_SIZE} patients of each class. Observed/expected above 1 "
    "and a calibration intercept above 0 mean that risks are too low. At one threshold, sensitivity is higher and "
    "specificity lower where risks are higher; so look at the ROC-AUC and at observed/expected, too."
)
CANCELLING = (
    "Observed/expected is that of all hospitals together, calibration a mean weighted by precision: opposite faults of "
    "hospitals cancel in them, so look at each hospital, too."
)
SUPPRESSION = (
    "A hospital whose data are not public sends nothing of a group with a count below its minimum cell "
    f"({MIN_CELL_SIZE} unless its policy says otherwise), nor of a group from which it could be computed."
)


def subgroup_sections(
    task: Task,
    figures: Mapping[str, Any],
    missing: str = "",
    *,
    everyone: str = FEDERATION,
    patients: str = "held-out",
) -> Iterator[Section]:
    """Figures of the task's subgroups; nothing if it declares none.

    Args:
        figures: of metrics.json or evidence.json; `subgroups` may be missing (see `summarise_subgroups`).
        missing: why there are none; empty if hospitals suppressed them.
        everyone: key of all hospitals together; where it is missing, the figures are of one hospital.
        patients: which patients were evaluated.
    """
    if not task.subgroups:
        return
    groups = figures.get("subgroups")
    if not groups:
        yield Section(TITLE, [f"Not known: {missing or 'every hospital suppressed them'}."])
        return
    hospitals = groups["hospitals"]
    shown = groups.get(everyone) or next(iter(hospitals.values()))
    rows = _by_group(shown)
    notes = [
        "hospitals: the number of those that have patients in it and sent figures." if everyone in groups else "",
        READING,
        CANCELLING if everyone in groups else "",
        SUPPRESSION if patients == "held-out" else "",
    ]
    blocks: list[Block] = [
        *_describe_differences(task, groups, shown),
        figures_table(
            f"Figures of subgroups, {patients} patients ({INTERVAL})",
            {name: _cells(of) for name, of in rows.items()},
            first="group",
            note=" ".join(filter(None, notes)),
        ),
        _draw(rows, patients),
    ]
    yield Section(TITLE, blocks)
    if everyone in groups:
        of_hospitals = {
            f"{hospital}, {name}": _cells(of)
            for hospital, columns in hospitals.items()
            for name, of in _by_group(columns).items()
            if of["rows"]
        }
        table = figures_table(
            f"Figures of subgroups by hospital ({INTERVAL})", of_hospitals, first="hospital and group"
        )
        yield Section(f"{TITLE} by hospital", [table], folded=True)


def _by_group(columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name of column and group -> figures."""
    return {f"{column}: {name}": of for column, groups in columns.items() for name, of in groups.items()}


def _cells(of: Mapping[str, Any]) -> dict[str, Cell]:
    numbers = {name: of[name] for name in ("rows", "positives", "hospitals") if name in of}
    return numbers | {figure_title(name): Interval(**of[name]) for name in SHOWN}


def _describe_differences(
    task: Task, groups: Mapping[str, Any], shown: Mapping[str, Mapping[str, Any]]
) -> Iterator[Block]:
    """One sentence per column and figure that differs clearly between groups, of the two groups furthest apart."""
    if not groups["comparisons"]:
        yield "Groups cannot be compared: there are too few patients in them."
        return
    widest: dict[tuple[str, str], tuple[float, str, str]] = {}
    for difference in groups["differences"]:
        column, figure, lower, higher = (difference[key] for key in ("column", "figure", "lower", "higher"))
        gap = shown[column][higher][figure]["value"] - shown[column][lower][figure]["value"]
        widest[column, figure] = max(widest.get((column, figure), (0.0, "", "")), (gap, lower, higher))
    meanings = {column.name: column.meaning for column in task.columns}
    sentences = []
    for (column, figure), (_, *pair) in widest.items():
        lower, higher = (f"{with_interval(Interval(**shown[column][name][figure]))} for {name}" for name in pair)
        sentences.append(
            f"{capitalise(figure_title(figure))} differs clearly by {meanings[column]}: {lower}, {higher}."
        )
    rule = (
        f"A difference is clear if its p-value, adjusted for all {number_of(groups['comparisons'], 'comparison')} of "
        f"two groups (Holm), is below {SIGNIFICANCE}."
    )
    if sentences:
        yield sentences
        yield rule
    else:
        yield f"No figure differs clearly between groups. {rule} Small groups can hide a difference."


def _draw(rows: Mapping[str, Mapping[str, Any]], patients: str) -> Picture:
    intervals = {figure_title(figure): {name: Interval(**of[figure]) for name, of in rows.items()} for figure in DRAWN}
    alt = list_some(
        f"{title}: {', '.join(f'{name} {with_interval(interval)}' for name, interval in of.items())}"
        for title, of in intervals.items()
    )
    caption = f"ROC-AUC, sensitivity and specificity of each group, {patients} patients, with {INTERVAL}s."
    return Picture(
        svg=draw_intervals(intervals, quantity="share", reference=None), alt=f"{caption} {alt}.", caption=caption
    )
