"""The shadow runs of an audit: which there are, who is trained on in each, and what the attacks observe of it.

half     a random half of each hospital's training rows, to be attacked by membership inference
full     all training rows, as in a real run: how good the model is
small    all rows, but only a few of the smallest hospital, one update of which is inverted
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital
from federated_health.data.tasks import Task
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.metrics import roc_auc
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.studies.audit import inversion, observations
from federated_health.studies.audit.membership import confidences
from federated_health.studies.audit.observations import RecordingApp, Step, layers_of, patient_statistics
from federated_health.studies.in_process import forget_local_models, local_model, open_run, require_all_updates
from federated_health.transport.in_process import App

FINAL, UPDATES, AVERAGES = "final", "updates", "averages"
"""Targets of the attacks: the final model, one hospital's updates, the averages of the rounds."""

GUESSES = 20
"""Draws of random patients, with which rebuilt patients are compared."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ShadowRun:
    """A run of an audit, under one privacy setting."""

    privacy: str

    def __str__(self) -> str:
        return self.privacy


@dataclass(frozen=True, kw_only=True)
class HalfShadowRun(ShadowRun):
    """A run on half of the rows, by its number from 0."""

    run: int


@dataclass(frozen=True, kw_only=True)
class FullShadowRun(ShadowRun):
    """A run on all rows, by its number from 0."""

    run: int


@dataclass(frozen=True, kw_only=True)
class SmallShadowRun(ShadowRun):
    """A run with this many rows of the smallest hospital; `draw` numbers the random choices of rows."""

    rows: int
    draw: int


@dataclass(frozen=True, kw_only=True)
class HeldOutAuc:
    """ROC-AUC of a final model on held-out rows; None where undefined.

    Attributes:
        all_patients: over all hospitals' patients together.
        hospital_mean: mean over the hospitals in which it is defined.
    """

    all_patients: float | None
    hospital_mean: float | None


@dataclass(frozen=True, kw_only=True)
class RecoveredShares:
    """Share of patients' columns that are recovered, by what they are rebuilt from.

    Attributes:
        update: their hospital's update.
        average: the average that all hospitals get.
        typical: guessing the same typical patient for all.
        random: guessing other patients of the hospital, mean over GUESSES draws.
    """

    update: float
    average: float
    typical: float
    random: float


@dataclass(frozen=True, kw_only=True)
class ShadowRunResult:
    """What an audit keeps of a shadow run.

    Attributes:
        auc: of half and full runs.
        statistics: of half runs; target -> statistic -> [all hospitals' training patients].
        inversion: of small runs.
    """

    auc: HeldOutAuc | None = None
    statistics: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    inversion: RecoveredShares | None = None


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """The shadow runs of an audit.

    Attributes:
        hospitals: hospitals whose training rows are attacked.
        privacies: name of a privacy setting -> settings of its runs.
        half_runs: half runs per privacy setting; even.
        full_runs: full runs per privacy setting.
        sizes: numbers of rows of the smallest hospital in small runs.
        draws: small runs per size and privacy setting.
    """

    hospitals: Mapping[str, Hospital]
    privacies: Mapping[str, Settings]
    half_runs: int
    full_runs: int
    sizes: tuple[int, ...]
    draws: int
    seed: int

    @property
    def task(self) -> Task:
        return next(iter(self.hospitals.values())).task

    @property
    def smallest(self) -> str:
        """The hospital with the fewest training rows."""
        return min(self.hospitals, key=lambda name: len(self.hospitals[name].train))

    def shadow_runs(self) -> list[ShadowRun]:
        """All shadow runs, one privacy setting after the other."""
        runs: list[ShadowRun] = []
        for privacy in self.privacies:
            runs += [HalfShadowRun(privacy=privacy, run=run) for run in range(self.half_runs)]
            runs += [FullShadowRun(privacy=privacy, run=run) for run in range(self.full_runs)]
            for rows in self.sizes:
                runs += [SmallShadowRun(privacy=privacy, rows=rows, draw=draw) for draw in range(self.draws)]
        return runs

    def slices(self) -> dict[str, slice]:
        """Positions of each hospital's training patients among those of all hospitals."""
        ends = np.cumsum([0, *(len(hospital.train) for hospital in self.hospitals.values())]).tolist()
        return {name: slice(*pair) for name, pair in zip(self.hospitals, pairwise(ends), strict=True)}

    def members(self) -> npt.NDArray[np.bool_]:
        """Who is trained on in each half run, [runs, patients]: a random half of every hospital's patients.

        Every second run has the complement of the one before, so every patient is in half of the runs.
        """
        generator = np.random.default_rng([self.seed, 0])
        runs = []
        for _ in range(self.half_runs // 2):
            parts = []
            for hospital in self.hospitals.values():
                chosen = np.zeros(len(hospital.train), dtype=bool)
                chosen[generator.permutation(len(chosen))[: len(chosen) // 2]] = True
                parts.append(chosen)
            half = np.concatenate(parts)
            runs += [half, ~half]
        return np.array(runs)


def train_shadow_run(shadow: ShadowRun, plan: AuditPlan, app: App) -> ShadowRunResult:
    """Train a shadow run, and keep what the attacks need of it.

    Raises:
        RunError: it could not be trained.
    """
    settings = plan.privacies[shadow.privacy]
    try:
        if isinstance(shadow, SmallShadowRun):
            return ShadowRunResult(inversion=_invert(shadow, plan, settings, app))
        if isinstance(shadow, HalfShadowRun):
            return _observe(shadow, plan, replace(settings, seed=plan.seed + shadow.run), app)
        assert isinstance(shadow, FullShadowRun)
        run, _ = _train(plan.hospitals, replace(settings, seed=plan.seed + shadow.run), app)
        return ShadowRunResult(auc=_held_out_auc(run, plan.hospitals))
    finally:
        forget_local_models()  # no other run has these rows


def _train(
    hospitals: Mapping[str, Hospital], settings: Settings, app: App, rounds: int | None = None
) -> tuple[PlainRun, Mapping[str, list[Step]]]:
    """A finished run and the hospitals' recorded training; all rounds, or the first few."""
    recorder = RecordingApp(app)
    run = open_run(hospitals, settings, recorder)
    run.gather()
    for _ in islice(run.rounds(), rounds):
        pass
    require_all_updates(run, hospitals)
    return run, recorder.steps


def _held_out_auc(run: PlainRun, hospitals: Mapping[str, Hospital]) -> HeldOutAuc:
    scores = [local_model(run, hospital).score(run.weights) for hospital in hospitals.values()]
    labels = [hospital.test.labels for hospital in hospitals.values()]
    aucs = [auc for pair in zip(scores, labels, strict=True) if (auc := roc_auc(*pair)) is not None]
    return HeldOutAuc(
        all_patients=roc_auc(np.concatenate(scores), np.concatenate(labels)),
        hospital_mean=float(np.mean(aucs)) if aucs else None,
    )


def _observe(shadow: HalfShadowRun, plan: AuditPlan, settings: Settings, app: App) -> ShadowRunResult:
    members, slices = plan.members()[shadow.run], plan.slices()
    hospitals = {
        name: replace(hospital, train=hospital.train.take(members[slices[name]]))
        for name, hospital in plan.hospitals.items()
    }
    run, steps = _train(hospitals, settings, app)
    encoder = build_encoder(plan.task, run.train_config().normalisation)
    patients = [hospital.train for hospital in plan.hospitals.values()]
    features = np.concatenate([encode(encoder, plan.task, of_hospital.values) for of_hospital in patients])
    labels = np.concatenate([of_hospital.labels for of_hospital in patients])
    updates = [patient_statistics(steps[name], features[rows], labels[rows]) for name, rows in slices.items()]
    return ShadowRunResult(
        auc=_held_out_auc(run, hospitals),
        statistics={
            FINAL: {"confidence": confidences(observations.log_odds_of(layers_of(run.weights), features), labels)},
            UPDATES: {name: np.concatenate([update[name] for update in updates]) for name in updates[0]},
            AVERAGES: patient_statistics(observations.average_steps(steps, run.weights), features, labels),
        },
    )


def _invert(shadow: SmallShadowRun, plan: AuditPlan, settings: Settings, app: App) -> RecoveredShares:
    """Invert the first update of the smallest hospital, with this many of its rows."""
    task, smallest = plan.task, plan.hospitals[plan.smallest]
    # The same patients under every privacy setting.
    generator = np.random.default_rng([plan.seed, 1, shadow.rows, shadow.draw])
    chosen = generator.permutation(len(smallest.train))[: shadow.rows]
    victim = replace(smallest, train=smallest.train.take(chosen))
    run, steps = _train({**plan.hospitals, victim.name: victim}, settings, app, rounds=1)
    normalisation = run.train_config().normalisation
    encoder = build_encoder(task, normalisation)
    everyone = np.concatenate([hospital.train.values for hospital in plan.hospitals.values()])
    truth, others, all_columns = (
        inversion.to_columns(task, encode(encoder, task, values), normalisation)
        for values in (victim.train.values, victim.test.values, everyone)
    )
    tolerance = inversion.tolerances(task, all_columns)
    training = inversion.known_training(settings, victim.name, shadow.rows)
    update = steps[victim.name][0]
    from_update, from_average = (
        inversion.to_columns(task, inversion.invert(task, step, training, shadow.rows, shadow.draw), normalisation)
        for step in (update, Step(update.before, run.weights))
    )
    typical = np.tile(inversion.typical_patient(task, others), (shadow.rows, 1))
    guesses = [others[generator.integers(len(others), size=shadow.rows)] for _ in range(GUESSES)]
    return RecoveredShares(
        update=inversion.recovered_share(from_update, truth, tolerance),
        average=inversion.recovered_share(from_average, truth, tolerance),
        typical=inversion.recovered_share(typical, truth, tolerance),
        random=float(np.mean([inversion.recovered_share(guess, truth, tolerance) for guess in guesses])),
    )
