"""The shadow runs of an audit: their kinds, their training rows, and what the attacks observe of them.

half     random halves of each hospital's training and held-out rows, to be attacked by membership inference
full     all training rows, as in a real run, to measure the quality of the model
small    all rows, but only a few of the smallest hospital, whose first update is inverted
drawn    all rows, but only 30 patients of one hospital, on whom all attacks of a curious server are tried
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital, Patients
from federated_health.data.tasks import Task
from federated_health.hospital.policy import Policy
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.scores import roc_auc
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.studies.audit import inversion
from federated_health.studies.audit.drawn_hospital import draw_small_hospital
from federated_health.studies.audit.held_out import membership_equations, sum_over_hospitals
from federated_health.studies.audit.membership import confidences
from federated_health.studies.audit.observations import (
    RecordingApp,
    Step,
    average_steps,
    layers_of,
    log_odds_of,
    patient_statistics,
)
from federated_health.studies.audit.small_hospital import Findings, attack_small_hospital
from federated_health.studies.audit.subset_recovery import recover_subset
from federated_health.studies.study import forget_local_models, local_model, open_run, require_all_updates
from federated_health.transport.app_calls import App

HALF, FULL, SMALL, DRAWN = "half", "full", "small", "drawn"
"""Kinds of shadow runs, by their rows (see this module)."""

FINAL, UPDATES, AVERAGES = "final", "updates", "averages"
"""Targets of attacks on training rows: the final model, one hospital's updates, the averages of the rounds."""

DISCLOSURE_CONTROL = "disclosure control"
"""Privacy setting of plain runs in which hospitals have the default policy, as if their data were not public."""

HELD_OUT, HELD_OUT_SUM = "held-out", "held-out-sum"
"""Targets of attacks on held-out rows: the sums over those of one hospital, and of all hospitals together."""

GUESSES = 20
"""Draws of random patients, with which reconstructed patients are compared."""

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ShadowRun:
    """A run of an audit, numbered from 0 among those of its kind.

    Attributes:
        privacy: name of its privacy setting.
        rows: of small runs, number of rows of the smallest hospital.
    """

    privacy: str
    kind: str
    number: int
    rows: int = 0

    def __str__(self) -> str:
        return self.privacy


@dataclass(frozen=True, kw_only=True)
class ShadowRunResult:
    """The part of a shadow run that an audit needs.

    Attributes:
        roc_auc: of half and full runs, on the held-out rows of all hospitals together; None where undefined.
        mean_roc_auc: the mean ROC-AUC of the hospitals in which it is defined.
        statistics: of half runs; target -> statistic -> [all hospitals' training or held-out patients].
        inversion: of small runs; see `_invert`.
        findings: of drawn runs; see `small_hospital.attack_small_hospital`.
    """

    roc_auc: float | None = None
    mean_roc_auc: float | None = None
    statistics: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    inversion: Mapping[str, float] = field(default_factory=dict)
    findings: Mapping[str, Findings] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """The shadow runs of an audit.

    Attributes:
        hospitals: hospitals whose rows are attacked.
        privacies: name of a privacy setting -> settings of its runs.
        half_runs, full_runs: number per privacy setting; that of half runs is even.
        sizes: numbers of rows of the smallest hospital in small runs.
        draws: small runs per size and privacy setting.
        drawn: drawn runs per privacy setting.
    """

    hospitals: Mapping[str, Hospital]
    privacies: Mapping[str, Settings]
    half_runs: int
    full_runs: int
    sizes: tuple[int, ...]
    draws: int
    drawn: int
    seed: int

    @property
    def task(self) -> Task:
        return next(iter(self.hospitals.values())).task

    @property
    def smallest(self) -> str:
        """The hospital with the fewest training rows."""
        return min(self.hospitals, key=lambda name: len(self.hospitals[name].train))

    def runs(self, privacy: str, kind: str, rows: int = 0) -> list[ShadowRun]:
        """The shadow runs of one kind under one privacy setting."""
        runs = {HALF: self.half_runs, FULL: self.full_runs, SMALL: self.draws, DRAWN: self.drawn}[kind]
        return [ShadowRun(privacy=privacy, kind=kind, number=number, rows=rows) for number in range(runs)]

    def shadow_runs(self) -> list[ShadowRun]:
        """All shadow runs, one privacy setting after the other.

        Disclosure control does not change an update, so it is not inverted again.
        """
        runs = []
        for privacy in self.privacies:
            sizes = () if privacy == DISCLOSURE_CONTROL else self.sizes
            for kind, rows in [(HALF, 0), (FULL, 0), *((SMALL, size) for size in sizes), (DRAWN, 0)]:
                runs += self.runs(privacy, kind, rows)
        return runs

    def patients(self, target: str) -> dict[str, Patients]:
        """Hospital -> the rows that an attack on a target is about: its training rows, or those held out."""
        is_held_out = target in (HELD_OUT, HELD_OUT_SUM)
        return {name: hospital.test if is_held_out else hospital.train for name, hospital in self.hospitals.items()}

    def slices(self, target: str = FINAL) -> dict[str, slice]:
        """Positions of each hospital's patients among those of all hospitals."""
        ends = np.cumsum([0, *map(len, self.patients(target).values())]).tolist()
        return {name: slice(*pair) for name, pair in zip(self.hospitals, pairwise(ends), strict=True)}

    def members(self, target: str = FINAL) -> Flags:
        """Rows of each half run, [runs, rows]: those of a random half of every hospital's patients.

        Every second run has the complement of the one before, so every patient is in half of the runs.
        """
        generator = np.random.default_rng([self.seed, 4 if target in (HELD_OUT, HELD_OUT_SUM) else 0])
        patients = [rows.number_patients() for rows in self.patients(target).values()]
        runs = []
        for _ in range(self.half_runs // 2):
            half = np.concatenate([_draw_half(generator, numbers.max(initial=-1) + 1)[numbers] for numbers in patients])
            runs += [half, ~half]
        return np.array(runs)


def _draw_half(generator: np.random.Generator, patients: int) -> Flags:
    """The patients in the first half of a random order."""
    return np.argsort(generator.permutation(patients)) < patients // 2


def train_shadow_run(shadow: ShadowRun, plan: AuditPlan, app: App) -> ShadowRunResult:
    """Train a shadow run and observe it; RunError if it could not be trained."""
    settings = plan.privacies[shadow.privacy]
    policy = Policy() if shadow.privacy == DISCLOSURE_CONTROL else None
    try:
        if shadow.kind == SMALL:
            return ShadowRunResult(inversion=_invert(shadow, plan, settings, app))
        settings = replace(settings, seed=plan.seed + shadow.number)
        if shadow.kind == DRAWN:
            draw = draw_small_hospital(plan.hospitals, shadow.number, plan.seed)
            return ShadowRunResult(findings=attack_small_hospital(draw, settings, app, policy))
        if shadow.kind == HALF:
            return _observe(shadow.number, plan, settings, app, policy)
        run, _ = _train(plan.hospitals, settings, app, policy=policy)
        return _evaluate(run, plan.hospitals)
    finally:
        forget_local_models()  # no other run has these rows


def _train(
    hospitals: Mapping[str, Hospital],
    settings: Settings,
    app: App,
    rounds: int | None = None,
    policy: Policy | None = None,
) -> tuple[PlainRun, RecordingApp]:
    """A finished run and what was recorded of it; all rounds, or the first few."""
    recorder = RecordingApp(app)
    run = open_run(hospitals, settings, recorder, policy)
    run.gather()
    for _ in islice(run.rounds(), rounds):
        pass
    require_all_updates(run, hospitals)
    return run, recorder


def _evaluate(run: PlainRun, hospitals: Mapping[str, Hospital]) -> ShadowRunResult:
    """ROC-AUC of a final model on held-out rows."""
    scores = [local_model(run, hospital).score(run.weights) for hospital in hospitals.values()]
    labels = [hospital.test.labels for hospital in hospitals.values()]
    aucs = [auc for pair in zip(scores, labels, strict=True) if (auc := roc_auc(*pair)) is not None]
    return ShadowRunResult(
        roc_auc=roc_auc(np.concatenate(scores), np.concatenate(labels)),
        mean_roc_auc=float(np.mean(aucs)) if aucs else None,
    )


def _observe(number: int, plan: AuditPlan, settings: Settings, app: App, policy: Policy | None) -> ShadowRunResult:
    """Train a half run and compute the statistics of all patients, members or not."""
    slices, held_out_slices = plan.slices(), plan.slices(HELD_OUT)
    members, held_out_members = plan.members()[number], plan.members(HELD_OUT)[number]
    hospitals = {
        name: replace(
            hospital,
            train=hospital.train.take(members[slices[name]]),
            test=hospital.test.take(held_out_members[held_out_slices[name]]),
        )
        for name, hospital in plan.hospitals.items()
    }
    run, recorder = _train(hospitals, settings, app, policy=policy)
    run.evaluate()
    steps, layers = recorder.steps, layers_of(run.weights)
    encoder = build_encoder(plan.task, run.train_config().normalisation)

    def encoded(target: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        patients = Patients.concatenate(plan.patients(target).values())
        return encode(encoder, plan.task, patients.values), patients.labels

    features, labels = encoded(FINAL)
    updates = [patient_statistics(steps[name], features[rows], labels[rows]) for name, rows in slices.items()]
    tested, outcomes = encoded(HELD_OUT)
    subsets = [
        recover_subset(membership_equations(recorder.evaluations[name], tested[rows], outcomes[rows]))
        for name, rows in held_out_slices.items()
    ]
    of_all = membership_equations(sum_over_hospitals(recorder.evaluations), tested, outcomes)
    return replace(
        _evaluate(run, plan.hospitals),
        statistics={
            FINAL: {"confidence": confidences(log_odds_of(layers, features), labels)},
            UPDATES: {name: np.concatenate([update[name] for update in updates]) for name in updates[0]},
            AVERAGES: patient_statistics(average_steps(steps, run.weights), features, labels),
            HELD_OUT: {
                "confidence": confidences(log_odds_of(layers, tested), outcomes),
                "subset": np.concatenate(subsets),
            },
            HELD_OUT_SUM: {"subset": recover_subset(of_all, max_nodes=0)},
        },
    )


def _invert(shadow: ShadowRun, plan: AuditPlan, settings: Settings, app: App) -> dict[str, float]:
    """Invert the first update of the smallest hospital, with this many of its rows.

    Returns:
        The share of patients' columns that is recovered from each source: `update`, their hospital's update;
        `average`, the average that all hospitals get; `typical`, the same typical patient as a guess for all;
        `random`, other patients of the hospital as guesses, mean over GUESSES draws.
    """
    task, smallest, rows = plan.task, plan.hospitals[plan.smallest], shadow.rows
    # The same patients under every privacy setting.
    generator = np.random.default_rng([plan.seed, 1, rows, shadow.number])
    chosen = generator.permutation(len(smallest.train))[:rows]
    victim = replace(smallest, train=smallest.train.take(chosen))
    run, recorder = _train({**plan.hospitals, victim.name: victim}, settings, app, rounds=1)
    normalisation = run.train_config().normalisation
    encoder = build_encoder(task, normalisation)
    everyone = np.concatenate([hospital.train.values for hospital in plan.hospitals.values()])
    truth, others, all_columns = (
        inversion.to_columns(task, encode(encoder, task, values), normalisation)
        for values in (victim.train.values, victim.test.values, everyone)
    )
    tolerance = inversion.tolerances(task, all_columns)
    training = inversion.known_training(settings, victim.name, rows)

    def share(guesses: Array) -> float:
        return inversion.recovered_share(guesses, truth, tolerance)

    def share_from(step: Step) -> float:
        features = inversion.invert(task, step, training, rows, seed=shadow.number)
        return share(inversion.to_columns(task, features, normalisation))

    update = recorder.steps[victim.name][0]
    return {
        "update": share_from(update),
        "average": share_from(Step(update.before, run.weights)),
        "typical": share(np.tile(inversion.typical_patient(task, others), (rows, 1))),
        "random": float(np.mean([share(others[generator.integers(len(others), size=rows)]) for _ in range(GUESSES)])),
    }
