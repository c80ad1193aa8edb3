"""Carrying out an audit's federations (see `plan`): trained, watched and attacked in process, by any run's apps."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from flwr.clientapp import ClientApp

from federated_health.data.hospital import Hospital
from federated_health.errors import RunError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.metrics import roc_auc
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.studies.audit.gradients import gradients_of, layers_of
from federated_health.studies.audit.inversion import Training, columns_of, invert, recovered, tolerances, typical
from federated_health.studies.audit.membership import confidences
from federated_health.studies.audit.plan import (
    AVERAGES,
    FINAL,
    UPDATES,
    FullShadowRun,
    HalfShadowRun,
    Inverted,
    Outcome,
    Plan,
    SmallShadowRun,
    Trial,
    Worth,
)
from federated_health.studies.audit.views import Step, WatchedGrid, averages_of, follow

NO_WAIT = 0.1
"""Seconds: in process, a hospital that is not there or cannot take part at once never will."""

GUESSES = 20
"""Draws of random patients, which what was recovered is compared with."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def run_trial(trial: Trial, plan: Plan, app: ClientApp) -> Outcome:
    """Train one federation, and keep what the attacks and figures need of it.

    Raises:
        RunError: it could not be trained.
    """
    settings = plan.privacies[trial.privacy]
    try:
        match trial:
            case HalfShadowRun():
                return _attack(trial, plan, settings, app)
            case FullShadowRun():
                federation, _ = _train(plan.hospitals, replace(settings, seed=plan.seed + trial.run), app)
                return Outcome(worth=_worth(federation, plan.hospitals))
            case SmallShadowRun():
                return Outcome(inverted=_invert(trial, plan, settings, app))
    finally:
        handlers.local_model.cache_clear()  # no other federation has these rows


def _open(hospitals: Mapping[str, Hospital], settings: Settings, app: ClientApp) -> tuple[PlainRun, WatchedGrid]:
    grid = WatchedGrid(app, {name: InMemoryHospital(one) for name, one in hospitals.items()})
    told = replace(settings, hospitals=len(hospitals), appraisal=False, max_update_norm=0.0, wait=NO_WAIT)
    return PlainRun(grid, told), grid


def _train(
    hospitals: Mapping[str, Hospital], settings: Settings, app: ClientApp
) -> tuple[PlainRun, Mapping[str, list[Step]]]:
    federation, grid = _open(hospitals, settings, app)
    federation.gather()
    rounds = len(list(federation.rounds()))
    _refuse_if_incomplete(grid.seen, rounds)
    return federation, grid.seen


def _refuse_if_incomplete(seen: Mapping[str, list[Step]], rounds: int) -> None:
    """An attack that compares runs must not compare those in which somebody was lost."""
    if lost := sorted(name for name, steps in seen.items() if len(steps) < rounds):
        raise RunError(f"{', '.join(lost)} sent fewer updates that can be used than there were rounds ({rounds})")


def _attack(trial: HalfShadowRun, plan: Plan, settings: Settings, app: ClientApp) -> Outcome:
    mine, places = plan.members()[trial.run], plan.places()
    hospitals = {name: replace(one, train=one.train.take(mine[places[name]])) for name, one in plan.hospitals.items()}
    federation, seen = _train(hospitals, replace(settings, seed=plan.seed + trial.run), app)
    assert federation.normalisation is not None
    encoder = build_encoder(plan.task, federation.normalisation)
    features = {name: encode(encoder, plan.task, one.train.values) for name, one in plan.hospitals.items()}
    labels = {name: one.train.labels for name, one in plan.hospitals.items()}
    everyone, all_labels = np.concatenate(list(features.values())), np.concatenate(list(labels.values()))
    final = gradients_of(layers_of(federation.weights), everyone, all_labels).log_odds
    updates = [follow(seen[name], features[name], labels[name]) for name in plan.hospitals]
    return Outcome(
        worth=_worth(federation, hospitals),
        statistics={
            FINAL: {"confidence": confidences(final, all_labels)},
            UPDATES: {kind: np.concatenate([one[kind] for one in updates]) for kind in updates[0]},
            AVERAGES: follow(averages_of(seen, federation.weights), everyone, all_labels),
        },
    )


def _worth(federation: PlainRun, hospitals: Mapping[str, Hospital]) -> Worth:
    told = federation.train_config()
    scores = [
        handlers.local_model(one, told.model, told.normalisation).score(federation.weights)
        for one in hospitals.values()
    ]
    labels = [one.test.labels for one in hospitals.values()]
    each = [roc_auc(one, mine) for one, mine in zip(scores, labels, strict=True)]
    defined = [one for one in each if one is not None]
    return Worth(
        everyone=roc_auc(np.concatenate(scores), np.concatenate(labels)),
        mean=float(np.mean(defined)) if defined else None,
    )


def _invert(trial: SmallShadowRun, plan: Plan, settings: Settings, app: ClientApp) -> Inverted:
    """Invert the first round's update of the smallest hospital, with that many of its rows."""
    whole = plan.hospitals[plan.smallest]
    generator = np.random.default_rng([plan.seed, 1, trial.rows, trial.draw])  # the same patients in every privacy
    chosen = generator.permutation(len(whole.train))[: trial.rows]
    victim = replace(whole, train=whole.train.take(chosen))
    federation, grid = _open({**plan.hospitals, whole.name: victim}, settings, app)
    federation.gather()
    next(federation.rounds())
    _refuse_if_incomplete(grid.seen, 1)
    normalisation = federation.normalisation
    assert normalisation is not None
    encoder = build_encoder(plan.task, normalisation)
    everyone = np.concatenate([one.train.values for one in plan.hospitals.values()])
    truth, others, all_columns = (
        columns_of(plan.task, encode(encoder, plan.task, values), normalisation)
        for values in (victim.train.values, victim.test.values, everyone)
    )
    within = tolerances(plan.task, all_columns)
    training = _training_of(settings, whole.name, trial.rows)
    step = grid.seen[whole.name][0]
    rebuilt = [
        columns_of(plan.task, invert(plan.task, one, training, trial.rows, trial.draw), normalisation)
        for one in (step, Step(step.before, federation.weights))
    ]
    guesses = [others[generator.integers(len(others), size=trial.rows)] for _ in range(GUESSES)]
    return Inverted(
        update=recovered(rebuilt[0], truth, within),
        average=recovered(rebuilt[1], truth, within),
        typical=recovered(np.tile(typical(plan.task, others), (trial.rows, 1)), truth, within),
        random=float(np.mean([recovered(guess, truth, within) for guess in guesses])),
    )


def _training_of(settings: Settings, hospital: str, rows: int) -> Training:
    """What the server knows of the first round's local training: the very batches, unless these are private."""
    from federated_health.ml.training import batch_order  # brings TensorFlow

    if settings.dp_epsilon:
        order = np.tile(np.arange(rows, dtype=np.int32), (settings.dp_steps, 1))
        return Training(order=order, learning_rate=settings.dp_learning_rate, l2=settings.l2)
    order = batch_order(
        seed=settings.seed,
        hospital=hospital,
        round_number=1,
        rows=rows,
        epochs=settings.local_epochs,
        batch_size=settings.batch_size,
    )
    return Training(order=order, learning_rate=settings.learning_rate, l2=settings.l2)
