"""What a hospital keeps of a run that is over: the model, and a report of what it may know."""

from pathlib import Path

from flwr.app import Context, MetricRecord

from federated_health.data.tasks import get_task
from federated_health.encryption import results
from federated_health.hospital.handlers import account_of
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights, weights_hash
from federated_health.report.formatting import MEANINGS, figure, figures_table, number_of, title_of
from federated_health.report.page import Page, Section
from federated_health.report.released import privacy_of_run, released_by_hospitals
from federated_health.report.run_files import MODEL, REPORT, save_final_model, write_report
from federated_health.report.run_page import FIGURES
from federated_health.report.sections import FOOTER, model_card


def save_results(folder: Path, context: Context, told: TrainConfig, weights: Weights) -> str:
    """model.keras, and beside it all files of an encrypted run, or report.html of one with differential privacy.

    Returns:
        What was written, between commas.

    Raises:
        RunError: a file cannot be written.
    """
    save_final_model(folder / MODEL, told, weights)
    others = results.save_result(folder, context, told, weights)
    if not others and told.privacy is not None:
        write_report(folder / REPORT, lambda: page_of_hospital(context, told, weights))
        others = f", {REPORT}"
    return f"{MODEL}{others}"


def page_of_hospital(context: Context, told: TrainConfig, weights: Weights) -> Page:
    """What a hospital knows of a run with differential privacy, whose report of all hospitals the server has."""
    task, name = get_task(told.task), str(context.node_config["name"])
    figures: MetricRecord = context.state.metric_records["figures"]
    table = figures_table(
        "Figures on its held-out patients",
        {name: [figure(figures.get(key)) for key in FIGURES]},  # type: ignore[arg-type]  # no lists among them
        [title_of(key) for key in FIGURES],
        note=f"Predicted positive: a risk of at least {told.threshold}. {MEANINGS}",
    )
    account = account_of(context).statement().describe()
    limits = [
        f"As {name} knows it: the report of all hospitals is the server's.",
        f"SHA-256 of the weights: {weights_hash(weights)}",
    ]
    return Page(
        title=f"{task.name}: {name} in a federation",
        lead=f"Estimates the risk of this: {task.label.meaning}. {number_of(told.rounds, 'round')}, strategy "
        f"{told.strategy}, with differential privacy.",
        sections=(
            Section(title="How good the model is here", blocks=(table,)),
            *privacy_of_run(told.privacy, account),
            released_by_hospitals(asked=False, private=True, drawn="This page is drawn from what stayed here, too."),
            model_card(task, [f"{name} and others"], limits),
        ),
        footer=FOOTER,
    )
