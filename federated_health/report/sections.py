"""Sections that the pages of runs and of studies share, and the sentences that explain their figures."""

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np

from federated_health import __version__
from federated_health.data.tasks import Task
from federated_health.ml.curves import CalibrationCurve, Curve
from federated_health.ml.metrics import MIN_CLASS_SIZE, SMALL_CLASS, Interval, Verdict, verdict_text
from federated_health.report import charts, formatting
from federated_health.report.page import Block, Card, Cards, Caution, Picture, Section, Table
from federated_health.report.svg import MAX_LINES
from federated_health.settings import OPERATIONAL, Settings

T = TypeVar("T")

AUC = (
    "ROC-AUC is the probability that the model gives a positive patient a higher risk than a negative one: 1 is "
    "perfect, 0.5 is guessing."
)
VERDICT_RULE = (
    f"A hospital gains if the whole {formatting.INTERVAL} of the difference (federated minus own ROC-AUC) is above 0, "
    "and loses if all of it is below 0; otherwise there is no clear difference. There is no verdict if fewer than "
    f"{MIN_CLASS_SIZE} held-out patients are positive, or fewer than {MIN_CLASS_SIZE} negative. The interval is a "
    "bootstrap over the held-out patients, stratified by class, and paired: both models are compared on the same "
    "patients. It treats the two models as fixed: other training patients would have given other models."
)
POOLED_AUC = (
    "Over all patients together the ROC-AUC is too optimistic if hospitals differ in their share of positive patients: "
    "knowing the hospital alone then predicts part of the outcome. Look at the figures within hospitals first."
)
FIGURES_EXPLAINED = (
    "Accuracy: share of patients predicted correctly. Brier score: mean squared difference of risk and outcome; 0 is "
    "perfect, and 0.25 is what a risk of 50 % for every patient gives."
)
ALL = "all patients"  # name of the row or curve of all hospitals' patients together
MAX_PANELS = MAX_LINES - 1  # hospitals with a curve of their own, which leaves room for that of all together
_PACKAGES = ("flwr", "tensorflow", "keras", "numpy", "pandas", "scikit-learn")


def figures_table(
    caption: str,
    rows: Mapping[str, Mapping[str, str]],
    *,
    last: Mapping[str, Mapping[str, str]] | None = None,
    note: str = "",
    first: str = "hospital",
) -> Table:
    """A table with names in the `first` column and their figures in the others.

    It shows at most MAX_ROWS `rows`, the number of the others, and the `last` rows.
    """
    shown, more = formatting.first_of(rows)
    shown |= last or {}
    counted = f"And {more:,} more, not shown. " if more else ""
    columns = (first, *next(iter(shown.values())))
    cells = tuple((name, *row.values()) for name, row in shown.items())
    return Table(caption=caption, columns=columns, rows=cells, note=f"{counted}{note}".strip())


def verdict_cards(benefits: Mapping[str, Mapping[str, Any]], details: Mapping[str, str] | None = None) -> list[Block]:
    """Cards of the first MAX_ROWS hospitals, and the number of the others.

    Args:
        benefits: hospital -> its entry of `joining` in metrics.json.
        details: hospital -> text after its figures.
    """
    shown, more = formatting.first_of(benefits)
    cards = [_verdict_card(name, benefit, (details or {}).get(name, "")) for name, benefit in shown.items()]
    return [Cards(cards), *([f"And {formatting.number_of(more, 'more hospital')}, not shown."] if more else [])]


def _verdict_card(name: str, benefit: Mapping[str, Any], details: str) -> Card:
    verdict, difference, parts = benefit["verdict"], Interval(**benefit["difference"]), []
    if difference.value is not None:
        federated, own = formatting.figure(benefit["roc_auc"]["value"]), formatting.figure(benefit["own_roc_auc"])
        both = f"ROC-AUC {federated} with the federation, {own} with its own patients alone"
        parts.append(f"{both}; difference {formatting.with_interval(difference, signed=True)}.")
    parts += [details] if details else []
    if verdict == Verdict.UNDEFINED:
        parts.append(f"Fewer than {MIN_CLASS_SIZE} held-out patients are of one class: too few for a verdict.")
    elif benefit["small"]:
        few = f"Fewer than {SMALL_CLASS} held-out patients are of one class"
        parts.append(f"{few}: one patient more or less would change these figures considerably.")
    parts += [f"Problem in this run: {text}" for text in benefit.get("data_warnings", ())]
    tone = "good" if verdict == Verdict.GAINS else "bad" if verdict == Verdict.LOSES else "neutral"
    return Card(name=name, verdict=verdict_text(verdict), tone=tone, text=" ".join(parts))


def roc_section(curves: Mapping[str, Curve], caption: str, *rest: Block) -> Section:
    """ROC curves and how to read them, then the `rest` of the section; the caption names the patients."""
    shares = {name: formatting.percent_of(float(np.interp(0.1, curve.x, curve.y))) for name, curve in curves.items()}
    found = formatting.list_some((f"{name} {share}" for name, share in shares.items()), ", ")
    picture = Picture(
        svg=charts.draw_roc(curves),
        alt=f"ROC curves. Sensitivity at a false-positive rate of 10 %: {found}.",
        caption=f"{caption} The dashed diagonal is guessing.",
    )
    return Section("ROC curves", [picture, *rest])


def calibration_section(curves: Mapping[str, CalibrationCurve], caption: str, alt: str) -> Section:
    """Calibration curves and how to read them; the caption names the patients."""
    picture = Picture(
        svg=charts.draw_calibration(curves),
        alt=alt,
        caption=f"{caption} Predicted risk against the share of patients who are positive, in bins of about equal "
        "size, with 95 % Wilson intervals. On the diagonal, predicted risks are right; above it they are too low, "
        "below it too high.",
    )
    return Section("Calibration", [picture])


def confusion_section(matrices: Mapping[str, Sequence[int]], caption: str) -> Section:
    """Confusion matrices: name -> true negatives, false positives, false negatives, true positives."""
    alt = formatting.list_some(
        f"{name}: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives"
        for name, (tn, fp, fn, tp) in matrices.items()
    )
    caption = f"{caption} Percentages are of the patients who are actually negative, or actually positive."
    picture = Picture(svg=charts.draw_confusion(matrices), alt=alt, caption=caption)
    return Section("Decisions at the threshold", [picture])


def first_panels(hospitals: Mapping[str, T]) -> tuple[dict[str, T], str]:
    """The hospitals that get a panel, and a sentence with the number of the others."""
    shown, more = formatting.first_of(hospitals, MAX_PANELS)
    return shown, f"Not drawn: {formatting.number_of(more, 'more hospital')}." if more else ""


def holdings_section(
    task: Task,
    labels: Mapping[str, tuple[int, int]],
    missing: Mapping[str, Sequence[float]],
    *,
    of_labels: str,
    of_missing: str,
) -> Section:
    """Class balance and missing values by hospital.

    Args:
        labels: hospital -> patients with and without the label.
        missing: hospital -> shares of the task's columns, from 0 to 1, NaN where not released; may be empty.
        of_labels, of_missing: sentences that name the patients, and what was not released.
    """
    label, counts = task.label, (f"{name}: {ill} with and {well} without" for name, (ill, well) in labels.items())
    balance = Picture(
        svg=charts.draw_labels(labels, positive=f"{label.name} = 1", negative=f"{label.name} = 0"),
        alt=f"Patients with and without {label.name}. {formatting.list_some(counts)}",
        caption=f"{label.name} = 1: {label.meaning}. {of_labels}",
    )
    blocks: list[Block] = [balance]
    if missing:
        most = formatting.list_some(f"{name}: {_mostly_missing(task, shares)}" for name, shares in missing.items())
        picture = Picture(
            svg=charts.draw_heat_map(missing, task.column_names),
            alt=f"Columns with at least half of their values missing, by hospital: {most}.",
            caption=f"Missing values, as percentages. {of_missing}",
        )
        blocks.append(picture)
    if meanings := {column.name: column.meaning for column in task.columns if column.meaning != column.name}:
        blocks.append(meanings)
    return Section("Data of each hospital", blocks)


def _mostly_missing(task: Task, shares: Sequence[float]) -> str:
    named = [(name, share) for name, share in zip(task.column_names, shares, strict=True) if not share < 0.5]
    columns = [f"{name} (not released)" if math.isnan(share) else name for name, share in named]
    return ", ".join(columns) or "no column mostly missing"


def importance_section(importance: Mapping[str, float], patients: str) -> Section:
    """Permutation importance (Breiman 2001, Fisher et al. 2019).

    Args:
        importance: column -> rise of the mean loss per patient, in nats.
        patients: sentence that names the patients, and the number of shuffles.
    """
    ordered = dict(sorted(importance.items(), key=lambda item: -item[1]))
    figures = ", ".join(f"{name} {formatting.figure(value)}" for name, value in ordered.items())
    picture = Picture(
        svg=charts.draw_importance(ordered, quantity="rise of the mean loss, nats per patient"),
        alt=f"Rise of the loss, largest first: {figures}",
        caption="Rise of the loss when a column's values are shuffled among the patients of a hospital "
        f"(permutation importance). {patients}",
    )
    reading = (
        "Below 0, a column misled the model on these patients. A column that most patients lack cannot matter much, "
        "and of two columns with the same information each alone matters little. A column that matters need not be a "
        "cause. A nat is the unit of the loss."
    )
    return Section("Which columns matter most", [picture, reading])


def settings_section(
    settings: Settings, others: Mapping[str, str], *, leave_out: frozenset[str] = frozenset()
) -> Section:
    """Everything needed to repeat the run or study: settings that apply, other facts, and versions."""
    applied = {
        name: "yes" if value is True else "no" if value is False else str(value) or formatting.NOT_DEFINED
        for name, value in settings.to_config().items()
        if name not in OPERATIONAL | leave_out
    }
    versions = {"federated-health": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    return Section("Settings, versions and hashes", [{**applied, **others}, versions])


def model_card(task: Task, hospitals: Sequence[str], extra: Sequence[str]) -> Section:
    """Intended use and limits (Mitchell et al. 2019); `extra` holds further limits."""
    shown = ", ".join(hospitals[:8]) + (f" and {len(hospitals) - 8:,} more" if len(hospitals) > 8 else "")
    use = (
        f"The model estimates the probability of: {task.label.meaning}. It is meant for learning about federated "
        f"learning and for comparing methods, on patients like those of the participating hospitals ({shown})."
    )
    limits = [
        "Patients of other hospitals, of another time or with other reasons to be examined may differ; the figures "
        "here do not hold for them.",
        "A predicted risk can be trusted only if the calibration of that hospital is good; see the curves.",
        "No figures by age, sex or other groups were computed: the model may be worse for some groups.",
        "Missing values are an input of their own. If a hospital starts or stops measuring something, the model is "
        "used on data that it was not trained on.",
        "Records that stay at the hospital do not guarantee privacy: weights and small aggregates can reveal something "
        "about their patients. The fewer patients, the more they reveal.",
        *extra,
    ]
    caution = Caution("Not a medical device. No decision about a patient may rest on it.")
    return Section("Intended use and limits", [use, caution, limits])
