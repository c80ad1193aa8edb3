"""The ways in which a hospital can come by a model, and the fitting of one: a federation in process.

own            of its own rows only
federated      of all hospitals' rows, by a strategy
pooled         of all rows as if they were one hospital's: what sharing the records would give
without        the federation of the others: what a hospital gets that does not join

Own and pooled models are federations of one hospital, so that every model comes about by the same code.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from flwr.clientapp import ClientApp

from federated_health import participation
from federated_health.evidence.cohort import Cohort, Split
from federated_health.federation import Federation
from federated_health.hospital import Hospital, Patients
from federated_health.participation import PresentHospital
from federated_health.settings import Settings
from federated_health.streaming import InProcessGrid

TUNED_L2 = (0.001, 0.003, 0.01, 0.03, 0.1)
TUNING_FOLDS = 3
ALONE = "fedavg"
"""The strategy of a federation of one: the average of one hospital's weights is these weights."""

NO_WAIT = 0.1
"""Seconds: in process, a hospital that is not there or cannot take part at once never will."""


class Regime(StrEnum):
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
    regime: Regime
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What became of a fit.

    Attributes:
        scores: hospital -> log-odds of its tested rows, in the order of the fold.
        threshold: that the federation chose from its training rows.
        rounds, l2: that were trained with.
    """

    scores: Mapping[str, list[float]]
    threshold: float
    rounds: int
    l2: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(**content)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a study goes.

    Attributes:
        folds, repeats: of stratified cross-validation. Repeat r draws its folds with the seed of the settings plus r,
            and trains with it.
        strategies: that federated models are fitted by; the first one stands for joining.
        tune: whether every regime chooses L2 weight and rounds inside its own training rows.
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
            (Regime.OWN, hospitals),
            (Regime.FEDERATED, protocol.strategies),
            (Regime.POOLED, ("",)),
            (Regime.WITHOUT, hospitals),
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
        settings = _tune(fit, split, cohort, settings, app)
    federation, hospitals = _open(fit, split, cohort, settings, app)
    federation.run()
    tested = {name: cohort.hospital(name, split[name]) for name in _tested(fit, split)}
    scored = Scored(
        scores={name: _score(federation, one, hospitals.get(name)) for name, one in tested.items()},
        threshold=federation.threshold,
        rounds=settings.rounds,
        l2=settings.l2,
    )
    participation.local_model.cache_clear()  # no other fit has these rows
    return scored


def settings_of(fit: Fit, protocol: Protocol, hospitals: int) -> Settings:
    """The settings of one federation of a study.

    Raises:
        SettingsError: its strategy needs more hospitals.
    """
    number = {Regime.OWN: 1, Regime.POOLED: 1, Regime.FEDERATED: hospitals, Regime.WITHOUT: hospitals - 1}[fit.regime]
    strategy = fit.subject if fit.regime is Regime.FEDERATED else protocol.strategies[0] if number > 1 else ALONE
    return replace(protocol.settings, hospitals=number, strategy=strategy, appraisal=False, wait=NO_WAIT)


def _open(
    fit: Fit, split: Split, cohort: Cohort, settings: Settings, app: ClientApp
) -> tuple[Federation, dict[str, Hospital]]:
    """The federation of a fit, and the hospitals that take part in it."""
    hospitals = {name: cohort.hospital(name, side) for name, side in _trained(fit, split).items()}
    if fit.regime is Regime.POOLED:
        hospitals = {Regime.POOLED: _pool(hospitals)}
    contexts = {name: PresentHospital(one) for name, one in hospitals.items()}
    return Federation(InProcessGrid(app, contexts), settings), hospitals


def _trained(fit: Fit, split: Split) -> Split:
    """The hospitals whose rows a fit may see."""
    if fit.regime is Regime.OWN:
        return {fit.subject: split[fit.subject]}
    left_out = fit.subject if fit.regime is Regime.WITHOUT else None
    return {name: side for name, side in split.items() if name != left_out}


def _tested(fit: Fit, split: Split) -> list[str]:
    return [fit.subject] if fit.regime in (Regime.OWN, Regime.WITHOUT) else list(split)


def _pool(hospitals: Mapping[str, Hospital]) -> Hospital:
    """All hospitals' rows as one hospital's."""
    parts = list(hospitals.values())
    train, test = (
        Patients(np.concatenate([one.values for one in side]), np.concatenate([one.labels for one in side]))
        for side in ([one.train for one in parts], [one.test for one in parts])
    )
    return Hospital(name=Regime.POOLED, task=parts[0].task, train=train, test=test)


def _score(federation: Federation, hospital: Hospital, participant: Hospital | None) -> list[float]:
    """Log-odds of a hospital's tested rows, under a model that it may have had no part in."""
    told = federation.instructions()
    scores: npt.NDArray[np.float32] = participation.local_model(
        participant or hospital, told.model, told.normalisation
    ).score(federation.weights)
    return [float(one) for one in scores]


def _tune(fit: Fit, split: Split, cohort: Cohort, settings: Settings, app: ClientApp) -> Settings:
    """The L2 weight and the number of rounds with the least loss over inner held-out rows of the fit's own training."""
    trained = _trained(fit, split)
    loss = np.zeros((len(TUNED_L2), settings.rounds))
    for inner in range(TUNING_FOLDS):
        again = cohort.split_again(trained, folds=TUNING_FOLDS, fold=inner, seed=settings.seed)
        for place, l2 in enumerate(TUNED_L2):
            federation, _ = _open(fit, again, cohort, replace(settings, l2=l2), app)
            federation.gather()
            for record in federation.rounds():
                counts = record.federation.counts
                loss[place, record.number - 1] += counts.loss_sum if counts else np.inf
    best_l2, best_round = np.unravel_index(loss.argmin(), loss.shape)
    return replace(settings, l2=TUNED_L2[best_l2], rounds=int(best_round) + 1)
