"""What one hospital knows at the end of an encrypted run: it decrypts all sums and stores the result.

The result is what the server of a plain run would have, without the other hospitals' own figures, which no one sends.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from federated_health.encryption import vectors
from federated_health.encryption.ckks import SLOTS, key_id
from federated_health.encryption.handlers import OWN_BENEFIT, OWN_ROUNDS, DecryptedMessage, decrypt_message
from federated_health.encryption.messages import FIGURES, RUN_FACTS, KeyReply, name_of_block, read_chunks
from federated_health.errors import SettingsError
from federated_health.hospital.handlers import evaluate
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import ARRAYS, CONFIG
from federated_health.messages.records import METRICS, MalformedMessageError, weights_to_record
from federated_health.ml.metrics import SMALL_CLASS, Counts, figures_of, roc_auc_from_microaggregates
from federated_health.ml.rounds import Round, read_round, write_round
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, Settings, read_defaults

RESULT = "result"
"""Record of a hospital's own state that holds the result of a finished encrypted run."""


@dataclass(frozen=True, kw_only=True)
class HospitalResult:
    """The result of an encrypted run as one hospital may know it.

    Attributes:
        figures: as in metrics.json: `hospitals` with this one only, `federation`, and the benefit if it was measured.
        rounds: with this hospital and the federation.
        counts: of all held-out patients; empty if they are not known.
        scores: of the same patients, [2 * BINS], see `vectors.histogram`; empty if the run was stopped.
        hospitals: how many took part.
        stopped: whether the run ended before its last round, or without final figures.
        settings: the server's, without those in `OPERATIONAL`.
    """

    figures: dict[str, Any]
    rounds: tuple[Round, ...]
    counts: dict[str, Any]
    scores: list[int]
    hospitals: int
    stopped: bool
    settings: dict[str, Any]

    def to_record(self) -> ConfigRecord:
        rounds = [write_round(each).decode() for each in self.rounds]
        return ConfigRecord({"json": json.dumps({**vars(self), "rounds": rounds})})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "HospitalResult":
        content = json.loads(str(record["json"]))
        return cls(**{**content, "rounds": tuple(map(read_round, content["rounds"]))})


def remembered_result(context: Context) -> HospitalResult | None:
    """The result that `store_result` stored; None before the end of a run, and in a plain one."""
    record = context.state.config_records.get(RESULT)
    return None if record is None else HospitalResult.from_record(record)


def store_result(message: Message, context: Context) -> KeyReply:
    """Decrypt the sums of all rounds and of the final figures, and store the result in the hospital's state."""
    decrypted = decrypt_message(message, context, is_final=True)
    facts = _read_run_facts(decrypted.config)
    rounds = tuple(_rounds(message, context, decrypted, facts["rounds"]))
    sums = _final_sums(message, context, decrypted)
    if sums is not None:
        counts: Counts | None = sums.counts
        roc_auc = roc_auc_from_microaggregates(*vectors.read_histogram(sums.scores))
        # The mean of fewer hospitals would reveal to each of them the others' figures.
        is_mean_known = sums.with_roc_auc >= MIN_ENCRYPTED_HOSPITALS
        mean_roc_auc = sums.roc_auc / sums.with_roc_auc if is_mean_known else None
        benefit = _benefit_figures(context, decrypted, sums)
    else:
        counts = rounds[-1].federation.counts if rounds else None
        roc_auc, mean_roc_auc, benefit = None, None, {}
        _store_last_weights(context, decrypted)
    federation = {**figures_of(counts or Counts(), facts["train_examples"], roc_auc), "mean_roc_auc": mean_roc_auc}
    own = context.state.metric_records["figures"]
    own_figures = {key: own.get(key) for key in federation if key != "mean_roc_auc"}
    context.state[RESULT] = HospitalResult(
        figures={"hospitals": {decrypted.hospital.name: own_figures}, "federation": federation, **benefit},
        rounds=rounds,
        counts=asdict(counts) if counts else {},
        scores=[] if sums is None else np.round(sums.scores).astype(int).tolist(),
        hospitals=facts["hospitals"],
        stopped=facts["stopped"],
        settings=facts["settings"],
    ).to_record()
    return KeyReply(key_id=key_id(decrypted.secrets.key_bytes))


def _final_sums(message: Message, context: Context, decrypted: DecryptedMessage) -> vectors.FinalSums | None:
    """All hospitals' sums for the final weights; None if this hospital or too many others did not evaluate them."""
    chunks = read_chunks(message.content, FIGURES)
    if not chunks or "figures" not in context.state:
        return None
    columns = len(decrypted.hospital.task.columns)
    vector = decrypted.secrets.key.decrypt(chunks, vectors.FinalSums.length(columns))
    return vectors.FinalSums.from_vector(vector, columns, decrypted.patients)


def _store_last_weights(context: Context, decrypted: DecryptedMessage) -> None:
    """Store the last finished round's weights as the final model, with the hospital's own figures."""
    own = figures_of(evaluate(decrypted.plain, context).counts, len(decrypted.hospital.train), None)
    context.state["figures"] = MetricRecord({key: value for key, value in own.items() if value is not None})
    context.state[ARRAYS] = weights_to_record(decrypted.weights)
    context.state[CONFIG] = decrypted.train_config.to_record()


def _benefit_figures(context: Context, decrypted: DecryptedMessage, sums: vectors.FinalSums) -> dict[str, Any]:
    """This hospital's benefit of joining and the importance of each column; empty if it was not measured."""
    record = context.state.metric_records.get(OWN_BENEFIT)
    if record is None:
        return {}
    hospital, content = decrypted.hospital, RecordDict({METRICS: record})
    benefit = Benefit.from_content(content, hospital.task, len(hospital.train), len(hospital.test))
    positives = int(hospital.test.labels.sum())
    names = hospital.task.column_names
    return {
        "joining": {
            hospital.name: {
                "verdict": benefit.verdict,
                "own_roc_auc": benefit.own_roc_auc,
                "roc_auc": asdict(benefit.roc_auc),
                "difference": asdict(benefit.difference),
                "small": min(positives, len(hospital.test) - positives) < SMALL_CLASS,
            }
        },
        "importance": dict(zip(names, (sums.importance / max(sums.counts.examples, 1)).tolist(), strict=True)),
        "observed": {hospital.name: dict(zip(names, map(int, benefit.observed), strict=True))},
    }


def _rounds(message: Message, context: Context, decrypted: DecryptedMessage, number_of_rounds: int) -> Iterator[Round]:
    own = context.state.config_records.get(OWN_ROUNDS, ConfigRecord({}))
    for first in range(1, number_of_rounds + 1, vectors.ROUNDS_PER_BLOCK):
        chunks = read_chunks(message.content, name_of_block((first - 1) // vectors.ROUNDS_PER_BLOCK))
        vector = decrypted.secrets.key.decrypt(chunks, SLOTS) if chunks else np.zeros(SLOTS)
        for number in range(first, min(first + vectors.ROUNDS_PER_BLOCK, number_of_rounds + 1)):
            line = own.get(str(number))
            yield Round(
                number=number,
                hospitals=read_round(line).hospitals if isinstance(line, bytes) else {},
                federation=vectors.read_round(number, vector, decrypted.patients),
            )


def _read_run_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the server states about the run in plain text."""
    try:
        facts = json.loads(str(config.get(RUN_FACTS)))
        numbers = {key: int(facts[key]) for key in ("hospitals", "train_examples", "rounds")}
        settings = Settings.from_config({**read_defaults(), **facts["settings"]}).to_config()
        settings = {key: settings[key] for key in facts["settings"]}
        return {**numbers, "stopped": bool(facts["stopped"]), "settings": settings}
    except (ValueError, TypeError, KeyError, SettingsError):
        raise MalformedMessageError("the server's facts about the run cannot be read") from None
