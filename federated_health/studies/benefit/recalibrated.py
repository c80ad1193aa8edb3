"""The federated model recalibrated for each hospital, tested on patients to whom it was not fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.recalibration import Recalibration, fit_recalibration
from federated_health.ml.verdicts import Interval
from federated_health.studies.benefit.comparison import (
    FEDERATED,
    OWN,
    RECALIBRATED,
    RECALIBRATED_AGAINST_OWN,
    OutOfFold,
    Scores,
    judge_differences,
)


def add_recalibrated(scores: Scores) -> Scores:
    """The scores with those of the recalibrated model, if any hospital has enough patients to fit one.

    A hospital's recalibration for a fold is fitted to its out-of-fold scores of the other folds of the same repeat.
    Where they are too few, the federated model stays as it is. Its threshold is recalibrated, too, so decisions stay
    the same, as in `predict.py`.
    """
    recalibrated = {}
    for hospital, federated in scores.models[FEDERATED].items() if scores.target.has_threshold else ():
        outputs, thresholds = federated.outputs.copy(), federated.thresholds.copy()
        for repeat, folds in enumerate(scores.folds[hospital]):
            for fold in np.unique(folds):
                rows = folds == fold
                if fitted := _fit(scores, hospital, repeat, ~rows):
                    outputs[repeat, rows] = fitted.apply(federated.outputs[repeat, rows])
                    thresholds[repeat, rows] = fitted.apply_to_risks(federated.thresholds[repeat, rows])
        if (outputs != federated.outputs).any():
            recalibrated[hospital] = OutOfFold(outputs, thresholds)
    if not recalibrated:
        return scores
    return replace(scores, models={**scores.models, RECALIBRATED: {**scores.models[FEDERATED], **recalibrated}})


def _fit(scores: Scores, hospital: str, repeat: int, rows: npt.NDArray[np.bool_]) -> Recalibration | None:
    ids = scores.ids.get(hospital)
    outputs = scores.models[FEDERATED][hospital].outputs[repeat, rows]
    return fit_recalibration(outputs, scores.labels[hospital][rows], None if ids is None else ids[rows])


def describe_recalibration(scores: Scores, hospitals: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What recalibration changes: hospital -> `recalibration` of its entry; without hospitals of too few patients.

    Args:
        hospitals: name -> entry, as of `compare_models` of these scores.

    Returns:
        `intercept` and `slope` (None if it is 1) with intervals, fitted to all out-of-fold scores, as means over
        repeats, of those without a slope unless all have one; figures `before` and `after`, which are cross-fitted;
        and `comparisons` with the own model, by figure.
    """
    if RECALIBRATED not in scores.models:
        return {}
    judged = {
        figure: judge_differences(scores, hospitals, RECALIBRATED_AGAINST_OWN, figure)
        for figure in scores.target.comparisons
    }
    described = {}
    for name, entry in hospitals.items():
        every = np.ones(len(scores.labels[name]), dtype=np.bool_)
        lines = [_fit(scores, name, repeat, every) for repeat in range(len(scores.folds[name]))]
        known = [line for line in lines if line is not None]
        if len(known) < len(lines):
            continue
        # An intercept beside a slope means something else than one alone.
        shown = [line for line in known if line.slope is None] or known
        slopes = [line.slope for line in shown if line.slope is not None]
        before, after = (entry["models"][model] for model in (FEDERATED, RECALIBRATED))
        described[name] = {
            "intercept": _mean([line.intercept for line in shown]),
            "slope": _mean(slopes) if slopes else None,
            "before": _figures(before),
            "after": _figures(after),
            "comparisons": {
                figure: {"own": entry["models"][OWN][figure], "recalibrated": after[figure], **of_hospital[name]}
                for figure, of_hospital in judged.items()
            },
        }
    return described


def _mean(intervals: Sequence[Interval]) -> dict[str, float]:
    parts = [asdict(interval) for interval in intervals]
    return {key: float(np.mean([part[key] for part in parts])) for key in parts[0]}


def _figures(model: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of risks that recalibration changes."""
    names = ("log_loss", "calibration_slope", "calibration_intercept", "observed_expected")
    return {"brier": model["brier"]["value"], **{name: model[name] for name in names}}
