"""An audit from what was asked for to its files: audit.json and report.html."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from federated_health import __version__
from federated_health.data.dataset_folder import find_hospital, read_manifest
from federated_health.data.hospital import DEFAULT_SPLIT_SEED, Hospital, load_hospital
from federated_health.data.tasks import get_task
from federated_health.errors import DataError, RunError, SettingsError, UserError
from federated_health.files import hash_file, make_folder, write_json
from federated_health.names import REPORT
from federated_health.report.run_files import write_report
from federated_health.server.run_folder import refuse_run_folder
from federated_health.settings import Settings, Value, read_defaults
from federated_health.studies.audit.figures import PLAIN, figures_of_audit
from federated_health.studies.audit.page import page_of_audit
from federated_health.studies.audit.plan import Outcome, Plan, Trial
from federated_health.studies.audit.trials import run_trial
from federated_health.studies.workers import load_app, workers

AUDIT = "audit.json"

MIN_RUNS = 6
"""So that of the shadow models two were trained with each patient, and two without."""

MIN_ROWS = 4
"""Training rows of a hospital, of which half are taken."""

SIZES = (1, 4, 16)
"""Rows in the updates that are inverted, beside all of the smallest hospital's."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        data: folder that create_dataset.py wrote.
        out: folder of the audit.
        shadows: federations that are attacked in each setting, each with the others as shadow models.
        wholes: federations of all training rows in each setting.
        draws: of patients whose update is inverted, of each size; 0 inverts none.
        settings: of training, by flag.
    """

    data: Path
    out: Path
    force: bool
    shadows: int
    wholes: int
    draws: int
    epsilons: tuple[float, ...]
    settings: Mapping[str, Value]


def run(request: Request, *, app: str, jobs: int, show: Callable[[int, int], None]) -> dict[str, Any]:
    """Train, attack and write what was found.

    Returns:
        What audit.json holds.

    Raises:
        DataError, SettingsError, RunError: it cannot be run, or a federation failed; then nothing is written.
    """
    hospitals, hashes = _read_hospitals(request.data)
    plan = _plan_of(request, hospitals)
    refuse_run_folder(request.out, (AUDIT,), force=request.force)
    make_folder(request.out)
    results = run_trials(plan, app=app, jobs=jobs, show=show)
    found = figures_of_audit(plan, results)
    settings = plan.privacies[PLAIN]
    figures = {
        "audit": {
            "version": __version__,
            "settings": settings.to_config(),
            "shadows": plan.runs,
            "wholes": plan.wholes,
            "draws": plan.draws,
            "epsilons": list(request.epsilons),
            "schema": plan.task.schema_hash,
            "hospitals": hashes,
            "smallest": plan.smallest,
        },
        "privacies": found,
    }
    write_json(request.out / AUDIT, figures)
    write_report(request.out / REPORT, lambda: page_of_audit(plan, found))
    return figures


def run_trials(
    plan: Plan, *, app: str, jobs: int, show: Callable[[int, int], None] = lambda *_: None
) -> dict[Trial, Outcome]:
    """Train and watch all federations of a plan.

    Args:
        app: where the hospitals' ClientApp is, such as client:app.
        jobs: processes. Without differential privacy, the results do not depend on it.
        show: told after each federation how many of how many are done.

    Raises:
        RunError: a federation failed.
    """
    trials = plan.trials()
    results: dict[Trial, Outcome] = {}
    show(0, len(trials))
    with workers(min(jobs, len(trials)), _begin, (plan, app), died="a process of the audit died") as attack:
        for done, (trial, outcome) in enumerate(attack(trials), start=1):
            results[trial] = outcome
            show(done, len(trials))
    return results


def name_of(epsilon: float) -> str:
    """What a setting with differential privacy is called."""
    return f"epsilon {epsilon:g}"


def _begin(work: tuple[Plan, str]) -> Callable[[Trial], Outcome]:
    plan, reference = work
    app: ClientApp = load_app(reference)

    def run_one(trial: Trial) -> Outcome:
        try:
            return run_trial(trial, plan, app)
        except UserError as error:
            raise RunError(f"{trial.privacy}: {error}") from None

    return run_one


def _read_hospitals(folder: Path) -> tuple[dict[str, Hospital], dict[str, str]]:
    """All hospitals, split into training and held-out rows as they would be in a run, and their CSVs' hashes."""
    manifest = read_manifest(folder)
    task = get_task(manifest["task"])
    hospitals, hashes = {}, {}
    for number in range(1, len(manifest["hospitals"]) + 1):
        path, name = find_hospital(folder, number)
        hospitals[name], hashes[name] = load_hospital(path, task, name, DEFAULT_SPLIT_SEED), hash_file(path)
        if (rows := len(hospitals[name].train)) < MIN_ROWS:
            raise DataError(f"{path}: has {rows} patients to train on; an audit halves them, and takes {MIN_ROWS}")
    if len(hospitals) < 2:
        raise DataError(f"{folder}: holds one hospital; an audit of a federation takes at least two")
    return hospitals, hashes


def _plan_of(request: Request, hospitals: Mapping[str, Hospital]) -> Plan:
    if request.shadows < MIN_RUNS or request.shadows % 2:
        raise SettingsError(f"shadows: expected an even number from {MIN_RUNS}, got {request.shadows}")
    if len(set(request.epsilons)) < len(request.epsilons):
        given = ", ".join(f"{one:g}" for one in request.epsilons)
        raise SettingsError(f"epsilons: each one once, got {given}")
    task = next(iter(hospitals.values())).task
    config = {**read_defaults(), **request.settings, "task": task.name, "hospitals": len(hospitals)}
    privacies = {PLAIN: Settings.from_config({**config, "dp-epsilon": 0.0})}
    for epsilon in sorted(request.epsilons, reverse=True):
        privacies[name_of(epsilon)] = Settings.from_config({**config, "dp-epsilon": epsilon})
    delta, most = privacies[PLAIN].dp_delta, max(len(one.train) for one in hospitals.values())
    if delta * most >= 1:  # hospitals would refuse it, when all that comes before is trained
        raise SettingsError(f"dp-delta: expected less than 1/{most}, one over the training rows, got {delta!r}")
    fewest = min(len(one.train) for one in hospitals.values())
    sizes = (*(size for size in SIZES if size < fewest), fewest) if request.draws else ()
    return Plan(
        hospitals=hospitals,
        privacies=privacies,
        runs=request.shadows,
        wholes=request.wholes,
        sizes=sizes,
        draws=request.draws,
        seed=privacies[PLAIN].seed,
    )
