"""From out-of-fold scores to figures, intervals and verdicts: each hospital's, their mean, and all patients'.

A repeat's folds together score every patient once, by a model that was not fitted on that patient; these concatenated
scores are what each figure is of, and a figure is the mean over repeats.

Models of different folds share no exact scale, so a concatenated AUC is a little below the mean of the folds' own: by
0.01 or less at the three larger heart hospitals, much the same in every way. An interval holds the fitted models and
their folds fixed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.ml.bootstrap import (
    DRAWS,
    Drawn,
    Resampled,
    affordable_draws,
    can_judge,
    difference_of,
    interval_of,
    is_small,
    rarer_class,
)
from federated_health.ml.curves import calibration
from federated_health.ml.metrics import Interval, Verdict, judge, probability
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.study import Results
from federated_health.studies.benefit.training_setups import Fit, Protocol, TrainingSetup

PLAIN_FIGURES = ("average_precision", "accuracy", "brier", "calibration_slope", "calibration_intercept")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """One way's scores of some patients.

    Attributes:
        log_odds: [repeats, patients].
        thresholds: [repeats, patients], the probability from which the model that scored predicts positive.
    """

    log_odds: Array
    thresholds: Array


@dataclass(frozen=True, eq=False)
class Scores:
    """All scores of a study.

    Attributes:
        labels: hospital -> [patients], 0 or 1.
        ways: name -> hospital -> scores of its patients. `own`, `federated`, `pooled` and `without` are the regimes,
            and a further strategy has its own name.
    """

    labels: Mapping[str, npt.NDArray[np.float32]]
    ways: Mapping[str, Mapping[str, OutOfFold]]

    @cached_property
    def all_labels(self) -> npt.NDArray[np.float32]:
        return np.concatenate(list(self.labels.values()))

    def of_all(self, way: str) -> OutOfFold:
        """The scores of all hospitals' patients, one hospital after the other."""
        parts = [self.ways[way][name] for name in self.labels]
        return OutOfFold(
            np.concatenate([one.log_odds for one in parts], axis=1),
            np.concatenate([one.thresholds for one in parts], axis=1),
        )


def collect_scores(cohort: Cohort, protocol: Protocol, results: Results) -> Scores:
    """Put every fit's scores in their rows' places."""
    labels = {name: cohort.labels(name) for name in cohort.numbers}
    shapes = {name: (protocol.repeats, len(rows)) for name, rows in labels.items()}
    ways: dict[str, dict[str, OutOfFold]] = {}
    splits = {
        (repeat, fold): cohort.split(folds=protocol.folds, fold=fold, seed=protocol.settings.seed + repeat)
        for repeat in range(protocol.repeats)
        for fold in range(protocol.folds)
    }
    for fit, scored in results.items():
        way = ways.setdefault(_way_of(fit, protocol), {})
        for name, scores in scored.scores.items():
            rows = splits[fit.repeat, fit.fold][name].test
            one = way.setdefault(name, OutOfFold(np.full(shapes[name], np.nan), np.full(shapes[name], np.nan)))
            one.log_odds[fit.repeat, rows] = scores
            one.thresholds[fit.repeat, rows] = scored.threshold
    return Scores(labels, {way: {name: ways[way][name] for name in labels} for way in ways})


def _way_of(fit: Fit, protocol: Protocol) -> str:
    further = fit.regime is TrainingSetup.FEDERATED and fit.subject != protocol.strategies[0]
    return fit.subject if further else fit.regime


def figures_of_study(scores: Scores, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """The figures as in evidence.json; None for what is not defined.

    Args:
        seed: of the bootstrap, in which each hospital has draws of its own.
        draws: of the bootstrap, at most (see `affordable_draws`).

    Returns:
        `hospitals` -> name -> `patients`, `positives`, `small`, `verdict`, `models`, `differences`; `mean`, over the
        hospitals in which a figure is defined for every way; and `all`, over all patients. `models` holds ROC-AUC with
        interval, and PLAIN_FIGURES, by way; `differences` ROC-AUC of federated minus each other regime, and of each
        further strategy minus federated.
    """
    draws = affordable_draws(len(scores.all_labels), draws)  # the same of every hospital, since they are put together
    resampled = {
        name: Resampled.of(labels, [seed, place], draws) for place, (name, labels) in enumerate(scores.labels.items())
    }
    everyone = Resampled(scores.all_labels, np.concatenate([one.times for one in resampled.values()]))
    drawn = {
        way: {
            name: resampled[name].roc_auc(one.log_odds) for name, one in hospitals.items() if resampled[name].is_defined
        }
        for way, hospitals in scores.ways.items()
    }
    pairs = _pairs(scores.ways)
    hospitals: dict[str, Any] = {}
    for name, labels in scores.labels.items():
        differences = {key: _difference(drawn[one].get(name), drawn[other].get(name)) for key, one, other in pairs}
        hospitals[name] = {
            "patients": len(labels),
            "positives": int(labels.sum()),
            "small": is_small(labels),
            "verdict": judge(differences["federated_minus_own"]) if can_judge(labels) else Verdict.UNDEFINED,
            "models": {
                way: {"roc_auc": asdict(_interval(drawn[way].get(name))), **_plain_figures(of[name], labels)}
                for way, of in scores.ways.items()
            },
            "differences": {key: asdict(one) for key, one in differences.items()},
        }
    whole = {way: everyone.roc_auc(scores.of_all(way).log_odds) for way in scores.ways} if everyone.is_defined else {}
    averages = {way: _mean_draws(of.values()) for way, of in drawn.items()}
    plain = {key: _mean_of_hospitals(hospitals, key) for key in PLAIN_FIGURES}
    return {
        "hospitals": hospitals,
        "mean": {
            "models": {
                way: {
                    "roc_auc": asdict(_interval(averages[way])),
                    **{key: plain[key][way] for key in PLAIN_FIGURES},
                }
                for way in scores.ways
            },
            "differences": {key: asdict(_difference(averages[one], averages[other])) for key, one, other in pairs},
        },
        "all": {
            "patients": len(scores.all_labels),
            "positives": int(scores.all_labels.sum()),
            "models": {
                way: {
                    "roc_auc": asdict(_interval(whole.get(way))),
                    **_plain_figures(scores.of_all(way), scores.all_labels),
                }
                for way in scores.ways
            },
            "differences": {key: asdict(_difference(whole.get(one), whole.get(other))) for key, one, other in pairs},
        },
    }


def _pairs(ways: Iterable[str]) -> list[tuple[str, str, str]]:
    """Name of a difference, and the two ways that it is of."""
    regimes = (TrainingSetup.OWN, TrainingSetup.POOLED, TrainingSetup.WITHOUT)
    known = [(f"federated_minus_{other}", str(TrainingSetup.FEDERATED), str(other)) for other in regimes]
    further = [way for way in ways if way not in [*TrainingSetup]]
    return known + [(f"{way}_minus_federated", way, str(TrainingSetup.FEDERATED)) for way in further]


def _interval(drawn: Drawn | None) -> Interval:
    return interval_of(*drawn) if drawn else Interval()


def _difference(one: Drawn | None, other: Drawn | None) -> Interval:
    return difference_of(one, other) if one and other else Interval()


def _mean_draws(parts: Iterable[Drawn]) -> Drawn | None:
    parts = list(parts)
    if not parts:
        return None
    return float(np.mean([value for value, _ in parts])), np.mean([draws for _, draws in parts], axis=0)


def _plain_figures(scores: OutOfFold, labels: npt.NDArray[np.float32]) -> dict[str, float | None]:
    """Means over repeats of the figures without an interval."""
    from sklearn.metrics import average_precision_score  # takes a second to import

    both = rarer_class(labels) > 0
    risks = probability(scores.log_odds)
    fitted = [calibration(one, labels) for one in scores.log_odds]
    return {
        "average_precision": _mean(
            [float(average_precision_score(labels, one)) if both else None for one in scores.log_odds]
        ),
        "accuracy": float(((risks >= scores.thresholds) == (labels == 1)).mean()),
        "brier": float(((risks - labels) ** 2).mean()),
        "calibration_slope": _mean([one.slope for one in fitted]),
        "calibration_intercept": _mean([one.intercept for one in fitted]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is not defined, or there is none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _mean_of_hospitals(hospitals: Mapping[str, Any], key: str) -> dict[str, float | None]:
    """A plain figure by way, over the hospitals in which it is defined for every way, so that ways can be compared."""
    by_way = [{way: figures[key] for way, figures in one["models"].items()} for one in hospitals.values()]
    known = [figures for figures in by_way if None not in figures.values()]
    return {way: _mean([figures[way] for figures in known]) for way in by_way[0]}


def count_verdicts(figures: Mapping[str, Any]) -> dict[Verdict, int]:
    """How many hospitals have each verdict."""
    given = [one["verdict"] for one in figures["hospitals"].values()]
    return {verdict: given.count(verdict) for verdict in Verdict}
