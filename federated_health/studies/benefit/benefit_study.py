"""The study of the benefit of joining, from the request to its files: evidence.json and report.html."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from federated_health.data.task_files import TASK_FILE
from federated_health.errors import SettingsError
from federated_health.files import write_json
from federated_health.hospital.handlers import answer
from federated_health.names import REPORT
from federated_health.report.page import write_report
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.studies.benefit import training_setups
from federated_health.studies.benefit.benefit_page import benefit_page
from federated_health.studies.benefit.cohort import Cohort, read_cohort
from federated_health.studies.benefit.compared_strategies import choose_strategies, settings_of
from federated_health.studies.benefit.comparison import collect_scores, compare_models
from federated_health.studies.benefit.journal import JOURNAL, Journal, Results, fingerprint_of
from federated_health.studies.benefit.training_setups import EvaluationProtocol, TrainingSetup
from federated_health.studies.study import prepare_folder
from federated_health.studies.workers import run_tasks
from federated_health.transport.app_calls import App

EVIDENCE = "evidence.json"
MIN_FOLDS = 2


def run(
    *,
    data: Path,
    task_file: Path | None = None,
    out: Path,
    force: bool,
    folds: int,
    repeats: int,
    strategies: tuple[str, ...] | None,
    tune: bool,
    settings: Mapping[str, Value],
    jobs: int,
    show: Callable[[int, int], None],
) -> dict[str, Any]:
    """Run or resume a study, and write its results.

    Args:
        data, out: folder that create_dataset.py wrote, and folder of the results.
        task_file: see `find_hospitals`.
        force: whether `out` may hold another study, which is replaced, or a run, whose report is.
        folds, repeats, tune: see `EvaluationProtocol`.
        strategies: see `choose_strategies`; None for the settings' one.
        settings: training settings by flag; the others keep their defaults.
        jobs, show: see `run_tasks`. The results do not depend on the number of jobs.

    Returns:
        The content of evidence.json.

    Raises:
        DataError, SettingsError: the request is not valid; nothing is written.
        RunError: a model could not be trained, or a file could not be written; finished models stay in the journal.
    """
    cohort = read_cohort(data, task_file)
    labels = choose_strategies(strategies, str(settings.get("strategy", "")), str(settings.get("strategy-args", "")))
    strategy, arguments = settings_of(labels[0])
    named: dict[str, Value] = {"task": cohort.task.name, TASK_FILE: str(cohort.task_file or "")}
    first: dict[str, Value] = {"strategy": strategy, "strategy-args": arguments}
    own: dict[str, Value] = {**named, **first, "hospitals": len(cohort.tables)}
    protocol = EvaluationProtocol(
        settings=Settings.from_config({**settings, **own}),
        folds=folds,
        repeats=repeats,
        strategies=labels,
        tune=tune,
    )
    _check_protocol(protocol, cohort)
    fingerprint = fingerprint_of(cohort, protocol)
    prepare_folder(out, (JOURNAL, EVIDENCE), force=force)
    results = run_fits(cohort, protocol, Journal(out, fingerprint, force=force), jobs=jobs, show=show)
    scores = collect_scores(cohort, protocol, results)
    figures = {
        "study": {**fingerprint, "strategies": list(labels)},
        **compare_models(scores),
    }
    write_json(out / EVIDENCE, figures)
    write_report(out / REPORT, lambda: benefit_page(cohort, protocol, results, scores, figures))
    return figures


def run_fits(
    cohort: Cohort,
    protocol: EvaluationProtocol,
    journal: Journal,
    *,
    jobs: int,
    show: Callable[[int, int], None] = lambda *_: None,
    app: App = answer,
) -> Results:
    """Train the models that the journal does not hold yet; see `run`.

    Args:
        app: answers the hospitals' messages.
    """
    fits = training_setups.plan_fits(list(cohort.tables), protocol)
    remaining = [fit for fit in fits if fit.key not in journal.results]
    run_tasks(
        remaining,
        partial(training_setups.run_fit, cohort=cohort, protocol=protocol, app=app),
        jobs=jobs,
        save=journal.add,
        show=show,
        crashed="a worker process of the study died; the same command resumes it",
        finished=len(fits) - len(remaining),
    )
    return {fit: journal.results[fit.key] for fit in fits}  # the journal may also hold fits of other strategies


def _check_protocol(protocol: EvaluationProtocol, cohort: Cohort) -> None:
    """Refuse folds, or a strategy, that need more patients or hospitals than there are."""
    if protocol.folds < MIN_FOLDS:
        raise SettingsError(f"folds: expected at least {MIN_FOLDS}, got {protocol.folds}")
    smallest = min(cohort.count_patients(name) for name in cohort.tables)
    if smallest < protocol.folds:
        problem = f"expected at most {smallest}, the distinct patients of the smallest hospital, got {protocol.folds}"
        raise SettingsError(f"folds: {problem}")
    for fit in training_setups.plan_fits(list(cohort.tables), protocol):
        try:
            training_setups.settings_for(fit, protocol, len(cohort.tables))
        except SettingsError as error:
            run_name = f" (the run without {fit.subject})" if fit.setup is TrainingSetup.LEAVE_ONE_OUT else ""
            raise SettingsError(f"{error}{run_name}") from None
