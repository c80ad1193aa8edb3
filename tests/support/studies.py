"""Made-up studies for tests: their scores are given, and nothing is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.task_files import HEART_DISEASE
from federated_health.report.page import Page
from federated_health.studies.benefit.benefit_page import benefit_page
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import Scores, collect_scores
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.recalibrated import add_recalibrated
from federated_health.studies.benefit.study_figures import study_figures
from federated_health.studies.benefit.training_setups import (
    EvaluationProtocol,
    Fit,
    FitResult,
    TrainingSetup,
    plan_fits,
)
from tests.support.cohorts import cohort_of, patients, protocol_of

Labels = npt.NDArray[np.float32]
Scoring = Callable[[str, str, Labels], npt.NDArray[np.float64]]
"""Hospital, training setup or strategy, and labels -> log-odds of the hospital's patients."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The content of a study's page."""

    cohort: Cohort
    protocol: EvaluationProtocol
    results: Results
    scores: Scores
    figures: dict[str, Any]

    @property
    def page(self) -> Page:
        return benefit_page(self.cohort, self.protocol, self.results, self.scores, self.figures)


def made_up_result(fit: Fit, cohort: Cohort, protocol: EvaluationProtocol) -> FitResult:
    """The result of a fit whose scores are random numbers, of a binary label; nothing is trained."""
    split = cohort.split(folds=protocol.folds, fold=fit.fold, seed=protocol.settings.seed + fit.repeat)
    names = [fit.subject] if fit.setup in (TrainingSetup.OWN, TrainingSetup.LEAVE_ONE_OUT) else list(split)
    seed = [fit.repeat, fit.fold, *str(fit).encode()]
    generator = np.random.default_rng(seed)
    scores = {name: generator.normal(size=len(split[name].test)).astype(np.float32) for name in names}
    is_federated = fit.setup is TrainingSetup.FEDERATED
    importance = {name: [0.5] * len(cohort.task.columns) for name in names if is_federated}
    return FitResult(
        scores={name: part.tolist() for name, part in scores.items()},
        threshold=round(float(generator.uniform(0.3, 0.6)), 3),
        rounds=3,
        importance=importance,
    )


def study_of(
    labels: Mapping[str, list[int]],
    scoring: Scoring,
    *,
    strategies: tuple[str, ...] = ("fedavg",),
    **protocol_changes: Any,
) -> Study:
    """A study of hospitals whose patients have these labels; two folds, one repeat."""
    tables = {name: patients(len(outcomes), seed) for seed, (name, outcomes) in enumerate(labels.items())}
    for name, outcomes in labels.items():
        tables[name]["disease"] = np.array(outcomes, dtype=np.float64)
        tables[name]["ca"] = 1.0
    cohort = cohort_of(tables)
    protocol = replace(protocol_of(folds=2, **protocol_changes), strategies=strategies)
    results: Results = {}
    splits = [cohort.split(folds=2, fold=fold, seed=protocol.settings.seed) for fold in (0, 1)]
    for fit in plan_fits(list(labels), protocol):
        names = [fit.subject] if fit.setup in (TrainingSetup.OWN, TrainingSetup.LEAVE_ONE_OUT) else list(labels)
        model = fit.subject if fit.setup is TrainingSetup.FEDERATED else str(fit.setup)
        held_out = {name: splits[fit.fold][name].test for name in names}
        age = 1.0 if model == strategies[0] else 100.0  # importance per patient; that of the other columns is 0
        results[fit] = FitResult(
            scores={name: scoring(name, model, cohort.labels(name))[rows].tolist() for name, rows in held_out.items()},
            threshold=0.5,
            rounds=3,
            importance={
                name: [len(rows) * age, *([0.0] * (len(HEART_DISEASE.columns) - 1))]
                for name, rows in held_out.items()
                if fit.setup is TrainingSetup.FEDERATED
            },
        )
    scores = add_recalibrated(collect_scores(cohort, protocol, results))
    return Study(
        cohort=cohort,
        protocol=protocol,
        results=results,
        scores=scores,
        figures=study_figures(cohort, scores),
    )
