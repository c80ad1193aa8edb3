"""Parts of a study's page that are drawn from its scores and its rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from federated_health.ml.bootstrap import Resampled, rarer_class
from federated_health.ml.curves import CURVE_DRAWS, calibration_curve, roc_curve
from federated_health.ml.metrics import count_outcomes, probability
from federated_health.report.formatting import figure, list_some
from federated_health.report.page import Section, Text
from federated_health.report.sections import (
    ALL,
    calibration_section,
    confusion_section,
    first_panels,
    holdings_section,
    roc_section,
)
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.figures import Scores
from federated_health.studies.benefit.study import Results
from federated_health.studies.benefit.training_setups import Fit, Protocol, TrainingSetup


def roc_of_study(scores: Scores, seed: int) -> Section:
    """ROC curves of the out-of-fold scores with bootstrap bands; of hospitals with patients of both classes."""
    known = [name for name, labels in scores.labels.items() if rarer_class(labels) > 0]
    if not known:
        return Section(title="ROC curves", blocks=(Text(words="No hospital has patients of both classes."),))
    drawn, more = first_panels(known)
    curves = {}
    for place, (name, labels) in enumerate(scores.labels.items()):
        if name in drawn:
            resampled = Resampled.of(labels, [seed, place], CURVE_DRAWS)
            curves[name] = roc_curve(scores.ways[TrainingSetup.FEDERATED][name].log_odds, resampled)
    lacking = [name for name in scores.labels if name not in known]
    without = f"Without a curve, since all patients are of one class: {list_some(lacking, ', ')}." if lacking else ""
    words = " ".join(filter(None, [without, more]))
    caption = "The federated model on each hospital's patients, mean over repeats; 95 % bootstrap bands at each point."
    return roc_section(curves, caption, *([Text(words=words)] if words else []))


def calibration_of_study(scores: Scores, figures: Mapping[str, Any]) -> Section:
    """Predicted risk against the observed share, of federated models."""
    drawn, more = first_panels(scores.labels)
    rows = {**{name: figures["hospitals"][name] for name in drawn}, ALL: figures["all"]}
    curves, words = {}, []
    for name, one in rows.items():
        of = scores.of_all(TrainingSetup.FEDERATED) if name == ALL else scores.ways[TrainingSetup.FEDERATED][name]
        labels = scores.all_labels if name == ALL else scores.labels[name]
        risks = probability(of.log_odds)
        curves[name] = calibration_curve(
            risks.ravel(), np.tile(labels, len(risks)), np.full(risks.size, 1.0 / len(risks))
        )
        slope, intercept = (figure(one["models"][TrainingSetup.FEDERATED][f"calibration_{what}"]) for what in _LINE)
        words.append(f"{name}: slope {slope}, intercept {intercept}")
    caption = f"The federated model, all repeats together. {more}".strip()
    return calibration_section(curves, caption, f"Calibration of the federated model. {list_some(words)}.")


_LINE = ("slope", "intercept")


def confusion_of_study(scores: Scores) -> Section:
    """Who is predicted positive, rightly or wrongly, in the first repeat."""
    drawn, more = first_panels(scores.labels)
    matrices = {}
    for name in drawn:
        one = scores.ways[TrainingSetup.FEDERATED][name]
        decided = probability(one.log_odds[0]) >= one.thresholds[0]  # each patient at the threshold of their own fold
        matrices[name] = count_outcomes(decided.astype(np.float64), scores.labels[name]).matrix
    words = f"The federated models of the first repeat, each at its own threshold. {more}"
    return confusion_section(matrices, words.strip())


def holdings_of_study(cohort: Cohort) -> Section:
    """Label balance and missing cells of every hospital."""
    labels = {name: cohort.labels(name) for name in cohort.numbers}
    missing = [rows[list(cohort.task.column_names)].isna().mean().to_numpy() for rows in cohort.numbers.values()]
    return holdings_section(
        cohort.task,
        {name: (int(one.sum()), int(len(one) - one.sum())) for name, one in labels.items()},
        np.array(missing),
        names=list(labels),
        of_labels="All patients.",
        of_missing="All patients; zeros that stand for a missing value count as missing.",
    )


def importance_of_study(cohort: Cohort, protocol: Protocol, results: Results) -> dict[str, float]:
    """Mean over repeats of the rise of a patient's mean loss, by column; of the strategy that stands for joining."""
    weighed = [scored for fit, scored in results.items() if _stands_for_joining(fit, protocol)]
    sums = [np.array(one) for scored in weighed for one in scored.importance.values()]
    patients = sum(len(scored.scores[name]) for scored in weighed for name in scored.importance)
    return dict(zip(cohort.task.column_names, (np.sum(sums, axis=0) / patients).tolist(), strict=True))


def _stands_for_joining(fit: Fit, protocol: Protocol) -> bool:
    return fit.regime is TrainingSetup.FEDERATED and fit.subject == protocol.strategies[0]
