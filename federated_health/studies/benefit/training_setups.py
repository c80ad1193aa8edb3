"""The ways in which a hospital can come by a model, and the fitting of one: a federation in process.

own            of its own rows only
federated      of all hospitals' rows, by a strategy
pooled         of all rows as if they were one hospital's: what sharing the records would give
without        the federation of the others: what a hospital gets that does not join

Own and pooled models are federations of one hospital, so that every model comes about by the same code.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from flwr.clientapp import ClientApp

from federated_health.data.hospital import Hospital, Patients
from federated_health.errors import RunError
from federated_health.hospital import handlers
from federated_health.hospital.benefit import weigh_columns
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.studies.benefit.cohort import Cohort, Split
from federated_health.transport.in_process import InProcessTransport

INNER_FOLDS = 3
"""Of the training rows of a fit, by which its number of rounds is chosen."""

PATIENCE = 10
"""Rounds without a better one, after which no more are tried."""

ALONE = "fedavg"
"""The strategy of a federation of one: the average of one hospital's weights is these weights."""

NO_WAIT = 0.1
"""Seconds: in process, a hospital that is not there or cannot take part at once never will."""


class TrainingSetup(StrEnum):
    """See this module."""

    OWN = "own"
    FEDERATED = "federated"
    POOLED = "pooled"
    WITHOUT = "without"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One model of a study.

    Attributes:
        subject: the hospital that it is of or without, the strategy that it is federated by, or nothing.
    """

    repeat: int
    fold: int
    regime: TrainingSetup
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of a fit.

    Attributes:
        scores: hospital -> log-odds of its tested rows, in the order of the fold.
        threshold: that the federation chose from its training rows.
        rounds: of training.
        importance: hospital -> [columns], see `appraisal.Benefit`; of federated models only.
    """

    scores: Mapping[str, list[float]]
    threshold: float
    rounds: int
    importance: Mapping[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a study goes.

    Attributes:
        folds, repeats: of stratified cross-validation. Repeat r draws its folds with the seed of the settings plus r,
            and trains with it.
        strategies: that federated models are fitted by; the first one stands for joining.
        tune: whether every model's number of rounds, at most the settings', is chosen by cross-validation inside the
            rows that it is trained on; else all have the settings' own, which were chosen for federations.
    """

    settings: Settings
    folds: int
    repeats: int
    strategies: tuple[str, ...]
    tune: bool


def plan_fits(hospitals: list[str], protocol: Protocol) -> list[Fit]:
    """Every model of a study, fold by fold."""
    return [
        Fit(repeat=repeat, fold=fold, regime=regime, subject=subject)
        for repeat in range(protocol.repeats)
        for fold in range(protocol.folds)
        for regime, subjects in (
            (TrainingSetup.OWN, hospitals),
            (TrainingSetup.FEDERATED, protocol.strategies),
            (TrainingSetup.POOLED, ("",)),
            (TrainingSetup.WITHOUT, hospitals),
        )
        for subject in subjects
    ]


def run_fit(fit: Fit, cohort: Cohort, protocol: Protocol, app: ClientApp) -> Scored:
    """Fit one model and score the rows that its fold holds out.

    Raises:
        RunError: it could not be trained.
    """
    seed = protocol.settings.seed + fit.repeat
    split = cohort.split(folds=protocol.folds, fold=fit.fold, seed=seed)
    settings = replace(settings_of(fit, protocol, len(split)), seed=seed)
    if protocol.tune:
        settings = _choose_rounds(fit, split, cohort, settings, app)
    federation, hospitals = _open(fit, split, cohort, settings, app)
    federation.run()
    _refuse_if_incomplete(federation, hospitals)
    tested = {name: cohort.hospital(name, split[name]) for name in _tested(fit, split)}
    told = federation.train_config()
    importance = {}
    if fit.regime is TrainingSetup.FEDERATED:
        for name, one in hospitals.items():
            local = handlers.local_model(one, told.model, told.normalisation)
            importance[name] = weigh_columns(local, federation.weights, [seed, *name.encode()]).tolist()
    scored = Scored(
        scores={name: _score(federation, one, hospitals.get(name)) for name, one in tested.items()},
        importance=importance,
        threshold=federation.threshold,
        rounds=settings.rounds,
    )
    handlers.local_model.cache_clear()  # no other fit has these rows
    return scored


def _refuse_if_incomplete(federation: PlainRun, hospitals: Mapping[str, Hospital]) -> None:
    """A run goes on without a hospital whose update cannot be used; a study that did would compare something else.

    Raises:
        RunError: a hospital was not in the last round.
    """
    last = federation.last_round
    trained = {name for name, one in last.hospitals.items() if one.train_loss is not None} if last else set()
    if lost := sorted(hospitals.keys() - trained):
        raise RunError(f"{', '.join(lost)} sent no update that can be used")


def settings_of(fit: Fit, protocol: Protocol, hospitals: int) -> Settings:
    """The settings of one federation of a study.

    Raises:
        SettingsError: its strategy needs more hospitals.
    """
    number = {
        TrainingSetup.OWN: 1,
        TrainingSetup.POOLED: 1,
        TrainingSetup.FEDERATED: hospitals,
        TrainingSetup.WITHOUT: hospitals - 1,
    }[fit.regime]
    strategy = fit.subject if fit.regime is TrainingSetup.FEDERATED else protocol.strategies[0] if number > 1 else ALONE
    arguments = protocol.settings.strategy_args if strategy == protocol.settings.strategy else ""
    return replace(
        protocol.settings,
        hospitals=number,
        strategy=strategy,
        strategy_args=arguments,
        appraisal=False,
        max_update_norm=0.0,  # nobody here lies, and of two hospitals a tiny one may well move further
        wait=NO_WAIT,
    )


def _open(
    fit: Fit, split: Split, cohort: Cohort, settings: Settings, app: ClientApp
) -> tuple[PlainRun, dict[str, Hospital]]:
    """The federation of a fit, and the hospitals that take part in it."""
    hospitals = {name: cohort.hospital(name, side) for name, side in _trained(fit, split).items()}
    if fit.regime is TrainingSetup.POOLED:
        hospitals = {TrainingSetup.POOLED: _pool(hospitals)}
    contexts = {name: InMemoryHospital(one) for name, one in hospitals.items()}
    return PlainRun(InProcessTransport(app, contexts), settings), hospitals


def _trained(fit: Fit, split: Split) -> Split:
    """The hospitals whose rows a fit may see."""
    if fit.regime is TrainingSetup.OWN:
        return {fit.subject: split[fit.subject]}
    left_out = fit.subject if fit.regime is TrainingSetup.WITHOUT else None
    return {name: side for name, side in split.items() if name != left_out}


def _tested(fit: Fit, split: Split) -> list[str]:
    return [fit.subject] if fit.regime in (TrainingSetup.OWN, TrainingSetup.WITHOUT) else list(split)


def _pool(hospitals: Mapping[str, Hospital]) -> Hospital:
    """All hospitals' rows as one hospital's."""
    parts = list(hospitals.values())
    return Hospital(
        name=TrainingSetup.POOLED,
        task=parts[0].task,
        train=Patients.concatenate(one.train for one in parts),
        test=Patients.concatenate(one.test for one in parts),
    )


def _score(federation: PlainRun, hospital: Hospital, participant: Hospital | None) -> list[float]:
    """Log-odds of a hospital's tested rows, under a model that it may have had no part in."""
    told = federation.train_config()
    scores: npt.NDArray[np.float32] = handlers.local_model(
        participant or hospital, told.model, told.normalisation
    ).score(federation.weights)
    return [float(one) for one in scores]


def _choose_rounds(fit: Fit, split: Split, cohort: Cohort, settings: Settings, app: ClientApp) -> Settings:
    """The number of rounds with the least loss over inner held-out rows, all of them training rows of the fit.

    The inner federations go round by round together, until none of the last PATIENCE rounds was the best one.
    """
    trained = _trained(fit, split)
    federations = []
    for inner in range(INNER_FOLDS):
        again = cohort.split_again(trained, folds=INNER_FOLDS, fold=inner, seed=settings.seed)
        federation, _ = _open(fit, again, cohort, settings, app)
        federation.gather()
        federations.append(federation)
    best_round, least = 1, math.inf
    for records in zip(*(federation.rounds() for federation in federations), strict=True):
        number = records[0].number
        counts = [record.federation.counts for record in records]
        loss = sum(one.loss_sum if one else math.inf for one in counts)
        if loss < least:
            best_round, least = number, loss
        elif number - best_round >= PATIENCE:
            break
    return replace(settings, rounds=best_round)
