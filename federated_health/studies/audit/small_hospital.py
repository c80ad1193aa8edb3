"""What a curious server learns of a small hospital among the others (see `drawn_hospital`).

The attacks on its rows know the records of the hospital from which they were drawn, and ask which of them are in it;
those with crafted weights and by differencing know nothing but the released messages.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from federated_health.data.hospital import Hospital, Patients
from federated_health.hospital.policy import Policy
from federated_health.hospital.release_memory import choose_rows, path_beside
from federated_health.messages.content import Registration
from federated_health.ml.keras_models import build_encoder, encode
from federated_health.ml.networks import Weights, weight_shapes
from federated_health.ml.normalisation import merge_sums
from federated_health.ml.scores import roc_auc
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.studies.audit import inversion
from federated_health.studies.audit.crafted_weights import (
    CountingServer,
    counting_weights,
    isolated_rows,
    isolating_weights,
)
from federated_health.studies.audit.differencing import added_values
from federated_health.studies.audit.drawn_hospital import Draw
from federated_health.studies.audit.held_out import (
    membership_equations,
    outcome_equations,
    registration_equations,
    sum_over_hospitals,
)
from federated_health.studies.audit.masked_sums import masked_average, silent_weights, single_out
from federated_health.studies.audit.membership import true_positive_rates
from federated_health.studies.audit.observations import (
    REGRESSED_ROUNDS,
    Craft,
    Evaluated,
    Floats,
    RecordingApp,
    Step,
    average_steps,
    layers_of,
    log_odds_of,
    patient_statistics,
)
from federated_health.studies.audit.subset_recovery import MAX_NODES, recover_subset
from federated_health.studies.study import open_run
from federated_health.transport.app_calls import App

OWN, SUM = "own", "sum"
"""What the server sees: each hospital's messages, or with secure aggregation only their sums over all hospitals."""

Findings = dict[str, float | None]
"""Attack -> what it finds out (see `attack_small_hospital`); None where the attack is not defined."""


def attack_small_hospital(
    draw: Draw, settings: Settings, app: App, policy: Policy | None = None
) -> dict[str, Findings]:
    """All attacks on a small hospital: view of the server -> attack -> what it finds.

    means        share of the measurements whose mean is known
    added        share of the measurements of the added patient that two registrations give away
    added_whole  the same, if the patient is added to the whole original hospital
    members      ROC-AUC of which of the original hospital's patients are training rows
    found        share of the training rows found at 1 % false positives
    registered   ROC-AUC of which of the small hospital's rows are held out, from the sums of its registration
    held_out     the same, also from the sums of every evaluation
    exact        whether those were told without an error
    outcomes     share of held-out patients whose outcome is told, from all their columns
    predicted    the same by the final model alone, as a guess
    counted      share of held-out patients of whom a measurement and the outcome are told by counting weights
    isolated     number of patients whose row is rebuilt from one update by isolating weights
    singled_out  the same as members, if the server sends the other hospitals weights that silence them

    Args:
        policy: of the hospitals, which then also remember their releases; by default everything may leave.
    """
    recorder = RecordingApp(app)
    run = open_run(draw.hospitals, settings, recorder, policy)
    run.run()
    pairs = {"added": (draw.small, draw.grown), "added_whole": draw.whole}
    registrations = {name: _register_twice(draw, pair, settings, app, policy) for name, pair in pairs.items()}
    views = (OWN,) if run.privacy is not None or policy is not None else (OWN, SUM)
    known = _Knowledge(draw, run, app, policy)
    return {
        view: {
            "means": _known_means(known, view),
            **{name: _rebuild_added(known, view, *both) for name, both in registrations.items()},
            **_trained(known, view, recorder.steps),
            **_evaluated(known, view, recorder),
            "counted": _count_values(known, view),
            "isolated": _isolate(known, view),
            "singled_out": _single_out(known, view),
        }
        for view in views
    }


class _Knowledge:
    """What the attacker knows of a finished run, and the truth with which its answers are compared.

    Attributes:
        rows: view -> training rows, held-out rows of the hospitals that the server sees together.
    """

    def __init__(self, draw: Draw, run: PlainRun, app: App, policy: Policy | None) -> None:
        self.draw, self.run, self.task = draw, run, draw.small.task
        self._app, self._policy = app, policy
        self.normalisation = run.train_config().normalisation
        self.shapes = weight_shapes(self.task, run.settings.network_declaration)
        self._encoder = build_encoder(self.task, self.normalisation)
        small, others = draw.small, [part for name, part in draw.hospitals.items() if name != draw.name]
        self.rows = {
            OWN: (small.train, small.test),
            SUM: (
                Patients.concatenate([small.train, *(hospital.train for hospital in others)]),
                Patients.concatenate([small.test, *(hospital.test for hospital in others)]),
            ),
        }

    def run_with(self, craft: Craft) -> tuple[PlainRun, RecordingApp]:
        """A new run of the same hospitals, in which the server sends weights of its own making."""
        recorder = RecordingApp(self._app, craft)
        run = open_run(self.draw.hospitals, self.run.settings, recorder, self._policy)
        run.gather()
        return run, recorder

    def evaluations(self, view: str, recorder: RecordingApp) -> Sequence[Evaluated]:
        """What the server learns of held-out rows in a run."""
        return recorder.evaluations[self.draw.name] if view == OWN else sum_over_hospitals(recorder.evaluations)

    def encode(self, patients: Patients) -> npt.NDArray[np.float32]:
        return encode(self._encoder, self.task, patients.values)


def _known_means(known: _Knowledge, view: str) -> float:
    """The share of the small hospital's measurements whose mean its registration tells."""
    released = known.run.registrations[known.draw.name].sums.count > 0
    return float(released.mean()) if view == OWN and released.size else 0.0


def _rebuild_added(
    known: _Knowledge, view: str, earlier: Mapping[str, Registration], later: Mapping[str, Registration]
) -> float | None:
    """The share of the added patient's measurements that two registrations give away."""
    before, after = (_seen(registrations, view, known.draw.name) for registrations in (earlier, later))
    truth = known.draw.added.values[0, list(known.task.measurement_positions)]
    pairs = zip(truth, added_values(before, after, known.task.measurements), strict=True)
    rebuilt = [_is_only(solutions, value) for value, solutions in pairs if not np.isnan(value)]
    return float(np.mean(rebuilt)) if rebuilt else None


def _is_only(solutions: Sequence[tuple[float, ...]], value: float) -> bool:
    """Whether the only solution is this value."""
    return len(solutions) == 1 and len(solutions[0]) == 1 and abs(solutions[0][0] - value) <= 1e-3 * max(1, abs(value))


def _trained(known: _Knowledge, view: str, steps: Mapping[str, Sequence[Step]]) -> Findings:
    """Who was trained on, from the updates or from their average; others of the original hospital were not."""
    draw = known.draw
    seen = steps[draw.name] if view == OWN else average_steps(steps, known.run.weights)
    train, _ = known.rows[view]
    share, members = _gradient_shares(known, seen, train)
    found = true_positive_rates(share, members, np.ones((len(members), 1)))
    return {"members": roc_auc(share, members), "found": float(found[0])}


def _gradient_shares(known: _Knowledge, steps: Sequence[Step], train: Patients) -> tuple[Floats, Floats]:
    """The share of each candidate's gradient in a sequence of steps, and whether the small hospital trained on it.

    Args:
        train: training rows of which the steps may be, first those of the small hospital.
    """
    draw = known.draw
    candidates = Patients.concatenate([train, draw.small.test, draw.others])
    share = patient_statistics(steps, known.encode(candidates), candidates.labels)["share"]
    of_hospital = np.r_[: len(draw.small.train), len(train) : len(candidates)]
    return share[of_hospital], _first(len(draw.small.train), len(of_hospital))


def _single_out(known: _Knowledge, view: str) -> float | None:
    """ROC-AUC of who was trained on, if the server silences all other hospitals in the first rounds."""
    draw, registrations = known.draw, known.run.registrations
    silent = silent_weights(known.run.weights)
    with _without_warnings():
        run, recorder = known.run_with(lambda name, _: None if name == draw.name else silent)
        for _ in islice(run.rounds(), REGRESSED_ROUNDS):
            pass
    rows = {name: registrations[name].train_examples for name in draw.hospitals}
    shares = {name: number / sum(rows.values()) for name, number in rows.items()}
    seen = recorder.steps[draw.name][:REGRESSED_ROUNDS]
    if view == SUM:
        rounds = [{name: recorder.steps[name][number] for name in draw.hospitals} for number in range(len(seen))]
        after = [single_out(masked_average(steps, shares), shares[draw.name]) for steps in rounds]
        seen = [Step(step.before, weights) for step, weights in zip(seen, after, strict=True)]
    share, members = _gradient_shares(known, seen, draw.small.train)
    return roc_auc(np.nan_to_num(share), members)


def _evaluated(known: _Knowledge, view: str, recorder: RecordingApp) -> Findings:
    """What the sums over held-out rows tell, together with those of the registration."""
    draw = known.draw
    seen = known.evaluations(view, recorder)
    train, test = known.rows[view]
    candidates = Patients.concatenate([test, train])
    sums = _seen(known.run.registrations, view, draw.name).sums
    registered = registration_equations(sums, candidates, known.task.measurement_positions)
    evaluated = membership_equations(seen, known.encode(candidates), candidates.labels)
    of_hospital = np.r_[: len(draw.small.test), len(test) : len(test) + len(draw.small.train)]
    is_held_out = _first(len(draw.small.test), len(of_hospital))
    max_nodes = MAX_NODES if view == OWN else 0  # a search among the rows of all hospitals would not end
    alone = recover_subset(registered, max_nodes=max_nodes)[of_hospital]
    together = recover_subset(registered + evaluated, max_nodes=max_nodes)[of_hospital]
    features = known.encode(test)
    prior = known.run.target.predict(log_odds_of(layers_of(known.run.weights), features))
    outcomes = recover_subset(outcome_equations(seen, features), prior, max_nodes)
    own, labels = slice(0, len(draw.small.test)), draw.small.test.labels
    return {
        "registered": roc_auc(alone, is_held_out),
        "held_out": roc_auc(together, is_held_out),
        "exact": float(((together >= 0.5) == is_held_out).all()),
        "outcomes": float(((outcomes[own] >= 0.5) == labels).mean()),
        "predicted": float(((prior[own] >= 0.5) == labels).mean()),
    }


def _count_values(known: _Knowledge, view: str) -> float | None:
    """The share of held-out patients of whom a measurement is told by counting weights, one question per round."""
    task, position = known.task, 0
    if not task.measurements:
        return None
    server = CountingServer(task.measurements[position], known.normalisation.mean[position])
    bounds: list[int] = []

    def craft(_: str, number: int) -> Weights:
        if number == len(bounds):
            bounds.append(server.next_bound())
        return counting_weights(task, known.shapes, known.normalisation, position, bounds[number] + 0.5)

    with _without_warnings():
        run, recorder = known.run_with(craft)
        for _ in run.rounds():
            for evaluated in known.evaluations(view, recorder)[-1:]:
                server.note(bounds[-1], evaluated.sums)
    _, test = known.rows[view]
    values = np.nan_to_num(test.values[:, task.measurement_positions[position]], nan=-1.0).astype(int)
    truth = Counter(zip(values.tolist(), test.labels.astype(int).tolist(), strict=True))
    return (server.found() & truth).total() / len(test) if len(test) else None


def _isolate(known: _Knowledge, view: str) -> float | None:
    """The number of patients whose row is rebuilt from one update, or one average, by isolating weights."""
    if not known.task.measurements:
        return None
    train, _ = known.rows[view]
    generator = np.random.default_rng([known.run.settings.seed, 3])
    crafted = isolating_weights(known.task, known.shapes, len(train), generator)
    with _without_warnings():
        run, recorder = known.run_with(lambda *_: crafted)
        for _ in islice(run.rounds(), 1):
            pass
    hospitals = [known.draw.small] if view == OWN else list(known.draw.hospitals.values())
    step = recorder.steps[known.draw.name][0] if view == OWN else Step(crafted, run.weights)
    rows = isolated_rows(known.task, step, _shrinkage(hospitals, known.run.settings))
    guesses = inversion.to_columns(known.task, rows, known.normalisation)
    truth, everyone = (
        inversion.to_columns(known.task, known.encode(part), known.normalisation)
        for part in (train, known.rows[SUM][0])
    )
    is_column = inversion.close_columns(guesses, truth, inversion.tolerances(known.task, everyone))
    return float(np.any(np.all(is_column, axis=2), axis=1).sum())


@contextmanager
def _without_warnings() -> Iterator[None]:
    """The run's server does not log that crafted weights are bad ones."""
    logger = logging.getLogger("federated_health.server")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first(number: int, patients: int) -> npt.NDArray[np.float32]:
    """1 for the first patients, 0 for all others, [patients]."""
    return (np.arange(patients) < number).astype(np.float32)


def _shrinkage(hospitals: Sequence[Hospital], settings: Settings) -> float:
    """The mean factor, over training rows, by which the L2 penalty scales a kernel in one round."""
    factors = []
    for hospital in hospitals:
        training = inversion.known_training(settings, hospital.name, len(hospital.train))
        factors.append((1.0 - training.learning_rate * training.l2) ** len(training.order))
    return float(np.average(factors, weights=[len(hospital.train) for hospital in hospitals]))


def _seen(registrations: Mapping[str, Registration], view: str, name: str) -> Registration:
    """A hospital's registration, or one with the sums over all hospitals."""
    own = registrations[name]
    return own if view == OWN else replace(own, sums=merge_sums([part.sums for part in registrations.values()]))


def _register_twice(
    draw: Draw, pair: tuple[Hospital, Hospital], settings: Settings, app: App, policy: Policy | None
) -> list[Mapping[str, Registration]]:
    """The registrations of two runs, between which a patient was added to a hospital."""
    if policy is not None:
        with TemporaryDirectory() as folder:
            path = path_beside(Path(folder) / "data.csv", draw.name)
            pair = choose_rows(pair[0], path, policy.min_cell), choose_rows(pair[1], path, policy.min_cell)
    found: list[Mapping[str, Registration]] = []
    for hospital in pair:
        run = open_run({**draw.hospitals, draw.name: hospital}, settings, app, policy)
        run.gather()
        found.append(run.registrations)
    return found
