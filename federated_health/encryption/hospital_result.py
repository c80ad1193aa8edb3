"""The end of an encrypted run at a hospital: it decrypts all sums, and keeps what a plain run's server would have.

All but the other hospitals' own figures, which nobody sends it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from federated_health.encryption import vectors
from federated_health.encryption.ckks import SLOTS, key_id
from federated_health.encryption.handlers import (
    BENEFIT,
    OWN_ROUNDS,
    Question,
    open_question,
    read_patients,
    read_threshold,
)
from federated_health.encryption.hospital_key import member
from federated_health.encryption.messages import ACCOUNT, FIGURES, KeyNews, chunks_in, name_of_block
from federated_health.errors import SettingsError
from federated_health.hospital.handlers import evaluate as evaluate_plain
from federated_health.messages.benefit import Benefit
from federated_health.messages.content import ARRAYS, CONFIG
from federated_health.messages.records import METRICS, MalformedMessageError, weights_to_record
from federated_health.ml.metrics import SMALL_CLASS, Counts, figures_of, roc_auc_from_microaggregates
from federated_health.ml.rounds import HospitalRound, Round, read_round, write_round
from federated_health.settings import MIN_ENCRYPTED_HOSPITALS, Settings, read_defaults

RESULT = "result"
"""The record of a hospital's own state that holds what a finished encrypted run gave."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an encrypted run gave, as one hospital may know it.

    Attributes:
        figures: as in metrics.json: `hospitals` with this one alone, `federation`, and what else there is.
        rounds: of this hospital and of the federation.
        counts: of all held-out patients; empty where there are none.
        scores: of the same patients, [2 * BINS], see `vectors.histogram`; empty where the run was stopped.
        hospitals: how many took part.
        stopped: whether the run ended before its last round, or its final figures were not given.
        settings: the server's, apart from where and how it carried out the run.
    """

    figures: dict[str, Any]
    rounds: tuple[Round, ...]
    counts: dict[str, Any]
    scores: list[int]
    hospitals: int
    stopped: bool
    settings: dict[str, Any]

    def to_record(self) -> ConfigRecord:
        rounds = [write_round(one).decode() for one in self.rounds]
        return ConfigRecord({"json": json.dumps({**vars(self), "rounds": rounds})})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> "Result":
        content = json.loads(str(record["json"]))
        return cls(**{**content, "rounds": tuple(map(read_round, content["rounds"]))})


def remembered_result(context: Context) -> Result | None:
    """What `close` kept; None before the end of a run, and in a plain one."""
    record = context.state.config_records.get(RESULT)
    return None if record is None else Result.from_record(record)


def close(message: Message, context: Context) -> KeyNews:
    """Decrypt the sums of the finished rounds and of the final figures, and keep them in the hospital's own state."""
    patients = read_patients(message.content.config_records[CONFIG])
    own = member(message, context)
    asked = open_question(message, context, read_threshold(message, own, patients))
    account = _read_account(asked.config)
    rounds = tuple(_rounds(message, context, asked, account["rounds"]))
    sums = _final_sums(message, context, asked)
    if sums is None:
        counts = rounds[-1].federation.counts if rounds else None
        figures = _last_figures(context, asked, counts, account["train_examples"])
    else:
        counts = sums.counts
        figures = _final_figures(context, asked, sums, account["train_examples"])
    context.state[RESULT] = Result(
        figures=figures,
        rounds=rounds,
        counts=asdict(counts) if counts else {},
        scores=[] if sums is None else np.round(sums.scores).astype(int).tolist(),
        hospitals=account["hospitals"],
        stopped=account["stopped"],
        settings=account["settings"],
    ).to_record()
    return KeyNews(key_id=key_id(own.key_bytes))


def _final_sums(message: Message, context: Context, asked: Question) -> vectors.FinalSums | None:
    """What all hospitals say of the final weights; None where this one or too many others did not evaluate them."""
    chunks = chunks_in(message.content, FIGURES)
    if not chunks or "figures" not in context.state:
        return None
    columns = len(asked.hospital.task.columns)
    vector = asked.member.key.decrypt(chunks, vectors.FinalSums.length(columns))
    return vectors.FinalSums.from_vector(vector, columns, asked.patients)


def _final_figures(context: Context, asked: Question, sums: vectors.FinalSums, train_examples: int) -> dict[str, Any]:
    federation = figures_of(
        sums.counts, train_examples, roc_auc_from_microaggregates(*vectors.read_histogram(sums.scores))
    )
    # Of fewer the mean would tell each of them the others'.
    enough = sums.with_roc_auc >= MIN_ENCRYPTED_HOSPITALS
    federation["mean_roc_auc"] = sums.roc_auc / sums.with_roc_auc if enough else None
    importance = (sums.importance / max(sums.counts.examples, 1)).tolist()
    named = dict(zip(asked.hospital.task.column_names, importance, strict=True))
    return {**_with_own(context, asked, federation), **_appraised(context, asked, named)}


def _last_figures(context: Context, asked: Question, counts: Counts | None, train_examples: int) -> dict[str, Any]:
    """Figures of the last finished round, whose weights are kept as the final ones."""
    federation = {**figures_of(counts or Counts(), train_examples, None), "mean_roc_auc": None}
    own = figures_of(evaluate_plain(asked.plain, context).counts, len(asked.hospital.train), None)
    context.state["figures"] = MetricRecord({key: value for key, value in own.items() if value is not None})
    context.state[ARRAYS] = weights_to_record(asked.weights)
    context.state[CONFIG] = asked.train_config.to_record()
    return _with_own(context, asked, federation)


def _with_own(context: Context, asked: Question, federation: Mapping[str, Any]) -> dict[str, Any]:
    own = context.state.metric_records["figures"]
    figures = {key: own.get(key) for key in federation if key != "mean_roc_auc"}
    return {"hospitals": {asked.hospital.name: figures}, "federation": dict(federation)}


def _appraised(context: Context, asked: Question, importance: Mapping[str, float]) -> dict[str, Any]:
    """What joining gave this hospital, and how much each column weighs for all, where that was asked for."""
    record = context.state.metric_records.get(BENEFIT)
    if record is None:
        return {}
    hospital = asked.hospital
    one = Benefit.from_content(RecordDict({METRICS: record}), hospital.task, len(hospital.train), len(hospital.test))
    positives = int(hospital.test.labels.sum())
    return {
        "joining": {
            hospital.name: {
                "verdict": one.verdict,
                "own_roc_auc": one.own_roc_auc,
                "roc_auc": asdict(one.roc_auc),
                "difference": asdict(one.difference),
                "small": min(positives, len(hospital.test) - positives) < SMALL_CLASS,
            }
        },
        "importance": dict(importance),
        "observed": {hospital.name: dict(zip(hospital.task.column_names, map(int, one.observed), strict=True))},
    }


def _rounds(message: Message, context: Context, asked: Question, number_of_rounds: int) -> Iterator[Round]:
    own = context.state.config_records.get(OWN_ROUNDS, ConfigRecord({}))
    for block in range(-(-number_of_rounds // vectors.ROUNDS)):
        chunks = chunks_in(message.content, name_of_block(block))
        vector = asked.member.key.decrypt(chunks, SLOTS) if chunks else np.zeros(SLOTS)
        first = block * vectors.ROUNDS + 1
        for number in range(first, min(first + vectors.ROUNDS, number_of_rounds + 1)):
            hospitals = {}
            if str(number) in own:
                examples, loss, counts = json.loads(str(own[str(number)]))
                mine = Counts(**dict(zip(Counts.__slots__, counts, strict=True)))
                hospitals[asked.hospital.name] = HospitalRound(train_examples=examples, train_loss=loss, counts=mine)
            whole = vectors.read_round(number, vector, asked.patients)
            yield Round(number=number, hospitals=hospitals, federation=whole)


def _read_account(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the server says in plain of the run's course."""
    try:
        account = json.loads(str(config.get(ACCOUNT)))
        numbers = {key: int(account[key]) for key in ("hospitals", "train_examples", "rounds")}
        settings = Settings.from_config({**read_defaults(), **account["settings"]}).to_config()
        told = {key: settings[key] for key in account["settings"]}
        return {**numbers, "stopped": bool(account["stopped"]), "settings": told}
    except (ValueError, TypeError, KeyError, SettingsError):
        raise MalformedMessageError("the server's account of the run cannot be read") from None
