"""Risks before and after each hospital's recalibration: figures, and calibration curves."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from federated_health.ml.curves import CalibrationCurve, calibration_curve
from federated_health.ml.recalibration import Recalibration
from federated_health.ml.targets.binary import probability
from federated_health.ml.verdicts import Interval
from federated_health.names import MODEL
from federated_health.report import svg
from federated_health.report.cells import Cell
from federated_health.report.charts import draw_panels
from federated_health.report.formatting import figure, list_some, number_of, percent_of
from federated_health.report.page import Block, Folded, Picture, Section
from federated_health.report.panels.binary import join_classes, scores_of_classes
from federated_health.report.sections import figures_table, largest_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from federated_health.ml.targets import Array
    from federated_health.report.run_page import RunSummary

CALIBRATION = "Calibration before and after recalibration"

TITLE = "Risks recalibrated at each hospital"

READING = (
    "The log-odds of a risk are multiplied by the factor, and then the number is added: above 0, the risks were too "
    "low for this hospital's patients. The factor is 1 unless its interval lies below 1, that is, unless the risks "
    "were clearly too extreme. Recalibration keeps the order of a hospital's patients, so its ROC-AUC stays the same. "
    "The model's threshold is recalibrated with the risks, so decisions stay the same, too. An ideal calibration slope "
    "is 1, an ideal intercept 0; both need 5 patients of each class."
)

Pair = tuple[CalibrationCurve, CalibrationCurve]
"""Calibration before and after."""


def sections_of_run(run: "RunSummary") -> Iterator[Section]:
    """The recalibrations of a run; nothing if no hospital sent one."""
    whose = f"{run.hospital}'s" if run.hospital else "each hospital's"
    rows = {name: _spread(evaluation.scores) for name, evaluation in run.evaluations.items()}
    yield from recalibration_sections(
        run.figures.get("joining", {}),
        {name: of for name, of in rows.items() if of is not None},
        fitted=f"fitted to {whose} own training {run.task.noun}, and measured on its held-out {run.task.noun}",
        use=f"python predict.py {MODEL} PATIENTS --site NAME applies it to new patients of that hospital.",
    )


def _spread(groups: Mapping[str, "Array"]) -> "tuple[Array, Array] | None":
    """Log-odds and labels of the patients in groups of scores; None without groups of both classes."""
    classes = scores_of_classes(groups, "positives", "negatives")
    return join_classes(*classes) if all(map(len, classes)) else None


def recalibration_sections(
    entries: Mapping[str, Mapping[str, Any]],
    patients: "Mapping[str, tuple[Array, Array]]",
    *,
    fitted: str,
    use: str = "",
) -> Iterator[Section]:
    """Figures before and after, and calibration curves of the hospitals whose scores are known.

    Args:
        entries: hospital -> its entry of `joining` in metrics.json; those without `recalibration` are left out.
        patients: hospital -> log-odds before and labels of its patients, each [rows].
        fitted: to which patients each was fitted, and on which it was measured, as the end of a sentence.
        use: sentence that says how to apply one.
    """
    known = {name: entry["recalibration"] for name, entry in entries.items() if entry.get("recalibration")}
    if not known:
        return
    brier = {name: (of["before"]["brier"], of["after"]["brier"]) for name, of in known.items()}
    blocks: list[Block] = [
        f"The federated model's risks, corrected for each hospital's patients: {fitted}.",
        f"{_summary(brier)} {use}".strip(),
        figures_table(
            "Recalibration of each hospital",
            {
                name: {
                    "added to the log-odds": Interval(**of["intercept"]),
                    "factor": Interval(**of["slope"]) if of["slope"] else "1",
                    "Brier score before": before,
                    "Brier score after": after,
                }
                for (name, of), (before, after) in zip(known.items(), brier.values(), strict=True)
            },
        ),
        *_curves(known, patients),
        Folded(
            "More figures, and how to read them",
            [figures_table(CALIBRATION, {name: _more(of) for name, of in known.items()}), READING],
        ),
    ]
    yield Section(TITLE, blocks)


def _summary(brier: Mapping[str, tuple[float, float]]) -> str:
    """At how many hospitals the Brier score falls, and where it changes most."""
    change = {name: round(after, 3) - round(before, 3) for name, (before, after) in brier.items()}
    better, worse = ([name for name, by in change.items() if sign * by > 0] for sign in (-1, 1))
    text = f"The Brier score falls at {len(better):,} of {number_of(len(brier), 'hospital')}"
    if better:
        most = min(better, key=change.__getitem__)
        text += f", most at {most}, from {figure(brier[most][0])} to {figure(brier[most][1])}"
    return f"{text}. It rises at {list_some(worse, ', ')}." if worse else f"{text}."


def _more(entry: Mapping[str, Any]) -> dict[str, Cell]:
    names = {"log_loss": "log-loss", "calibration_slope": "slope", "calibration_intercept": "intercept"}
    return {f"{title} {side}": entry[side][key] for key, title in names.items() for side in ("before", "after")}


def _curves(known: Mapping[str, Mapping[str, Any]], patients: "Mapping[str, tuple[Array, Array]]") -> Iterator[Picture]:
    pairs: dict[str, Pair] = {}
    shown = {name: patients[name] for name in known if name in patients}
    shown, which = largest_panels(shown, {name: len(labels) for name, (_, labels) in shown.items()})
    for name, (log_odds, labels) in shown.items():
        intercept, slope = known[name]["intercept"], known[name]["slope"]
        line = Recalibration(intercept=Interval(**intercept), slope=Interval(**slope) if slope else None)
        before, after = (calibration_curve(probability(of), labels) for of in (log_odds, line.apply(log_odds)))
        pairs[name] = before, after
    if not pairs:
        return
    alt = list_some(
        f"{name}: predicted before {_percentages(before.predicted)}, after {_percentages(after.predicted)}, observed "
        f"{_percentages(after.observed)}"
        for name, (before, after) in pairs.items()
    )
    yield Picture(
        svg=draw_pairs(pairs),
        title="Calibration before and after",
        alt=f"Mean predicted risk and observed share of each bin of patients. {alt}.",
        caption="Predicted risk against the share of patients who are positive, in bins of about equal size: hollow "
        f"before, filled with 95 % Wilson intervals after. On the diagonal, risks are right. {which}".strip(),
    )


def _percentages(shares: "Array") -> str:
    return ", ".join(map(percent_of, shares))


def draw_pairs(pairs: Mapping[str, Pair]) -> str:
    """Predicted risk (x) and observed share (y) of each bin of patients, before and after; one panel per hospital."""

    def draw(axes: "Axes", pair: Pair) -> None:
        before, after = pair
        axes.vlines(after.predicted, after.low, after.high, color=svg.SERIES[0], linewidth=1.2)
        axes.scatter(before.predicted, before.observed, s=22, facecolor="none", edgecolor=svg.MUTED, linewidth=1.2)
        axes.scatter(after.predicted, after.observed, s=22, color=svg.SERIES[0], linewidth=0, zorder=3)

    return draw_panels(pairs, draw, "predicted risk", "observed share of positives")
