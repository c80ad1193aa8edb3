"""A hospital's side of the key exchange: it requests, makes, seals and keeps the run's key, in its process's memory."""

import json
import logging
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from federated_health.encryption import messages
from federated_health.encryption.ckks import SecretKey, key_id, load_key
from federated_health.encryption.envelopes import KeyOffer, make_offer, name_in_offer, open_envelope, seal
from federated_health.encryption.messages import KeyReply, read_chunks
from federated_health.encryption.vectors import read_normalisation
from federated_health.errors import CertificateError, EncryptionError
from federated_health.hospital.handlers import ENCRYPTED_RUN, hospital_of
from federated_health.messages.content import CONFIG
from federated_health.messages.records import MalformedMessageError
from federated_health.ml.normalisation import Normalisation
from federated_health.names import AGREED_PLAN
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role

logger = logging.getLogger(__name__)


_OFFER, _PRIVATE, _KEY, _NORMALISATION = "offer", "private", "key", "normalisation"


class RunSecrets:
    """What the hospitals of the run to which a message belongs know, and the server does not.

    It is kept in this hospital's own state; what the state holds of any other run is deleted.

    Raises:
        MalformedMessageError: the message does not belong to an encrypted run.
    """

    def __init__(self, message: Message, context: Context) -> None:
        run = message.content.config_records[CONFIG].get(messages.RUN)
        if not isinstance(run, str) or len(run) != 16:
            raise MalformedMessageError("the server's message does not belong to an encrypted run")
        state = context.state.config_records.get(ENCRYPTED_RUN)
        if state is None or state[messages.RUN] != run:
            for name in set(context.state) - {AGREED_PLAN}:  # rounds, figures and model of the other run
                del context.state[name]
            state = context.state[ENCRYPTED_RUN] = ConfigRecord({messages.RUN: run})
        self.run = run
        self.state: dict[str, Any] = state  # type: ignore[assignment]  # Flower's record is a mapping of this type

    @property
    def key_bytes(self) -> bytes:
        """The run's key.

        Raises:
            EncryptionError: the hospital does not have it.
        """
        if _KEY not in self.state:
            raise EncryptionError("it does not have the run's key")
        return bytes(self.state[_KEY])

    @property
    def key(self) -> SecretKey:
        return load_key(self.key_bytes)

    @property
    def normalisation(self) -> Normalisation | None:
        """The federation's normalisation; None before it was delivered."""
        stored = json.loads(self.state.get(_NORMALISATION, "null"))
        return stored and Normalisation(mean=tuple(stored[0]), variance=tuple(stored[1]))

    def reply(self, *envelopes: bytes) -> KeyReply:
        """A reply in the key exchange, with the public name of the key."""
        return KeyReply(key_id=key_id(self.key_bytes) if _KEY in self.state else "", envelopes=envelopes)


def offer_public_key(message: Message, context: Context) -> KeyReply:
    """Request the run's key by an offer; the reply also names the key if the hospital has it already."""
    secrets, identity = RunSecrets(message, context), _load_identity(message, context)
    try:
        offer = make_offer(identity, secrets.run)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its key cannot be used") from None
    secrets.state.update({_OFFER: offer.offer, _PRIVATE: offer.private})
    return secrets.reply(offer.offer)


def seal_run_key(message: Message, context: Context) -> KeyReply:
    """Seal the run's key for every hospital whose offer is in the message.

    If the message asks for it and there is no key, the hospital makes one. A hospital that fails verification gets an
    empty envelope.

    Raises:
        EncryptionError: it has no key, or no certificate.
    """
    secrets, identity = RunSecrets(message, context), _load_identity(message, context)
    if message.content.config_records[CONFIG].get(messages.MAKE) is True and _KEY not in secrets.state:
        secrets.state[_KEY] = SecretKey.make().to_bytes()
        logger.info("made the key of this run, which only hospitals receive")
    key, envelopes = secrets.key_bytes, []
    offers: Any = message.content.config_records[messages.ENVELOPES][messages.ENVELOPES]
    if not isinstance(offers, list) or not all(isinstance(offer, bytes) for offer in offers):
        raise MalformedMessageError("the requests for the key are not bytes")
    for offer in offers:
        try:
            envelope = seal(identity, secrets.run, offer, key)
            logger.info("sealed the key of this run for %s", name_in_offer(offer))
        except EncryptionError as error:
            envelope = b""
            logger.warning("one hospital does not get the run's key: %s", error)
        envelopes.append(envelope)
    return secrets.reply(*envelopes)


def accept_delivery(message: Message, context: Context) -> KeyReply:
    """Open the envelope with the key, and decrypt the sums for the normalisation, if the message holds them.

    Raises:
        EncryptionError: the envelope is not from a hospital of this federation or not for this one, or its content or
            the sums cannot be used.
    """
    secrets, config = RunSecrets(message, context), message.content.config_records[CONFIG]
    envelopes: Any = message.content.config_records.get(messages.ENVELOPES)
    if envelopes is not None:
        if _PRIVATE not in secrets.state:
            raise EncryptionError("it has not requested a key")
        offer = KeyOffer(secrets.state[_OFFER], secrets.state[_PRIVATE])
        envelope = bytes(envelopes[messages.ENVELOPES][0])
        key, sender = open_envelope(_load_identity(message, context), secrets.run, offer, envelope)
        _check_key(key, str(config[messages.KEY_ID]), sender)
        secrets.state[_KEY] = key
        logger.info("received the key of this run from %s", sender)
    if chunks := read_chunks(message.content, messages.COLUMN_SUMS):
        measurements = hospital_of(message, context).task.measurements
        sums = secrets.key.decrypt(chunks, 3 * len(measurements))
        normalisation = read_normalisation(sums, measurements, int(str(config[messages.PATIENTS])))
        secrets.state[_NORMALISATION] = json.dumps([normalisation.mean, normalisation.variance])
    return secrets.reply()


def _check_key(key: bytes, expected_id: str, sender: str) -> None:
    try:
        load_key(key)
    except MalformedMessageError:
        raise EncryptionError(f"the envelope from {sender} holds no key") from None
    if key_id(key) != expected_id:
        raise EncryptionError(f"the envelope from {sender} holds another key than the run's")


def _load_identity(message: Message, context: Context) -> Identity:
    """This hospital's certificate and key, from the folder that its node config names.

    Raises:
        EncryptionError: it has no certificate, or one that cannot be used.
    """
    if not (folder := str(context.node_config.get("tls", ""))):
        raise EncryptionError("an encrypted run needs --tls: this hospital has no certificate")
    try:
        identity = load_identity(Path(folder), Role.HOSPITAL)
        identity.check_name(hospital_of(message, context).name)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its certificate cannot be used") from None
    return identity
