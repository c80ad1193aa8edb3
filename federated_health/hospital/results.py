"""The files that a hospital keeps of a finished run: the model, and a report of what the hospital may know."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, RecordDict

from federated_health import report
from federated_health.data.tasks import Task
from federated_health.errors import LedgerError
from federated_health.files import write_json
from federated_health.hospital.handlers import task_of
from federated_health.hospital.private_training import budget_of
from federated_health.hospital.recalibration import kept_recalibration
from federated_health.messages.benefit import Benefit, summarise_benefits
from federated_health.messages.content import BENEFIT, NUM_EXAMPLES, SUBGROUPS, Evaluation, TrainConfig
from federated_health.messages.records import METRICS as METRICS_RECORD
from federated_health.messages.validation import read_evaluation
from federated_health.ml.networks import Weights, weights_hash
from federated_health.ml.subgroup_figures import summarise_subgroups
from federated_health.ml.targets import target_of
from federated_health.names import METRICS, MODEL, REPORT, SECURE_AGGREGATION, TABLES
from federated_health.report.saved_model import save_final_model, sites_of

if TYPE_CHECKING:
    from federated_health.report.page import Section


def save_results(
    folder: Path, context: Context, config: TrainConfig, weights: Weights, sent: "tuple[Path, int] | None" = None
) -> str:
    """Write model.keras, metrics.json, report.html and its tables: the final model, and this hospital's own figures.

    The figures of the other hospitals are not known to it.

    Args:
        sent: the egress ledger and its size in bytes before the run; None if there is none.

    Returns:
        The names of the files, separated by commas.

    Raises:
        RunError: a file cannot be written.
    """
    task, name, run_page = task_of(context, config.task), str(context.node_config["name"]), report.load().run_page
    recalibrated = kept_recalibration(context)
    sites = sites_of({name: recalibrated.to_json()} if recalibrated else {})
    save_final_model(folder / MODEL, task, config, weights, sites)
    evaluation = _read_evaluation(context, task)
    own = dict(context.state.metric_records.get("figures", {}))  # none if they were released before a restart
    own |= {"small": bool(own["small"])} if "small" in own else {}
    figures: dict[str, Any] = {
        "hospitals": {name: own} if own else {},
        **_summarise_benefit(context, task, name, evaluation),
    }
    if evaluation is not None and (groups := summarise_subgroups(task, {name: evaluation.subgroups}, everyone="")):
        figures[SUBGROUPS] = groups
    described = run_page.metrics_of(config, stopped=False)
    if not target_of(task).has_threshold:
        described.pop("threshold")
    write_json(folder / METRICS, {**described, **figures})
    summary = run_page.RunSummary(
        task=task,
        config=config,
        figures={**figures, "federation": None},
        hospital=name,
        secure=SECURE_AGGREGATION in context.state,
        evaluations={name: evaluation} if evaluation else {},
        privacy_spent=budget_of(context).summary().describe() if config.privacy else "",
        sent=_list_sent(*sent) if sent else (),
        facts={"SHA-256 of the weights": weights_hash(weights)},
        date=report.load().formatting.today(),
    )
    run_page.write_run_report(folder / REPORT, summary)
    return ", ".join([MODEL, METRICS, REPORT, *([f"{TABLES}/"] if (folder / TABLES).exists() else [])])


def _read_evaluation(context: Context, task: Task) -> Evaluation | None:
    """The final evaluation, as `evaluate_final` left it in the context."""
    if "evaluation" not in context.state:
        return None
    metrics = context.state.metric_records["evaluation"]
    content = RecordDict({METRICS_RECORD: metrics})
    return read_evaluation(content, target_of(task), int(str(metrics[NUM_EXAMPLES])), final=True, task=task)


def _summarise_benefit(context: Context, task: Task, name: str, evaluation: Evaluation | None) -> Mapping[str, Any]:
    """`joining`, `importance` and `observed` as in metrics.json; empty if the server did not ask for the benefit."""
    if BENEFIT not in context.state or evaluation is None:
        return {}
    content = RecordDict({METRICS_RECORD: context.state.metric_records[BENEFIT]})
    rows = int(str(context.state.metric_records["figures"]["train_examples"]))
    benefit = Benefit.from_content(content, task, rows, evaluation.counts.examples)
    return summarise_benefits({name: benefit}, {name: evaluation}, task)


def _list_sent(ledger: Path, size: int) -> "list[Section]":
    """What left in this run, what was suppressed, and the accepted terms; nothing if the ledger cannot be read."""
    from federated_health.hospital import egress_page, ledger_page  # noqa: PLC0415  # with a ledger only

    try:
        return egress_page.sections_of_run(ledger_page.summarise(ledger, size))
    except LedgerError:  # such as one that was moved away during the run
        return []
