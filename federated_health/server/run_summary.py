"""Summary of a run that is over: its figures as in metrics.json, and what its report shows."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from federated_health import report
from federated_health.files import write_json
from federated_health.messages.content import Evaluation
from federated_health.ml.metrics import merge_counts
from federated_health.ml.targets import ScoreGroups, Target, target_of
from federated_health.names import METRICS, MODEL, REPORT

if TYPE_CHECKING:
    from federated_health.report.run_page import RunSummary
    from federated_health.report.saved_model import ModelSaver
    from federated_health.server.run import FederatedRun


def summarise_run(
    target: Target[Any], evaluations: Mapping[str, Evaluation], train_examples: Mapping[str, int]
) -> dict[str, Any]:
    """`hospitals` and `federation` as in metrics.json, of evaluations and numbers of training rows by hospital.

    Of a label of classes, `mean_roc_auc` is the mean of the hospitals' own ROC-AUCs, and `small_in_mean` the number of
    hospitals in it whose rows are too few for one (see `EvaluationSums.is_small`).

    There, `small` says of a hospital or the federation whether its rows are too few for a ROC-AUC.

    A hospital that suppresses its sums is left out of all figures of the federation but its number of training rows.
    """
    hospitals = {
        name: target.figures(evaluation.counts, train_examples[name], evaluation.roc_auc)
        | target.group_figures(evaluation.scores)
        for name, evaluation in sorted(evaluations.items())
    }
    if not hospitals:
        return {"hospitals": {}, "federation": None}
    counted = {name: evaluation for name, evaluation in evaluations.items() if evaluation.has_counts}
    for name in hospitals.keys() - counted.keys():
        hospitals[name]["test_examples"] = None
    pooled = _pool_groups(target, counted.values())
    sums = merge_counts(evaluation.counts for evaluation in evaluations.values())
    federation = target.figures(
        sums,
        sum(figures["train_examples"] for figures in hospitals.values()),
        target.pooled_roc_auc(pooled) if pooled else None,
    )
    federation |= target.group_figures(pooled, sums)
    if target.has_classes:
        within = {name: part.roc_auc for name, part in sorted(counted.items()) if part.roc_auc is not None}
        federation["mean_roc_auc"] = float(np.mean(list(within.values()))) if within else None
        for name, evaluation in counted.items():
            hospitals[name]["small"] = evaluation.counts.is_small
        federation["small"] = sums.is_small
        federation["small_in_mean"] = sum(evaluations[name].counts.is_small for name in within)
    return {"hospitals": hospitals, "federation": federation}


def recalibrations_of(figures: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The entries `recalibration` in metrics.json, of hospitals that have one, by name."""
    joining = figures.get("joining", {})
    return {name: entry["recalibration"] for name, entry in joining.items() if "recalibration" in entry}


def _pool_groups(target: Target[Any], evaluations: Iterable[Evaluation]) -> ScoreGroups:
    """All hospitals' groups of scores together; none if some kind of group was not sent by any hospital."""
    names = target.rows_of_groups(target.no_sums)
    parts = {name: [part.scores[name] for part in evaluations if name in part.scores] for name in names}
    return {name: np.concatenate(part) for name, part in parts.items()} if all(parts.values()) else {}


def write_metrics(folder: Path, run: "FederatedRun", figures: Mapping[str, Any], *, stopped: bool) -> None:
    """Write metrics.json; StorageError if it cannot be written."""
    described = report.load().run_page.metrics_of(run.train_config(), stopped=stopped)
    metrics = {**described, "faults": run.problems.to_json(), **figures}
    if not target_of(run.settings.task_declaration).has_threshold:
        metrics.pop("threshold")
    write_json(folder / METRICS, metrics)


def write_model_and_report(
    folder: Path, run: "FederatedRun", figures: Mapping[str, Any], saver: "ModelSaver", *, stopped: bool
) -> None:
    """Write model.keras, and report.html with its tables.

    Raises:
        RunError: one could not be made or written.
    """
    report.load().svg.warm_up()  # while the other process gets ready
    sites = report.load().saved_model.sites_of(recalibrations_of(figures))
    saver.save(folder / MODEL, run.settings.task_declaration, run.train_config(), run.weights, sites)
    facts = report.load().run_page.hashes_of_model(folder / MODEL, run.weights)
    summary = summarise(run, figures, stopped=stopped, facts=facts, date=report.load().formatting.today())
    report.load().run_page.write_run_report(folder / REPORT, summary)


def summarise(
    run: "FederatedRun", figures: Mapping[str, Any], *, stopped: bool, facts: Mapping[str, str], date: str = ""
) -> "RunSummary":
    """A run as its server knows it, for its report (see `RunSummary`)."""
    summary: RunSummary = report.load().run_page.RunSummary(
        task=run.settings.task_declaration,
        config=run.train_config(),
        figures=figures,
        settings=run.settings,
        registrations=run.registrations,
        rounds=run.history,
        evaluations={} if stopped else run.evaluations,
        problems=run.problems.describe(),
        stopped=stopped,
        secure=run.settings.secure_aggregation,
        facts=facts,
        date=date,
    )
    return summary
