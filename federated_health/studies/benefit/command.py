"""A study from what was asked for to its files: evidence.json and report.html."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.errors import SettingsError
from federated_health.files import make_folder, write_json
from federated_health.names import REPORT
from federated_health.report.run_files import write_report
from federated_health.server.run_folder import refuse_run_folder
from federated_health.settings import Settings, Value, read_defaults
from federated_health.studies.benefit.cohort import Cohort, read_cohort
from federated_health.studies.benefit.figures import collect_scores, figures_of_study
from federated_health.studies.benefit.page import page_of_study
from federated_health.studies.benefit.study import JOURNAL, Journal, fingerprint_of, run_study
from federated_health.studies.benefit.training_setups import Protocol, TrainingSetup, plan_fits, settings_of

EVIDENCE = "evidence.json"
MIN_FOLDS = 2


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for.

    Attributes:
        data: folder that create_dataset.py wrote.
        out: folder of the study.
        settings: of training, by flag.
    """

    data: Path
    out: Path
    force: bool
    folds: int
    repeats: int
    strategies: tuple[str, ...]
    tune: bool
    settings: Mapping[str, Value]


def run(request: Request, *, app: str, jobs: int, show: Callable[[int, int], None]) -> dict[str, Any]:
    """Run or resume a study, and write what it found.

    Returns:
        What evidence.json holds.

    Raises:
        DataError, SettingsError, RunError: it cannot be run, or was refused; what was fitted so far is kept.
    """
    cohort = read_cohort(request.data)
    protocol = _protocol_of(request, cohort)
    refuse_run_folder(request.out, (JOURNAL, EVIDENCE), force=request.force)
    make_folder(request.out)
    with Journal(request.out, fingerprint_of(cohort, protocol), force=request.force) as journal:
        results = run_study(cohort, protocol, journal, app=app, jobs=jobs, show=show)
    scores = collect_scores(cohort, protocol, results)
    study = {**fingerprint_of(cohort, protocol), "strategies": list(protocol.strategies)}
    figures = {"study": study, **figures_of_study(scores, protocol.settings.seed)}
    write_json(request.out / EVIDENCE, figures)
    write_report(request.out / REPORT, lambda: page_of_study(cohort, protocol, results, scores, figures))
    return figures


def _protocol_of(request: Request, cohort: Cohort) -> Protocol:
    if request.folds < MIN_FOLDS:
        raise SettingsError(f"folds: expected at least {MIN_FOLDS}, got {request.folds}")
    if len(set(request.strategies)) < len(request.strategies):
        raise SettingsError(f"strategies: each one once, got {', '.join(request.strategies)}")
    columns = list(cohort.task.column_names)
    fewest = min(len(rows[columns].drop_duplicates()) for rows in cohort.numbers.values())  # equal rows share a fold
    if fewest < request.folds:
        raise SettingsError(
            f"folds: the smallest hospital has {fewest} different patients, too few for {request.folds} folds"
        )
    config = {
        **read_defaults(),
        **request.settings,
        "task": cohort.task.name,
        "hospitals": len(cohort.numbers),
        "strategy": request.strategies[0],
    }
    protocol = Protocol(
        settings=Settings.from_config(config),
        folds=request.folds,
        repeats=request.repeats,
        strategies=request.strategies,
        tune=request.tune,
    )
    _check_strategies(protocol, list(cohort.numbers))
    return protocol


def _check_strategies(protocol: Protocol, hospitals: list[str]) -> None:
    """Refuse a strategy that needs more hospitals before anything is written."""
    for fit in plan_fits(hospitals, protocol):
        try:
            settings_of(fit, protocol, len(hospitals))
        except SettingsError as error:
            left = (
                f": so many are in the federation without {fit.subject}" if fit.regime is TrainingSetup.WITHOUT else ""
            )
            raise SettingsError(f"{error}{left}") from None
