"""The files that a hospital keeps of a finished run: the model, and a report of what the hospital may know."""

from pathlib import Path

from flwr.app import Context

from federated_health import encryption, report
from federated_health.hospital.handlers import ENCRYPTED_RUN, budget_of, task_of
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights, weights_hash
from federated_health.names import MODEL, REPORT
from federated_health.report.saved_model import save_final_model


def save_results(folder: Path, context: Context, config: TrainConfig, weights: Weights) -> str:
    """Write model.keras, and beside it all files of an encrypted run, or report.html of one with differential privacy.

    Returns:
        The names of the files, separated by commas.

    Raises:
        RunError: a file cannot be written.
    """
    task = task_of(context, config.task)
    save_final_model(folder / MODEL, task, config, weights)
    others = []
    if ENCRYPTED_RUN in context.state:
        others = encryption.load("hospital_result").save_encrypted_results(folder, context, config, weights)
    elif config.privacy is not None:
        run_page = report.load().run_page
        name = str(context.node_config["name"])
        figures = context.state.metric_records.get("figures")  # none if they were released before a restart
        summary = run_page.RunSummary(  # the server has the figures of all hospitals
            task=task,
            config=config,
            figures={"hospitals": {name: dict(figures)} if figures else {}, "federation": None},
            hospital=name,
            privacy_spent=budget_of(context).summary().describe(),
            facts={"SHA-256 of the weights": weights_hash(weights)},
        )
        run_page.write_run_report(folder / REPORT, summary)
        others = [REPORT]
    return ", ".join([MODEL, *others])
