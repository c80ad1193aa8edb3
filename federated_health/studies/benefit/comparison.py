"""The comparison of training setups: figures, intervals and verdicts from out-of-fold scores.

The folds of one repeat together score every row once, by a model that was not trained on its patient. Each figure is
computed on these scores; the result is its mean over repeats.

Models of different folds do not share an exact scale. A figure that compares pairs of rows, such as the ROC-AUC,
therefore compares pairs of one fold and repeat only: over all pairs, a model whose scale varies most between folds
would look worse than it is, which is the model of few rows. Intervals treat the trained models and their folds as
fixed; `corrected_differences` do not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from federated_health.data.split import PatientIds
from federated_health.ml.bootstrap import labels_of_patients
from federated_health.ml.corrected_intervals import corrected_difference
from federated_health.ml.intervals import Estimate, improvement_of, interval_of, mean_of_hospitals
from federated_health.ml.metrics import DEFAULT_THRESHOLD, LESS_IS_BETTER
from federated_health.ml.targets import Array, Folds, Target, target_of
from federated_health.ml.verdicts import Difference, Interval, Verdict, adjust_p_values, combine, judge
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.estimates import (
    SIGNED,
    Labels,
    OfRepeats,
    estimate_names,
    estimates_by_repeat,
    mean_of,
    summarise_repeats,
)
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.training_setups import EvaluationProtocol, TrainingSetup

FEDERATED, OWN = TrainingSetup.FEDERATED, TrainingSetup.OWN
OTHERS = (TrainingSetup.OWN, TrainingSetup.POOLED, TrainingSetup.LEAVE_ONE_OUT)
"""Setups with which the federated model is compared."""

RECALIBRATED = "recalibrated"
"""Model whose scores are the federated one's, recalibrated for each hospital (see `recalibrated`)."""

RECALIBRATED_AGAINST_OWN = "recalibrated_against_own"
"""Name of its difference from the own model."""


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
            a further one, or RECALIBRATED.
        folds: hospital -> number of the fold that held each row out, [repeats, rows].
        ids: hospital -> number of each row's patient, [rows]; empty if each row is a patient of its own.
    """

    target: Target[Any]
    labels: Mapping[str, Labels]
    models: Mapping[str, Mapping[str, OutOfFold]]
    folds: Mapping[str, Folds]
    ids: Mapping[str, PatientIds] = field(default_factory=dict)

    @cached_property
    def all_labels(self) -> Labels:
        """Labels of all hospitals' rows, in the order of `labels`."""
        return np.concatenate(list(self.labels.values()))

    @cached_property
    def all_folds(self) -> Folds:
        """Folds of all hospitals' rows, [repeats, rows], in the order of `labels`: those of one model."""
        return np.concatenate([self.folds[hospital] for hospital in self.labels], axis=1)

    @property
    def fold_count(self) -> int:
        """Number of folds of each repeat."""
        return int(self.all_folds.max()) + 1

    @cached_property
    def all_ids(self) -> PatientIds | None:
        """Numbers of all hospitals' patients, [rows], in the order of `labels`; a hospital's are no other's."""
        if not self.ids:
            return None
        parts, first = [], 0
        for hospital, labels in self.labels.items():
            ids = (
                np.unique(self.ids[hospital], return_inverse=True)[1]
                if hospital in self.ids
                else np.arange(len(labels))
            )
            parts.append(first + ids)
            first += len(labels)
        return np.concatenate(parts)

    def labels_of_patients(self, hospital: str) -> Labels:
        """One label per patient of a hospital, [patients] (see `ml.bootstrap.labels_of_patients`)."""
        return labels_of_patients(self.labels[hospital], self.ids.get(hospital))

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
    by_repeat = [
        cohort.fold_of_rows(protocol.folds, protocol.settings.seed + repeat) for repeat in range(protocol.repeats)
    ]
    folds = {name: np.stack([of_repeat[name] for of_repeat in by_repeat]) for name in labels}
    models: dict[str, dict[str, OutOfFold]] = {}
    for fit, result in results.items():
        is_further = fit.setup is FEDERATED and fit.subject != protocol.strategies[0]
        model = models.setdefault(fit.subject if is_further else fit.setup, {})
        for name, scores in result.scores.items():
            shape, of_row = (protocol.repeats, len(labels[name])), (target.outputs,) if target.outputs > 1 else ()
            empty = OutOfFold(np.full((*shape, *of_row), np.nan), np.full(shape, np.nan))
            out_of_fold = model.setdefault(name, empty)
            rows = np.flatnonzero(folds[name][fit.repeat] == fit.fold)
            out_of_fold.outputs[fit.repeat, rows] = scores
            out_of_fold.thresholds[fit.repeat, rows] = result.threshold
    return Scores(target, labels, models, folds, cohort.ids)


@dataclass(frozen=True, eq=False)
class _Model:
    """Figures of one model on one set of rows, or their means over hospitals.

    Attributes:
        estimates: the target's `comparisons`, with what their intervals need; without those that are not defined.
        repeats: all figures, one value per repeat.
        folds: the target's `comparisons`, [repeats, folds]; NaN in a fold where one is not defined.
    """

    estimates: Mapping[str, Estimate]
    repeats: OfRepeats
    folds: Mapping[str, Array]


_Models = Mapping[str, _Model]


def compare_models(scores: Scores) -> dict[str, Any]:
    """Figures, differences and verdicts as in evidence.json; None where undefined.

    Returns:
        `hospitals`: name -> `patients` and `rows`, their numbers, a summary of the rows' labels, `small`, `verdict` (of
            all figures together), `verdicts` (by figure, with p-values that are adjusted for the number of hospitals),
            `comparisons` and, of a binary label, `calibration`, as in the entries of `joining` in metrics.json,
            `models`, `differences`, `corrected_differences`.
        `mean`: `models`, `differences` and `corrected_differences` as means over the hospitals in which a figure is
            defined for every model, `ranges` of SIGNED figures over these hospitals instead of their means, and
            `small`, the number of hospitals with a ROC-AUC that are small.
        `all`: `patients`, `rows`, a summary of the rows' labels, `models`, `differences`, `corrected_differences` over
            all rows together.
        `repeats`: hospital, `mean` or `all` -> model -> figure -> `values` of the repeats, their `mean` and `sd`.

        `models` holds, by model, the target's `comparisons` with intervals, and point estimates. `differences` holds
        by how much the federated model is better than the other setups', and each further strategy better than the
        federated model, by figure; `corrected_differences` the same with intervals of Nadeau and Bengio.
    """
    target, ratio = scores.target, 1 / max(1, scores.fold_count - 1)
    measured: dict[str, _Models] = {}
    hospitals: dict[str, Any] = {}
    for name, labels in scores.labels.items():
        measured[name] = _measure(scores, name)
        patients = scores.labels_of_patients(name)
        any_outputs = scores.models[FEDERATED][name].outputs[0]  # it depends on labels only whether a sample is small
        hospitals[name] = {
            "patients": len(patients),
            "rows": len(labels),
            **target.summarise(labels),
            "small": target.measure(any_outputs[: len(patients)], patients, DEFAULT_THRESHOLD).is_small,
            **_summary(target, measured[name], ratio),
        }
    _judge(scores, hospitals)
    means = _mean_over_hospitals(target, list(measured.values()))
    everyone = _measure(scores)
    return {
        "hospitals": hospitals,
        "mean": {
            "small": sum(
                hospitals[name]["small"]
                for name, of in measured.items()
                if target.comparisons[0] in of[FEDERATED].estimates
            ),
            **_summary(target, means, ratio),
            "ranges": _ranges(target, hospitals),
        },
        "all": {
            "patients": sum(entry["patients"] for entry in hospitals.values()),
            "rows": len(scores.all_labels),
            **target.summarise(scores.all_labels),
            **_summary(target, everyone, ratio),
        },
        "repeats": {
            name: {
                model: {figure: summarise_repeats(values) for figure, values in of.repeats.items()}
                for model, of in models.items()
            }
            for name, models in {**measured, "mean": means, "all": everyone}.items()
        },
    }


def _measure(scores: Scores, hospital: str = "") -> dict[str, _Model]:
    """Figures of every model on the rows of a hospital, or on all."""
    target = scores.target
    labels = scores.labels[hospital] if hospital else scores.all_labels
    folds = scores.folds[hospital] if hospital else scores.all_folds
    patients = scores.ids.get(hospital) if hospital else scores.all_ids
    measured = {}
    for model, by_hospital in scores.models.items():
        of_model = by_hospital[hospital] if hospital else scores.all_rows(model)
        estimates: dict[str, Estimate] = {}
        repeats: dict[str, list[float | None]] = {}
        by_fold: dict[str, Array] = {}
        for figure in target.comparisons:
            whole, *parts = (
                _estimate(target, figure, outputs, labels, patients, of_fold)
                for outputs, of_fold in [(of_model.outputs, folds), *zip(of_model.outputs, folds, strict=True)]
            )
            estimates |= {figure: whole} if whole else {}
            repeats[figure] = [part.value if part else None for part in parts]
            by_fold[figure] = np.full((len(folds), scores.fold_count), np.nan)
            for repeat, fold in np.ndindex(by_fold[figure].shape):
                rows = folds[repeat] == fold
                by_fold[figure][repeat, fold] = _figure_of(target, figure, of_model.outputs[repeat, rows], labels[rows])
        repeats |= estimates_by_repeat(target, of_model.outputs, of_model.thresholds, labels)
        measured[model] = _Model(estimates, repeats, by_fold)
    return measured


def _estimate(
    target: Target[Any], figure: str, outputs: Array, labels: Labels, patients: PatientIds | None, folds: Folds
) -> Estimate | None:
    """One of the `comparisons`; None where it is not defined."""
    if figure not in LESS_IS_BETTER and not target.is_defined(labels):  # a mean loss always is
        return None
    estimate = target.estimate_figure(figure, outputs, labels, patients, folds)
    return estimate if estimate.is_defined else None


def _figure_of(target: Target[Any], figure: str, outputs: Array, labels: Labels) -> float:
    """One of the `comparisons` of the rows of one fold; NaN where it is not defined."""
    if not len(labels):
        return np.nan
    if figure in LESS_IS_BETTER:
        return target.estimate_figure(figure, outputs, labels).value
    roc_auc = target.roc_auc(outputs, labels)
    return np.nan if roc_auc is None else roc_auc


def _mean_over_hospitals(target: Target[Any], hospitals: list[_Models]) -> dict[str, _Model]:
    """Means over the hospitals in which every model has the figure, so that models compare."""

    def defined(figure: str) -> list[_Models]:
        return [models for models in hospitals if all(None not in of.repeats[figure] for of in models.values())]

    means = {}
    for model in hospitals[0]:
        estimates, by_fold = {}, {}
        for figure in target.comparisons:
            parts = [models[model] for models in defined(figure)]
            if parts:
                estimates[figure] = mean_of_hospitals([of.estimates[figure] for of in parts])
                by_fold[figure] = np.mean([of.folds[figure] for of in parts], axis=0)
        repeats = {
            figure: [
                mean_of(values) for values in zip(*(of[model].repeats[figure] for of in defined(figure)), strict=True)
            ]
            for figure in (*target.comparisons, *estimate_names(target))
            if figure not in SIGNED
        }
        means[model] = _Model(estimates, repeats, by_fold)
    return means


def _summary(target: Target[Any], models: _Models, test_to_train: float) -> dict[str, Any]:
    """`models`, `differences` and `corrected_differences` of one set of rows."""
    differences: dict[str, Any] = {}
    corrected: dict[str, Any] = {}
    for name, better, other in _pairs(models):
        differences[name], corrected[name] = {}, {}
        for figure in target.comparisons:
            pair = models[better], models[other]
            if all(figure in of.estimates for of in pair):
                difference = improvement_of(figure, *(of.estimates[figure] for of in pair))
                sign = -1 if figure in LESS_IS_BETTER else 1
                by_fold = sign * (pair[0].folds[figure] - pair[1].folds[figure])
                of_training = corrected_difference(by_fold, test_to_train)
            else:
                difference = of_training = Difference()
            differences[name][figure], corrected[name][figure] = asdict(difference), asdict(of_training)
    return {
        "models": {model: _figures(target, of) for model, of in models.items()},
        "differences": differences,
        "corrected_differences": corrected,
    }


def _figures(target: Target[Any], model: _Model) -> dict[str, Any]:
    """The `comparisons` with intervals, and means over repeats of all other figures."""
    intervals = {
        figure: asdict(interval_of(model.estimates[figure]) if figure in model.estimates else Interval())
        for figure in target.comparisons
    }
    others = {figure: mean_of(values) for figure, values in model.repeats.items() if figure not in intervals}
    return {**intervals, **others}


def _pairs(models: _Models) -> Iterator[tuple[str, str, str]]:
    """Name of each difference, the model that is better where it is above 0, and the other one."""
    yield from ((other, FEDERATED, other) for other in OTHERS)
    yield from ((model, model, FEDERATED) for model in models if model not in [*TrainingSetup])
    if RECALIBRATED in models:
        yield RECALIBRATED_AGAINST_OWN, RECALIBRATED, OWN


def _judge(scores: Scores, hospitals: Mapping[str, Any]) -> None:
    """Add the verdicts on federated and own models, and what they rest on, to the hospitals' entries."""
    target = scores.target
    for entry in hospitals.values():
        entry |= {"verdict": Verdict.UNDEFINED, "verdicts": {}, "comparisons": {}}
        if target.has_threshold:
            entry["calibration"] = {
                str(setup): {part: entry["models"][setup][f"calibration_{part}"] for part in ("slope", "intercept")}
                for setup in (OWN, FEDERATED)
            }
    for figure in target.comparisons:
        for name, judgement in judge_differences(scores, hospitals, OWN, figure).items():
            entry = hospitals[name]
            entry["verdicts"][figure] = judgement["verdict"]
            entry["comparisons"][figure] = {
                "own": entry["models"][OWN][figure],
                "federated": entry["models"][FEDERATED][figure],
                **judgement,
            }
    for entry in hospitals.values():
        entry["verdict"] = combine(entry["verdicts"].values())


def judge_differences(
    scores: Scores, hospitals: Mapping[str, Any], difference: str, figure: str
) -> dict[str, dict[str, Any]]:
    """The verdict on a difference by one figure: hospital -> `verdict`, `difference` and `adjusted_p_value`.

    P-values are adjusted for the number of hospitals with enough patients for a verdict.

    Args:
        hospitals: name -> entry, as in evidence.json.
        difference: its name there.
    """
    can_judge = [name for name in hospitals if scores.target.can_compare(scores.labels_of_patients(name))]
    differences = {name: Difference(**entry["differences"][difference][figure]) for name, entry in hospitals.items()}
    adjusted = adjust_p_values({name: differences[name] for name in can_judge})
    return {
        name: {
            "verdict": judge(of, adjusted[name]) if name in adjusted else Verdict.UNDEFINED,
            "difference": asdict(of),
            "adjusted_p_value": adjusted.get(name),
        }
        for name, of in differences.items()
    }


def _ranges(target: Target[Any], hospitals: Mapping[str, Any]) -> dict[str, Any]:
    """SIGNED figures over hospitals: model -> figure -> `low`, `high` and the `mean_distance` from the ideal."""
    ranges: dict[str, Any] = {}
    for model in next(iter(hospitals.values()))["models"]:
        ranges[model] = {}
        for figure in estimate_names(target):
            if figure in SIGNED:
                values = [entry["models"][model][figure] for entry in hospitals.values()]
                known = [value for value in values if value is not None]
                distances = [abs(value - SIGNED[figure]) for value in known]
                ranges[model][figure] = {
                    "low": min(known, default=None),
                    "high": max(known, default=None),
                    "mean_distance": mean_of(distances),
                }
    return ranges
