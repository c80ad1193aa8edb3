"""A hospital's side of the key exchange: it requests, makes, seals and keeps the run's key, in its process's memory."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

from federated_health.encryption import messages
from federated_health.encryption.ckks import SecretKey, load_key
from federated_health.encryption.envelopes import KeyOffer, make_offer, name_in_offer, open_envelope, seal
from federated_health.encryption.hospital_message import KEY, MEAN, VARIANCE, EncryptedMessage
from federated_health.encryption.vectors import read_normalisation
from federated_health.errors import CertificateError, EncryptionError
from federated_health.messages.records import MalformedMessageError
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role

logger = logging.getLogger(__name__)

MAX_ENVELOPES = 2**21
"""Largest size in bytes of the offers or envelopes in one message."""

_OFFER, _PRIVATE = "offer", "private"


def offer_public_key(message: Message, context: Context) -> RecordDict:
    """Request the run's key by an offer; the reply also names the key if the hospital has it already."""
    request = EncryptedMessage(message, context)
    try:
        offer = make_offer(_load_identity(request), request.run)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its key cannot be used") from None
    request.state.update({_OFFER: offer.offer, _PRIVATE: offer.private})
    return request.key_reply(offer.offer)


def seal_run_key(message: Message, context: Context) -> RecordDict:
    """Seal the run's key for every hospital whose offer is in the message.

    If the message asks for it and there is no key, the hospital makes one. A hospital that fails verification gets an
    empty envelope.
    """
    request = EncryptedMessage(message, context)
    identity = _load_identity(request)
    if request.read(messages.MAKE, False) and KEY not in request.state:
        request.state[KEY] = SecretKey().content
        logger.info("made the key of this run, which only hospitals receive")
    key, envelopes = request.key, []
    for offer in _envelopes_in(request):
        try:
            envelope = seal(identity, request.run, offer, key.content)
            logger.info("sealed the key of this run for %s", name_in_offer(offer))
        except EncryptionError as error:
            envelope = b""
            logger.warning("one hospital does not get the run's key: %s", error)
        envelopes.append(envelope)
    return request.key_reply(*envelopes)


def accept_delivery(message: Message, context: Context) -> RecordDict:
    """Open the envelope with the key, and decrypt the sums for the normalisation, if the message holds them."""
    delivery = EncryptedMessage(message, context)
    if envelopes := _envelopes_in(delivery):
        _accept_key(delivery, envelopes[0])
    measurements = delivery.hospital.task.measurements
    sums = delivery.decrypt(messages.COLUMN_SUMS, 3 * len(measurements))
    if sums is not None:
        normalisation = read_normalisation(sums, measurements, delivery.patients)
        delivery.state.update({MEAN: list(normalisation.mean), VARIANCE: list(normalisation.variance)})
    return delivery.key_reply()


def _accept_key(delivery: EncryptedMessage, envelope: bytes) -> None:
    if _PRIVATE not in delivery.state:
        raise EncryptionError("it has not requested a key")
    offer = KeyOffer(delivery.state[_OFFER], delivery.state[_PRIVATE])
    content, sender = open_envelope(_load_identity(delivery), delivery.run, offer, envelope)
    try:
        key = load_key(content)
    except MalformedMessageError:
        raise EncryptionError(f"the envelope from {sender} holds no key") from None
    if key.id != delivery.read(messages.KEY_ID):
        raise EncryptionError(f"the envelope from {sender} holds another key than the run's")
    delivery.state[KEY] = content
    logger.info("received the key of this run from %s", sender)


def _envelopes_in(message: EncryptedMessage) -> list[bytes]:
    record: Mapping[str, Any] = message.content.config_records.get(messages.ENVELOPES, {})
    envelopes = record.get(messages.ENVELOPES, [])
    if not isinstance(envelopes, list) or not all(isinstance(envelope, bytes) for envelope in envelopes):
        raise MalformedMessageError("the requests for the key are not bytes")
    if sum(map(len, envelopes)) > MAX_ENVELOPES:
        raise MalformedMessageError(f"the requests for the key: expected at most {MAX_ENVELOPES:,} bytes")
    return envelopes


def _load_identity(message: EncryptedMessage) -> Identity:
    """This hospital's certificate and key, from the folder that its node config names."""
    if not (folder := str(message.context.node_config.get("tls", ""))):
        raise EncryptionError("an encrypted run needs --tls: this hospital has no certificate")
    try:
        identity = load_identity(Path(folder), Role.HOSPITAL)
        identity.check_name(message.hospital.name)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its certificate cannot be used") from None
    return identity
