"""The hospitals' shared key on its way from one to another, past a server that must not be able to read or replace it.

A certificate here is good for signatures and for nothing else, so the key is encrypted to one that a certificate signs:
a hospital offers an ephemeral public key, signed with its certificate's key; who has the shared key answers with an
ephemeral one of its own and seals the shared key with what both make of them (ECDH on P-256, HKDF-SHA256, AES-256-GCM),
and signs the whole. Both look at the other's certificate as at a TLS connection: the federation's authority, the role
of a hospital, dates, `revoked.pem`. Run, offer and sender are part of what is signed and sealed.

A certificate's key that is stolen later opens no envelope, since the ephemeral ones are gone with their processes.
"""

import os
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from federated_health.errors import CertificateError, EncryptionError
from federated_health.security import certificates
from federated_health.security.admission import Admission
from federated_health.security.identity import Identity
from federated_health.security.parties import Role

OFFER, ENVELOPE = b"federated-health offer 1", b"federated-health envelope 1"
"""What a signature is of begins with one of these, so that neither can stand for the other."""

MAX_OFFER, MAX_ENVELOPE = 16_384, 2**20
"""Bytes."""

_NONCE_BYTES = 12
_CURVE = ec.SECP256R1()


@dataclass(frozen=True)
class Opening:
    """What opens the answer to an offer; it stays where the offer was made.

    Attributes:
        offer: the offer itself, which everybody may see.
        private: the ephemeral private key (DER).
    """

    offer: bytes
    private: bytes


def make_offer(identity: Identity, run: str) -> Opening:
    """A hospital's offer to be sent the shared key of a run."""
    key = ec.generate_private_key(_CURVE)
    certificate, public = identity.certificate_bytes, _point(key.public_key())
    signature = _sign(identity, _pack(OFFER, run.encode(), certificate, public))
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Opening(_pack(certificate, public, signature), private)


def name_in_offer(offer: bytes) -> str:
    """Whom an offer is from, by its own account.

    Raises:
        EncryptionError: it is none.
    """
    certificate, *_ = _unpack(offer, 3, MAX_OFFER)
    try:
        return certificates.party_of(certificates.parse_certificate(certificate)).name
    except CertificateError as error:
        raise EncryptionError(f"the wish for the run's key is nobody's: {error}") from None


def seal(identity: Identity, run: str, offer: bytes, content: bytes) -> bytes:
    """An envelope that only the hospital that made the offer can open.

    Raises:
        EncryptionError: no hospital of this federation made the offer, or not for this run.
    """
    certificate, public, signature = _unpack(offer, 3, MAX_OFFER)
    _check_signed(identity, certificate, signature, _pack(OFFER, run.encode(), certificate, public))
    own = ec.generate_private_key(_CURVE)
    bound = _pack(ENVELOPE, run.encode(), _digest(offer), identity.certificate_bytes, _point(own.public_key()))
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_derive(own, public, bound)).encrypt(nonce, content, bound)
    signature = _sign(identity, _pack(bound, nonce, sealed))
    return _pack(identity.certificate_bytes, _point(own.public_key()), nonce, sealed, signature)


def open_envelope(identity: Identity, run: str, opening: Opening, envelope: bytes) -> tuple[bytes, str]:
    """What is in an envelope, and which hospital sealed it.

    Raises:
        EncryptionError: no hospital of this federation sealed it, or not for this offer and run, or it was altered.
    """
    certificate, public, nonce, sealed, signature = _unpack(envelope, 5, MAX_ENVELOPE)
    bound = _pack(ENVELOPE, run.encode(), _digest(opening.offer), certificate, public)
    sender = _check_signed(identity, certificate, signature, _pack(bound, nonce, sealed))
    own = load_der_private_key(opening.private, password=None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    try:
        content = AESGCM(_derive(own, public, bound)).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError):
        raise EncryptionError("the envelope of the run's key is not for this hospital") from None
    return content, sender


def _check_signed(identity: Identity, certificate: bytes, signature: bytes, content: bytes) -> str:
    """The name of the hospital of this federation that signed the content."""
    try:
        theirs = certificates.parse_certificate(certificate)
        obstacle = Admission(identity).rejection_reason(theirs, Role.HOSPITAL)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="it cannot tell whom it shares the run's key with") from None
    if obstacle:
        raise EncryptionError(f"the run's key goes from hospital to hospital only: {obstacle}")
    try:
        certificates.public_key_of(theirs).verify(signature, content, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise EncryptionError("the run's key, or the wish for it, was not signed by its sender for this") from None
    return certificates.party_of(theirs).name


def _sign(identity: Identity, content: bytes) -> bytes:
    key = load_pem_private_key(identity.read_key(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(content, ec.ECDSA(SHA256()))


def _derive(own: ec.EllipticCurvePrivateKey, other: bytes, bound: bytes) -> bytes:
    """The key of one envelope."""
    try:
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, other)
    except ValueError:
        raise EncryptionError("the wish for the run's key holds no key on P-256") from None
    return HKDF(SHA256(), length=32, salt=None, info=bound).derive(own.exchange(ec.ECDH(), theirs))


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _digest(content: bytes) -> bytes:
    digest = Hash(SHA256())
    digest.update(content)
    return digest.finalize()


def _pack(*fields: bytes) -> bytes:
    """Fields with their lengths, so that no two lists of fields look the same."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _unpack(content: bytes, number: int, largest: int) -> list[bytes]:
    """The inverse of `_pack`.

    Raises:
        EncryptionError: it is not so many fields.
    """
    fields: list[bytes] = []
    rest = content
    while len(rest) >= 4 and len(content) <= largest and len(fields) < number:
        (length,) = struct.unpack(">I", rest[:4])
        if length > len(rest) - 4:
            break
        fields.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    if rest or len(fields) != number:
        raise EncryptionError("the run's key, or the wish for it, did not come whole")
    return fields
