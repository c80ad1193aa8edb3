"""Envelopes that carry the hospitals' shared key through a server that must not be able to read or replace it.

A certificate of this federation is valid for signatures only, so the key is encrypted to a public key that the
certificate signs. A hospital offers an ephemeral public key, signed with its certificate's key. A hospital that has the
shared key seals it with a secret derived from both ephemeral keys (ECDH on P-256, HKDF-SHA256, AES-256-GCM) and signs
the envelope. Both check the other's certificate as in a TLS connection: the federation's authority, the role of a
hospital, dates, `revoked.pem`. Run, offer and sender are part of what is signed and sealed.

A certificate's key that is stolen later opens no envelope: the ephemeral keys end with their processes.

What is not of the expected form, or not by a hospital of this federation, raises EncryptionError.
"""

import hashlib
import os
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federated_health.errors import CertificateError, EncryptionError
from federated_health.security import certificates
from federated_health.security.admission import Admission
from federated_health.security.identity import KEY, Identity
from federated_health.security.parties import Role

OFFER, ENVELOPE = b"federated-health offer 1", b"federated-health envelope 1"
"""Prefixes of what is signed, so that an offer's signature cannot be used for an envelope, or the reverse."""

MAX_OFFER, MAX_ENVELOPE = 16_384, 2**20  # bytes

_NONCE_BYTES = 12
_CURVE = ec.SECP256R1()


@dataclass(frozen=True)
class KeyOffer:
    """A hospital's signed offer of an ephemeral public key; the private key, a number in bytes, stays there."""

    offer: bytes
    private: bytes


def make_offer(identity: Identity, run: str) -> KeyOffer:
    """A hospital's request for the shared key of a run."""
    key = ec.generate_private_key(_CURVE)
    certificate, public = identity.certificate_bytes, _to_point(key)
    signature = _sign(identity, _pack(OFFER, run.encode(), certificate, public))
    return KeyOffer(_pack(certificate, public, signature), key.private_numbers().private_value.to_bytes(32))


def name_in_offer(offer: bytes) -> str:
    """The name that an offer's certificate gives; nothing is verified."""
    certificate, *_ = _unpack(offer, 3, MAX_OFFER)
    try:
        return certificates.party_of(certificates.parse_certificate(certificate)).name
    except CertificateError as error:
        raise EncryptionError(f"the request for the run's key has no valid certificate: {error}") from None


def seal(identity: Identity, run: str, offer: bytes, content: bytes) -> bytes:
    """An envelope that only the hospital that made the offer can open; the offer must be for this run."""
    certificate, public, signature = _unpack(offer, 3, MAX_OFFER)
    _verify(identity, certificate, signature, _pack(OFFER, run.encode(), certificate, public))
    key = ec.generate_private_key(_CURVE)
    sender, point = identity.certificate_bytes, _to_point(key)
    bound = _pack(ENVELOPE, run.encode(), hashlib.sha256(offer).digest(), sender, point)
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_derive(key, public, bound)).encrypt(nonce, content, bound)
    return _pack(sender, point, nonce, sealed, _sign(identity, _pack(bound, nonce, sealed)))


def open_envelope(identity: Identity, run: str, offer: KeyOffer, envelope: bytes) -> tuple[bytes, str]:
    """The content of an envelope, and the name of the hospital of this federation that sealed it for this offer."""
    certificate, public, nonce, sealed, signature = _unpack(envelope, 5, MAX_ENVELOPE)
    bound = _pack(ENVELOPE, run.encode(), hashlib.sha256(offer.offer).digest(), certificate, public)
    sender = _verify(identity, certificate, signature, _pack(bound, nonce, sealed))
    key = ec.derive_private_key(int.from_bytes(offer.private), _CURVE)
    try:
        content = AESGCM(_derive(key, public, bound)).decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError):
        raise EncryptionError("the envelope of the run's key is not for this hospital") from None
    return content, sender


def _verify(identity: Identity, certificate: bytes, signature: bytes, content: bytes) -> str:
    """Name of the hospital of this federation that signed the content."""
    try:
        signer = certificates.parse_certificate(certificate)
        obstacle = Admission(identity).rejection_reason(signer, Role.HOSPITAL)
    except CertificateError as error:
        raise EncryptionError(str(error), reason="it cannot verify with whom it shares the run's key") from None
    if obstacle:
        raise EncryptionError(f"only hospitals exchange the run's key: {obstacle}")
    try:
        certificates.public_key_of(signer).verify(signature, content, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise EncryptionError("the run's key or the request for it was not signed by its sender for this run") from None
    return certificates.party_of(signer).name


def _sign(identity: Identity, content: bytes) -> bytes:
    return certificates.read_key(identity.folder / KEY).sign(content, ec.ECDSA(SHA256()))


def _derive(key: ec.EllipticCurvePrivateKey, point: bytes, bound: bytes) -> bytes:
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except ValueError:
        raise EncryptionError("the request for the run's key holds no key on P-256") from None
    return HKDF(SHA256(), length=32, salt=None, info=bound).derive(key.exchange(ec.ECDH(), public))


def _to_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _pack(*fields: bytes) -> bytes:
    """Fields with their lengths, so that different lists of fields give different bytes."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _unpack(content: bytes, number: int, max_bytes: int) -> list[bytes]:
    """The inverse of `_pack`, for this number of fields."""
    fields: list[bytes] = []
    rest = content if len(content) <= max_bytes else b""
    while rest and len(fields) < number:
        end = 4 + int.from_bytes(rest[:4])
        fields.append(rest[4:end])
        rest = rest[end:]
    if len(fields) != number or _pack(*fields) != content:
        raise EncryptionError("the run's key, or the request for it, is incomplete")
    return fields
