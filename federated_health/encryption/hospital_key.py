"""A hospital's side of the key: it wishes for it, makes it, passes it on, and keeps it in its process's memory."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message

from federated_health.encryption.ckks import SecretKey, key_id, load_key
from federated_health.encryption.envelopes import Opening, make_offer, name_in_offer, open_envelope, seal
from federated_health.encryption.messages import COLUMN_SUMS, ENVELOPES, KEY_ID, MAKE, PATIENTS, RUN, KeyNews, chunks_in
from federated_health.encryption.vectors import read_normalisation
from federated_health.errors import CertificateError, EncryptionError
from federated_health.hospital.handlers import hospital_of
from federated_health.messages.content import CONFIG
from federated_health.messages.records import MalformedMessageError
from federated_health.ml.normalisation import Normalisation
from federated_health.ml.privacy_plan import AGREED_PLAN
from federated_health.security.identity import Identity, load_identity
from federated_health.security.parties import Role

logger = logging.getLogger(__name__)

STATE = "encryption"
"""The record of a hospital's own state that holds the key; the state does not leave the hospital."""

_OFFER, _PRIVATE, _KEY, _NORMALISATION = "offer", "private", "key", "normalisation"


@dataclass(frozen=True)
class Member:
    """A hospital that has the key of a run.

    Attributes:
        normalisation: the federation's; None as long as it was not told.
    """

    key_bytes: bytes
    normalisation: Normalisation | None

    @property
    def key(self) -> SecretKey:
        return load_key(self.key_bytes)


def member(message: Message, context: Context) -> Member:
    """This hospital as a member of the run that a message is of.

    Raises:
        EncryptionError: it does not have the run's key.
    """
    state = _state_of(context, _run_of(message))
    if _KEY not in state:
        raise EncryptionError("it does not have the run's key")
    told = json.loads(str(state.get(_NORMALISATION, "null")))
    normalisation = told and Normalisation(mean=tuple(told[0]), variance=tuple(told[1]))
    return Member(bytes(state[_KEY]), normalisation)  # type: ignore[arg-type]  # bytes, as they were put there


def is_in_encrypted_run(context: Context) -> bool:
    """Whether this hospital has been asked to take part in one."""
    return STATE in context.state


def make_wish(message: Message, context: Context) -> KeyNews:
    """An offer to be sent the run's key, and the name of the key where there is one already."""
    run, identity = _run_of(message), _identity_of(message, context)
    state, opening = _state_of(context, run), _make_offer(identity, run)
    state[_OFFER], state[_PRIVATE] = opening.offer, opening.private
    return KeyNews(key_id=_key_id(state), envelopes=(opening.offer,))


def pass_on(message: Message, context: Context) -> KeyNews:
    """The run's key in an envelope for every hospital whose offer is in the message.

    It is made where the message says so and there is none. A hospital that must not be trusted with it gets none.

    Raises:
        EncryptionError: it has no key, or no certificate.
    """
    run, identity = _run_of(message), _identity_of(message, context)
    state = _state_of(context, run)
    if message.content.config_records[CONFIG].get(MAKE) is True and _KEY not in state:
        state[_KEY] = SecretKey.make().to_bytes()
        logger.info("made the key of this run, which only hospitals get")
    key = member(message, context).key_bytes
    offers = message.content.config_records[ENVELOPES][ENVELOPES]
    if not isinstance(offers, list) or not all(isinstance(offer, bytes) for offer in offers):
        raise MalformedMessageError("the wishes for the key are not bytes")
    envelopes = [_seal(identity, run, bytes(offer), key) for offer in offers]  # type: ignore[arg-type]  # of bytes
    return KeyNews(key_id=_key_id(state), envelopes=tuple(envelopes))


def be_briefed(message: Message, context: Context) -> KeyNews:
    """Take the key out of its envelope, and the normalisation out of the encrypted sums, as far as they come.

    Raises:
        EncryptionError: the envelope is not from a hospital of this federation, or not for this one, or what is in it
            or in the sums cannot be used.
    """
    run, config = _run_of(message), message.content.config_records[CONFIG]
    state = _state_of(context, run)
    envelopes = message.content.config_records.get(ENVELOPES)
    if envelopes is not None:
        state[_KEY] = _open(message, context, state, bytes(envelopes[ENVELOPES][0]))  # type: ignore[index, arg-type]
    if chunks := chunks_in(message.content, COLUMN_SUMS):
        task = hospital_of(message, context).task
        measured = task.measurements
        sums = member(message, context).key.decrypt(chunks, 3 * len(measured))
        told = read_normalisation(sums, measured, int(str(config[PATIENTS])))
        state[_NORMALISATION] = json.dumps([told.mean, told.variance])
    return KeyNews(key_id=_key_id(state))


def _open(message: Message, context: Context, state: ConfigRecord, envelope: bytes) -> bytes:
    if _PRIVATE not in state:
        raise EncryptionError("it has not wished for a key")
    opening = Opening(bytes(state[_OFFER]), bytes(state[_PRIVATE]))  # type: ignore[arg-type]  # bytes both
    content, sender = open_envelope(_identity_of(message, context), _run_of(message), opening, envelope)
    try:
        load_key(content)
    except MalformedMessageError:
        raise EncryptionError(f"what {sender} sent is not a key") from None
    if key_id(content) != message.content.config_records[CONFIG][KEY_ID]:
        raise EncryptionError(f"what {sender} sent is not the run's key")
    logger.info("got the key of this run from %s", sender)
    return content


def _seal(identity: Identity, run: str, offer: bytes, key: bytes) -> bytes:
    try:
        envelope = seal(identity, run, offer, key)
        logger.info("passed the key of this run on to %s", name_in_offer(offer))
        return envelope
    except EncryptionError as error:
        logger.warning("one hospital does not get the run's key: %s", error)
        return b""


def _make_offer(identity: Identity, run: str) -> Opening:
    try:
        return make_offer(identity, run)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="its key cannot be used") from None


def _identity_of(message: Message, context: Context) -> Identity:
    """Who this hospital is, from the folder that its node config names.

    Raises:
        EncryptionError: it has no certificate, or one that will not do.
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
    run = message.content.config_records[CONFIG].get(RUN)
    if not isinstance(run, str) or len(run) != 16:
        raise MalformedMessageError("the server's message is of no encrypted run")
    return run


def _state_of(context: Context, run: str) -> ConfigRecord:
    """What this hospital remembers of a run; nothing of any other."""
    known = context.state.config_records.get(STATE)
    if known is None or known[RUN] != run:
        for name in set(context.state) - {AGREED_PLAN}:  # rounds, figures and a model, which are not this run's
            del context.state[name]
        known = context.state[STATE] = ConfigRecord({RUN: run})
    return known


def _key_id(state: ConfigRecord) -> str:
    return key_id(bytes(state[_KEY])) if _KEY in state else ""  # type: ignore[arg-type]  # bytes
