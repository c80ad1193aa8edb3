"""Hostile servers of `chaos.py`: they send a hospital well-formed messages that no run sends, to learn about patients
or to keep it busy."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.data.tasks import write_agreement
from federated_health.messages.content import ARRAYS, BENEFIT, CONFIG, EVALUATE, FINAL, REGISTRATION, ROUND, THRESHOLD
from federated_health.messages.records import weights_to_record
from federated_health.messages.run_terms import RUN_TERMS, RunTerms
from federated_health.ml.networks import initial_weights
from federated_health.ml.normalisation import public_normalisation
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.interface import has_failed
from federated_health.transport.stream_server import serve_streams

REPLY_SECONDS = 30.0
"""Time limit for one reply: the first may take a compilation, no refusal takes long."""


@dataclass(frozen=True)
class Question:
    """A message of a hostile server.

    Attributes:
        number: round of a train message; else the number of completed rounds.
        changes: of the train config.
        is_allowed: whether a run sends it, too, so that an answer is no problem.
    """

    kind: str
    number: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    is_allowed: bool = False


@dataclass(frozen=True)
class Hostility:
    """What a server asks, in this order, and the largest number of answers that it may get.

    A hospital cannot refuse everything: a server may repeat a message whose reply was lost, and the server of a resumed
    run may begin with any round.
    """

    questions: tuple[Question, ...]
    limit: int = 0


JOIN = Question(REGISTRATION, is_allowed=True)
AGAIN = [Question("train", 5, {EVALUATE: True}), Question("evaluate", 5)] * 20
"""One round again and again, each time with other weights."""

HOSTILITIES: Mapping[str, Hostility] = {
    "evaluations without training": Hostility((JOIN, *[Question("evaluate")] * 60), limit=5),
    "a learning rate of NaN": Hostility((JOIN, *[Question("train", 1, {"learning_rate": math.nan})] * 3)),
    "10^12 rounds": Hostility((JOIN, Question("train", 1, is_allowed=True), Question(BENEFIT, 10**12))),
    "messages out of order": Hostility(
        (Question(FINAL), Question(THRESHOLD), Question(BENEFIT), Question("evaluate"), JOIN, *AGAIN), limit=8
    ),
    "10^8 local epochs": Hostility((JOIN, Question("train", 1, {"local_epochs": 10**8}))),
    "the end of a run, again and again": Hostility(
        (JOIN, *[Question(THRESHOLD, 30), Question(FINAL, 30), Question(BENEFIT, 30)] * 10), limit=10
    ),
}


def serve_hostile(address: str, hostility: Hostility, report: Path) -> None:
    """Wait for one hospital, send it the questions, and write how often it answered; in a process of its own."""
    settings = Settings()
    answers, silences = [], 0
    with serve_streams(address, settings.agreement, print, terms=RunTerms.of(settings).text) as transport:
        while not transport.get_node_ids():
            time.sleep(0.05)
        (node,) = transport.get_node_ids()
        run = PlainRun(transport, settings)
        run.normalisation = public_normalisation(settings.task_declaration.measurements)
        for number, question in enumerate(hostility.questions):
            message = Message(_content(run, question, number), node, question.kind)
            (reply,) = transport.send_and_receive([message], timeout=REPLY_SECONDS)
            if reply.has_content() and not question.is_allowed:
                answers.append(question.kind)
            silences += reply.has_error() and not has_failed(reply) and bool(transport.get_node_ids())
    report.write_text(json.dumps({"answers": answers, "silences": silences}))


def _content(run: PlainRun, question: Question, seed: int) -> RecordDict:
    """A message with other weights for every question, each of which would tell something else about the rows."""
    if question.kind == REGISTRATION:
        task, terms = run.settings.task_declaration, write_agreement(run.settings.agreement)
        record = ConfigRecord({"task": task.name, "schema": task.schema_hash, "terms": terms})
        record[RUN_TERMS] = RunTerms.of(run.settings).text
        return RecordDict({CONFIG: record})
    completed = question.number - (question.kind == "train")
    config = replace(run.train_config(), rounds=completed).to_record()
    weights = initial_weights(run.settings.task_declaration, run.settings.network_declaration, seed)
    record = ConfigRecord({**config, **question.changes, ROUND: question.number})
    return RecordDict({ARRAYS: weights_to_record(weights), CONFIG: record})


def find_answers(report: Path, hostility: Hostility) -> list[str]:
    """Problems with how often a hospital answered a hostile server."""
    try:
        found = json.loads(report.read_text())
    except OSError:
        return ["the hostile server did not end"]
    problems = []
    if (answers := len(found["answers"])) > hostility.limit:
        problems.append(f"a hostile server got {answers} answers: expected at most {hostility.limit}")
    if found["silences"]:
        problems.append(f"{found['silences']} messages of a hostile server got neither an answer nor a refusal")
    return problems
