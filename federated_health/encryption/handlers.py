"""A hospital's side of an encrypted run: it decrypts what it is asked, does as in a plain run, and encrypts the answer.

What only the server can look at in a plain run is looked at here: whether updates are finite, and whether the average
moves the weights out of all proportion.
"""

import copy
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated_health.data.hospital import Hospital
from federated_health.encryption import vectors
from federated_health.encryption.ckks import LARGEST, load_key
from federated_health.encryption.hospital_key import Member, member
from federated_health.encryption.messages import (
    IS_COUNTED,
    MAX_UPDATE_NORM,
    PATIENTS,
    SCALE,
    SCORES,
    SHARE,
    WEIGHTS,
    EncryptedReply,
    chunks_in,
)
from federated_health.errors import EncryptionError
from federated_health.hospital.handlers import (
    evaluate as evaluate_plain,
)
from federated_health.hospital.handlers import (
    evaluate_final,
    hospital_of,
    open_message,
    report_benefit,
)
from federated_health.hospital.handlers import (
    train as train_plain,
)
from federated_health.messages.content import ARRAYS, CONFIG, ROUND, TrainConfig
from federated_health.messages.records import (
    MalformedMessageError,
    distance_between,
    weights_from_record,
    weights_to_record,
)
from federated_health.ml.metrics import THRESHOLD, choose_threshold
from federated_health.ml.networks import Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import public_normalisation
from federated_health.ml.rounds import HospitalRound
from federated_health.ml.strategies import PROXIMAL_MU
from federated_health.privacy import message_checks

logger = logging.getLogger(__name__)

OWN_ROUNDS, LAST_ROUND, LAST_WEIGHTS = "own-rounds", "last-round", "last-weights"
"""Records of a hospital's own state: its figures of every round, and its last training, from which weights."""

BENEFIT = "appraisal"
"""Of the question for final figures: whether hospitals are to appraise the model. Of the state: what came of it."""


@dataclass(frozen=True)
class Question:
    """A message of an encrypted run, decrypted.

    Attributes:
        plain: the same as a message of a plain run.
        patients: of all hospitals, by which figures are divided.
    """

    plain: Message
    member: Member
    hospital: Hospital
    train_config: TrainConfig
    weights: Weights
    round_number: int
    config: Mapping[str, Any]

    @property
    def patients(self) -> int:
        return read_patients(self.config)

    def answer(self, vector: vectors.Vector, examples: int) -> EncryptedReply:
        """The vector, encrypted.

        Raises:
            EncryptionError: a number in it is not finite, or too large.
        """
        try:
            return EncryptedReply(chunks=self.member.key.encrypt(vector), examples=examples)
        except ValueError:
            raise EncryptionError("what it should encrypt is not finite, or too large") from None


def open_question(message: Message, context: Context, threshold: float = THRESHOLD) -> Question:
    """What a train or evaluate message of an encrypted run asks of this hospital.

    Raises:
        EncryptionError: the hospital lacks the run's key or normalisation, or the average cannot be used.
        MalformedMessageError: the message is not what such a run's server sends.
    """
    config, own = message.content.config_records[CONFIG], member(message, context)
    told, hospital = TrainConfig.from_record(config), hospital_of(message, context)
    normalisation = public_normalisation(hospital.task.measurements) if told.privacy else own.normalisation
    if normalisation is None:
        raise EncryptionError("it does not have the run's normalisation")
    told = replace(told, normalisation=normalisation, threshold=threshold)
    shapes = weight_shapes(hospital.task, told.model)
    if chunks := chunks_in(message.content, WEIGHTS):
        scale = read_positive(config, SCALE)
        length = sum(map(math.prod, shapes.values()))
        weights = vectors.unflatten(_decrypt_average(own.key_bytes, tuple(chunks), length, scale), shapes)
    else:
        weights = initial_weights(hospital.task, told.model, told.seed)
    number = int(str(config.get(ROUND, told.rounds)))
    as_plain = {**told.to_record(), ROUND: number, PROXIMAL_MU: config.get(PROXIMAL_MU, 0.0)}
    plain = copy.copy(message)
    plain.content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: ConfigRecord(as_plain)})
    return Question(plain, own, hospital, told, weights, number, config)


def share_sums(message: Message, context: Context) -> EncryptedReply:
    """The sums from which the normalisation is made."""
    message_checks.check_plan(context, None)  # sums of training rows are not accounted for
    hospital, patients = hospital_of(message, context), read_patients(message.content.config_records[CONFIG])
    values = hospital.train.values[:, list(hospital.task.measurement_positions)]
    sums = vectors.write_sums(values, hospital.task.measurements, patients)
    return EncryptedReply(chunks=member(message, context).key.encrypt(sums), examples=len(hospital.train))


def train(message: Message, context: Context) -> EncryptedReply:
    """The round's local epochs, from the average; the training loss stays here until the evaluation."""
    asked = open_question(message, context)
    share = read_positive(asked.config, SHARE)
    update = train_plain(asked.plain, context)
    if share > 1 or {name: array.shape for name, array in update.weights.items()} != {
        name: array.shape for name, array in asked.weights.items()
    }:
        raise MalformedMessageError("its share of the average, or its update, is not what it must be")
    reply = asked.answer(vectors.flatten(update.weights, share), len(asked.hospital.train))
    move = distance_between(update.weights, asked.weights)
    last: dict[str, int | float] = {ROUND: asked.round_number, "move": move}
    if update.loss is not None:
        last["loss"] = update.loss
    context.state[LAST_ROUND] = ConfigRecord(last)  # type: ignore[arg-type]  # Flower's dict is invariant
    context.state[LAST_WEIGHTS] = weights_to_record(asked.weights)
    return reply


def evaluate(message: Message, context: Context) -> EncryptedReply:
    """Counts over the held-out rows under the new average, and the training loss of an update that is part of it."""
    asked = open_question(message, context)
    last = context.state.config_records.get(LAST_ROUND, ConfigRecord({}))
    has_trained = last.get(ROUND) == asked.round_number
    if has_trained:
        _check_move(asked, context, float(str(last["move"])))
    is_counted = has_trained and asked.config.get(IS_COUNTED) is True
    rows = len(asked.hospital.train)
    own = HospitalRound(
        train_examples=rows if is_counted else 0,
        train_loss=float(str(last["loss"])) if is_counted and "loss" in last else None,
        counts=evaluate_plain(asked.plain, context).counts,
    )
    reply = asked.answer(vectors.write_round(asked.round_number, own, asked.patients), len(asked.hospital.test))
    remember_round(context, asked.round_number, own)
    return reply


def score_training_rows(message: Message, context: Context) -> EncryptedReply:
    """How many training rows score in which bin, for the threshold."""
    asked = open_question(message, context)
    message_checks.refuse_unaccounted(asked.train_config.privacy, "the threshold")
    local = open_message(asked.plain, context).local
    bins = vectors.histogram(local.score_training(asked.weights), asked.hospital.train.labels)
    return asked.answer(bins / asked.patients, len(asked.hospital.train))


def evaluate_for_good(message: Message, context: Context) -> EncryptedReply:
    """Counts and bins of the held-out rows at the threshold that all training rows chose.

    The final weights and this hospital's own figures and appraisal are kept in its context, which does not leave it.
    """
    config, own = message.content.config_records[CONFIG], member(message, context)
    asked = open_question(message, context, read_threshold(message, own, read_patients(config)))
    evaluation = evaluate_final(asked.plain, context)
    importance = np.zeros(len(asked.hospital.task.columns))
    if asked.config.get(BENEFIT) is True:
        appraisal = report_benefit(asked.plain, context)
        importance = appraisal.importance
        context.state[BENEFIT] = appraisal.to_content().metric_records["metrics"]
    local = open_message(asked.plain, context).local
    sums = vectors.FinalSums(
        counts=evaluation.counts,
        roc_auc=evaluation.roc_auc or 0.0,
        with_roc_auc=int(evaluation.roc_auc is not None),
        importance=importance,
        scores=vectors.histogram(local.score(asked.weights), asked.hospital.test.labels),
    )
    return asked.answer(sums.to_vector(asked.patients), len(asked.hospital.test))


def read_threshold(message: Message, own: Member, patients: int) -> float:
    """The threshold that the sum of all hospitals' bins of training scores gives; 0.5 where there is no sum."""
    chunks = chunks_in(message.content, SCORES)
    if not chunks:
        return THRESHOLD
    chosen = choose_threshold(*vectors.read_histogram(own.key.decrypt(chunks, 2 * vectors.BINS) * patients))
    return THRESHOLD if chosen is None else chosen


def remember_round(context: Context, number: int, one: HospitalRound) -> None:
    """Keep what a round gave at this hospital."""
    known = context.state.config_records.get(OWN_ROUNDS, ConfigRecord({}))
    counts = None if one.counts is None else [getattr(one.counts, name) for name in one.counts.__slots__]
    known[str(number)] = json.dumps([one.train_examples, one.train_loss, counts])
    context.state[OWN_ROUNDS] = known


def read_patients(config: Mapping[str, Any]) -> int:
    """Of all hospitals, as the server says."""
    patients = config.get(PATIENTS)
    if not isinstance(patients, int) or not 0 < patients <= vectors.MAX_PATIENTS:
        raise MalformedMessageError("the server's number of patients is out of range")
    return patients


def read_positive(config: Mapping[str, Any], key: str) -> float:
    """A finite number above 0."""
    value = config.get(key)
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise MalformedMessageError(f"the server's {key} is not a number above 0")
    return value


def _check_move(asked: Question, context: Context, own_move: float) -> None:
    """Refuse an average that moves the weights out of all proportion to this hospital's own update.

    Raises:
        EncryptionError: it does; by how much, nobody is told.
    """
    factor = asked.config.get(MAX_UPDATE_NORM, 0.0)
    shapes = {name: array.shape for name, array in asked.weights.items()}
    before = weights_from_record(context.state.array_records[LAST_WEIGHTS], shapes)
    if factor and distance_between(asked.weights, before) > factor * own_move > 0:
        raise EncryptionError(
            f"the decrypted average moves the weights more than {factor:g} times as far as its own update"
        )


@lru_cache(maxsize=4)
def _decrypt_average(key: bytes, chunks: tuple[bytes, ...], length: int, scale: float) -> npt.NDArray[np.float64]:
    """The average, [length]; the same is asked for twice a round.

    Raises:
        EncryptionError: it is none that hospitals can have sent.
    """
    average = load_key(key).decrypt(chunks, length) * scale
    if not (np.abs(average) <= LARGEST).all():  # so of what was encrypted with another key
        raise EncryptionError("the decrypted average is none that hospitals can have sent")
    return average
