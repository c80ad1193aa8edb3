"""The comparison of training setups: metrics, intervals and verdicts from out-of-fold scores.

The folds of one repeat together score every patient once, by a model that was not trained on that patient. Each metric
is computed on these concatenated scores; the result is its mean over repeats.

Models of different folds do not share an exact scale, so a concatenated ROC-AUC is slightly below the mean of the
folds' own: by 0.01 or less at the three larger heart hospitals, by about the same for every setup. Intervals treat the
trained models and their folds as fixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml import bootstrap
from federated_health.ml.bootstrap import DRAWS, Drawn, Resampled
from federated_health.ml.calibration import calibration
from federated_health.ml.metrics import Interval, Verdict, judge, probability
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.training_setups import EvaluationProtocol, TrainingSetup

POINT_ESTIMATES = ("average_precision", "accuracy", "brier", "calibration_slope", "calibration_intercept")
"""Metrics without an interval."""

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold scores of one model of every fold.

    Attributes:
        log_odds: [repeats, patients].
        thresholds: [repeats, patients], the probability from which the patient's model predicts positive.
    """

    log_odds: Array
    thresholds: Array


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a study.

    Attributes:
        labels: hospital -> [patients], 0 or 1.
        models: model -> hospital -> scores. A model is named for its training setup, or for its strategy if that is
            a further one.
    """

    labels: Mapping[str, Labels]
    models: Mapping[str, Mapping[str, OutOfFold]]

    @cached_property
    def all_labels(self) -> Labels:
        """Labels of all hospitals' patients, in the order of `labels`."""
        return np.concatenate(list(self.labels.values()))

    def all_patients(self, model: str) -> OutOfFold:
        """Scores of all hospitals' patients, in the order of `labels`."""
        parts = [self.models[model][hospital] for hospital in self.labels]
        return OutOfFold(
            np.concatenate([part.log_odds for part in parts], axis=1),
            np.concatenate([part.thresholds for part in parts], axis=1),
        )


def collect_scores(cohort: Cohort, protocol: EvaluationProtocol, results: Results) -> Scores:
    """The scores of every fit, at the positions of their rows."""
    labels = {name: cohort.labels(name) for name in cohort.tables}
    splits = {
        (repeat, fold): cohort.split(folds=protocol.folds, fold=fold, seed=protocol.settings.seed + repeat)
        for repeat in range(protocol.repeats)
        for fold in range(protocol.folds)
    }
    models: dict[str, dict[str, OutOfFold]] = {}
    for fit, result in results.items():
        is_further = fit.setup is TrainingSetup.FEDERATED and fit.subject != protocol.strategies[0]
        model = models.setdefault(fit.subject if is_further else fit.setup, {})
        for name, scores in result.scores.items():
            shape = (protocol.repeats, len(labels[name]))
            out_of_fold = model.setdefault(name, OutOfFold(np.full(shape, np.nan), np.full(shape, np.nan)))
            rows = splits[fit.repeat, fit.fold][name].test
            out_of_fold.log_odds[fit.repeat, rows] = scores
            out_of_fold.thresholds[fit.repeat, rows] = result.threshold
    return Scores(labels, models)


def compare_models(scores: Scores, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """Metrics, differences and verdicts as in evidence.json; None where undefined.

    Args:
        seed: seed of the bootstrap; every hospital has its own draws.
        draws: maximum number of bootstrap draws (see `affordable_draws`).

    Returns:
        `hospitals`: name -> `patients`, `positives`, `small`, `verdict`, `models`, `differences`.
        `mean`: `models` and `differences` as means over the hospitals in which a metric is defined for every model, and
            `small`, the number of those hospitals that are small.
        `all`: `patients`, `positives`, `models`, `differences` over all patients together.
        `models` holds ROC-AUC with its interval and POINT_ESTIMATES by model; `differences` the ROC-AUC of federated
        minus each other setup, and of each further strategy minus federated.
    """
    # The same number for every hospital, since their draws are concatenated.
    draws = bootstrap.affordable_draws(len(scores.all_labels), draws)
    hospitals: dict[str, Any] = {}
    times, all_aucs = [], []
    for place, (name, labels) in enumerate(scores.labels.items()):
        resampled = Resampled.of(labels, [seed, place], draws)
        times.append(resampled.times)
        models = {model: by_hospital[name] for model, by_hospital in scores.models.items()}
        aucs, summary = _compare(resampled, models)
        all_aucs += [aucs] if aucs else []
        difference = Interval(**summary["differences"]["federated_minus_own"])
        hospitals[name] = {
            "patients": len(labels),
            "positives": int(labels.sum()),
            "small": bootstrap.is_small(labels),
            "verdict": judge(difference) if bootstrap.can_judge(labels) else Verdict.UNDEFINED,
            **summary,
        }
    mean_aucs = {}
    for model in scores.models if all_aucs else ():
        values, drawn = zip(*(aucs[model] for aucs in all_aucs), strict=True)
        mean_aucs[model] = float(np.mean(values)), np.mean(drawn, axis=0)
    defined = [entry for entry in hospitals.values() if 0 < entry["positives"] < entry["patients"]]
    everyone = Resampled(scores.all_labels, np.concatenate(times))
    _, summary = _compare(everyone, {model: scores.all_patients(model) for model in scores.models})
    return {
        "hospitals": hospitals,
        "mean": {
            "small": sum(entry["small"] for entry in defined),
            **_summary(mean_aucs, _mean_point_estimates(hospitals)),
        },
        "all": {"patients": len(scores.all_labels), "positives": int(scores.all_labels.sum()), **summary},
    }


def _compare(patients: Resampled, models: Mapping[str, OutOfFold]) -> tuple[dict[str, Drawn], dict[str, Any]]:
    """ROC-AUC and its draws by model, empty where it is undefined; and all figures of these patients."""
    aucs = {model: patients.roc_auc(scores.log_odds) for model, scores in models.items() if patients.is_defined}
    return aucs, _summary(aucs, {model: _point_estimates(scores, patients.labels) for model, scores in models.items()})


def _summary(aucs: Mapping[str, Drawn], point_estimates: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """`models` and `differences` of one set of patients."""
    federated = TrainingSetup.FEDERATED
    others = (TrainingSetup.OWN, TrainingSetup.POOLED, TrainingSetup.LEAVE_ONE_OUT)
    strategies = [model for model in point_estimates if model not in [*TrainingSetup]]
    pairs = [*((federated, other) for other in others), *((strategy, federated) for strategy in strategies)]
    return {
        "models": {
            model: {"roc_auc": asdict(bootstrap.interval_of(*aucs[model]) if aucs else Interval()), **estimates}
            for model, estimates in point_estimates.items()
        },
        "differences": {
            f"{model}_minus_{other}": asdict(bootstrap.difference_of(aucs[model], aucs[other]) if aucs else Interval())
            for model, other in pairs
        },
    }


def _point_estimates(scores: OutOfFold, labels: Labels) -> dict[str, float | None]:
    """POINT_ESTIMATES as means over repeats."""
    from sklearn.metrics import average_precision_score  # noqa: PLC0415  # takes a second to import

    has_both_classes = bootstrap.rarer_class(labels) > 0
    risks = probability(scores.log_odds)
    fitted = [calibration(log_odds, labels) for log_odds in scores.log_odds]
    return {
        "average_precision": _mean(
            [float(average_precision_score(labels, log_odds)) for log_odds in scores.log_odds if has_both_classes]
        ),
        "accuracy": float(((risks >= scores.thresholds) == (labels == 1)).mean()),
        "brier": float(((risks - labels) ** 2).mean()),
        "calibration_slope": _mean([line.slope for line in fitted]),
        "calibration_intercept": _mean([line.intercept for line in fitted]),
    }


def _mean_point_estimates(hospitals: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """POINT_ESTIMATES by model: means over the hospitals in which all models have them, so that models compare."""
    tables = [hospital["models"] for hospital in hospitals.values()]
    means: dict[str, dict[str, float | None]] = {model: {} for model in tables[0]}
    for key in POINT_ESTIMATES:
        defined = [table for table in tables if all(model[key] is not None for model in table.values())]
        for model, estimates in means.items():
            estimates[key] = _mean([table[model][key] for table in defined])
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where there is no value, or one is undefined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
