"""A hospital's handlers of a run with secure aggregation: each calls the handler of a plain run, and masks its content.

What the hospital's policy switches off, or what is near an earlier release (see `hospital.disclosure`), is no part of a
sum. Minimum cells are not asked for, since the server does not see the hospital's part.

Each pair of hospitals derives masks that only these two know; one adds them, the other subtracts them, so that they
cancel in the sum of all (Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning).
An answer has two steps:

1. The server sends a message. A hospital computes its answer, keeps it, and says only that it is ready.
2. The server names the hospitals that are ready. Each verifies them, and sends its answer masked for exactly these.

**Keys.** A hospital's process makes a key on X25519 for one run, and signs it with its certificate's key (`offers`).

**Participants.** A hospital answers only for participants of this federation by their certificates, not revoked, of
distinct names, itself among them, and at least three or as many as it demands.

**Masks.** The seed of two hospitals' mask is HKDF of their common secret and a label: a hash of the run, the kind and
round of the message, all that the message holds (weights, configuration), and the participants with their offers and
rows. A server that sends different weights, settings or participants to different hospitals (Pasquini et al. 2022,
Eluding Secure Aggregation in Federated Learning via Model Inconsistency) gets masks that do not cancel: noise.

**Once.** A hospital's answer to a question (a kind and a round) is part of one sum. Otherwise a server that pretends
that a hospital dropped out would subtract two sums. So where a hospital drops out between the two steps, its sum is
lost; a round is then trained again under its next number, on other batches. Shares of secrets would save these sums
(Bonawitz et al. 2017; Bell et al. 2020, Secure Single-Server Aggregation with (Poly)Logarithmic Overhead). But against
as many colluding hospitals as here (all but two) they tolerate one drop-out per sum only, and need two more messages.

**What holds**, for an active server together with all but two of the participants: of one question it learns at most
the sum over the other participants, and nothing if these got different messages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict

from federated_health.errors import CertificateError, SecureAggregationError
from federated_health.hospital import final_handlers
from federated_health.hospital import handlers as plain
from federated_health.hospital.policy import policy_of
from federated_health.messages.accepted_terms import within_terms
from federated_health.messages.content import (
    CONFIG,
    EVALUATE,
    ROUND,
    SAME_PARTICIPANTS,
    Evaluation,
    Registration,
    TrainingScores,
    Update,
)
from federated_health.messages.records import METRICS, MalformedMessageError
from federated_health.messages.server_messages import answering, digest_of, has_privacy_plan, read_value
from federated_health.ml.normalisation import SUM_NAMES
from federated_health.ml.strategies import STRATEGIES
from federated_health.ml.targets import target_of
from federated_health.names import SECURE_AGGREGATION
from federated_health.privacy import message_checks
from federated_health.secure_aggregation import figures, masks, messages
from federated_health.secure_aggregation.masks import Vector
from federated_health.secure_aggregation.offers import MAX_OFFER, Offer, make_offer, pack
from federated_health.security.admission import Admission
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.server.share_limit import limit_shares
from federated_health.settings import MIN_SECURE_HOSPITALS

MAX_PREPARED = 4
"""Number of answers that are kept between the two steps; a run needs one at a time."""

Question = tuple[str, int | str]
"""What a sum is of: a kind of message and the number of its round (0 outside rounds), or an evaluation and the digest
of its weights, for which two kinds of messages ask."""

_SESSION = "secure_aggregation_session"


@dataclass(frozen=True, eq=False)
class Prepared:
    """The content of an answer, between the two steps.

    Attributes:
        digest: of the message that asked for it.
        weights: [weights]; none in answers without weights.
        figures: the number of training rows, by which the server notices masks that do not cancel, then the content's.
        questions: what it answers.
        shares_by_rows: whether hospitals have shares by their rows, of at most `max_share`.
    """

    digest: str
    weights: Vector
    figures: Vector
    questions: tuple[Question, ...]
    shares_by_rows: bool = False
    max_share: float = 1.0


class Session:
    """What a hospital's process remembers of its run.

    Attributes:
        answers: question -> label of the one sum that the hospital's answer is part of.
        names: of the participants in the last sum; empty before.
    """

    def __init__(self, run: str, context: Context, name: str) -> None:
        if not (folder := str(context.node_config.get("tls", ""))):
            raise SecureAggregationError("secure aggregation needs --tls: this hospital has no certificate")
        try:
            identity = load_identity(Path(folder), Role.HOSPITAL)
            identity.check_name(name)
            self.admission = Admission(identity)
        except CertificateError as error:
            raise SecureAggregationError(str(error), reason="its certificate cannot be used") from None
        self.run = run
        self.key = X25519PrivateKey.generate()
        self.offer = Offer.read(make_offer(identity, run, self.key))
        self.known = {self.offer.digest: self.offer}
        self.prepared: dict[Question, Prepared] = {}
        self.answers: dict[Question, bytes] = {}
        self.names: set[str] = set()

    @property
    def last_round(self) -> int:
        """Number of the last round whose sum it was part of; 0 before."""
        return max((number for _, number in self.answers if isinstance(number, int)), default=0)

    def check_unanswered(self, question: Question, label: bytes = b"") -> None:
        """Refuse a question whose answer is already part of another sum: their difference would tell a part of it."""
        if self.answers.get(question, label) != label:
            where = f" in round {question[1]}" if isinstance(question[1], int) and question[1] else ""
            raise SecureAggregationError(f"unexpected {question[0]}{where}: its answer is already part of another sum")

    def participants(self, content: RecordDict, conditions: Mapping[str, Any]) -> list[Offer]:
        """Verified offers of the participants in a request, in its order.

        Args:
            conditions: the node's config.
        """
        minimum = max(policy_of(conditions).min_hospitals, MIN_SECURE_HOSPITALS)
        for item in messages.read_list(content, messages.OFFERS, MAX_OFFER):
            if (offer := Offer.read(item)).digest not in self.known and len(self.known) < 4 * masks.MAX_HOSPITALS:
                offer.verify(self.admission, self.run)
                self.known[offer.digest] = offer
        digests = messages.read_list(content, messages.PARTICIPANTS, sha256().digest_size)
        if unknown := [digest for digest in digests if digest not in self.known]:
            raise SecureAggregationError(f"participants: the offers of {len(unknown)} hospitals are missing")
        offers = [self.known[digest] for digest in digests]
        names = {offer.name for offer in offers}
        if len(names) != len(offers):
            raise SecureAggregationError("participants: a hospital is named twice")
        if len(offers) < minimum:
            raise SecureAggregationError(f"participants: expected at least {minimum} hospitals, got {len(offers)}")
        if self.offer.digest not in digests:
            raise SecureAggregationError("participants: its own offer is not among them")
        if conditions.get(SAME_PARTICIPANTS) and self.names not in (set(), names):
            raise SecureAggregationError("participants: expected those of the sums before: this hospital demands it")
        for offer in offers:
            if reason := self.admission.expiry_reason(offer.certificate, Role.HOSPITAL):
                raise SecureAggregationError(f"participants: {offer.name}: {reason}")
        return offers


def _session_of(message: Message, context: Context) -> Session:
    session: Session | None = vars(context).get(_SESSION)
    if session is None or session.run != _read(message, messages.RUN):
        raise SecureAggregationError("it has not offered a key for this run")
    return session


def offer_key(message: Message, context: Context) -> RecordDict:
    """The hospital's offer for a run: one process takes part in one run, unless it has answered nothing yet."""
    run, hospital = _read(message, messages.RUN), plain.hospital_of(message, context)
    session: Session | None = vars(context).get(_SESSION)
    if session is not None and session.run != run and session.answers:
        raise SecureAggregationError(
            "it takes part in another run with secure aggregation; a new one needs a new process"
        )
    if session is None or session.run != run:
        session = Session(run, context, hospital.name)
        vars(context)[_SESSION] = session
        context.state[SECURE_AGGREGATION] = ConfigRecord({messages.RUN: run})
    return messages.write_bytes(messages.OFFERS, session.offer.content, **{messages.LAST_ROUND: session.last_round})


def prepare(message: Message, context: Context) -> RecordDict:
    """Compute the content of an answer and keep it; a repeated message does not have it computed again."""
    session, kind = _session_of(message, context), message.metadata.message_type
    config, digest = message.content.config_records[CONFIG], digest_of(message.content)
    is_of_round = kind in (messages.TRAIN, messages.EVALUATE)
    question = kind, read_value(config, ROUND, 1) if is_of_round else 0
    known = session.prepared.get(question)
    if known is None or known.digest != digest:
        asked = [question]
        if kind == messages.EVALUATE or read_value(config, EVALUATE, False):
            asked.append(("an evaluation of the same weights", _digest_of_weights(message)))
        for part in asked:
            session.check_unanswered(part)
        weights, content = _CONTENTS[kind](message, context)
        rows = len(plain.hospital_of(message, context).train)
        own = np.concatenate([[float(rows)], content])
        masks.check_values(weights, own)
        strategy = STRATEGIES.get(str(config.get("strategy", "")))
        session.prepared[question] = Prepared(
            digest,
            weights,
            own,
            tuple(asked),
            shares_by_rows=strategy is not None and not strategy.equal_weights,
            max_share=_read(message, messages.MAX_SHARE, 1.0),
        )
        while len(session.prepared) > MAX_PREPARED:
            del session.prepared[next(iter(session.prepared))]
    return RecordDict({METRICS: MetricRecord({})})


def mask(message: Message, context: Context) -> RecordDict:
    """The content of an answer, masked for exactly the participants in the message."""
    session = _session_of(message, context)
    question = _read(message, messages.KIND), read_value(message.content.config_records[CONFIG], ROUND, 0)
    prepared = session.prepared.get(question)
    if prepared is None or prepared.digest != _read(message, messages.DIGEST):
        raise SecureAggregationError(f"it has not computed what the server asks for: {question[0]}")
    offers = session.participants(message.content, context.node_config)
    rows = _read(message, messages.ROWS)
    if len(rows) != len(offers) or rows[offers.index(session.offer)] != prepared.figures[0]:
        raise SecureAggregationError("the numbers of rows are not those of the participants")
    fields = [session.run, *question, prepared.digest, rows]
    digests = [offer.digest for offer in offers]
    label = sha256(pack(*[str(field).encode() for field in fields], *digests)).digest()
    for part in prepared.questions:
        session.check_unanswered(part, label)
    weights = rows if prepared.shares_by_rows else [1] * len(rows)
    names = [offer.name for offer in offers]
    share = limit_shares(dict(zip(names, weights, strict=True)), prepared.max_share)[session.offer.name]
    session.names = set(names)
    session.answers.update(dict.fromkeys(prepared.questions, label))
    vector = np.concatenate([masks.write_weights(prepared.weights, share), masks.write_figures(prepared.figures)])
    masks.add_masks(vector, session.key, session.offer, offers, label)
    return messages.write_bytes(messages.VECTOR, vector.astype("<u8").tobytes())


def _read(message: Message, name: str, default: Any = None) -> Any:
    """A value in the config, validated; without a default MalformedMessageError if there is none."""
    config = message.content.config_records[CONFIG]
    if name not in config and default is None:
        raise MalformedMessageError(f"the server's message lacks {name}")
    return messages.CONFIG_FIELDS[name].read(config, name) if name in config else default


def _digest_of_weights(message: Message) -> str:
    return digest_of(RecordDict({name: record for name, record in message.content.items() if name != CONFIG}))


def _disclose(content: Any, message: Message, context: Context) -> Any:
    return plain.disclose(content, message, context, replace(plain.disclosure_policy(context), public=True))


def _share_sums(message: Message, context: Context) -> tuple[Vector, Vector]:
    message_checks.check_plan(context, None)  # no privacy budget accounts for sums of training rows
    hospital = plain.hospital_of(message, context)
    rows, task = hospital.train, hospital.task
    values = rows.values[:, list(task.measurement_positions)]
    sums = figures.scaled_sums(values, task.measurements, rows.most_rows)
    known = Registration(name=hospital.name, train_examples=len(rows), test_examples=len(hospital.test), sums=sums)
    released: Registration = _disclose(known, message, context)
    return np.zeros(0), np.concatenate([getattr(released.sums, name) for name in SUM_NAMES])


def _train(message: Message, context: Context) -> tuple[Vector, Vector]:
    update: Update = _disclose(plain.train(message, context), message, context)
    loss, counts = update.examples * (update.loss or 0.0), list[Vector]()
    if read_value(message.content.config_records[CONFIG], EVALUATE, False):
        none = target_of(plain.hospital_of(message, context).task).no_sums
        counts = [figures.write_counts(none if update.counts is None else update.counts)]
    weights = np.concatenate([array.ravel() for array in update.weights.values()]).astype(np.float64)
    return weights, np.concatenate([[loss], *counts])


def _evaluate(message: Message, context: Context) -> tuple[Vector, Vector]:
    evaluation: Evaluation = _disclose(plain.evaluate(message, context), message, context)
    return np.zeros(0), figures.write_counts(evaluation.counts)


def _score_training_rows(message: Message, context: Context) -> tuple[Vector, Vector]:
    scores: TrainingScores = _disclose(final_handlers.score_training_rows(message, context), message, context)
    groups = {"positives": scores.positives, "negatives": scores.negatives}
    return np.zeros(0), figures.write_bins(groups, list(groups))


def _evaluate_final(message: Message, context: Context) -> tuple[Vector, Vector]:
    """The hospital's own figures and its benefit stay in its context and log."""
    task = plain.hospital_of(message, context).task
    evaluation: Evaluation = _disclose(final_handlers.evaluate_final(message, context), message, context)
    if has_privacy_plan(message.content.config_records[CONFIG]):
        return np.zeros(0), np.array(evaluation.noisy_counts)
    importance = np.zeros(len(task.columns))
    if _read(message, messages.ASKS_BENEFIT, False):
        importance = _disclose(final_handlers.report_benefit(message, context), message, context).importance
    return np.zeros(0), figures.write_final(evaluation, importance, target_of(task))


_CONTENTS: Mapping[str, Callable[[Message, Context], tuple[Vector, Vector]]] = {
    messages.SUMS: _share_sums,
    messages.TRAIN: _train,
    messages.EVALUATE: _evaluate,
    messages.THRESHOLD: _score_training_rows,
    messages.FINAL: _evaluate_final,
}
"""Weights and figures of a hospital's answer, by message type."""


def reply(message: Message, context: Context) -> Message:
    """The reply to a message, if a run would send it now (see `messages.server_messages`)."""
    with within_terms(message, context), answering(message, context):
        handler = {messages.OFFER: offer_key, messages.MASKED: mask}.get(message.metadata.message_type, prepare)
        return Message(handler(message, context), reply_to=message)
