"""The final model's figures at this hospital, at the end of its part in a run."""

import logging
from pathlib import Path

from flwr.app import Context

from federated_health.cli.tables import choose_figures, print_figures
from federated_health.hospital import handlers
from federated_health.hospital.final_handlers import final_model
from federated_health.hospital.private_training import budget_of
from federated_health.ml.targets import target_of
from federated_health.names import REPORT
from federated_health.report.formatting import describe_rows

logger = logging.getLogger(__name__)


def show_and_save(context: Context, out: Path | None, sent: tuple[Path, int]) -> None:
    """Show the final model's figures at this hospital, and save it in `out`; without a final model, do nothing.

    Args:
        sent: the egress ledger, and its size in bytes before the run.
    """
    if (model := final_model(context)) is None:
        return
    config, weights = model
    name, task = str(context.node_config["name"]), handlers.task_of(context, config.task)
    target = target_of(task)
    note = f"Predicted positive: a risk of at least {config.threshold}." if target.has_threshold else ""
    if config.privacy:
        from federated_health.cli.noisy_figures import print_noisy_figures  # noqa: PLC0415  # with privacy only

        print_noisy_figures({name: context.state.metric_records.get("figures", {})}, target)
    else:
        figures = dict(context.state.metric_records["figures"])
        rows, notes = choose_figures({name: figures}, figures, target)
        notes = list(filter(None, [*notes, note, describe_rows(task)]))
        print_figures("The final model on held-out patients", rows, "\n".join(notes))
    if out is not None:
        from federated_health.hospital.results import save_results  # noqa: PLC0415  # where something is saved

        logger.info("saved in %s: %s", out, save_results(out, context, config, weights, sent))
        logger.info("report: %s", out / REPORT)
    if config.privacy:
        logger.info("privacy: %s", budget_of(context).summary().describe())
