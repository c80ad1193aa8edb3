"""The files of an encrypted run, which every hospital writes for itself, since the server cannot."""

from pathlib import Path

from flwr.app import Context

from federated_health.data.manifest import hash_file
from federated_health.encryption.closing import remembered_result
from federated_health.encryption.page import page_of_result
from federated_health.hospital.handlers import account_of
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights, weights_hash
from federated_health.report.run_files import (
    METRICS,
    MODEL,
    REPORT,
    ROUNDS,
    SETTINGS,
    metrics_of,
    write_json,
    write_report,
    write_rounds,
)


def save_result(folder: Path, context: Context, train_config: TrainConfig, weights: Weights) -> str:
    """settings.json, rounds.csv, metrics.json and report.html of an encrypted run, beside its model; else nothing.

    They hold the federation's figures and this hospital's own.

    Returns:
        What was written, each name after a comma.

    Raises:
        RunError: one cannot be written.
    """
    result = remembered_result(context)
    if result is None:
        return ""
    write_json(folder / SETTINGS, result.settings)
    write_rounds(folder / ROUNDS, result.rounds)
    privacy = train_config.privacy
    write_json(
        folder / METRICS,
        {
            **metrics_of(train_config),
            **({"stopped": True} if result.stopped else {}),
            **({"privacy": privacy.to_json()} if privacy else {}),
            "encrypted": True,
            **result.figures,
        },
    )
    facts = {
        "threshold": str(train_config.threshold),
        "SHA-256 of the weights": weights_hash(weights),
        f"SHA-256 of {MODEL}": hash_file(folder / MODEL),
    }
    account = account_of(context).statement().describe() if privacy else ""
    write_report(folder / REPORT, lambda: page_of_result(result, train_config, facts, account))
    return "".join(f", {name}" for name in (REPORT, METRICS, ROUNDS, SETTINGS))
