"""The training setups that a study compares, and the training of one model.

own                        one hospital's rows only
federated                  all hospitals' rows, by a federated strategy
pooled                     all rows as if one hospital had them: what sharing the records would give
leave-one-hospital-out     a run of the others: what a hospital gets if it does not join

Own and pooled models are runs of one hospital, so that the same code trains every model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from federated_health.data.hospital import Hospital, Patients
from federated_health.hospital.benefit import weigh_columns
from federated_health.ml.targets import target_of
from federated_health.settings import Settings
from federated_health.studies.benefit.cohort import Cohort, Split
from federated_health.studies.benefit.compared_strategies import settings_of, without_defaults
from federated_health.studies.benefit.learning_curves import Curve, curve_of
from federated_health.studies.study import forget_local_models, local_model, open_run, require_all_updates
from federated_health.transport.app_calls import App

INNER_FOLDS = 3
"""Folds of a model's training rows, to choose its number of rounds."""

PATIENCE = 10
"""Number of rounds without a lower loss after which the search ends."""

SINGLE_HOSPITAL_STRATEGY = "fedavg"
"""Strategy of runs with one hospital, where the average equals the hospital's weights."""


class TrainingSetup(StrEnum):
    """See this module; the values are the names in evidence.json and in the journal."""

    OWN = "own"
    FEDERATED = "federated"
    POOLED = "pooled"
    LEAVE_ONE_OUT = "without"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One model of a study.

    Attributes:
        subject: the hospital that an own model belongs to or that is left out, or the strategy of a federated model, as
            `EvaluationProtocol` names it.
    """

    repeat: int
    fold: int
    setup: TrainingSetup
    subject: str = ""

    def __str__(self) -> str:
        return f"repeat {self.repeat + 1}, fold {self.fold + 1}, {self.setup} {self.subject}".rstrip()

    @property
    def key(self) -> "Fit":
        """The same for all names of one strategy: without arguments that have their default value."""
        if self.setup is not TrainingSetup.FEDERATED:
            return self
        return replace(self, subject=without_defaults(self.subject))


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The part of a trained model that a study needs.

    Attributes:
        scores: hospital -> the network's outputs for its held-out rows, in the order of the fold; a list per row if
            there are several.
        threshold: probability from which the model predicts positive, chosen from training rows.
        rounds: number of training rounds.
        importance: hospital -> [columns], see `hospital.benefit.Benefit`; of federated models only.
        curve: loss and figures of every round; of federated models only.
    """

    scores: Mapping[str, list[Any]]
    threshold: float
    rounds: int
    importance: Mapping[str, list[float]]
    curve: Curve = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How the models of a study are trained and tested.

    Attributes:
        folds, repeats: of stratified cross-validation. Repeat r splits the rows and trains with the settings' seed + r.
        strategies: labels of the federated models' strategies (see `compared_strategies`), which are different models;
            the benefit of joining is that of the first one.
        tune: whether each model's number of rounds, at most the settings', is chosen by cross-validation within its
            training rows. The settings' rounds were chosen for runs of several hospitals.
    """

    settings: Settings
    folds: int
    repeats: int
    strategies: tuple[str, ...]
    tune: bool


def plan_fits(hospitals: list[str], protocol: EvaluationProtocol) -> list[Fit]:
    """Every model of a study, fold by fold."""
    subjects = {
        TrainingSetup.OWN: hospitals,
        TrainingSetup.FEDERATED: protocol.strategies,
        TrainingSetup.POOLED: [""],
        TrainingSetup.LEAVE_ONE_OUT: hospitals,
    }
    return [
        Fit(repeat=repeat, fold=fold, setup=setup, subject=subject)
        for repeat in range(protocol.repeats)
        for fold in range(protocol.folds)
        for setup in TrainingSetup
        for subject in subjects[setup]
    ]


def run_fit(fit: Fit, cohort: Cohort, protocol: EvaluationProtocol, app: App) -> FitResult:
    """Train one model and score the held-out rows of its fold; RunError if it could not be trained."""
    seed = protocol.settings.seed + fit.repeat
    split = cohort.split(folds=protocol.folds, fold=fit.fold, seed=seed)
    settings = replace(settings_for(fit, protocol, len(split)), seed=seed)
    if protocol.tune:
        settings = replace(settings, rounds=choose_rounds(fit, split, cohort, settings, app))
    hospitals = training_hospitals(fit, split, cohort)
    run = open_run(hospitals, settings, app)
    run.run()
    require_all_updates(run, hospitals)
    scores, importance, is_federated = {}, {}, fit.setup is TrainingSetup.FEDERATED
    for name in [fit.subject] if fit.setup in (TrainingSetup.OWN, TrainingSetup.LEAVE_ONE_OUT) else split:
        model = local_model(run, hospitals.get(name) or cohort.hospital(name, split[name]))
        scores[name] = model.score(run.weights).tolist()
        if is_federated:
            importance[name] = weigh_columns(model, run.weights, [seed, *name.encode()]).tolist()
    forget_local_models()  # no other fit has these rows
    curve = curve_of((record.federation for record in run.history), target_of(cohort.task)) if is_federated else []
    return FitResult(scores=scores, threshold=run.threshold, rounds=settings.rounds, importance=importance, curve=curve)


def settings_for(fit: Fit, protocol: EvaluationProtocol, hospitals: int) -> Settings:
    """The settings of the run that trains a model, in a study of this many hospitals.

    Raises:
        SettingsError: the strategy is not valid, or needs more hospitals.
    """
    number, label = 1, SINGLE_HOSPITAL_STRATEGY
    if fit.setup is TrainingSetup.FEDERATED:
        number, label = hospitals, fit.subject
    elif fit.setup is TrainingSetup.LEAVE_ONE_OUT and hospitals > 2:
        number, label = hospitals - 1, protocol.strategies[0]
    strategy, arguments = settings_of(label)
    return replace(protocol.settings, hospitals=number, strategy=strategy, strategy_args=arguments)


def training_hospitals(fit: Fit, split: Split, cohort: Cohort) -> dict[str, Hospital]:
    """The hospitals that take part in the run that trains a model; no other rows are seen."""
    names = list(split)
    if fit.setup is TrainingSetup.OWN:
        names = [fit.subject]
    elif fit.setup is TrainingSetup.LEAVE_ONE_OUT:
        names.remove(fit.subject)
    hospitals = {name: cohort.hospital(name, split[name]) for name in names}
    if fit.setup is not TrainingSetup.POOLED:
        return hospitals
    train = Patients.concatenate(hospital.train for hospital in hospitals.values())
    test = Patients.concatenate(hospital.test for hospital in hospitals.values())
    name = TrainingSetup.POOLED
    return {name: Hospital(name=name, task=cohort.task, train=train, test=test)}


def choose_rounds(fit: Fit, split: Split, cohort: Cohort, settings: Settings, app: App) -> int:
    """The number of rounds with the lowest loss on the rows held out by inner folds of the fit's training rows.

    The runs of the inner folds advance together, until PATIENCE rounds have not lowered the loss.
    """
    runs = []
    for fold in range(INNER_FOLDS):
        inner = cohort.split(folds=INNER_FOLDS, fold=fold, seed=settings.seed, within=split)
        run = open_run(training_hospitals(fit, inner, cohort), settings, app)
        run.gather()
        runs.append(run)
    best_round, lowest = 1, math.inf
    for records in zip(*(run.rounds() for run in runs), strict=True):
        number = records[0].number
        counts = [record.federation.counts for record in records]
        loss = sum(count.loss_sum if count else math.inf for count in counts)
        if loss < lowest:
            best_round, lowest = number, loss
        elif number - best_round >= PATIENCE:
            break
    return best_round
