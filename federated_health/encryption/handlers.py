"""A hospital's handlers for an encrypted run: each decrypts, calls the handler of a plain run, encrypts the reply."""

import json
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Context, Message, RecordDict

from federated_health.encryption import hospital_key, messages, vectors
from federated_health.encryption.hospital_message import EncryptedMessage, WeightsMessage
from federated_health.encryption.hospital_result import OWN_BENEFIT, OWN_ROUND, store_result
from federated_health.errors import EncryptionError
from federated_health.hospital import handlers as plain_handlers
from federated_health.messages.accepted_terms import within_terms
from federated_health.messages.benefit import summarise_benefits
from federated_health.messages.records import (
    distance_between,
    weights_from_record,
    weights_to_record,
)
from federated_health.messages.server_messages import answering
from federated_health.ml.rounds import HospitalRound, Round, write_round
from federated_health.ml.targets.binary import Counts
from federated_health.privacy import message_checks

_ROUND, _DISTANCE, _LOSS = "last-round", "distance", "loss"
"""Figures of a hospital's last training in its state."""

_LAST_WEIGHTS = "last-weights"
"""Record of the weights before its last training."""


def share_sums(message: Message, context: Context) -> RecordDict:
    """Sums per measurement, for the normalisation."""
    message_checks.check_plan(context, None)  # no privacy budget accounts for sums of training rows
    request = EncryptedMessage(message, context)
    task, rows = request.hospital.task, request.hospital.train
    values = rows.values[:, list(task.measurement_positions)]
    return request.reply(vectors.write_sums(values, task.measurements, request.patients), len(rows))


def train(message: Message, context: Context) -> RecordDict:
    """Weights after the round's local epochs; the training loss is sent with the evaluation."""
    decrypted = WeightsMessage(message, context)
    share = decrypted.read(messages.SHARE)
    update = plain_handlers.train(decrypted.plain, context)
    reply = decrypted.reply(vectors.flatten(update.weights, share), update.examples)
    distance = distance_between(update.weights, decrypted.weights)
    decrypted.state.update({_ROUND: decrypted.round_number, _DISTANCE: distance})
    decrypted.state.pop(_LOSS, None)  # of an earlier round
    if update.loss is not None:
        decrypted.state[_LOSS] = update.loss
    context.state[_LAST_WEIGHTS] = weights_to_record(decrypted.weights)
    return reply


def evaluate(message: Message, context: Context) -> RecordDict:
    """Counts over the held-out rows under the new average, and the training loss if its update is part of it."""
    decrypted = WeightsMessage(message, context)
    number, hospital = decrypted.round_number, decrypted.hospital
    has_trained = decrypted.state.get(_ROUND) == number
    if has_trained:
        _check_distance(decrypted)
    is_counted = has_trained and decrypted.read(messages.IS_COUNTED, False)
    figures = HospitalRound(
        train_examples=len(hospital.train) if is_counted else 0,
        train_loss=decrypted.state.get(_LOSS) if is_counted else None,
        counts=plain_handlers.evaluate(decrypted.plain, context).counts,
    )
    reply = decrypted.reply(vectors.write_round(number, figures, decrypted.patients), len(hospital.test))
    own = Round(number=number, hospitals={hospital.name: figures}, federation=figures)
    decrypted.state[f"{OWN_ROUND}{number}"] = write_round(own)
    return reply


def score_training_rows(message: Message, context: Context) -> RecordDict:
    """Number of training rows in each score bin, for the threshold."""
    decrypted = WeightsMessage(message, context)
    message_checks.refuse_unaccounted(decrypted.train_config.privacy, "the threshold")
    labels = decrypted.hospital.train.labels
    bins = vectors.histogram(decrypted.local.score_training(decrypted.weights), labels)
    return decrypted.reply(bins / decrypted.patients, len(labels))


def evaluate_final_weights(message: Message, context: Context) -> RecordDict:
    """Counts and score bins of the held-out rows, at the threshold chosen from all hospitals' training rows.

    The final weights, the hospital's own figures and its benefit stay in its context.
    """
    decrypted = WeightsMessage(message, context, is_final=True)
    hospital = decrypted.hospital
    evaluation = plain_handlers.evaluate_final(decrypted.plain, context)
    assert isinstance(evaluation.counts, Counts), "the settings allow a binary label only"
    importance = np.zeros(len(hospital.task.columns))
    if decrypted.read(messages.ASKS_BENEFIT, False):
        benefit = plain_handlers.report_benefit(decrypted.plain, context)
        importance = benefit.importance
        figures = summarise_benefits({hospital.name: benefit}, {hospital.name: evaluation}, hospital.task)
        decrypted.state[OWN_BENEFIT] = json.dumps(figures)
    sums = vectors.FinalSums(
        counts=evaluation.counts,
        roc_auc=evaluation.roc_auc or 0.0,
        with_roc_auc=int(evaluation.roc_auc is not None),
        importance=importance,
        scores=vectors.histogram(decrypted.local.score(decrypted.weights), hospital.test.labels),
    )
    return decrypted.reply(sums.to_vector(decrypted.patients), len(hospital.test))


def _check_distance(decrypted: WeightsMessage) -> None:
    """Refuse an average that moves the weights much farther than this hospital's own update, without saying how far."""
    factor = decrypted.read(messages.MAX_UPDATE_NORM, 0.0)
    before = weights_from_record(decrypted.context.state.array_records[_LAST_WEIGHTS], decrypted.local.shapes)
    if factor and distance_between(decrypted.weights, before) > factor * decrypted.state[_DISTANCE] > 0:
        raise EncryptionError(
            f"the decrypted average moves the weights more than {factor:g} times as far as its own update"
        )


def reply(message: Message, context: Context) -> Message:
    """The reply to a message, if a run would send it now (see `messages.server_messages`)."""
    with within_terms(message, context), answering(message, context):
        return Message(HANDLERS[message.metadata.message_type](message, context), reply_to=message)


HANDLERS: Mapping[str, Callable[[Message, Context], RecordDict]] = {
    messages.OFFER: hospital_key.offer_public_key,
    messages.KEY: hospital_key.seal_run_key,
    messages.DELIVERY: hospital_key.accept_delivery,
    messages.SUMS: share_sums,
    messages.TRAIN: train,
    messages.EVALUATE: evaluate,
    messages.THRESHOLD: score_training_rows,
    messages.FINAL: evaluate_final_weights,
    messages.RESULT: store_result,
}
"""A hospital's handlers of encrypted runs, by message type."""
