"""A hospital's handlers for an encrypted run: each decrypts the message, does as in a plain run, encrypts the reply.

In a plain run the server checks that updates are finite and that they do not move the weights too far. Here it cannot,
so hospitals check the average.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Message, RecordDict

from federated_health.data.hospital import Hospital
from federated_health.encryption import messages, vectors
from federated_health.encryption.ckks import MAX_VALUE, load_key
from federated_health.encryption.hospital_key import RunSecrets
from federated_health.encryption.messages import EncryptedReply, read_chunks
from federated_health.errors import EncryptionError
from federated_health.hospital import handlers as plain_handlers
from federated_health.hospital.handlers import hospital_of
from federated_health.messages.content import ARRAYS, CONFIG, ROUND, TrainConfig
from federated_health.messages.records import (
    METRICS,
    MalformedMessageError,
    distance_between,
    weights_from_record,
    weights_to_record,
)
from federated_health.ml.metrics import THRESHOLD, choose_threshold
from federated_health.ml.networks import Weights, initial_weights, weight_shapes
from federated_health.ml.normalisation import public_normalisation
from federated_health.ml.rounds import HospitalRound, Round, write_round
from federated_health.names import PROXIMAL_MU
from federated_health.privacy import message_checks

OWN_ROUNDS, LAST_ROUND, LAST_WEIGHTS, OWN_BENEFIT = "own-rounds", "last-round", "last-weights", "benefit"
"""Records of a hospital's own state: figures of every round, last training, weights before it, benefit."""


@dataclass(frozen=True)
class DecryptedMessage:
    """A message of an encrypted run, decrypted.

    Attributes:
        plain: the same message as in a plain run.
        patients: number of patients of all hospitals, by which figures are divided.
        config: of the encrypted message.
    """

    plain: Message
    secrets: RunSecrets
    hospital: Hospital
    train_config: TrainConfig
    weights: Weights
    round_number: int
    patients: int
    config: Mapping[str, Any]

    def encrypt_reply(self, vector: vectors.Vector, examples: int) -> EncryptedReply:
        """The vector, encrypted.

        Raises:
            EncryptionError: a number in it is not finite, or too large.
        """
        try:
            return EncryptedReply(chunks=self.secrets.key.encrypt(vector), examples=examples)
        except ValueError:
            raise EncryptionError("the reply cannot be encrypted: a number is not finite, or too large") from None


def decrypt_message(message: Message, context: Context, *, is_final: bool = False) -> DecryptedMessage:
    """Decrypt a train or evaluate message.

    Args:
        is_final: whether it carries the scores from which the threshold is chosen; otherwise the threshold is 0.5.

    Raises:
        EncryptionError: the hospital has no key or no normalisation, or the weights cannot be used.
        MalformedMessageError: the message is not one of an encrypted run.
    """
    secrets, config = RunSecrets(message, context), message.content.config_records[CONFIG]
    key = secrets.key_bytes  # raises before anything is trained that could not be encrypted
    hospital, patients = hospital_of(message, context), _read_patients(config)
    train_config = TrainConfig.from_record(config)
    normalisation = secrets.normalisation
    if train_config.privacy:
        normalisation = public_normalisation(hospital.task.measurements)
    if normalisation is None:
        raise EncryptionError("it does not have the run's normalisation")
    threshold = _read_threshold(message, secrets, patients) if is_final else THRESHOLD
    train_config = replace(train_config, normalisation=normalisation, threshold=threshold)
    shapes = weight_shapes(hospital.task, train_config.model)
    if chunks := read_chunks(message.content, messages.WEIGHTS):
        scale, length = _read_positive(config, messages.SCALE), sum(map(math.prod, shapes.values()))
        weights = vectors.unflatten(_decrypt_average(key, tuple(chunks), length, scale), shapes)
    else:
        weights = initial_weights(hospital.task, train_config.model, train_config.seed)
    round_number = int(str(config.get(ROUND, train_config.rounds)))
    plain_config = {**train_config.to_record(), ROUND: round_number, PROXIMAL_MU: config.get(PROXIMAL_MU, 0.0)}
    plain = copy.copy(message)
    plain.content = RecordDict({ARRAYS: weights_to_record(weights), CONFIG: ConfigRecord(plain_config)})
    return DecryptedMessage(plain, secrets, hospital, train_config, weights, round_number, patients, config)


def share_sums(message: Message, context: Context) -> EncryptedReply:
    """Sums per measurement, for the normalisation."""
    message_checks.check_plan(context, None)  # no privacy budget accounts for sums of training rows
    hospital = hospital_of(message, context)
    patients = _read_patients(message.content.config_records[CONFIG])
    values = hospital.train.values[:, list(hospital.task.measurement_positions)]
    sums = vectors.write_sums(values, hospital.task.measurements, patients)
    return EncryptedReply(chunks=RunSecrets(message, context).key.encrypt(sums), examples=len(hospital.train))


def train(message: Message, context: Context) -> EncryptedReply:
    """Weights after the round's local epochs; the training loss is sent with the evaluation."""
    decrypted = decrypt_message(message, context)
    share = _read_positive(decrypted.config, messages.SHARE)
    update = plain_handlers.train(decrypted.plain, context)
    if share > 1 or _shapes_of(update.weights) != _shapes_of(decrypted.weights):
        raise MalformedMessageError("its share of the average is above 1, or its update has other shapes")
    reply = decrypted.encrypt_reply(vectors.flatten(update.weights, share), len(decrypted.hospital.train))
    last: dict[str, Any] = {
        ROUND: decrypted.round_number,
        "distance": distance_between(update.weights, decrypted.weights),
    }
    if update.loss is not None:
        last["loss"] = update.loss
    context.state[LAST_ROUND] = ConfigRecord(last)
    context.state[LAST_WEIGHTS] = weights_to_record(decrypted.weights)
    return reply


def evaluate(message: Message, context: Context) -> EncryptedReply:
    """Counts over the held-out rows under the new average, and the training loss if its update is part of it."""
    decrypted = decrypt_message(message, context)
    last = context.state.config_records.get(LAST_ROUND, ConfigRecord({}))
    has_trained = last.get(ROUND) == decrypted.round_number
    if has_trained:
        _check_distance(decrypted, context, float(str(last["distance"])))
    is_counted = has_trained and decrypted.config.get(messages.IS_COUNTED) is True
    figures = HospitalRound(
        train_examples=len(decrypted.hospital.train) if is_counted else 0,
        train_loss=float(str(last["loss"])) if is_counted and "loss" in last else None,
        counts=plain_handlers.evaluate(decrypted.plain, context).counts,
    )
    number = decrypted.round_number
    vector = vectors.write_round(number, figures, decrypted.patients)
    reply = decrypted.encrypt_reply(vector, len(decrypted.hospital.test))
    rounds = context.state.config_records.get(OWN_ROUNDS, ConfigRecord({}))
    own = Round(number=number, hospitals={decrypted.hospital.name: figures}, federation=figures)
    context.state[OWN_ROUNDS] = ConfigRecord({**rounds, str(number): write_round(own)})
    return reply


def score_training_rows(message: Message, context: Context) -> EncryptedReply:
    """Number of training rows in each score bin, for the threshold."""
    decrypted = decrypt_message(message, context)
    message_checks.refuse_unaccounted(decrypted.train_config.privacy, "the threshold")
    _, local, weights = plain_handlers.open_message(decrypted.plain, context)
    log_odds = local.score_training(weights)
    bins = vectors.histogram(log_odds, decrypted.hospital.train.labels)
    return decrypted.encrypt_reply(bins / decrypted.patients, len(decrypted.hospital.train))


def evaluate_final_weights(message: Message, context: Context) -> EncryptedReply:
    """Counts and score bins of the held-out rows, at the threshold chosen from all hospitals' training rows.

    The final weights, the hospital's own figures and its benefit stay in its context.
    """
    decrypted = decrypt_message(message, context, is_final=True)
    evaluation = plain_handlers.evaluate_final(decrypted.plain, context)
    importance = np.zeros(len(decrypted.hospital.task.columns))
    if decrypted.config.get(messages.ASKS_BENEFIT) is True:
        benefit = plain_handlers.report_benefit(decrypted.plain, context)
        importance = benefit.importance
        context.state[OWN_BENEFIT] = benefit.to_content().metric_records[METRICS]
    _, local, weights = plain_handlers.open_message(decrypted.plain, context)
    sums = vectors.FinalSums(
        counts=evaluation.counts,
        roc_auc=evaluation.roc_auc or 0.0,
        with_roc_auc=int(evaluation.roc_auc is not None),
        importance=importance,
        scores=vectors.histogram(local.score(weights), decrypted.hospital.test.labels),
    )
    return decrypted.encrypt_reply(sums.to_vector(decrypted.patients), len(decrypted.hospital.test))


def _read_threshold(message: Message, secrets: RunSecrets, patients: int) -> float:
    """The threshold chosen from the sum of all hospitals' bins of training scores; 0.5 if there is no sum."""
    chunks = read_chunks(message.content, messages.SCORES)
    if not chunks:
        return THRESHOLD
    bins = secrets.key.decrypt(chunks, 2 * vectors.BINS) * patients
    threshold = choose_threshold(*vectors.read_histogram(bins))
    return THRESHOLD if threshold is None else threshold


def _read_patients(config: Mapping[str, Any]) -> int:
    patients = config.get(messages.PATIENTS)
    if not isinstance(patients, int) or not 0 < patients <= vectors.MAX_PATIENTS:
        raise MalformedMessageError("the server's number of patients is out of range")
    return patients


def _read_positive(config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise MalformedMessageError(f"the server's {key} is not a number above 0")
    return value


def _check_distance(decrypted: DecryptedMessage, context: Context, own_distance: float) -> None:
    """Refuse an average that moves the weights much farther than this hospital's own update.

    Raises:
        EncryptionError: it does; the message does not say how far, because that was decrypted.
    """
    factor = decrypted.config.get(messages.MAX_UPDATE_NORM, 0.0)
    before = weights_from_record(context.state.array_records[LAST_WEIGHTS], _shapes_of(decrypted.weights))
    if factor and distance_between(decrypted.weights, before) > factor * own_distance > 0:
        raise EncryptionError(
            f"the decrypted average moves the weights more than {factor:g} times as far as its own update"
        )


def _shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in weights.items()}


@lru_cache(maxsize=4)
def _decrypt_average(key: bytes, chunks: tuple[bytes, ...], length: int, scale: float) -> npt.NDArray[np.float64]:
    """The average, [length]; cached because each average is used twice per round.

    Raises:
        EncryptionError: hospitals cannot have sent it.
    """
    average = load_key(key).decrypt(chunks, length) * scale
    if not (np.abs(average) <= MAX_VALUE).all():  # as if encrypted with another key
        raise EncryptionError("the decrypted average is none that hospitals can have sent")
    return average
