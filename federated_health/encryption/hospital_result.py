"""One hospital's result of an encrypted run, and the files that it writes.

The hospital decrypts all sums. The result is what the server of a plain run would have, without the other hospitals'
own figures, which no one sends.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict

from federated_health.encryption import vectors
from federated_health.encryption.ckks import SLOTS, Vector
from federated_health.encryption.hospital_message import WeightsMessage
from federated_health.encryption.messages import (
    CONFIG_FIELDS,
    FIGURES,
    RUN_FACTS,
    RUN_FACTS_FIELDS,
    name_of_block,
)
from federated_health.errors import UserError
from federated_health.files import write_json
from federated_health.hospital.handlers import ENCRYPTED_RUN, budget_of, evaluate_final, read_config, task_of
from federated_health.messages.content import CONFIG, Evaluation, TrainConfig
from federated_health.messages.records import MalformedMessageError
from federated_health.ml.curves import roc_auc_from_microaggregates
from federated_health.ml.networks import Weights
from federated_health.ml.rounds import Round, read_round, write_round, write_rounds
from federated_health.ml.targets import target_of
from federated_health.ml.targets.binary import Counts, figures_of
from federated_health.names import FEDERATION, METRICS, MODEL, REPORT, ROUNDS, SETTINGS
from federated_health.report.run_page import RunSummary, hashes_of_model, metrics_of, write_run_report
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, OPERATIONAL, Settings

RESULT, OWN_BENEFIT, OWN_ROUND = "result", "benefit", "round-"
"""JSON in a hospital's state of an encrypted run: the result, its own benefit, and its figures of each round."""


def store_result(message: Message, context: Context) -> RecordDict:
    """Decrypt the sums of all rounds and of the final figures, and store the result in the hospital's state."""
    decrypted = WeightsMessage(message, context, is_final=True)
    state, task, facts = decrypted.state, decrypted.hospital.task, _read_run_facts(decrypted.config)
    rounds = list(_rounds(decrypted, facts["rounds"]))
    vector = decrypted.decrypt(FIGURES, vectors.FinalSums.length(len(task.columns)))
    if vector is not None and "figures" in context.state:
        sums = vectors.FinalSums.from_vector(vector, len(task.columns), decrypted.patients)
        counts: Counts | None = sums.counts
        scores = np.round(sums.scores).astype(int).tolist()
        roc_auc = roc_auc_from_microaggregates(*vectors.read_histogram(sums.scores))
        # The mean of fewer hospitals would reveal to each of them the others' figures.
        is_mean_known = sums.with_roc_auc >= MIN_ENCRYPTED_HOSPITALS
        mean_roc_auc = sums.roc_auc / sums.with_roc_auc if is_mean_known else None
        benefit = json.loads(state.get(OWN_BENEFIT, "{}"))
        if benefit:
            importance = (sums.importance / max(sums.counts.examples, 1)).tolist()
            benefit["importance"] = dict(zip(task.column_names, importance, strict=True))
    else:  # this hospital or too many others did not evaluate the final weights
        evaluate_final(decrypted.plain, context)
        context.state.metric_records["figures"].pop("roc_auc", None)
        last = rounds[-1].federation.counts if rounds else None
        counts = last if isinstance(last, Counts) else None
        scores, roc_auc, mean_roc_auc, benefit = [], None, None, {}
    federation = figures_of(counts or Counts(), facts.pop("train_examples"), roc_auc)
    own = context.state.metric_records["figures"]
    own_figures = {key: own.get(key) for key in federation}
    federation["mean_roc_auc"] = mean_roc_auc
    result = {
        **facts,
        "figures": {"hospitals": {decrypted.hospital.name: own_figures}, "federation": federation, **benefit},
        "rounds": [write_round(completed).decode() for completed in rounds],
        "counts": counts and asdict(counts),
        "scores": scores,
    }
    state[RESULT] = json.dumps(result)
    return decrypted.key_reply()


def _rounds(decrypted: WeightsMessage, number_of_rounds: int) -> Iterator[Round]:
    for first in range(1, number_of_rounds + 1, vectors.ROUNDS_PER_BLOCK):
        vector = decrypted.decrypt(name_of_block((first - 1) // vectors.ROUNDS_PER_BLOCK), SLOTS)
        vector = np.zeros(SLOTS) if vector is None else vector
        for number in range(first, min(first + vectors.ROUNDS_PER_BLOCK, number_of_rounds + 1)):
            line = decrypted.state.get(f"{OWN_ROUND}{number}")
            yield Round(
                number=number,
                hospitals=read_round(line).hospitals if line else {},
                federation=vectors.read_round(number, vector, decrypted.patients),
            )


def _read_run_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the server states about the run in plain text."""
    try:
        facts = json.loads(CONFIG_FIELDS[RUN_FACTS].read(config, RUN_FACTS))
        values = {key: field.read(facts, key) for key, field in RUN_FACTS_FIELDS.items()}
        if not OPERATIONAL.isdisjoint(facts["settings"]):  # they name files, which would be read here
            raise ValueError
        return {**values, "settings": Settings.from_config({**facts["settings"]}).to_config()}
    except (ValueError, TypeError, KeyError, RecursionError, UserError):
        raise MalformedMessageError("the server's facts about the run cannot be read") from None


def remembered_result(context: Context) -> RunSummary | None:
    """The encrypted run as this hospital may see it; None before `store_result`.

    Its figures are those of this hospital and of the federation.
    """
    content: Any = context.state.config_records[ENCRYPTED_RUN].get(RESULT)
    if content is None:
        return None
    result = json.loads(content)
    evaluations = {}
    if result["counts"]:
        scores: dict[str, Vector] = {}
        if result["scores"]:  # all patients of a bin in its middle
            classes = vectors.read_histogram(np.array(result["scores"], dtype=np.float64))
            scores = {name: of * [1, 1, 0] for name, of in zip(("positives", "negatives"), classes, strict=True)}
        evaluations[FEDERATION] = Evaluation(counts=Counts(**result["counts"]), scores=scores)
    config = read_config(context.state.config_records[CONFIG], context)
    return RunSummary(
        task=task_of(context, config.task),
        config=config,
        figures=result["figures"],
        hospital=next(iter(result["figures"]["hospitals"])),
        hospitals=result["hospitals"],
        settings=Settings.from_config(result["settings"]),
        rounds=tuple(map(read_round, result["rounds"])),
        evaluations=evaluations,
        stopped=result["stopped"],
        encrypted=True,
    )


def save_encrypted_results(folder: Path, context: Context, config: TrainConfig, weights: Weights) -> list[str]:
    """Write report.html, metrics.json, rounds.csv and settings.json beside the model of an encrypted run.

    Returns:
        The names of the files; none if the run has no result.

    Raises:
        RunError: a file cannot be written.
    """
    result = remembered_result(context)
    if result is None:
        return []
    assert result.settings is not None
    settings = {key: value for key, value in result.settings.to_config().items() if key not in OPERATIONAL}
    write_json(folder / SETTINGS, settings)
    write_rounds(folder / ROUNDS, result.rounds, target_of(result.task).headline)
    write_json(folder / METRICS, {**metrics_of(config, stopped=result.stopped), "encrypted": True, **result.figures})
    facts = hashes_of_model(folder / MODEL, weights)
    privacy_spent = budget_of(context).summary().describe() if config.privacy else ""
    write_run_report(folder / REPORT, replace(result, facts=facts, privacy_spent=privacy_spent))
    return [REPORT, METRICS, ROUNDS, SETTINGS]
