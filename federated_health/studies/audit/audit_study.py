"""The audit, from the request to its files: audit.json and report.html."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from federated_health import __version__
from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.errors import DataError, SettingsError
from federated_health.files import hash_file, make_folder, write_json
from federated_health.names import REPORT
from federated_health.report.page import write_report
from federated_health.studies.audit.attacks import PLAIN, audit_figures
from federated_health.studies.audit.audit_page import audit_page
from federated_health.studies.audit.shadow_runs import AuditPlan, ShadowRun, ShadowRunResult, train_shadow_run
from federated_health.studies.study import StudyRequest, find_hospitals, refuse_duplicates, refuse_run_folder
from federated_health.studies.workers import HOSPITAL_APP, load_app, run_tasks

AUDIT = "audit.json"

MIN_HALF_RUNS = 6
"""Then at least two shadow models were trained with each patient, and two without."""

MIN_ROWS = 4
"""Training rows per hospital, of which half runs take half."""

SIZES = (1, 4, 16)
"""Rows in the updates that are inverted, besides all rows of the smallest hospital."""


@dataclass(frozen=True, kw_only=True)
class AuditRequest(StudyRequest):
    """What an audit is asked for.

    Attributes:
        shadows: half runs per privacy setting, each of which is attacked with the others as shadow models.
        wholes: full runs per privacy setting.
        draws: updates of each size that are inverted; 0 for no inversion.
        epsilons: privacy budgets to attack, besides plain and encrypted runs.
    """

    shadows: int
    wholes: int
    draws: int
    epsilons: tuple[float, ...]


def run(
    request: AuditRequest, *, app: str = HOSPITAL_APP, jobs: int, show: Callable[[int, int], None]
) -> dict[str, Any]:
    """Train and attack the shadow runs, and write the results.

    Args:
        app: reference of the function that answers the hospitals' messages, such as module:name.
        jobs: worker processes. Without differential privacy, the results do not depend on their number.
        show: called with the number of finished shadow runs and the total.

    Returns:
        The content of audit.json.

    Raises:
        DataError, SettingsError: the request is not valid.
        RunError: a run failed, and nothing is written; or a file could not be written.
    """
    task, files = find_hospitals(request.data)
    hospitals = {name: load_hospital(path, task, name, DEFAULT_SPLIT_SEED) for name, path in files.items()}
    for name, hospital in hospitals.items():
        if (rows := len(hospital.train)) < MIN_ROWS:
            raise DataError(f"{files[name]}: expected at least {MIN_ROWS} training patients for an audit, got {rows}")
    plan = _make_plan(request, hospitals)
    refuse_run_folder(request.out, (AUDIT,), force=request.force)
    make_folder(request.out)
    results = train_shadow_runs(plan, app=app, jobs=jobs, show=show)
    by_privacy = audit_figures(plan, results)
    figures = {
        "audit": {
            "version": __version__,
            "settings": plan.privacies[PLAIN].to_config(),
            "shadows": plan.half_runs,
            "wholes": plan.full_runs,
            "draws": plan.draws,
            "epsilons": list(request.epsilons),
            "schema": task.schema_hash,
            "hospitals": {name: hash_file(path) for name, path in files.items()},
            "smallest": plan.smallest,
        },
        "privacies": by_privacy,
    }
    write_json(request.out / AUDIT, figures)
    write_report(request.out / REPORT, lambda: audit_page(plan, by_privacy))
    return figures


def train_shadow_runs(
    plan: AuditPlan, *, app: str, jobs: int, show: Callable[[int, int], None]
) -> dict[ShadowRun, ShadowRunResult]:
    """Train all shadow runs of a plan; see `run`."""
    results: dict[ShadowRun, ShadowRunResult] = {}
    run_tasks(
        plan.shadow_runs(),
        partial(_train, plan=plan, app=app),
        jobs=jobs,
        save=results.__setitem__,
        show=show,
        crashed="a worker process of the audit died",
    )
    return results


def _train(shadow: ShadowRun, plan: AuditPlan, app: str) -> ShadowRunResult:
    return train_shadow_run(shadow, plan, load_app(app))


def privacy_name(epsilon: float) -> str:
    """Name of a setting with differential privacy."""
    return f"epsilon {epsilon:g}"


def _make_plan(request: AuditRequest, hospitals: Mapping[str, Hospital]) -> AuditPlan:
    if request.shadows < MIN_HALF_RUNS or request.shadows % 2:
        raise SettingsError(f"shadows: expected an even number from {MIN_HALF_RUNS}, got {request.shadows}")
    refuse_duplicates("epsilons", [f"{epsilon:g}" for epsilon in request.epsilons])
    task = next(iter(hospitals.values())).task
    epsilons = {PLAIN: 0.0, **{privacy_name(epsilon): epsilon for epsilon in sorted(request.epsilons, reverse=True)}}
    privacies = {
        name: request.make_settings(task, len(hospitals), {"dp-epsilon": epsilon}) for name, epsilon in epsilons.items()
    }
    rows = [len(hospital.train) for hospital in hospitals.values()]
    delta = privacies[PLAIN].dp_delta
    if delta * max(rows) >= 1:  # the hospitals would refuse it, but only after all plain runs
        raise SettingsError(f"dp-delta: expected less than 1/{max(rows)}, one over the training rows, got {delta!r}")
    return AuditPlan(
        hospitals=hospitals,
        privacies=privacies,
        half_runs=request.shadows,
        full_runs=request.wholes,
        sizes=(*(size for size in SIZES if size < min(rows)), min(rows)) if request.draws else (),
        draws=request.draws,
        seed=privacies[PLAIN].seed,
    )
