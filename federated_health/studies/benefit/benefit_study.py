"""The study of the benefit of joining, from the request to the files of its results."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from federated_health.data.task_files import TASK_FILE
from federated_health.errors import SettingsError
from federated_health.files import write_json
from federated_health.hospital.handlers import answer
from federated_health.names import LARGEST, REPORT
from federated_health.report.page import write_report
from federated_health.setting_fields import Value
from federated_health.settings import Settings
from federated_health.studies.benefit import training_setups
from federated_health.studies.benefit.benefit_page import benefit_page
from federated_health.studies.benefit.cohort import Cohort, read_cohort
from federated_health.studies.benefit.compared_strategies import choose_strategies, settings_of
from federated_health.studies.benefit.comparison import collect_scores
from federated_health.studies.benefit.journal import JOURNAL, Journal, Results, fingerprint_of
from federated_health.studies.benefit.learning_curves import LEARNING_CURVES, write_learning_curves
from federated_health.studies.benefit.recalibrated import add_recalibrated
from federated_health.studies.benefit.score_file import SCORES, write_scores
from federated_health.studies.benefit.study_figures import study_figures
from federated_health.studies.benefit.training_setups import EvaluationProtocol, TrainingSetup
from federated_health.studies.study import describe_left_out, prepare_folder, remove_results
from federated_health.studies.workers import run_tasks
from federated_health.transport.app_calls import App

EVIDENCE = "evidence.json"

FILES = (REPORT, SCORES, LEARNING_CURVES, EVIDENCE)
"""Files of the results, besides the journal and the tables of the report."""

MIN_FOLDS = 2

MAX_REPEATS = 1000
"""Largest number of repeats, each of which trains every model anew."""


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
    announce: Callable[[str], None] = lambda _: None,
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
        announce: called before the first model is trained, with a line that names the hospitals that are left out.

    Returns:
        The content of evidence.json.

    Raises:
        DataError, SettingsError: the request is not valid; nothing is written.
        RunError: a model could not be trained, or a file could not be written; finished models stay in the journal.
    """
    labels = choose_strategies(strategies, str(settings.get("strategy", "")), str(settings.get("strategy-args", "")))
    _check_numbers(folds, repeats, int(settings.get("seed", Settings.seed)))
    cohort = read_cohort(data, task_file, folds)
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
    _check_strategies(protocol, cohort)
    fingerprint = fingerprint_of(cohort, protocol)
    prepare_folder(out, (JOURNAL, EVIDENCE), force=force)
    journal = Journal(out, fingerprint, force=force)
    if journal.is_new and (out / EVIDENCE).exists():
        remove_results(out, FILES)  # another study's, which would stay if this one is interrupted
    if cohort.left_out:
        announce(describe_left_out(cohort.left_out))
    results = run_fits(cohort, protocol, journal, jobs=jobs, show=show)
    scores = add_recalibrated(collect_scores(cohort, protocol, results))
    figures = {
        "study": {**fingerprint, "strategies": list(labels)},
        "left_out": dict(cohort.left_out),
        **study_figures(cohort, scores),
    }
    write_json(out / EVIDENCE, figures)
    write_learning_curves(out / LEARNING_CURVES, results, scores.target)
    write_scores(out / SCORES, scores)
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


def _check_numbers(folds: int, repeats: int, seed: int) -> None:
    if folds < MIN_FOLDS:
        raise SettingsError(f"folds: expected at least {MIN_FOLDS}, got {folds}")
    if not 1 <= repeats <= MAX_REPEATS:
        raise SettingsError(f"repeats: expected from 1 to {MAX_REPEATS:,}, got {repeats}")
    if seed + repeats - 1 > LARGEST:
        problem = (
            f"expected at most {LARGEST - repeats + 1} with {repeats} repeats, each of which adds 1 to it, got {seed}"
        )
        raise SettingsError(f"seed: {problem}")


def _check_strategies(protocol: EvaluationProtocol, cohort: Cohort) -> None:
    """Refuse a strategy that needs more hospitals, or other settings of training, than there are."""
    for fit in training_setups.plan_fits(list(cohort.tables), replace(protocol, folds=1, repeats=1)):
        try:
            training_setups.settings_for(fit, protocol, len(cohort.tables))
        except SettingsError as error:
            notes = [f"strategy {fit.subject}"] if fit.setup is TrainingSetup.FEDERATED else []
            notes += [f"the run without {fit.subject}"] if fit.setup is TrainingSetup.LEAVE_ONE_OUT else []
            notes += [describe_left_out(cohort.left_out)] if cohort.left_out else []
            raise SettingsError(f"{error} ({'; '.join(notes)})") from None
