"""A hospital's side of the key exchange: it requests, makes, seals and keeps the run's key, in its process's memory."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message

from federated_health.encryption import messages
from federated_health.encryption.ckks import SecretKey, key_id, load_key
from federated_health.encryption.envelopes import KeyOffer, make_offer, name_in_offer, open_envelope, seal
from federated_health.encryption.messages import KeyReply, read_chunks
from federated_health.encryption.vectors import read_normalisation
from federated_health.errors import CertificateError, EncryptionError
from federated_health.hospital.handlers import hospital_of
from federated_health.messages.content import CONFIG
from federated_health.messages.weights import MalformedMessageError
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.privacy_plan import AGREED_PLAN
from federated_health.security import Identity, Role, load_identity

logger = logging.getLogger(__name__)

STATE = "encryption"
"""Record of a hospital's own state that holds the key; the state does not leave the hospital."""

_OFFER, _PRIVATE, _KEY, _NORMALISATION = "offer", "private", "key", "normalisation"


@dataclass(frozen=True)
class RunSecrets:
    """What the hospitals of an encrypted run know and the server does not.

    Attributes:
        normalisation: None before it was delivered.
    """

    key_bytes: bytes
    normalisation: Normalisation | None

    @property
    def key(self) -> SecretKey:
        return load_key(self.key_bytes)


def run_secrets(message: Message, context: Context) -> RunSecrets:
    """The secrets of the run to which a message belongs.

    Raises:
        EncryptionError: the hospital does not have the run's key.
    """
    state = _state_of(context, _run_of(message))
    if _KEY not in state:
        raise EncryptionError("it does not have the run's key")
    stored = json.loads(str(state.get(_NORMALISATION, "null")))
    normalisation = stored and Normalisation(mean=tuple(stored[0]), variance=tuple(stored[1]))
    return RunSecrets(bytes(state[_KEY]), normalisation)  # type: ignore[arg-type]  # written as bytes


def is_in_encrypted_run(context: Context) -> bool:
    """Whether this hospital has received a message of an encrypted run."""
    return STATE in context.state


def offer_public_key(message: Message, context: Context) -> KeyReply:
    """Request the run's key by an offer; the reply also names the key if the hospital has it already."""
    run, identity = _run_of(message), _load_identity(message, context)
    state = _state_of(context, run)
    try:
        offer = make_offer(identity, run)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its key cannot be used") from None
    state[_OFFER], state[_PRIVATE] = offer.offer, offer.private
    return KeyReply(key_id=_key_id(state), envelopes=(offer.offer,))


def seal_run_key(message: Message, context: Context) -> KeyReply:
    """Seal the run's key for every hospital whose offer is in the message.

    If the message asks for it and there is no key, the hospital makes one. A hospital that fails verification gets an
    empty envelope.

    Raises:
        EncryptionError: it has no key, or no certificate.
    """
    run, identity = _run_of(message), _load_identity(message, context)
    state = _state_of(context, run)
    if message.content.config_records[CONFIG].get(messages.MAKE) is True and _KEY not in state:
        state[_KEY] = SecretKey.make().to_bytes()
        logger.info("made the key of this run, which only hospitals receive")
    key = run_secrets(message, context).key_bytes
    offers = message.content.config_records[messages.ENVELOPES][messages.ENVELOPES]
    if not isinstance(offers, list) or not all(isinstance(offer, bytes) for offer in offers):
        raise MalformedMessageError("the requests for the key are not bytes")
    envelopes = []
    for offer in map(bytes, offers):  # type: ignore[arg-type]  # bytes, as checked
        try:
            envelopes.append(seal(identity, run, offer, key))
            logger.info("sealed the key of this run for %s", name_in_offer(offer))
        except EncryptionError as error:
            envelopes.append(b"")
            logger.warning("one hospital does not get the run's key: %s", error)
    return KeyReply(key_id=_key_id(state), envelopes=tuple(envelopes))


def accept_delivery(message: Message, context: Context) -> KeyReply:
    """Open the envelope with the key, and decrypt the sums for the normalisation, if the message holds them.

    Raises:
        EncryptionError: the envelope is not from a hospital of this federation or not for this one, or its content or
            the sums cannot be used.
    """
    config = message.content.config_records[CONFIG]
    state = _state_of(context, _run_of(message))
    envelopes = message.content.config_records.get(messages.ENVELOPES)
    if envelopes is not None:
        state[_KEY] = _open(message, context, state, bytes(envelopes[messages.ENVELOPES][0]))  # type: ignore[index, arg-type]
    if chunks := read_chunks(message.content, messages.COLUMN_SUMS):
        measurements = hospital_of(message, context).task.measurements
        sums = run_secrets(message, context).key.decrypt(chunks, 3 * len(measurements))
        normalisation = read_normalisation(sums, measurements, int(str(config[messages.PATIENTS])))
        state[_NORMALISATION] = json.dumps([normalisation.mean, normalisation.variance])
    return KeyReply(key_id=_key_id(state))


def _open(message: Message, context: Context, state: ConfigRecord, envelope: bytes) -> bytes:
    if _PRIVATE not in state:
        raise EncryptionError("it has not requested a key")
    offer = KeyOffer(bytes(state[_OFFER]), bytes(state[_PRIVATE]))  # type: ignore[arg-type]  # written as bytes
    content, sender = open_envelope(_load_identity(message, context), _run_of(message), offer, envelope)
    try:
        load_key(content)
    except MalformedMessageError:
        raise EncryptionError(f"the envelope from {sender} holds no key") from None
    if key_id(content) != message.content.config_records[CONFIG][messages.KEY_ID]:
        raise EncryptionError(f"the envelope from {sender} holds another key than the run's")
    logger.info("received the key of this run from %s", sender)
    return content


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


def _run_of(message: Message) -> str:
    run = message.content.config_records[CONFIG].get(messages.RUN)
    if not isinstance(run, str) or len(run) != 16:
        raise MalformedMessageError("the server's message does not belong to an encrypted run")
    return run


def _state_of(context: Context, run: str) -> ConfigRecord:
    """The hospital's state of a run; that of any other run is deleted."""
    state = context.state.config_records.get(STATE)
    if state is None or state[messages.RUN] != run:
        for name in set(context.state) - {AGREED_PLAN}:  # rounds, figures and model of the other run
            del context.state[name]
        state = context.state[STATE] = ConfigRecord({messages.RUN: run})
    return state


def _key_id(state: ConfigRecord) -> str:
    return key_id(bytes(state[_KEY])) if _KEY in state else ""  # type: ignore[arg-type]  # written as bytes
