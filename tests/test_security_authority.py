"""An authority: it is created once, signs, revokes, and keeps records."""

import os
import threading
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federated_health import files
from federated_health.errors import CertificateError, StorageError
from federated_health.security import certificates, issuing
from federated_health.security.authority import Authority
from federated_health.security.identity import request_identity
from federated_health.security.parties import Party, hospital, server
from tests.support.identities import Signer, expired, now


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "Heart federation")


def request_of(party: Party, folder: Path, key: certificates.Key | None = None) -> Path:
    if key is None:
        return request_identity(folder / f"tls-{len(list(folder.iterdir()))}", party)
    path = folder / f"request-{len(list(folder.iterdir()))}.pem"
    path.write_bytes(issuing.make_request(party, key).public_bytes(Encoding.PEM))
    return path


def serials(authority: Authority) -> set[int]:
    return {entry.serial_number for entry in authority.revocations()}


def test_a_new_authority_is_private_and_complete_and_has_revoked_nothing(authority: Authority) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in authority.folder.iterdir()}
    assert modes == {"authority.pem": 0o644, "key.pem": 0o600, "revoked.pem": 0o644, "issued": 0o700}
    assert authority.folder.stat().st_mode & 0o777 == 0o700
    assert certificates.name_of(authority.certificate.subject) == "Heart federation"
    lifetime = authority.certificate.not_valid_after_utc - authority.certificate.not_valid_before_utc
    assert lifetime.days == 3650
    assert serials(authority) == set()
    assert list(authority.issued()) == []
    assert Authority(authority.folder).certificate == authority.certificate


@pytest.mark.parametrize("name", ["key.pem", "authority.pem", "revoked.pem", "issued"])
def test_an_existing_authority_is_never_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir() if name == "issued" else (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(CertificateError, match=f"already holds {name}"):
        Authority.create(tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["", " ", "a" * 65, "a\nb", "\x1b[31m"])
def test_an_authority_s_name_is_printable(name: str, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="1 to 64 printable characters"):
        Authority.create(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_an_authority_or_its_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"no authority\.pem"):
        Authority(tmp_path)
    signed = authority.sign(request_of(hospital("a"), tmp_path))
    own = (authority.folder / "authority.pem").read_bytes()
    (authority.folder / "authority.pem").write_bytes(issuing.pem(signed.certificate))
    with pytest.raises(CertificateError, match="is not an authority's certificate"):
        Authority(authority.folder)
    (authority.folder / "authority.pem").write_bytes(own)
    files.write_bytes(authority.folder / "key.pem", issuing.key_bytes(issuing.make_key()), files.PRIVATE)
    with pytest.raises(CertificateError, match=r"is not the key of authority\.pem"):
        Authority(authority.folder)
    (authority.folder / "key.pem").chmod(0o644)
    with pytest.raises(CertificateError, match="mode 644"):
        Authority(authority.folder)


def test_a_certificate_holds_party_and_key_and_is_recorded(authority: Authority, tmp_path: Path) -> None:
    key, party = issuing.make_key(), server(["fl.example.org"])
    issued = authority.sign(request_of(party, tmp_path, key), days=30)
    leaf, above = certificates.read_certificates(issued.path)
    assert (leaf, above) == (issued.certificate, authority.certificate)
    assert certificates.party_of(leaf) == party == issued.party
    assert leaf.public_key() == key.public_key()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 30
    assert [record.path for record in authority.issued()] == [issued.path]
    assert issued.path.parent == authority.folder / "issued"


def test_only_party_and_key_of_a_request_are_used(authority: Authority, tmp_path: Path) -> None:
    """A request that wants to be an authority, with an address as a second name."""
    key = issuing.make_key()
    names = [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Evil")]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name(names))
        .add_extension(x509.BasicConstraints(ca=True, path_length=5), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("b"), x509.RFC822Name("c@d")]), critical=False)
        .sign(key, SHA256())
    )
    (tmp_path / "request.pem").write_bytes(request.public_bytes(Encoding.PEM))
    leaf = authority.sign(tmp_path / "request.pem").certificate
    assert leaf.subject.rfc4514_string() == "CN=a"
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [x509.DNSName("a")]


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority", "short", days=3)
    leaf = authority.sign(request_of(hospital("a"), tmp_path)).certificate
    assert leaf.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_an_expired_authority_neither_signs_nor_revokes(authority: Authority, tmp_path: Path) -> None:
    request = request_of(hospital("a"), tmp_path)
    authority.sign(request)
    key = Signer.of(authority.folder).key
    old = issuing.make_authority_certificate(key, "Heart federation", expired())
    (authority.folder / "authority.pem").write_bytes(issuing.pem(old))
    authority = Authority(authority.folder)
    for act in (lambda: authority.sign(request), lambda: authority.revoke("a")):
        with pytest.raises(CertificateError, match="this authority expired"):
            act()


def test_a_second_key_of_a_name_is_signed_only_after_the_first_is_revoked(authority: Authority, tmp_path: Path) -> None:
    first = authority.sign(request_of(hospital("a"), tmp_path))
    for role in (hospital("a"), server(["a"])):  # a name belongs to one party, in either role
        with pytest.raises(CertificateError, match=r"hospital a has .* for another key, .*revoke a"):
            authority.sign(request_of(role, tmp_path))
    assert len(list(authority.issued())) == 1
    authority.revoke("a")
    second = authority.sign(request_of(hospital("a"), tmp_path))
    assert {issued.path: issued.is_valid for issued in authority.issued()} == {first.path: False, second.path: True}
    assert serials(authority) == {first.certificate.serial_number}


def test_a_second_key_of_a_name_is_signed_after_the_first_expired(authority: Authority, tmp_path: Path) -> None:
    key = issuing.make_key()
    old = Signer.of(authority.folder).sign(hospital("a"), key, expired())
    (authority.folder / "issued" / "a-1.pem").write_bytes(issuing.pem(old, authority.certificate))
    authority.sign(request_of(hospital("a"), tmp_path))
    assert [issued.is_valid for issued in authority.issued()] == [False, True]
    assert len(authority.revoke("a")) == 1  # an expired certificate need not be revoked


def test_the_same_key_is_renewed_and_both_are_revoked_together(authority: Authority, tmp_path: Path) -> None:
    key = issuing.make_key()
    pair = {authority.sign(request_of(hospital("a"), tmp_path, key)).certificate.serial_number for _ in range(2)}
    other = authority.sign(request_of(hospital("b"), tmp_path))
    assert {revoked.certificate.serial_number for revoked in authority.revoke("a")} == pair
    assert serials(authority) == pair
    assert other.certificate.serial_number not in serials(authority)
    authority.revoke("b")
    assert serials(authority) == pair | {other.certificate.serial_number}


def test_a_key_of_another_party_or_a_revoked_key_is_refused(authority: Authority, tmp_path: Path) -> None:
    key = issuing.make_key()
    authority.sign(request_of(hospital("a"), tmp_path, key))
    for party in (hospital("b"), server(["b"]), server(["a"])):
        with pytest.raises(CertificateError, match="belongs to hospital a"):
            authority.sign(request_of(party, tmp_path, key))
    authority.revoke("a")
    for party in (hospital("a"), hospital("b")):
        with pytest.raises(CertificateError, match=r"was revoked on .*request --force"):
            authority.sign(request_of(party, tmp_path, key))


def test_revocation_lists_have_growing_numbers_and_keep_their_dates(authority: Authority, tmp_path: Path) -> None:
    numbers: list[int] = []
    dates: dict[int, datetime] = {}
    for name in ("a", "b"):
        authority.sign(request_of(hospital(name), tmp_path))
        authority.revoke(name)
        revocations = authority.revocations()
        numbers.append(revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        for entry in revocations:
            assert dates.setdefault(entry.serial_number, entry.revocation_date_utc) == entry.revocation_date_utc
            assert abs((entry.revocation_date_utc - now()).total_seconds()) < 60
    assert numbers == [2, 3]


def test_a_name_without_a_valid_certificate_cannot_be_revoked(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="nothing was issued to a"):
        authority.revoke("a")
    authority.sign(request_of(hospital("a"), tmp_path))
    authority.revoke("a")
    with pytest.raises(CertificateError, match="a has no valid certificate"):
        authority.revoke("a")


def test_two_commands_at_once_lose_no_revocation(authority: Authority, tmp_path: Path) -> None:
    names = [f"h{number}" for number in range(8)]
    for name in names:
        authority.sign(request_of(hospital(name), tmp_path))
    threads = [threading.Thread(target=Authority(authority.folder).revoke, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(serials(authority)) == len(names)


def test_files_of_another_authority_are_refused(authority: Authority, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "other", "Heart federation").sign(request_of(hospital("a"), tmp_path))
    (authority.folder / "issued" / "a.pem").write_bytes(foreign.path.read_bytes())
    with pytest.raises(CertificateError, match=r"a\.pem: was not issued by this authority"):
        list(authority.issued())
    (authority.folder / "issued" / "a.pem").unlink()
    (authority.folder / "revoked.pem").write_bytes((tmp_path / "other" / "revoked.pem").read_bytes())
    with pytest.raises(CertificateError, match="not signed by this authority"):
        authority.sign(request_of(hospital("a"), tmp_path))
    (authority.folder / "revoked.pem").unlink()
    with pytest.raises(CertificateError, match=r"revoked\.pem: cannot be read"):
        authority.sign(request_of(hospital("a"), tmp_path))


def test_a_full_disk_changes_no_file(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    request = request_of(hospital("a"), tmp_path)
    authority.sign(request)
    before = {path: path.read_bytes() for path in authority.folder.rglob("*.pem")}
    monkeypatch.setattr(os, "fsync", fail)
    for act in (lambda: authority.sign(request), lambda: authority.revoke("a")):
        with pytest.raises(StorageError, match="No space left on device"):
            act()
    assert {path: path.read_bytes() for path in authority.folder.rglob("*") if path.is_file()} == before
