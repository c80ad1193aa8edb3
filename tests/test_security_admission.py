"""Which certificates a party accepts; revoked ones stay rejected whatever happens to the list."""

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from federated_health import files
from federated_health.errors import CertificateError
from federated_health.security import certificates, issuing
from federated_health.security.admission import Admission
from federated_health.security.identity import Identity
from federated_health.security.parties import Party, Role, hospital, server
from tests.support.identities import Signer, Valid, expired, not_yet, usual, write_identity


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def own(signer: Signer, tmp_path: Path) -> Identity:
    return write_identity(tmp_path / "server", server(()), signer)


def leaf(signer: Signer, party: Party = hospital("a"), valid: Valid | None = None) -> x509.Certificate:  # noqa: B008  # frozen
    return signer.sign(party, issuing.make_key(), valid)


def save(own: Identity, content: bytes) -> None:
    files.write_bytes(own.folder / "revoked.pem", content)


def test_a_hospital_of_the_same_authority_is_accepted(own: Identity, signer: Signer) -> None:
    assert Admission(own).rejection_reason(leaf(signer), Role.HOSPITAL, "a") is None
    assert Admission(own).rejection_reason(leaf(signer), Role.HOSPITAL) is None
    assert Admission(own).rejection_reason(leaf(signer, server(())), Role.SERVER) is None


@pytest.mark.parametrize(
    ("party", "valid", "role", "name", "words"),
    [
        (hospital("a"), usual(), Role.HOSPITAL, "b", "is for hospital a, but"),
        (server(["a"]), usual(), Role.HOSPITAL, "a", "is for server a"),
        (hospital("a"), usual(), Role.SERVER, None, "is for hospital a"),
        (hospital("a"), expired(), Role.HOSPITAL, "a", "expired on"),
        (hospital("a"), not_yet(), Role.HOSPITAL, "a", "not valid before"),
    ],
)
def test_another_name_role_or_time_is_refused(
    party: Party, valid: Valid, role: Role, name: str | None, words: str, own: Identity, signer: Signer
) -> None:
    assert words in str(Admission(own).rejection_reason(leaf(signer, party, valid), role, name))


def test_another_authority_or_purpose_is_refused(own: Identity, signer: Signer) -> None:
    admission = Admission(own)
    assert "another authority" in str(admission.rejection_reason(leaf(Signer()), Role.HOSPITAL))
    for purposes in ((), (Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH)):
        free = signer.sign_freely("a", issuing.make_key(), *purposes)
        for role in Role:
            assert f"is not a {role.value}'s" in str(admission.rejection_reason(free, role))
    assert "is not a hospital's" in str(admission.rejection_reason(signer.certificate, Role.HOSPITAL))


def test_a_new_or_longer_revocation_list_takes_effect_at_once(own: Identity, signer: Signer) -> None:
    first, second = leaf(signer), leaf(signer, hospital("b"))
    announced: list[str] = []
    admission = Admission(own, announced.append)
    assert admission.rejection_reason(first, Role.HOSPITAL) is None
    save(own, signer.revocations(first))
    assert "was revoked on" in str(admission.rejection_reason(first, Role.HOSPITAL))
    assert admission.rejection_reason(second, Role.HOSPITAL) is None
    assert admission.expiry_reason(first, Role.HOSPITAL) == admission.rejection_reason(first, Role.HOSPITAL)
    assert admission.expiry_reason(second, Role.HOSPITAL) is None
    save(own, signer.revocations(first, second, number=3))
    assert admission.expiry_reason(second, Role.HOSPITAL) is not None
    assert announced == []


@pytest.mark.parametrize("content", [b"", b"garbage", None, "older", "foreign"])
def test_a_damaged_revocation_list_changes_nothing_and_is_announced_once(
    content: bytes | str | None, own: Identity, signer: Signer
) -> None:
    bad = leaf(signer)
    save(own, signer.revocations(bad, number=5))
    announced: list[str] = []
    admission = Admission(own, announced.append)
    if content is None:
        (own.folder / "revoked.pem").unlink()
    else:
        lists = {"older": signer.revocations(number=4), "foreign": Signer().revocations(number=9)}
        save(own, content if isinstance(content, bytes) else lists[content])
    assert admission.rejection_reason(bad, Role.HOSPITAL) is not None
    assert admission.expiry_reason(bad, Role.HOSPITAL) is not None
    (line,) = announced
    assert "revoked certificates stay revoked" in line
    assert "\n" not in line
    other = leaf(signer)
    save(own, signer.revocations(bad, other, number=6))
    assert admission.rejection_reason(other, Role.HOSPITAL) is not None


def test_the_same_revocation_list_written_again_is_accepted(own: Identity, signer: Signer) -> None:
    save(own, content := signer.revocations(number=5))
    announced: list[str] = []
    admission = Admission(own, announced.append)
    save(own, content)
    assert admission.expiry_reason(own.certificate, Role.SERVER) is None
    assert announced == []


def test_a_revocation_list_is_read_only_when_it_changes(
    own: Identity, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(own, signer.revocations())
    admission = Admission(own)
    reads: list[Path] = []
    read = certificates.read_revocations

    def count(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList:
        reads.append(path)
        return read(path, authority)

    monkeypatch.setattr(certificates, "read_revocations", count)
    for _ in range(5):
        admission.expiry_reason(own.certificate, Role.SERVER)
    assert reads == []
    path = own.folder / "revoked.pem"
    status = path.stat()
    save(own, signer.revocations(number=3))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # like a copy that keeps times
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    admission.expiry_reason(own.certificate, Role.SERVER)
    assert reads == [path]


@pytest.mark.parametrize("content", [b"garbage", "foreign", "renamed"])
def test_a_server_does_not_start_with_an_unusable_revocation_list(
    content: bytes | str, own: Identity, signer: Signer
) -> None:
    others = {"foreign": Signer(), "renamed": Signer(name="Other", key=signer.key)}
    save(own, content if isinstance(content, bytes) else others[content].revocations())
    with pytest.raises(CertificateError, match=r"revoked\.pem: (is not a list of|was not signed by this authority)"):
        Admission(own)


def test_a_revoked_party_does_not_start(own: Identity, signer: Signer) -> None:
    save(own, signer.revocations(own.certificate))
    with pytest.raises(CertificateError, match="was revoked on"):
        Admission(own)
