"""The files of an encrypted run, which every hospital writes for itself, since the server cannot decrypt them."""

from pathlib import Path

import numpy as np
from flwr.app import Context

from federated_health.encryption.hospital_result import HospitalResult, remembered_result
from federated_health.encryption.vectors import read_histogram
from federated_health.files import hash_file, write_json
from federated_health.hospital.handlers import budget_of
from federated_health.messages.content import Evaluation, TrainConfig
from federated_health.ml.metrics import Counts
from federated_health.ml.networks import Weights, weights_hash
from federated_health.ml.rounds import write_rounds
from federated_health.names import FEDERATION, METRICS, MODEL, REPORT, ROUNDS, SETTINGS
from federated_health.report.run_page import RunSummary, metrics_of, write_run_report
from federated_health.settings import Settings, read_defaults


def save_encrypted_results(folder: Path, context: Context, config: TrainConfig, weights: Weights) -> list[str]:
    """Write report.html, metrics.json, rounds.csv and settings.json beside the model of an encrypted run.

    They hold the federation's figures and this hospital's own.

    Returns:
        The names of the files; none after a plain run.

    Raises:
        RunError: a file cannot be written.
    """
    result = remembered_result(context)
    if result is None:
        return []
    write_json(folder / SETTINGS, result.settings)
    write_rounds(folder / ROUNDS, result.rounds)
    write_json(folder / METRICS, {**metrics_of(config, stopped=result.stopped), "encrypted": True, **result.figures})
    facts = {
        "SHA-256 of the weights": weights_hash(weights),
        f"SHA-256 of {MODEL}": hash_file(folder / MODEL),
    }
    privacy_spent = budget_of(context).summary().describe() if config.privacy else ""
    write_run_report(folder / REPORT, summarise_result(result, config, facts, privacy_spent))
    return [REPORT, METRICS, ROUNDS, SETTINGS]


def summarise_result(
    result: HospitalResult, config: TrainConfig, facts: dict[str, str], privacy_spent: str = ""
) -> RunSummary:
    """An encrypted run as one hospital may see it.

    Args:
        facts, privacy_spent: see `RunSummary`.
    """
    (hospital,) = result.figures["hospitals"]
    evaluations = {}
    if result.counts:
        cells: tuple[np.ndarray, ...] | tuple[None, None] = (None, None)
        if result.scores:  # all patients of a bin in its middle
            cells = tuple(part * [1, 1, 0] for part in read_histogram(np.array(result.scores, dtype=np.float64)))
        evaluations[FEDERATION] = Evaluation(counts=Counts(**result.counts), positives=cells[0], negatives=cells[1])
    return RunSummary(
        config=config,
        figures=result.figures,
        hospital=hospital,
        hospitals=result.hospitals,
        settings=Settings.from_config({**read_defaults(), **result.settings}),
        rounds=result.rounds,
        evaluations=evaluations,
        stopped=result.stopped,
        encrypted=True,
        privacy_spent=privacy_spent,
        facts=facts,
    )
