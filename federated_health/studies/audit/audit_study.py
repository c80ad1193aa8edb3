"""The audit, from the request to its files: audit.json and report.html."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from federated_health import __version__
from federated_health.data.hospital import Hospital, split_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import TASK_FILE
from federated_health.errors import SettingsError
from federated_health.files import hash_file, write_json
from federated_health.hospital.handlers import answer
from federated_health.names import REPORT
from federated_health.report.page import write_report
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.studies.audit.attacks import PLAIN, audit_figures, sums_of_few
from federated_health.studies.audit.audit_page import audit_page
from federated_health.studies.audit.drawn_hospital import can_draw
from federated_health.studies.audit.shadow_runs import (
    DISCLOSURE_CONTROL,
    AuditPlan,
    ShadowRun,
    ShadowRunResult,
    train_shadow_run,
)
from federated_health.studies.study import (
    check_hospitals,
    describe_left_out,
    find_hospitals,
    prepare_folder,
    refuse_duplicates,
    refuse_too_few,
)
from federated_health.studies.workers import run_tasks

AUDIT = "audit.json"

MIN_HALF_RUNS = 6
"""Smallest number of half runs: two shadow models are then trained with each patient, and two without."""

MIN_ROWS = 4
"""Smallest number of training rows per hospital; half runs use half of them."""

SIZES = (1, 4, 16)
"""Rows in the updates that are inverted, besides all rows of the smallest hospital, up to MAX_INVERTED."""

MAX_INVERTED = 1000
"""Largest number of rows that are reconstructed from one update: more need many gigabytes, and are not recovered."""


def run(
    *,
    data: Path,
    task_file: Path | None = None,
    out: Path,
    force: bool,
    shadows: int,
    wholes: int,
    draws: int,
    small_hospitals: int,
    epsilons: tuple[float, ...],
    settings: Mapping[str, Value],
    jobs: int,
    show: Callable[[int, int], None],
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train and attack the shadow runs, and write the results.

    Args:
        data, out: folder that create_dataset.py wrote, and folder of the results.
        task_file: see `find_hospitals`.
        force: whether `out` may hold a run, whose report is replaced.
        shadows: half runs per privacy setting, each of which is attacked with the others as shadow models.
        wholes: full runs per privacy setting.
        draws: updates of each size that are inverted; 0 for no inversion.
        small_hospitals: small hospitals that are drawn and attacked per privacy setting; 0 for none.
        epsilons: privacy budgets to attack, besides runs without differential privacy.
        settings: training settings by flag; the others keep their defaults.
        jobs, show: see `run_tasks`. Without differential privacy, the results do not depend on the number of jobs.
        announce: called before the first run, with a line that names the hospitals that are left out.

    Returns:
        The content of audit.json.

    Raises:
        DataError, SettingsError: the request is not valid; nothing is written.
        RunError: a run failed, and nothing is written; or a file could not be written.
    """
    task, task_file, files = find_hospitals(data, task_file)
    if task.label.kind != "binary":
        raise SettingsError(f"task: an audit attacks models of a binary label, got a label of kind {task.label.kind}")
    checks, left_out = check_hospitals(files, task)
    hospitals = {name: split_hospital(check, name, DEFAULT_SPLIT_SEED) for name, check in checks.items()}
    left_out |= {
        name: f"training rows: expected at least {MIN_ROWS} for an audit, got {len(hospital.train)}"
        for name, hospital in hospitals.items()
        if len(hospital.train) < MIN_ROWS
    }
    hospitals = {name: hospital for name, hospital in hospitals.items() if name not in left_out}
    refuse_too_few(hospitals, left_out)
    fewest = min(len(hospital.train) for hospital in hospitals.values())
    if shadows < MIN_HALF_RUNS or shadows % 2:
        raise SettingsError(f"shadows: expected an even number from {MIN_HALF_RUNS}, got {shadows}")
    privacies = _privacy_settings(hospitals, epsilons, {**settings, "task": task.name, TASK_FILE: str(task_file or "")})
    plan = AuditPlan(
        hospitals=hospitals,
        privacies=privacies,
        half_runs=shadows,
        full_runs=wholes,
        sizes=_inverted_sizes(fewest) if draws else (),
        draws=draws,
        drawn=small_hospitals if can_draw(hospitals) else 0,
        seed=privacies[PLAIN].seed,
    )
    prepare_folder(out, (AUDIT,), force=force)
    if left_out:
        announce(describe_left_out(left_out))
    results: dict[ShadowRun, ShadowRunResult] = {}
    run_tasks(
        plan.shadow_runs(),
        partial(train_shadow_run, plan=plan, app=answer),
        jobs=jobs,
        save=results.__setitem__,
        show=show,
        crashed="a worker process of the audit died",
    )
    by_privacy = audit_figures(plan, results)
    few = sums_of_few(plan)
    figures = {
        "audit": {
            "version": __version__,
            "settings": privacies[PLAIN].to_config(),
            "shadows": shadows,
            "wholes": wholes,
            "draws": draws,
            "small_hospitals": plan.drawn,
            "epsilons": list(epsilons),
            "schema": task.schema_hash,
            "hospitals": {name: hash_file(files[name]) for name in hospitals},
            "smallest": plan.smallest,
        },
        "left_out": left_out,
        "privacies": by_privacy,
        "sums_of_few": few,
    }
    write_json(out / AUDIT, figures)
    write_report(out / REPORT, lambda: audit_page(plan, by_privacy, few, left_out))
    return figures


def _inverted_sizes(fewest: int) -> tuple[int, ...]:
    """Rows in the updates that are inverted, if the smallest hospital has so many training rows."""
    sizes = tuple(size for size in SIZES if size < fewest)
    return (*sizes, fewest) if fewest <= MAX_INVERTED else sizes


def _privacy_settings(
    hospitals: Mapping[str, Hospital], epsilons: tuple[float, ...], settings: Mapping[str, Value]
) -> dict[str, Settings]:
    """Settings by the name of each privacy setting, with the least private epsilon first."""
    refuse_duplicates("epsilons", [f"{epsilon:g}" for epsilon in epsilons])
    by_name = {
        PLAIN: 0.0,
        DISCLOSURE_CONTROL: 0.0,
        **{f"epsilon {epsilon:g}": epsilon for epsilon in sorted(epsilons, reverse=True)},
    }
    # What a task states may be something that the attacks do not know.
    attacked: dict[str, Value] = {name: getattr(Settings, name) for name in ("optimizer", "activation", "dropout")}
    config = {**attacked, **settings, "hospitals": len(hospitals)}
    privacies = {name: Settings.from_config({**config, "dp-epsilon": epsilon}) for name, epsilon in by_name.items()}
    most = max(len(hospital.train) for hospital in hospitals.values())
    delta = privacies[PLAIN].dp_delta
    if delta * most >= 1:  # the hospitals would refuse it, but only after all plain runs
        problem = f"expected less than 1/{most} (1 / training rows of the largest hospital), got {delta!r}"
        raise SettingsError(f"dp-delta: {problem}")
    return privacies
