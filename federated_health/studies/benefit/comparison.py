"""The comparison of training setups: metrics, intervals and verdicts from out-of-fold scores.

The folds of one repeat together score every row once, by a model that was not trained on its patient. Each metric is
computed on these concatenated scores; the result is its mean over repeats.

Models of different folds do not share an exact scale, so a concatenated ROC-AUC is slightly below the mean of the
folds' own: by 0.01 or less at the three larger heart hospitals, by about the same for every setup. Intervals treat the
trained models and their folds as fixed.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.split import PatientIds
from federated_health.ml import bootstrap
from federated_health.ml.bootstrap import DRAWS, Drawn, Times
from federated_health.ml.metrics import DEFAULT_THRESHOLD
from federated_health.ml.targets import Target, target_of
from federated_health.ml.verdicts import Difference, Interval, Verdict, judge
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.estimates import estimate_names, mean_of, point_estimates
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.training_setups import EvaluationProtocol, TrainingSetup

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold scores of one model of every fold.

    Attributes:
        outputs: the networks' outputs, [repeats, rows], or [repeats, rows, outputs].
        thresholds: [repeats, rows], the probability from which the row's model predicts positive.
    """

    outputs: Array
    thresholds: Array


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a study.

    Attributes:
        target: of the task.
        labels: hospital -> [rows].
        models: model -> hospital -> scores. A model is named for its training setup, or for its strategy if that is
            a further one.
        ids: hospital -> number of each row's patient, [rows]; empty if each row is a patient of its own.
    """

    target: Target[Any]
    labels: Mapping[str, Labels]
    models: Mapping[str, Mapping[str, OutOfFold]]
    ids: Mapping[str, PatientIds] = field(default_factory=dict)

    @cached_property
    def all_labels(self) -> Labels:
        """Labels of all hospitals' rows, in the order of `labels`."""
        return np.concatenate(list(self.labels.values()))

    def labels_of_patients(self, hospital: str) -> Labels:
        """One label per patient of a hospital, [patients] (see `bootstrap.labels_of_patients`)."""
        return bootstrap.labels_of_patients(self.labels[hospital], self.ids.get(hospital))

    def all_rows(self, model: str) -> OutOfFold:
        """Scores of all hospitals' rows, in the order of `labels`."""
        parts = [self.models[model][hospital] for hospital in self.labels]
        return OutOfFold(
            np.concatenate([part.outputs for part in parts], axis=1),
            np.concatenate([part.thresholds for part in parts], axis=1),
        )


def collect_scores(cohort: Cohort, protocol: EvaluationProtocol, results: Results) -> Scores:
    """The scores of every fit, at the positions of their rows."""
    target, labels = target_of(cohort.task), {name: cohort.labels(name) for name in cohort.tables}
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
            shape, of_row = (protocol.repeats, len(labels[name])), (target.outputs,) if target.outputs > 1 else ()
            empty = OutOfFold(np.full((*shape, *of_row), np.nan), np.full(shape, np.nan))
            out_of_fold = model.setdefault(name, empty)
            rows = splits[fit.repeat, fit.fold][name].test
            out_of_fold.outputs[fit.repeat, rows] = scores
            out_of_fold.thresholds[fit.repeat, rows] = result.threshold
    return Scores(target, labels, models, cohort.ids)


def compare_models(scores: Scores, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """Metrics, differences and verdicts as in evidence.json; None where undefined.

    Args:
        seed: seed of the bootstrap; every hospital has its own draws.
        draws: maximum number of bootstrap draws (see `affordable_draws`).

    Returns:
        `hospitals`: name -> `patients` and `rows`, their numbers, a summary of the rows' labels, `small`, `verdict`,
            `models`, `differences`.
        `mean`: `models` and `differences` as means over the hospitals in which a figure is defined for every model, and
            `small`, the number of those hospitals that are small.
        `all`: `patients`, `rows`, a summary of the rows' labels, `models`, `differences` over all rows together.
        `models` holds the target's `compared` with its interval, and point estimates, by model; `differences` the
        difference of `compared` between federated and each other setup, and each further strategy and federated.
    """
    target = scores.target
    # The same number for every hospital, since their draws are concatenated.
    draws = bootstrap.affordable_draws(len(scores.all_labels), draws)
    hospitals: dict[str, Any] = {}
    times: list[Times] = []
    defined: dict[str, dict[str, Drawn]] = {}
    for place, (name, labels) in enumerate(scores.labels.items()):
        times.append(bootstrap.resample_patients(target.strata(labels), draws, [seed, place], scores.ids.get(name)))
        models = {model: by_hospital[name] for model, by_hospital in scores.models.items()}
        drawn, summary = _compare(target, labels, times[-1], models)
        defined |= {name: drawn} if drawn else {}
        difference = Difference(**summary["differences"][difference_name(target, TrainingSetup.OWN)])
        patients = scores.labels_of_patients(name)
        any_outputs = models[TrainingSetup.FEDERATED].outputs[0]  # it depends on labels only whether a sample is small
        hospitals[name] = {
            "patients": len(patients),
            "rows": len(labels),
            **target.summarise(labels),
            "small": target.measure(any_outputs[: len(patients)], patients, DEFAULT_THRESHOLD).is_small,
            "verdict": judge(difference) if target.can_compare(patients) else Verdict.UNDEFINED,
            **summary,
        }
    means = {}
    for model in scores.models if defined else ():
        values, drawn_values = zip(*(drawn[model] for drawn in defined.values()), strict=True)
        means[model] = float(np.mean(values)), np.mean(drawn_values, axis=0)
    everyone = {model: scores.all_rows(model) for model in scores.models}
    _, summary = _compare(target, scores.all_labels, np.concatenate(times), everyone)
    return {
        "hospitals": hospitals,
        "mean": {
            "small": sum(hospitals[name]["small"] for name in defined),
            **_summary(target, means, _mean_estimates(target, hospitals)),
        },
        "all": {
            "patients": sum(entry["patients"] for entry in hospitals.values()),
            "rows": len(scores.all_labels),
            **target.summarise(scores.all_labels),
            **summary,
        },
    }


def difference_name(target: Target[Any], other: str, model: str = TrainingSetup.FEDERATED) -> str:
    """Key of a difference that is above 0 where the model is better than the other."""
    return f"{other}_minus_{model}" if target.less_is_better else f"{model}_minus_{other}"


def _compare(
    target: Target[Any], labels: Labels, times: Times, models: Mapping[str, OutOfFold]
) -> tuple[dict[str, Drawn], dict[str, Any]]:
    """The compared figure and its draws by model, empty where it is undefined; and all figures of these rows."""
    drawn = {
        model: bootstrap.drawn_figure(target, target.compared, scores.outputs, labels, times)
        for model, scores in models.items()
        if target.is_defined(labels)
    }
    estimates = {
        model: point_estimates(target, scores.outputs, scores.thresholds, labels) for model, scores in models.items()
    }
    return drawn, _summary(target, drawn, estimates)


def _summary(
    target: Target[Any], drawn: Mapping[str, Drawn], estimates: Mapping[str, Mapping[str, float | None]]
) -> dict[str, Any]:
    """`models` and `differences` of one set of rows."""
    federated = TrainingSetup.FEDERATED
    others = (TrainingSetup.OWN, TrainingSetup.POOLED, TrainingSetup.LEAVE_ONE_OUT)
    strategies = [model for model in estimates if model not in [*TrainingSetup]]
    pairs = [*((federated, other) for other in others), *((strategy, federated) for strategy in strategies)]
    return {
        "models": {
            model: {target.compared: asdict(bootstrap.interval_of(*drawn[model]) if drawn else Interval()), **figures}
            for model, figures in estimates.items()
        },
        "differences": {
            difference_name(target, other, model): asdict(
                bootstrap.improvement_of(target.compared, drawn[model], drawn[other]) if drawn else Difference()
            )
            for model, other in pairs
        },
    }


def _mean_estimates(target: Target[Any], hospitals: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Point estimates by model: means over the hospitals in which all models have them, so that models compare."""
    tables = [hospital["models"] for hospital in hospitals.values()]
    means: dict[str, dict[str, float | None]] = {model: {} for model in tables[0]}
    for key in estimate_names(target):
        defined = [table for table in tables if all(model[key] is not None for model in table.values())]
        for model, estimates in means.items():
            estimates[key] = mean_of([table[model][key] for table in defined])
    return means
