"""Content of certificates, as OpenSSL sees it, and reading them."""

import hashlib
import os
import shutil
import subprocess
from base64 import b64encode, encodebytes
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from federated_health.errors import CertificateError
from federated_health.security import certificates, issuing
from federated_health.security.parties import LOOPBACK, MAX_HOSTS, Party, Role, hospital, server
from tests.support.identities import Signer, expired, not_yet, now

OPENSSL = shutil.which("openssl")
P384 = ec.generate_private_key(ec.SECP384R1())
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def openssl(*arguments: object) -> tuple[int, str]:
    process = subprocess.run([str(OPENSSL), *map(str, arguments)], capture_output=True, text=True, check=False)
    return process.returncode, process.stdout + process.stderr


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


# Parties


def test_a_server_s_hosts_are_in_order_unique_and_include_loopback() -> None:
    party = server(["FL.example.org.", "192.0.2.7", "[2001:DB8::1]", "localhost", "fl.example.org"])
    assert party.name == "fl.example.org"
    assert party.hosts == ("fl.example.org", "192.0.2.7", "2001:db8::1", "localhost", "127.0.0.1", "::1")
    assert str(party) == "server fl.example.org"
    assert server(()).hosts == LOOPBACK


@pytest.mark.parametrize(
    "host",
    ["", "a b", "*.example.org", "-a", "a-", "a..b", ".a", "a:80", "http://a", "1.2.3", "1.2.3.4.5", "256.1.1.1", "ä",
     "a\n", "a" * 64, "a." * 127 + "a", "[red]a[/red]", "10.0.0.0/8"],
)  # fmt: skip
def test_a_malformed_host_is_refused(host: str) -> None:
    with pytest.raises(CertificateError, match="expected a DNS name"):
        server([host])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]"])
def test_an_unspecified_address_is_refused(host: str) -> None:
    with pytest.raises(CertificateError, match="that hospitals can reach"):
        server([host])


def test_the_number_of_a_server_s_names_is_limited() -> None:
    hosts = [f"h{number}" for number in range(MAX_HOSTS)]
    assert len(server([*hosts, *LOOPBACK]).hosts) == MAX_HOSTS + 3
    with pytest.raises(CertificateError, match="at most 20 hosts, got 21"):
        server([*hosts, "one-more"])


@pytest.mark.parametrize("name", ["", "federation", "Upper", "a b", "a" * 64, "-a", "a\n", "\x1b[31m"])
def test_a_malformed_or_reserved_hospital_name_is_refused(name: str) -> None:
    with pytest.raises(CertificateError, match=r"lower-case letters, digits and hyphens|is reserved") as refused:
        hospital(name)
    assert str(refused.value).isprintable()


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")  # which some damage makes
@pytest.mark.parametrize("read", [certificates.read_request, certificates.read_certificates])
def test_damaged_content_is_a_certificate_error(read: Callable[[Path], Any], signer: Signer, tmp_path: Path) -> None:
    """Every byte in turn, since `cryptography` raises errors of many types for malformed content."""
    key, path = issuing.make_key(), tmp_path / "damaged.pem"
    is_request = read is certificates.read_request
    original = issuing.make_request(hospital("a"), key) if is_request else signer.sign(hospital("a"), key)
    content, kind = original.public_bytes(Encoding.DER), "CERTIFICATE REQUEST" if is_request else "CERTIFICATE"
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        text = encodebytes(damaged).decode()
        path.write_text(f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n")
        with suppress(CertificateError):
            parsed = read(path)
            certificates.party_of(parsed if is_request else parsed[0])


# What OpenSSL sees


@needs_openssl
@pytest.mark.parametrize(
    ("party", "purpose", "other"),
    [(hospital("cleveland"), "sslclient", "sslserver"), (server(["fl.example.org"]), "sslserver", "sslclient")],
    ids=["hospital", "server"],
)
def test_openssl_accepts_a_certificate_for_its_one_purpose(
    party: Party, purpose: str, other: str, signer: Signer, tmp_path: Path
) -> None:
    (tmp_path / "ca").write_bytes(issuing.pem(signer.certificate))
    (tmp_path / "leaf").write_bytes(issuing.pem(signer.sign(party, issuing.make_key())))
    strict = ("verify", "-x509_strict", "-CAfile", tmp_path / "ca", "-purpose")
    assert openssl(*strict, purpose, tmp_path / "leaf")[0] == 0
    code, output = openssl(*strict, other, tmp_path / "leaf")
    assert code != 0
    assert "unsuitable certificate purpose" in output
    if party.role is Role.SERVER:
        for host, code in (("fl.example.org", 0), ("localhost", 0), ("other.example.org", 2)):
            assert openssl(*strict, purpose, "-verify_hostname", host, tmp_path / "leaf")[0] == code
        for address, code in (("127.0.0.1", 0), ("::1", 0), ("127.0.0.2", 2)):
            assert openssl(*strict, purpose, "-verify_ip", address, tmp_path / "leaf")[0] == code


@needs_openssl
def test_openssl_refuses_a_certificate_that_a_hospital_signed(signer: Signer, tmp_path: Path) -> None:
    key = issuing.make_key()
    middle = signer.sign(hospital("a"), key)
    leaf = issuing.make_certificate(
        hospital("b"), issuing.make_key().public_key(), middle, key, (now(), now() + timedelta(1))
    )
    for name, certificate in (("ca", signer.certificate), ("middle", middle), ("leaf", leaf)):
        (tmp_path / name).write_bytes(issuing.pem(certificate))
    code, _ = openssl("verify", "-CAfile", tmp_path / "ca", "-untrusted", tmp_path / "middle", tmp_path / "leaf")
    assert code != 0


@needs_openssl
def test_openssl_finds_a_revoked_certificate_in_the_list(signer: Signer, tmp_path: Path) -> None:
    good, bad = (signer.sign(hospital(name), issuing.make_key()) for name in ("good", "bad"))
    (tmp_path / "list").write_bytes(signer.revocations(bad))
    for name, certificate in (("ca", signer.certificate), ("good", good), ("bad", bad)):
        (tmp_path / name).write_bytes(issuing.pem(certificate))
    check = ("verify", "-crl_check", "-CAfile", tmp_path / "ca", "-CRLfile", tmp_path / "list")
    assert openssl(*check, tmp_path / "good")[0] == 0
    assert "certificate revoked" in openssl(*check, tmp_path / "bad")[1]


def test_certificates_have_the_extensions_of_rfc_5280_and_no_others(signer: Signer) -> None:
    leaf = signer.sign(hospital("cleveland"), issuing.make_key())
    extensions: dict[type, Any] = {type(extension.value): extension for extension in leaf.extensions}
    assert set(extensions) == {
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.SubjectKeyIdentifier,
        x509.AuthorityKeyIdentifier,
        x509.ExtendedKeyUsage,
        x509.SubjectAlternativeName,
    }
    assert {kind for kind in extensions if extensions[kind].critical} == {x509.BasicConstraints, x509.KeyUsage}
    assert extensions[x509.BasicConstraints].value == x509.BasicConstraints(ca=False, path_length=None)
    assert list(extensions[x509.ExtendedKeyUsage].value) == [Purpose.CLIENT_AUTH]
    assert list(extensions[x509.SubjectAlternativeName].value) == [x509.DNSName("cleveland")]
    usage = extensions[x509.KeyUsage].value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert leaf.version is x509.Version.v3
    authority = signer.certificate.extensions
    assert authority.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(
        ca=True, path_length=0
    )
    usage = authority.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (False, True, True)
    identifier = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == authority.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    serials = {signer.sign(hospital("a"), issuing.make_key()).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert min(serials) > 2**64


def test_validity_begins_five_minutes_ago_and_lasts_the_given_days() -> None:
    start, end = issuing.validity_of(365)
    assert end - start == timedelta(days=365, minutes=5)
    assert abs(start + timedelta(minutes=5) - now()) < timedelta(minutes=1)
    for days in (0, -1, 36501, 10**12):
        with pytest.raises(CertificateError, match=f"days: expected .* got {days}"):
            issuing.validity_of(days)


def test_a_fingerprint_is_the_digest_of_the_public_key() -> None:
    """The expected value is hashlib's SHA-256 of SubjectPublicKeyInfo."""
    key = issuing.make_key()
    encoded = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    shown = certificates.fingerprint(key.public_key())
    assert shown.replace(" ", "") == hashlib.sha256(encoded).hexdigest()
    assert [len(group) for group in shown.split(" ")] == [4] * 16


# Reading


@pytest.mark.parametrize("party", [hospital("a"), server(["fl.example.org", "192.0.2.7"]), server(())])
def test_the_party_is_read_from_a_certificate_and_its_request(party: Party, signer: Signer) -> None:
    key = issuing.make_key()
    assert certificates.party_of(signer.sign(party, key)) == party
    assert certificates.party_of(issuing.make_request(party, key)) == party


def test_a_host_longer_than_a_subject_is_read_whole(signer: Signer) -> None:
    party = server(["a" * 60 + ".example.org"])
    assert certificates.party_of(signer.sign(party, issuing.make_key())) == party


@pytest.mark.parametrize(
    ("name", "purposes", "words"),
    [
        ("a", (), "does not say whether"),
        ("a", (Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH), "its purpose"),
        ("a", (Purpose.CODE_SIGNING,), "its purpose"),
        ("a", (Purpose.ANY_EXTENDED_KEY_USAGE,), "its purpose"),
        ("federation", (Purpose.CLIENT_AUTH,), "is reserved"),
        ("A", (Purpose.CLIENT_AUTH,), "lower-case"),
        ("*.example.org", (Purpose.SERVER_AUTH,), "expected a DNS name"),
    ],
)
def test_a_certificate_of_another_form_is_refused(
    name: str, purposes: tuple[x509.ObjectIdentifier, ...], words: str, signer: Signer
) -> None:
    with pytest.raises(CertificateError, match=words):
        certificates.party_of(signer.sign_freely(name, issuing.make_key(), *purposes))


def test_a_server_whose_subject_is_not_its_first_host_is_refused() -> None:
    key = issuing.make_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")]))
        .add_extension(x509.ExtendedKeyUsage([Purpose.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("fl.example.org")]), critical=False)
        .sign(key, SHA256())
    )
    with pytest.raises(CertificateError, match="its subject"):
        certificates.party_of(request)


def test_a_subject_with_two_common_names_has_no_name() -> None:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("a", "b")]
    assert certificates.name_of(x509.Name(names)) == ""
    assert certificates.name_of(x509.Name(names[:1])) == "a"
    assert certificates.name_of(x509.Name([])) == ""


def write_key(path: Path, key: object, password: bytes | None = None) -> Path:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))  # type: ignore[attr-defined]
    path.chmod(0o600)
    return path


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    own = issuing.make_key()
    assert certificates.read_key(write_key(tmp_path / "own", own)).private_numbers() == own.private_numbers()
    others = rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate(), P384
    for number, key in enumerate(others):
        with pytest.raises(CertificateError, match="is not an ECDSA key on P-256"):
            certificates.read_key(write_key(tmp_path / str(number), key))
    with pytest.raises(CertificateError, match="is protected by a password"):
        certificates.read_key(write_key(tmp_path / "locked", own, b"word"))
    (tmp_path / "own").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n")
    with pytest.raises(CertificateError, match="is not a private key"):
        certificates.read_key(tmp_path / "own")


def test_a_request_that_was_changed_is_refused(tmp_path: Path) -> None:
    """Cleveland's request with another name of the same length."""
    request = issuing.make_request(hospital("cleveland"), issuing.make_key()).public_bytes(Encoding.DER)
    changed = x509.load_der_x509_csr(request.replace(b"cleveland", b"hungary-9"))
    (tmp_path / "r").write_bytes(changed.public_bytes(Encoding.PEM))
    with pytest.raises(CertificateError, match="was changed after it was made"):
        certificates.read_request(tmp_path / "r")


def test_a_request_of_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    (tmp_path / "r").write_bytes(request.public_bytes(Encoding.PEM))
    with pytest.raises(CertificateError, match="is not a request of an ECDSA key on P-256"):
        certificates.read_request(tmp_path / "r")


def test_a_certificate_is_issued_only_by_the_authority_s_name_and_key(signer: Signer) -> None:
    leaf = signer.sign(hospital("a"), issuing.make_key())
    assert certificates.is_issued_by(leaf, signer.certificate)
    assert not certificates.is_issued_by(leaf, Signer().certificate)  # of the same name
    assert not certificates.is_issued_by(leaf, Signer(name="other", key=signer.key).certificate)
    assert certificates.is_authority(signer.certificate)
    assert not certificates.is_authority(leaf)


def test_an_authority_is_self_signed_and_may_sign(signer: Signer) -> None:
    """An authority that may not sign, or that another one signed, is none."""
    start, end = now(), now() + timedelta(days=1)

    def make(issuer: x509.Name, key: certificates.Key, *, may_sign: bool) -> x509.Certificate:
        usage = issuing.key_usage("crl_sign", *(["key_cert_sign"] if may_sign else []))
        return (
            x509.CertificateBuilder(issuer, signer.certificate.subject, signer.key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, SHA256())
        )

    above = Signer(name="above")
    assert certificates.is_authority(make(signer.certificate.subject, signer.key, may_sign=True))
    assert not certificates.is_authority(make(signer.certificate.subject, signer.key, may_sign=False))
    assert not certificates.is_authority(make(above.certificate.subject, above.key, may_sign=True))


def test_a_certificate_is_invalid_before_its_start_and_after_its_end(signer: Signer) -> None:
    key = issuing.make_key()
    assert certificates.validity_problem(signer.sign(hospital("a"), key)) is None
    late, early = signer.sign(hospital("a"), key, expired()), signer.sign(hospital("a"), key, not_yet())
    end, start = (
        certificates.format_time(late.not_valid_after_utc),
        certificates.format_time(early.not_valid_before_utc),
    )
    assert f"expired on {end}" in str(certificates.validity_problem(late))
    assert f"not valid before {start}" in str(certificates.validity_problem(early))


@given(
    content=st.binary(max_size=300),
    where=st.integers(0, 2000),
    kind=st.sampled_from(("cert", "csr", "crl", "key")),
)
def test_malformed_files_are_refused_with_one_line(
    content: bytes, where: int, kind: str, signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any bytes as a file, and valid files with other bytes in the middle of the encoded content."""
    key = KEY
    der, label = {
        "cert": (signer.certificate.public_bytes(Encoding.DER), b"CERTIFICATE"),
        "csr": (issuing.make_request(hospital("a"), key).public_bytes(Encoding.DER), b"CERTIFICATE REQUEST"),
        "crl": (x509.load_pem_x509_crl(signer.revocations()).public_bytes(Encoding.DER), b"X509 CRL"),
        "key": (key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), b"PRIVATE KEY"),
    }[kind]
    at = where % len(der)
    damaged = der[:at] + content + der[at + len(content) :]
    path = tmp_path_factory.getbasetemp() / "any.pem"
    read = {
        "cert": lambda path: [
            certificates.party_of(certificate) for certificate in certificates.read_certificates(path)
        ],
        "csr": lambda path: certificates.party_of(certificates.read_request(path)),
        "crl": lambda path: certificates.read_revocations(path, signer.certificate),
        "key": certificates.read_key,
    }[kind]
    for text in (content, b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, b64encode(damaged), label)):
        path.write_bytes(text)
        path.chmod(0o600)
        with suppress(CertificateError):
            read(path)


KEY = issuing.make_key()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_with_permissions_for_others_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"")
    path.chmod(mode)
    with pytest.raises(CertificateError, match=f"mode {mode:o}.*chmod 600"):
        certificates.read_file(path, private=True)
    for private in (0o600, 0o400):
        path.chmod(private)
        certificates.read_file(path, private=True)


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        for private in (True, False):
            with pytest.raises(CertificateError, match=f"{name}: is not a regular file"):
                certificates.read_file(tmp_path / name, private=private)


def test_a_file_too_large_for_certificates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "MAX_FILE_BYTES", 8)
    (tmp_path / "a").write_bytes(b"12345678")
    assert certificates.read_file(tmp_path / "a") == b"12345678"
    (tmp_path / "a").write_bytes(b"123456789")
    with pytest.raises(CertificateError, match="is larger than"):
        certificates.read_file(tmp_path / "a")
