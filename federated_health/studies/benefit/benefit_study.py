"""The study of the benefit of joining, from the request to its files: evidence.json and report.html."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from federated_health.errors import SettingsError
from federated_health.files import make_folder, write_json
from federated_health.names import REPORT
from federated_health.report.page import write_report
from federated_health.settings import read_defaults
from federated_health.studies.benefit import training_setups
from federated_health.studies.benefit.benefit_page import benefit_page
from federated_health.studies.benefit.cohort import Cohort, read_cohort
from federated_health.studies.benefit.comparison import collect_scores, compare_models
from federated_health.studies.benefit.journal import JOURNAL, Journal, Results, fingerprint_of
from federated_health.studies.benefit.training_setups import EvaluationProtocol, Fit, FitResult, TrainingSetup
from federated_health.studies.study import StudyRequest, refuse_duplicates, refuse_run_folder
from federated_health.studies.workers import HOSPITAL_APP, load_app, run_tasks

EVIDENCE = "evidence.json"
MIN_FOLDS = 2
CRASHED = "a worker process of the study died; the same command resumes it"


@dataclass(frozen=True, kw_only=True)
class BenefitRequest(StudyRequest):
    """What a study of the benefit is asked for; see `EvaluationProtocol`.

    `force` also replaces another study. Without `strategies`, the one of the settings is used.
    """

    folds: int
    repeats: int
    strategies: tuple[str, ...] | None
    tune: bool


def run(
    request: BenefitRequest, *, app: str = HOSPITAL_APP, jobs: int, show: Callable[[int, int], None]
) -> dict[str, Any]:
    """Run or resume a study, and write its results.

    Args:
        app: reference of the function that answers the hospitals' messages, such as module:name.
        jobs: worker processes; the results do not depend on their number.
        show: called with the number of finished models and the total.

    Returns:
        The content of evidence.json.

    Raises:
        DataError, SettingsError: the request is not valid; nothing is written.
        RunError: a model could not be trained, or a file could not be written; finished models stay in the journal.
    """
    cohort = read_cohort(request.data)
    protocol = _make_protocol(request, cohort)
    fingerprint = fingerprint_of(cohort, protocol)
    refuse_run_folder(request.out, (JOURNAL, EVIDENCE), force=request.force)
    make_folder(request.out)
    with Journal(request.out, fingerprint, force=request.force) as journal:
        results = run_fits(cohort, protocol, journal, app=app, jobs=jobs, show=show)
    scores = collect_scores(cohort, protocol, results)
    figures = {
        "study": {**fingerprint, "strategies": list(protocol.strategies)},
        **compare_models(scores, protocol.settings.seed),
    }
    write_json(request.out / EVIDENCE, figures)
    write_report(request.out / REPORT, lambda: benefit_page(cohort, protocol, results, scores, figures))
    return figures


def run_fits(
    cohort: Cohort,
    protocol: EvaluationProtocol,
    journal: Journal,
    *,
    app: str,
    jobs: int,
    show: Callable[[int, int], None] = lambda *_: None,
) -> Results:
    """Train the models that the journal does not hold yet; see `run`."""
    fits = training_setups.plan_fits(list(cohort.tables), protocol)
    remaining = [fit for fit in fits if fit not in journal.results]
    run_tasks(
        remaining,
        partial(_run_fit, cohort=cohort, protocol=protocol, app=app),
        jobs=jobs,
        save=journal.add,
        show=show,
        crashed=CRASHED,
        finished=len(fits) - len(remaining),
    )
    return {fit: journal.results[fit] for fit in fits}  # the journal may also hold fits of other strategies


def _run_fit(fit: Fit, cohort: Cohort, protocol: EvaluationProtocol, app: str) -> FitResult:
    return training_setups.run_fit(fit, cohort, protocol, load_app(app))


def _make_protocol(request: BenefitRequest, cohort: Cohort) -> EvaluationProtocol:
    if request.folds < MIN_FOLDS:
        raise SettingsError(f"folds: expected at least {MIN_FOLDS}, got {request.folds}")
    strategies = request.strategies or (str(request.settings.get("strategy", read_defaults()["strategy"])),)
    refuse_duplicates("strategies", strategies)
    columns = list(cohort.task.column_names)
    # Equal rows count once, since they share a fold.
    smallest = min(len(table[columns].drop_duplicates()) for table in cohort.tables.values())
    if smallest < request.folds:
        words = f"expected at most {smallest}, the distinct patients of the smallest hospital, got {request.folds}"
        raise SettingsError(f"folds: {words}")
    protocol = EvaluationProtocol(
        settings=request.make_settings(cohort.task, len(cohort.tables), {"strategy": strategies[0]}),
        folds=request.folds,
        repeats=request.repeats,
        strategies=strategies,
        tune=request.tune,
    )
    check_strategies(protocol, list(cohort.tables))
    return protocol


def check_strategies(protocol: EvaluationProtocol, hospitals: list[str]) -> None:
    """Refuse a strategy that needs more hospitals than one of the study's runs has.

    Raises:
        SettingsError: there is one.
    """
    for fit in training_setups.plan_fits(hospitals, protocol):
        try:
            training_setups.settings_for(fit, protocol, len(hospitals))
        except SettingsError as error:
            run_name = f" (the run without {fit.subject})" if fit.setup is TrainingSetup.LEAVE_ONE_OUT else ""
            raise SettingsError(f"{error}{run_name}") from None
