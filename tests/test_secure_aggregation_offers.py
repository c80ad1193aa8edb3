"""Offers: a hospital of the federation signs its key for one run, and nobody else's offer is accepted."""

import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from federated_health import files
from federated_health.errors import SecureAggregationError
from federated_health.secure_aggregation.offers import MAX_OFFER, Offer, make_offer
from federated_health.security import certificates, issuing
from federated_health.security.admission import Admission
from federated_health.security.identity import KEY, REVOKED, Identity
from federated_health.security.parties import hospital
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, write_identity

RUN = "0123456789abcdef"


# The format of offers: fields, each after its length in four bytes


def pack(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def unpack(content: bytes) -> list[bytes]:
    fields = []
    while content:
        end = 4 + int.from_bytes(content[:4])
        fields.append(content[4:end])
        content = content[end:]
    return fields


def offer_of(identity: Identity, run: str = RUN) -> bytes:
    return make_offer(identity, run, X25519PrivateKey.generate())


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


@pytest.fixture
def admission(federation: DemoIdentities) -> Admission:
    return Admission(federation.hospitals["a"])


def test_an_offer_names_its_hospital_and_holds_its_key(federation: DemoIdentities, admission: Admission) -> None:
    key = X25519PrivateKey.generate()
    offer = Offer.read(make_offer(federation.hospitals["b"], RUN, key))
    offer.verify(admission, RUN)
    assert offer.name == "b"
    assert offer.public == key.public_key().public_bytes_raw()


def test_an_offer_is_valid_for_one_run(federation: DemoIdentities, admission: Admission) -> None:
    offer = Offer.read(offer_of(federation.hospitals["b"]))
    with pytest.raises(SecureAggregationError, match="not signed by its hospital for this run"):
        offer.verify(admission, "f" * 16)


def strangers(federation: DemoIdentities, tmp_path: Path) -> dict[str, Identity]:
    """Identities that no hospital may trust, by a part of the reason."""
    key = issuing.make_key()
    without_role = federation.signer.sign_freely("lax", key)
    revoked = federation.add("revoked")
    files.write_bytes(
        federation.hospitals["a"].folder / REVOKED, federation.signer.revocations(revoked.certificate, number=9)
    )
    lax = write_identity(tmp_path / "lax", hospital("lax"), federation.signer, key=key)
    return {
        "the hospital's certificate is for server": federation.server,
        "by another authority": federation.add("foreign", signer=Signer("Another authority")),
        "expired on": federation.add("late", expired()),
        "is not valid before": federation.add("early", not_yet()),
        "was revoked on": revoked,
        "it does not say whether it is for a hospital": Identity(lax.folder, lax.party, without_role, lax.authority),
    }


@pytest.mark.parametrize(
    "reason",
    [
        "the hospital's certificate is for server",
        "by another authority",
        "expired on",
        "is not valid before",
        "was revoked on",
        "it does not say whether it is for a hospital",
    ],
)
def test_an_offer_of_a_stranger_is_rejected(federation: DemoIdentities, tmp_path: Path, reason: str) -> None:
    stranger = strangers(federation, tmp_path)[reason]
    admission = Admission(federation.hospitals["a"])
    with pytest.raises(SecureAggregationError, match=reason):
        Offer.read(offer_of(stranger)).verify(admission, RUN)


def test_a_signature_by_another_key_than_the_certificate_s_is_rejected(
    federation: DemoIdentities, admission: Admission
) -> None:
    certificate, public, _ = unpack(offer_of(federation.hospitals["b"]))
    key = certificates.read_key(federation.server.folder / KEY)
    signature = key.sign(pack(b"federated-health offer 2", RUN.encode(), certificate, public), ECDSA(SHA256()))
    with pytest.raises(SecureAggregationError, match="not signed"):
        Offer.read(pack(certificate, public, signature)).verify(admission, RUN)


@pytest.mark.parametrize("field", [1, 2])
def test_an_altered_offer_is_rejected(federation: DemoIdentities, admission: Admission, field: int) -> None:
    fields = unpack(offer_of(federation.hospitals["b"]))
    fields[field] = fields[field][:-1] + bytes([fields[field][-1] ^ 1])
    with pytest.raises(SecureAggregationError, match="not signed"):
        Offer.read(pack(*fields)).verify(admission, RUN)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"offer",
        pack(b"", b"", b""),
        pack(b"no certificate", bytes(32), b""),
        pack(b"", bytes(31), b""),
        pack(b"x" * MAX_OFFER, bytes(32), b""),
    ],
)
def test_bytes_that_are_no_offer_are_rejected(content: bytes) -> None:
    with pytest.raises(SecureAggregationError):
        Offer.read(content)


def test_bytes_after_an_offer_are_rejected(federation: DemoIdentities) -> None:
    with pytest.raises(SecureAggregationError):
        Offer.read(offer_of(federation.hospitals["b"]) + b"\0")
