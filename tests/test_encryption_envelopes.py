"""The key's envelopes: only the hospital that requested it opens one, and only a hospital's is believed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from federated_health import files
from federated_health.encryption.envelopes import (
    ENVELOPE,
    OFFER,
    KeyOffer,
    _pack,
    _sign,
    _unpack,
    make_offer,
    name_in_offer,
    open_envelope,
    seal,
)
from federated_health.errors import EncryptionError
from federated_health.security import issuing
from federated_health.security.identity import REVOKED, Identity
from federated_health.security.parties import hospital
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, write_identity

RUN = "0123456789abcdef"
SECRET = b"the key of all hospitals"


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


def test_what_one_seals_the_other_opens_and_knows_the_sender(federation: DemoIdentities) -> None:
    a, b = federation.hospitals["a"], federation.hospitals["b"]
    request = make_offer(b, RUN)
    assert name_in_offer(request.offer) == "b"
    envelope = seal(a, RUN, request.offer, SECRET)
    assert SECRET not in envelope
    assert open_envelope(b, RUN, request, envelope) == (SECRET, "a")


def test_no_two_envelopes_are_alike(federation: DemoIdentities) -> None:
    a, request = federation.hospitals["a"], make_offer(federation.hospitals["b"], RUN)
    one, other = (_unpack(seal(a, RUN, request.offer, SECRET), 5, 10_000) for _ in range(2))
    assert one[0] == other[0]  # the sender's certificate
    assert all(mine != theirs for mine, theirs in zip(one[1:], other[1:], strict=True))


def test_another_hospital_cannot_open_it(federation: DemoIdentities) -> None:
    a, b, c = *federation.hospitals.values(), federation.add("c")
    envelope = seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        open_envelope(c, RUN, make_offer(c, RUN), envelope)


def test_an_earlier_offer_of_the_same_hospital_does_not_open_it(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    envelope = seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        open_envelope(b, RUN, make_offer(b, RUN), envelope)


def test_the_offer_without_its_private_key_does_not_open_it(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    envelope = seal(a, RUN, request.offer, SECRET)
    with pytest.raises(EncryptionError, match="not for this hospital"):
        open_envelope(b, RUN, KeyOffer(request.offer, make_offer(b, RUN).private), envelope)


def test_neither_offer_nor_envelope_is_good_for_another_run(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        seal(a, "f" * 16, request.offer, SECRET)
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        open_envelope(b, "f" * 16, request, seal(a, RUN, request.offer, SECRET))


def strangers(federation: DemoIdentities, tmp_path: Path) -> dict[str, Identity]:
    """Those whom no hospital may trust, each with a key and a certificate."""
    elsewhere = Signer("Another authority")
    both = issuing.make_key()
    lax = federation.signer.sign_freely("lax", both)
    revoked = federation.add("revoked")
    listed = federation.signer.revocations(revoked.certificate, number=9)
    for one in federation.hospitals.values():
        files.write_bytes(one.folder / REVOKED, listed)
    no_role = write_identity(tmp_path / "lax", hospital("lax"), federation.signer, key=both)
    return {
        "the hospital's certificate is for server": federation.server,
        "by another authority": federation.add("foreign", signer=elsewhere),
        "expired on": federation.add("late", expired()),
        "is not valid before": federation.add("early", not_yet()),
        "was revoked on": revoked,
        "it does not say whether it is for a hospital": Identity(no_role.folder, no_role.party, lax, no_role.authority),
    }


STRANGERS = (
    "the hospital's certificate is for server",
    "by another authority",
    "expired on",
    "is not valid before",
    "was revoked on",
    "it does not say whether it is for a hospital",
)


@pytest.mark.parametrize("why", STRANGERS)
def test_a_stranger_is_not_given_the_key(federation: DemoIdentities, tmp_path: Path, why: str) -> None:
    stranger = strangers(federation, tmp_path)[why]
    with pytest.raises(EncryptionError, match=why):
        seal(federation.hospitals["a"], RUN, make_offer(stranger, RUN).offer, SECRET)


@pytest.mark.parametrize("why", STRANGERS)
def test_a_stranger_cannot_slip_in_a_key_of_its_own(federation: DemoIdentities, tmp_path: Path, why: str) -> None:
    stranger, b = strangers(federation, tmp_path)[why], federation.hospitals["b"]
    request = make_offer(b, RUN)
    try:
        envelope = seal(stranger, RUN, request.offer, SECRET)
    except EncryptionError:  # it cannot even see that the request is a hospital's; another would not look
        envelope = forge(federation, stranger, request, stranger)
    with pytest.raises(EncryptionError, match=why):
        open_envelope(b, RUN, request, envelope)


def forge(federation: DemoIdentities, signer: Identity, request: KeyOffer, shown: Identity) -> bytes:
    """An envelope that shows a certificate and is signed with some key."""
    certificate, public, nonce, sealed, _ = _unpack(
        seal(federation.hospitals["a"], RUN, request.offer, SECRET), 5, 10_000
    )
    certificate = shown.certificate_bytes
    digest = Hash(SHA256())
    digest.update(request.offer)
    bound = _pack(ENVELOPE, RUN.encode(), digest.finalize(), certificate, public)
    return _pack(certificate, public, nonce, sealed, _sign(signer, _pack(bound, nonce, sealed)))


def test_a_signature_of_another_key_than_the_certificates_is_refused(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        open_envelope(b, RUN, request, forge(federation, federation.server, request, a))
    certificate, public, _ = _unpack(make_offer(b, RUN).offer, 3, 10_000)
    forged = _pack(certificate, public, _sign(federation.server, _pack(OFFER, RUN.encode(), certificate, public)))
    with pytest.raises(EncryptionError, match="not signed by its sender for this run"):
        seal(a, RUN, forged, SECRET)


def altered_in(field: int) -> Callable[[bytes], bytes]:
    def alter(envelope: bytes) -> bytes:
        fields = _unpack(envelope, 5, 10_000)
        fields[field] = fields[field][:-1] + bytes([fields[field][-1] ^ 1])
        return _pack(*fields)

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        *(altered_in(field) for field in (1, 2, 3, 4)),
        lambda envelope: envelope[:-1],
        lambda envelope: envelope + b"\0",
        lambda _: b"",
        lambda envelope: envelope * 40,
        lambda envelope: _pack(b"", *_unpack(envelope, 5, 10_000)[1:]),
        lambda envelope: _pack(b"\xff" * 40, *_unpack(envelope, 5, 10_000)[1:]),
    ],
)
def test_an_envelope_that_was_altered_is_refused(federation: DemoIdentities, alter: Callable[[bytes], bytes]) -> None:
    a, b = federation.hospitals.values()
    request = make_offer(b, RUN)
    with pytest.raises(EncryptionError):
        open_envelope(b, RUN, request, alter(seal(a, RUN, request.offer, SECRET)))


@pytest.mark.parametrize("offer", [b"", b"offer", _pack(b"", b"", b""), _pack(b"x" * 20_000, b"", b"")])
def test_what_is_no_offer_is_refused(federation: DemoIdentities, offer: bytes) -> None:
    for read in (name_in_offer, lambda one: seal(federation.hospitals["a"], RUN, one, SECRET)):
        with pytest.raises(EncryptionError):
            read(offer)


def test_an_offer_of_a_point_that_is_not_on_the_curve_is_refused(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    certificate, public, _ = _unpack(make_offer(b, RUN).offer, 3, 10_000)
    off = public[:-1] + bytes([public[-1] ^ 1])
    signed = _pack(certificate, off, _sign(b, _pack(OFFER, RUN.encode(), certificate, off)))
    with pytest.raises(EncryptionError, match="no key on P-256"):
        seal(a, RUN, signed, SECRET)


def test_a_list_of_revoked_that_cannot_be_used_stops_it_without_a_path(federation: DemoIdentities) -> None:
    a, b = federation.hospitals.values()
    files.write_bytes(a.folder / REVOKED, b"not a list")
    with pytest.raises(EncryptionError, match=r"revoked\.pem") as caught:
        seal(a, RUN, make_offer(b, RUN).offer, SECRET)
    assert caught.value.reason == "it cannot verify with whom it shares the run's key"
