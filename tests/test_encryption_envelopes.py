"""Envelopes of the run's key: only the requesting hospital opens one, and only a trusted hospital seals one."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from federated_health import files
from federated_health.encryption.envelopes import (
    ENVELOPE,
    OFFER,
    KeyOffer,
    make_offer,
    name_in_offer,
    open_envelope,
    seal,
)
from federated_health.errors import EncryptionError
from federated_health.security import certificates, issuing
from federated_health.security.identity import KEY, REVOKED, Identity
from federated_health.security.parties import hospital
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, write_identity

RUN = "0123456789abcdef"
SECRET = b"the key of all hospitals"


# The format of offers and envelopes: fields, each after its length in four bytes


def pack(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def unpack(content: bytes) -> list[bytes]:
    fields = []
    while content:
        end = 4 + int.from_bytes(content[:4])
        fields.append(content[4:end])
        content = content[end:]
    return fields


def sign(identity: Identity, content: bytes) -> bytes:
    return certificates.read_key(identity.folder / KEY).sign(content, ECDSA(SHA256()))


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


def test_the_requesting_hospital_opens_an_envelope_and_knows_the_sender(federation: DemoIdentities) -> None:
    a, b = federation.hospitals["a"], federation.hospitals["b"]
    request = make_offer(b, RUN)
    assert name_in_offer(request.offer) == "b"
    envelope = seal(a, RUN, request.offer, SECRET)
    assert SECRET not in envelope
    assert open_envelope(b, RUN, request, envelope) == (SECRET, "a")


def test_no_two_envelopes_are_alike(federation: DemoIdentities) -> None:
    a, request = federation.hospitals["a"], make_offer(federation.hospitals["b"], RUN)
    first, second = (unpack(seal(a, RUN, request.offer, SECRET)) for _ in range(2))
    assert first[0] == second[0]  # the sender's certificate
    assert all(left != right for left, right in zip(first[1:], second[1:], strict=True))


def test_another_hospital_cannot_open_an_envelope(federation: DemoIdentities) -> None:
    a, b, c = *federation.hospitals.values(), federation.add("c")
    envelope = seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        open_envelope(c, RUN, make_offer(c, RUN), envelope)


def test_another_offer_of_the_same_hospital_does_not_open_an_envelope(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    envelope = seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        open_envelope(b, RUN, make_offer(b, RUN), envelope)


def test_an_offer_without_its_private_key_does_not_open_an_envelope(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    envelope = seal(a, RUN, request.offer, SECRET)
    with pytest.raises(EncryptionError, match="not for this hospital"):
        open_envelope(b, RUN, KeyOffer(request.offer, make_offer(b, RUN).private), envelope)


def test_offers_and_envelopes_are_valid_for_one_run(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        seal(a, "f" * 16, request.offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        open_envelope(b, "f" * 16, request, seal(a, RUN, request.offer, SECRET))


def strangers(federation: DemoIdentities, tmp_path: Path) -> dict[str, Identity]:
    """Identities that no hospital may trust, by a part of the reason."""
    other_authority = Signer("Another authority")
    key = issuing.make_key()
    without_role = federation.signer.sign_freely("lax", key)
    revoked = federation.add("revoked")
    listed = federation.signer.revocations(revoked.certificate, number=9)
    for identity in federation.hospitals.values():
        files.write_bytes(identity.folder / REVOKED, listed)
    lax = write_identity(tmp_path / "lax", hospital("lax"), federation.signer, key=key)
    return {
        "the hospital's certificate is for server": federation.server,
        "by another authority": federation.add("foreign", signer=other_authority),
        "expired on": federation.add("late", expired()),
        "is not valid before": federation.add("early", not_yet()),
        "was revoked on": revoked,
        "it does not say whether it is for a hospital": Identity(lax.folder, lax.party, without_role, lax.authority),
    }


STRANGERS = (
    "the hospital's certificate is for server",
    "by another authority",
    "expired on",
    "is not valid before",
    "was revoked on",
    "it does not say whether it is for a hospital",
)


@pytest.mark.parametrize("reason", STRANGERS)
def test_the_key_is_not_sealed_for_a_stranger(federation: DemoIdentities, tmp_path: Path, reason: str) -> None:
    stranger = strangers(federation, tmp_path)[reason]
    with pytest.raises(EncryptionError, match=reason):
        seal(federation.hospitals["a"], RUN, make_offer(stranger, RUN).offer, SECRET)


@pytest.mark.parametrize("reason", STRANGERS)
def test_an_envelope_of_a_stranger_is_rejected(federation: DemoIdentities, tmp_path: Path, reason: str) -> None:
    stranger, b = strangers(federation, tmp_path)[reason], federation.hospitals["b"]
    request = make_offer(b, RUN)
    try:
        envelope = seal(stranger, RUN, request.offer, SECRET)
    except EncryptionError:  # it cannot verify the offer; a stranger would not try
        envelope = forge(federation, stranger, request, stranger)
    with pytest.raises(EncryptionError, match=reason):
        open_envelope(b, RUN, request, envelope)


def forge(federation: DemoIdentities, signer: Identity, request: KeyOffer, shown: Identity) -> bytes:
    """An envelope with the certificate of `shown`, signed with the key of `signer`."""
    _, public, nonce, sealed, _ = unpack(seal(federation.hospitals["a"], RUN, request.offer, SECRET))
    certificate = shown.certificate_bytes
    digest = Hash(SHA256())
    digest.update(request.offer)
    bound = pack(ENVELOPE, RUN.encode(), digest.finalize(), certificate, public)
    return pack(certificate, public, nonce, sealed, sign(signer, pack(bound, nonce, sealed)))


def test_a_signature_by_another_key_than_the_certificate_s_is_rejected(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        open_envelope(b, RUN, request, forge(federation, federation.server, request, a))
    certificate, public, _ = unpack(make_offer(b, RUN).offer)
    forged = pack(certificate, public, sign(federation.server, pack(OFFER, RUN.encode(), certificate, public)))
    with pytest.raises(EncryptionError, match="not signed by its sender"):
        seal(a, RUN, forged, SECRET)


def altered_in(field: int) -> Callable[[bytes], bytes]:
    def alter(envelope: bytes) -> bytes:
        fields = unpack(envelope)
        fields[field] = fields[field][:-1] + bytes([fields[field][-1] ^ 1])
        return pack(*fields)

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        *(altered_in(field) for field in (1, 2, 3, 4)),
        lambda envelope: envelope[:-1],
        lambda envelope: envelope + b"\0",
        lambda _: b"",
        lambda envelope: envelope * 40,
        lambda envelope: pack(b"", *unpack(envelope)[1:]),
        lambda envelope: pack(b"\xff" * 40, *unpack(envelope)[1:]),
    ],
)
def test_an_altered_envelope_is_rejected(federation: DemoIdentities, alter: Callable[[bytes], bytes]) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError):
        open_envelope(b, RUN, request, alter(seal(a, RUN, request.offer, SECRET)))


@pytest.mark.parametrize("offer", [b"", b"offer", pack(b"", b"", b""), pack(b"x" * 20_000, b"", b"")])
def test_bytes_that_are_no_offer_are_rejected(federation: DemoIdentities, offer: bytes) -> None:
    with pytest.raises(EncryptionError):
        name_in_offer(offer)
    with pytest.raises(EncryptionError):
        seal(federation.hospitals["a"], RUN, offer, SECRET)


def test_an_offer_of_a_point_off_the_curve_is_rejected(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    certificate, public, _ = unpack(make_offer(b, RUN).offer)
    off = public[:-1] + bytes([public[-1] ^ 1])
    signed = pack(certificate, off, sign(b, pack(OFFER, RUN.encode(), certificate, off)))
    with pytest.raises(EncryptionError, match="no key on P-256"):
        seal(a, RUN, signed, SECRET)


def test_an_invalid_revocation_list_prevents_sealing_and_its_path_is_not_sent(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    files.write_bytes(a.folder / REVOKED, b"not a list")
    with pytest.raises(EncryptionError, match=r"revoked\.pem") as caught:
        seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    assert "cannot verify" in caught.value.reason
    assert str(a.folder) not in caught.value.reason
