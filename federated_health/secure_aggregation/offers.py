"""Offers: a hospital's public key for one run, signed with the key of its certificate.

A certificate of this federation is valid for signatures only, so the masks derive from another key (X25519), which a
hospital's process makes for one run. Others check an offer's certificate as in a TLS connection: the federation's
authority, the role of a hospital, dates, `revoked.pem`. A certificate's key that is stolen later opens nothing: the
other key ends with its process.

What is not of the expected form, or not by a hospital of this federation, raises SecureAggregationError.
"""

import struct
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from federated_health.errors import CertificateError, SecureAggregationError
from federated_health.security import certificates
from federated_health.security.admission import Admission
from federated_health.security.identity import KEY, Identity
from federated_health.security.parties import Role

MAX_OFFER = 16_384  # bytes

_PURPOSE = b"federated-health offer 2"
"""Prefix of what is signed, so that the signature cannot serve another purpose."""

_PUBLIC_BYTES = 32


@dataclass(frozen=True)
class Offer:
    """An offer, read but not verified.

    Attributes:
        content: its bytes, and `digest` their SHA-256, by which messages refer to it.
        name: of the hospital, as its certificate says.
        public: the key on X25519, in bytes.
    """

    content: bytes
    digest: bytes
    certificate: x509.Certificate
    name: str
    public: bytes
    signature: bytes

    @classmethod
    def read(cls, content: bytes) -> "Offer":
        certificate, public, signature = _unpack(content, 3)
        if len(public) != _PUBLIC_BYTES:
            raise SecureAggregationError("an offer holds no key on X25519")
        try:
            parsed = certificates.parse_certificate(certificate)
            name = certificates.party_of(parsed).name
        except CertificateError as error:
            raise SecureAggregationError(f"an offer has no valid certificate: {error}") from None
        return cls(content, sha256(content).digest(), parsed, name, public, signature)

    def verify(self, admission: Admission, run: str) -> None:
        """Check that a hospital of this federation signed the offer for this run."""
        if reason := admission.rejection_reason(self.certificate, Role.HOSPITAL):
            raise SecureAggregationError(f"an offer is not of a hospital of this federation: {reason}")
        signed = pack(_PURPOSE, run.encode(), *_unpack(self.content, 3)[:2])
        try:
            certificates.public_key_of(self.certificate).verify(self.signature, signed, ec.ECDSA(SHA256()))
        except InvalidSignature:
            raise SecureAggregationError("an offer was not signed by its hospital for this run") from None


def make_offer(identity: Identity, run: str, key: X25519PrivateKey) -> bytes:
    """A hospital's offer of its key for a run."""
    certificate, public = identity.certificate_bytes, key.public_key().public_bytes_raw()
    signed = pack(_PURPOSE, run.encode(), certificate, public)
    return pack(certificate, public, certificates.read_key(identity.folder / KEY).sign(signed, ec.ECDSA(SHA256())))


def pack(*fields: bytes) -> bytes:
    """Fields with their lengths, so that different lists of fields give different bytes."""
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _unpack(content: bytes, number: int) -> list[bytes]:
    """The inverse of `pack`, for this number of fields."""
    fields: list[bytes] = []
    rest = content if len(content) <= MAX_OFFER else b""
    while rest and len(fields) < number:
        end = 4 + int.from_bytes(rest[:4])
        fields.append(rest[4:end])
        rest = rest[end:]
    if len(fields) != number or pack(*fields) != content:
        raise SecureAggregationError("an offer is incomplete")
    return fields
