"""Panels of a label of 0 or 1."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import log
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import Task
from federated_health.ml.bootstrap import Resampled
from federated_health.ml.curves import (
    CURVE_DRAWS,
    CalibrationCurve,
    Curve,
    calibration_curve,
    precision_recall_curve,
    roc_curve,
)
from federated_health.ml.metrics import DEFAULT_THRESHOLD, MIN_CELL_SIZE
from federated_health.ml.microaggregates import spread_patients
from federated_health.ml.targets import ScoreGroups
from federated_health.ml.targets.binary import Counts, probability
from federated_health.ml.targets.binary_figures import RARE_FIGURES, is_rare
from federated_health.report import charts
from federated_health.report.formatting import figure, list_some, percent_of
from federated_health.report.page import Block, Caution, Picture, Section
from federated_health.report.panels import Panels
from federated_health.report.sections import largest_panels

Array = npt.NDArray[np.float64]
Classes = tuple[Array, Array]
"""Log-odds of positive and of negative patients."""

FROM_CELLS = (
    f"Scores leave a hospital only as averages over groups of at least {MIN_CELL_SIZE} patients of one class. The "
    "curves spread these patients evenly within their group. A class with fewer patients is left out."
)
_FROM_BINS = (
    f"Score groups of at least {MIN_CELL_SIZE} patients of one class were added up over all hospitals, in bins of "
    "log-odds. The curves spread these patients evenly around their bin."
)
BALANCED = (
    "Classes were weighted so that all count the same (--class-weight balanced). Predicted risks are therefore not "
    "calibrated: those of rare classes are too high."
)


class BinaryPanels(Panels):
    """What pages say and draw of a label of 0 or 1."""

    figures: ClassVar[tuple[str, ...]] = (
        "roc_auc",
        "brier",
        "accuracy",
        "precision",
        "recall",
        "specificity",
        "f1",
        "average_precision",
    )
    rare_figures: ClassVar[tuple[str, ...]] = (*RARE_FIGURES[1:], "accuracy")
    large_figures = MappingProxyType(
        {
            "roc_auc": "1 is perfect, 0.5 is guessing",
            "brier": "0 is perfect, 0.25 is a risk of 50 % for everybody",
        }
    )
    estimate = "the risk of"
    prediction: ClassVar[str] = "risk"
    compared_explained = (
        "ROC-AUC is the probability that the model gives a positive patient a higher risk than a negative one: 1 is "
        "perfect, 0.5 is guessing. The Brier score says how accurate risks are: it is the mean squared difference of "
        "risk and outcome, and less is better."
    )
    pooled_explained: ClassVar[str] = (
        "Over all patients together the ROC-AUC is too optimistic if hospitals differ in their share of positive "
        "patients: knowing the hospital alone then predicts part of the outcome. Look at the figures within hospitals "
        "first."
    )
    sent_sums: ClassVar[str] = (
        "the numbers of held-out patients predicted correctly and wrongly in either class, and the sums of their losses"
    )
    sent_groups: ClassVar[str] = (
        "the same counts, its ROC-AUC, and its scores of {scores}held-out patients as score groups of at least "
        f"{MIN_CELL_SIZE} patients of a class, each with their number, and mean and deviation of the scores"
    )

    def __init__(self, task: Task, **options: Any) -> None:
        super().__init__(task, **options)
        share = self.results.get(self.everyone, {}).get("prevalence")
        self.is_rare = is_rare(share)
        constant, loss, brier, slope, accuracy = "a risk of 50 % for every patient", log(2), 0.25, "", ""
        known = "" if share is None else f", {100 * share:.1f} %"
        if share is not None and self.is_rare:
            slope = "Calibration slope: 1 is ideal; below 1 risks are too extreme, above 1 not extreme enough. "
            accuracy = (
                f"; predicting {'nobody' if share < 0.5 else 'everybody'} positive gives {max(share, 1 - share):.3f}"
            )
            if 0 < share < 1:
                constant = f"the same risk for every patient, {100 * share:.1f} %,"
                loss, brier = -share * log(share) - (1 - share) * log(1 - share), share * (1 - share)
        self.loss_reference = f"{constant} gives {loss:.3f}"
        self.explained = (
            "Average precision: mean precision over all thresholds, weighted by the rise in recall; guessing gives the "
            f"share of positives{known}. {slope}Brier score: mean squared difference of risk and outcome; 0 is "
            f"perfect, and {constant} gives {brier:.3g}. Accuracy: share of patients predicted correctly{accuracy}."
        )

    @property
    def shown_figures(self) -> tuple[str, ...]:
        return self.rare_figures if self.is_rare else self.figures

    @property
    def decisions_explained(self) -> str:
        chosen = "" if self.threshold == DEFAULT_THRESHOLD else ", which gives the greatest F1 on all training patients"
        return (
            f"Predicted positive: a risk of at least {self.threshold}{chosen}. Recall is also called sensitivity, and "
            "precision the positive predictive value; F1 is their harmonic mean. Specificity: share of the negative "
            "patients who are predicted negative."
        )

    def describe_labels(self, summary: Mapping[str, Any]) -> str:
        return f", {summary['positives']:,} positive"

    def curves(self, groups: Mapping[str, ScoreGroups]) -> Iterator[Section]:
        scores = {name: scores_of_classes(of, "positives", "negatives") for name, of in groups.items()}
        has_both = {name: part for name, part in scores.items() if all(map(len, part))}
        panels, more = largest_panels(has_both, {name: sum(map(len, part)) for name, part in has_both.items()})
        if scores and self.everyone not in scores:
            positives, negatives = (np.concatenate(parts) for parts in zip(*scores.values(), strict=True))
            if len(positives) and len(negatives):
                panels[self.everyone] = positives, negatives
        lacking = [name for name in scores if name not in has_both]
        without = f"Without a curve of its own: {list_some(lacking, ', ')}." if lacking else ""
        notes = [_FROM_BINS if self.are_bins else FROM_CELLS, without, more]
        precision_recall = self._precision_recall(panels)
        sections = [*curve_sections(self, panels, "Held-out patients", " ".join(filter(None, notes)))]
        yield from [*precision_recall, *sections] if self.is_rare else [*sections[:1], *precision_recall, *sections[1:]]

    def _precision_recall(self, classes: Mapping[str, Classes]) -> list[Section]:
        """Precision-recall curves by name of a panel; none if there are no panels."""
        if not classes:
            return []
        curves = {}
        for name, (positive, negative) in classes.items():
            log_odds, labels = join_classes(positive, negative)
            drawn = Resampled.of(labels, [self.seed, *name.encode()], CURVE_DRAWS)
            curves[name] = precision_recall_curve(log_odds, drawn), len(positive) / len(labels)
        found = list_some((f"{name} {percent_of(float(of.y[50]))}" for name, (of, _) in curves.items()), ", ")
        picture = Picture(
            svg=charts.draw_precision_recall(curves),
            alt=f"Precision-recall curves. Precision where half of the positives are found: {found}.",
            caption="Held-out patients, with 95 % bootstrap bands at each point. The dashed line is guessing.",
        )
        return [Section("Precision-recall curves", [picture])]

    def decisions(self, sums: Mapping[str, Counts], caption: str) -> Iterator[Section]:
        caption = f"{caption} Predicted positive: a risk of at least {self.threshold}."
        yield confusion_section({name: part.matrix for name, part in sums.items()}, caption)

    def holdings(self, sums: Mapping[str, Counts], patients: str) -> list[Block]:
        label = self.task.label
        labels = {name: (part.positives, part.examples - part.positives) for name, part in sums.items()}
        counts = (f"{name}: {ill} with and {well} without" for name, (ill, well) in labels.items())
        picture = Picture(
            svg=charts.draw_labels(labels, positive=f"{label.name} = 1", negative=f"{label.name} = 0"),
            alt=f"Patients with and without {label.name}. {list_some(counts)}",
            caption=f"{label.name} = 1: {label.meaning}. {patients}",
        )
        return [picture]


def scores_of_classes(groups: ScoreGroups, positives: str, negatives: str) -> Classes:
    """Log-odds of the patients in two of the groups, as far as they were released."""
    none = np.zeros((0, 3))
    return spread_patients(groups.get(positives, none)), spread_patients(groups.get(negatives, none))


def curve_sections(panels: Panels, classes: Mapping[str, Classes], patients: str, note: str) -> Iterator[Section]:
    """ROC and calibration curves by name of a panel; nothing if there are none.

    Args:
        patients: whose curves these are.
        note: follows the ROC curves.
    """
    if not classes:
        return
    rocs, calibrations = {}, {}
    for name, (positive, negative) in classes.items():
        log_odds, labels = join_classes(positive, negative)
        rocs[name] = roc_curve(log_odds, Resampled.of(labels, [panels.seed, *name.encode()], CURVE_DRAWS))
        calibrations[name] = calibration_curve(probability(log_odds), labels)
    yield roc_section(rocs, f"{patients}, with 95 % bootstrap bands at each point.", note)
    bins = list_some(
        f"{name}: predicted {', '.join(map(percent_of, curve.predicted))}, "
        f"observed {', '.join(map(percent_of, curve.observed))}"
        for name, curve in calibrations.items()
    )
    alt = f"Mean predicted risk and observed share of each bin of patients. {bins}."
    rest = [*_describe_slopes(panels, classes), *([Caution(BALANCED)] if panels.balanced else [])]
    source = "bins" if panels.are_bins else "groups"
    yield calibration_section(calibrations, f"{patients}, from the same {source}.", alt, *rest)


def join_classes(positive: Array, negative: Array) -> tuple[Array, Array]:
    """Log-odds of all patients, and their labels."""
    return np.concatenate([positive, negative]), np.repeat([1.0, 0.0], [len(positive), len(negative)])


def _describe_slopes(panels: Panels, names: Iterable[str]) -> Iterator[Block]:
    """Calibration slope and intercept of each panel, where they are known."""
    known = {name: of for name in names if (of := panels.results.get(name, {})).get("calibration_slope") is not None}
    if known:
        text = list_some(
            f"{name} {figure(of['calibration_slope'])} and {figure(of['calibration_intercept'])}"
            for name, of in known.items()
        )
        yield (
            f"Calibration slope and intercept: {text}. The slope is that of a logistic regression of the outcome on "
            "the log-odds of the predicted risk (Cox 1958); the intercept is that of the same with the slope at 1. "
            "Ideal are 1 and 0; a slope above 1 means that risks are not extreme enough, an intercept above 0 that "
            "they are too low."
        )


def roc_section(curves: Mapping[str, Curve], caption: str, *rest: Block) -> Section:
    """ROC curves and how to read them, then the `rest` of the section; the caption names the patients."""
    shares = {name: percent_of(float(np.interp(0.1, curve.x, curve.y))) for name, curve in curves.items()}
    found = list_some((f"{name} {share}" for name, share in shares.items()), ", ")
    picture = Picture(
        svg=charts.draw_roc(curves),
        alt=f"ROC curves. Sensitivity at a false-positive rate of 10 %: {found}.",
        caption=f"{caption} The dashed diagonal is guessing.",
    )
    return Section("ROC curves", [picture, *rest])


def calibration_section(curves: Mapping[str, CalibrationCurve], caption: str, alt: str, *rest: Block) -> Section:
    """Calibration curves and how to read them, then the `rest` of the section; the caption names the patients."""
    picture = Picture(
        svg=charts.draw_calibration(curves),
        alt=alt,
        caption=f"{caption} Predicted risk against the share of patients who are positive, in bins of about equal "
        "size, with 95 % Wilson intervals. On the diagonal, predicted risks are right; above it they are too low, "
        "below it too high.",
    )
    return Section("Calibration", [picture, *rest])


def confusion_section(matrices: Mapping[str, Sequence[int]], caption: str) -> Section:
    """Confusion matrices: name -> true negatives, false positives, false negatives, true positives."""
    alt = list_some(
        f"{name}: {tn} true negatives, {fp} false positives, {fn} false negatives, {tp} true positives"
        for name, (tn, fp, fn, tp) in matrices.items()
    )
    caption = f"{caption} Percentages are of the patients who are actually negative, or actually positive."
    picture = Picture(svg=charts.draw_confusion(matrices), alt=alt, caption=caption)
    return Section("Decisions at the threshold", [picture])
