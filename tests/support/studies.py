"""Studies made up for tests: which scores a way gives is said, and nothing is fitted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from federated_health.data.tasks import HEART_DISEASE
from federated_health.report.page import Page
from federated_health.studies.benefit.benefit_page import benefit_page
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.comparison import Scores, collect_scores, compare_models
from federated_health.studies.benefit.journal import Results
from federated_health.studies.benefit.training_setups import EvaluationProtocol, FitResult, TrainingSetup, plan_fits
from tests.support.cohorts import cohort_of, patients, protocol_of

Labels = npt.NDArray[np.float32]
Scoring = Callable[[str, str, Labels], npt.NDArray[np.float64]]
"""Log-odds of a hospital's patients by way, as Regime or strategy calls it."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that its page is made of."""

    cohort: Cohort
    protocol: EvaluationProtocol
    results: Results
    scores: Scores
    figures: dict[str, Any]

    @property
    def page(self) -> Page:
        return benefit_page(self.cohort, self.protocol, self.results, self.scores, self.figures)


def study_of(
    labels: Mapping[str, list[int]], scoring: Scoring, *, strategies: tuple[str, ...] = ("fedavg",), **how: Any
) -> Study:
    """A study of hospitals whose patients have these labels; two folds, one repeat."""
    tables = {name: patients(len(one), seed) for seed, (name, one) in enumerate(labels.items())}
    for name, one in labels.items():
        tables[name]["disease"] = np.array(one, dtype=np.float64)
        tables[name]["ca"] = 1.0
    cohort = cohort_of(tables)
    protocol = replace(protocol_of(folds=2, **how), strategies=strategies)
    results: Results = {}
    splits = [cohort.split(folds=2, fold=fold, seed=protocol.settings.seed) for fold in (0, 1)]
    for fit in plan_fits(list(labels), protocol):
        tested = [fit.subject] if fit.setup in (TrainingSetup.OWN, TrainingSetup.LEAVE_ONE_OUT) else list(labels)
        way = fit.subject if fit.setup is TrainingSetup.FEDERATED else str(fit.setup)
        rows = {name: splits[fit.fold][name].test for name in tested}
        each = (100.0 if way != strategies[0] else 1.0, *([0.0] * (len(HEART_DISEASE.columns) - 1)))
        results[fit] = FitResult(
            scores={name: scoring(name, way, cohort.labels(name))[of].tolist() for name, of in rows.items()},
            threshold=0.5,
            rounds=3,
            importance={
                name: [len(of) * one for one in each]
                for name, of in rows.items()
                if fit.setup is TrainingSetup.FEDERATED
            },
        )
    scores = collect_scores(cohort, protocol, results)
    return Study(
        cohort=cohort,
        protocol=protocol,
        results=results,
        scores=scores,
        figures=compare_models(scores, protocol.settings.seed, draws=200),
    )
