"""Curves, decisions and explanations of a study's page for a label of 0 or 1."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from federated_health.ml.bootstrap import Resampled
from federated_health.ml.curves import CURVE_DRAWS, calibration_curve, roc_curve
from federated_health.ml.targets.binary import count_outcomes, probability
from federated_health.report import formatting, sections
from federated_health.report.page import Section
from federated_health.report.panels.binary import calibration_section, confusion_section, roc_section
from federated_health.studies.benefit.benefit_tables import SMALL
from federated_health.studies.benefit.comparison import Scores
from federated_health.studies.benefit.training_setups import TrainingSetup

READING = (
    "Accuracy, recall and specificity use each model's own threshold, which maximises F1 over its training patients. "
    "Perfect calibration has a slope of 1, an intercept of 0, and 1 observed per expected positive patient; a slope "
    "below 1 means that risks are too extreme, an intercept above 0 that they are too low."
)


def curves_and_decisions(scores: Scores, figures: Mapping[str, Any], seed: int) -> Iterator[Section]:
    """ROC and calibration curves, and confusion matrices, of the federated models."""
    yield _roc_curves(scores, figures, seed)
    yield _calibration(scores, figures)
    yield _decisions(scores)


def _roc_curves(scores: Scores, figures: Mapping[str, Any], seed: int) -> Section:
    """ROC curves of pairs within folds with bootstrap bands, for hospitals with a ROC-AUC."""
    federated, entries = TrainingSetup.FEDERATED, figures["hospitals"]
    has_auc = {name: entries[name]["models"][federated]["roc_auc"]["value"] is not None for name in scores.labels}
    places = {name: place for place, name in enumerate(scores.labels) if has_auc[name]}
    if not places:
        return Section("ROC curves", ["No hospital has patients of both classes in one fold."])
    drawn, more = sections.largest_panels(places, {name: len(scores.labels[name]) for name in places})
    curves = {}
    for name, place in drawn.items():
        resampled = Resampled.of(scores.labels[name], [seed, place], CURVE_DRAWS, scores.ids.get(name))
        outputs = scores.models[federated][name].outputs
        title = f"{name} *" if entries[name]["small"] else name
        curves[title] = roc_curve(outputs, resampled, scores.folds[name])
    lacking = formatting.list_some([name for name in scores.labels if name not in places], ", ")
    parts = [f"Without a curve, because no fold has patients of both classes: {lacking}."] if lacking else []
    parts += [more] if more else []
    parts += [SMALL] if any(entries[name]["small"] for name in drawn) else []
    caption = (
        "The federated model on each hospital's patients, mean over folds and repeats, so the area below a curve is "
        "the ROC-AUC of the tables; 95 % bootstrap bands at each point."
    )
    return roc_section(curves, caption, *([" ".join(parts)] if parts else []))


def _calibration(scores: Scores, figures: Mapping[str, Any]) -> Section:
    """Predicted risk against the observed share, of federated models."""
    federated = TrainingSetup.FEDERATED
    drawn, more = sections.largest_panels(scores.labels, {name: len(of) for name, of in scores.labels.items()})
    parts = {
        **{name: (scores.models[federated][name], drawn[name], figures["hospitals"][name]) for name in drawn},
        sections.ALL: (scores.all_rows(federated), scores.all_labels, figures["all"]),
    }
    curves, text = {}, []
    for name, (out_of_fold, labels, entry) in parts.items():
        risks = probability(out_of_fold.outputs)
        weights = np.full(risks.size, 1.0 / len(risks))
        curves[name] = calibration_curve(risks.ravel(), np.tile(labels, len(risks)), weights)
        metrics = entry["models"][federated]
        line = (f"{key} {formatting.figure(metrics[f'calibration_{key}'])}" for key in ("slope", "intercept"))
        text.append(f"{name}: {', '.join(line)}")
    caption = f"Held-out patients of all repeats, by the federated models. {more}".strip()
    alt = f"Calibration of the federated model. {formatting.list_some(text)}."
    return calibration_section(curves, caption, alt)


def _decisions(scores: Scores) -> Section:
    """Confusion matrices of the first repeat."""
    drawn, more = sections.largest_panels(scores.labels, {name: len(of) for name, of in scores.labels.items()})
    matrices = {}
    for name, labels in drawn.items():
        out_of_fold = scores.models[TrainingSetup.FEDERATED][name]
        risks = probability(out_of_fold.outputs[0])
        matrices[name] = count_outcomes(risks, labels, out_of_fold.thresholds[0]).matrix
    caption = f"Held-out patients of the first repeat, by the federated models at their own thresholds. {more}"
    return confusion_section(matrices, caption.strip())
