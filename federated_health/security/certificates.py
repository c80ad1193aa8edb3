"""Readers of X.509 files: keys, certificates, signing requests, revocation lists, and the party that each is for.

They raise CertificateError for content that cannot be used. Functions that take a path name the file.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federated_health.errors import CertificateError
from federated_health.names import printable
from federated_health.security.parties import Party, Role, hospital, server

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Signed = x509.Certificate | x509.CertificateSigningRequest
Parsed = TypeVar("Parsed")

PURPOSES = {Role.HOSPITAL: ExtendedKeyUsageOID.CLIENT_AUTH, Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH}

MALFORMED = (
    *(ValueError, TypeError, KeyError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion),
    *(x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""Errors that `cryptography` raises for malformed content or a wrong signature."""

MAX_FILE_BYTES = 16 * 1024 * 1024
"""Largest file that is read; it can list about 300,000 revoked certificates."""


def read_file(path: Path, *, private: bool = False) -> bytes:
    """Content of a regular file of at most MAX_FILE_BYTES.

    Args:
        private: refuse a file that other users of this machine may read, as ssh does.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device might never end
            raise CertificateError(f"{path}: is not a regular file")
        if private and os.name == "posix" and mode & 0o077:
            shown = f"{stat.S_IMODE(mode):o}"
            raise CertificateError(f"{path}: others on this machine may read this key (mode {shown}); chmod 600 {path}")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MAX_FILE_BYTES:
        raise CertificateError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return content


def read_key(path: Path) -> Key:
    """Private key in a file that only its owner can read: ECDSA on P-256, not encrypted."""
    content = read_file(path, private=True)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise CertificateError(f"{path}: is protected by a password, which is not supported") from None
    except MALFORMED:
        raise CertificateError(f"{path}: is not a private key (PEM)") from None
    if not isinstance(key, Key) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"{path}: is not an ECDSA key on P-256")
    return key


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Certificates in a file, at least one, in their order."""
    return _parse(read_file(path), x509.load_pem_x509_certificates, f"{path}: is not a certificate (PEM)")


def parse_certificate(content: bytes) -> x509.Certificate:
    """First certificate in a PEM text."""
    return _parse(content, x509.load_pem_x509_certificate, "not a certificate (PEM)")


def peer_certificate(auth_context: Mapping[str, Sequence[bytes]]) -> x509.Certificate | None:
    """Certificate of the other end of a gRPC call, which has proved that it holds the key; `auth_context()` has it."""
    with suppress(KeyError, IndexError, CertificateError):
        return parse_certificate(auth_context["x509_pem_cert"][0])
    return None


def read_request(path: Path) -> x509.CertificateSigningRequest:
    """Signing request in a file, signed with the key that it asks for: ECDSA on P-256."""
    request = _parse(read_file(path), x509.load_pem_x509_csr, f"{path}: is not a signing request (PEM)")
    try:
        is_signed = request.is_signature_valid
        public_key_of(request)
    except (*MALFORMED, CertificateError):
        raise CertificateError(f"{path}: is not a request of an ECDSA key on P-256") from None
    if not is_signed:
        raise CertificateError(f"{path}: was changed after it was made: its signature does not match its key")
    return request


def read_revocations(path: Path, authority: x509.Certificate | None = None) -> x509.CertificateRevocationList:
    """List of revoked certificates in a file.

    Args:
        authority: certificate of the authority that must have signed the list; None to accept any.
    """
    message = f"{path}: is not a list of revoked certificates (PEM)"
    revocations = _parse(read_file(path), x509.load_pem_x509_crl, message)
    if authority is None:
        return revocations
    with suppress(*MALFORMED):
        if revocations.issuer == authority.subject and revocations.is_signature_valid(public_key_of(authority)):
            return revocations
    raise CertificateError(f"{path}: was not signed by this authority, {name_of(authority.subject)}")


def _parse(content: bytes, parse: Callable[[bytes], Parsed], message: str) -> Parsed:
    try:
        return parse(content)
    except MALFORMED:
        raise CertificateError(message) from None


def party_of(signed: Signed) -> Party:
    """Party that a certificate or a request is for, as this package writes it; other content is ignored."""
    try:
        extensions = signed.extensions
        purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
        common_name = name_of(signed.subject)
    except x509.UnsupportedGeneralNameType:
        raise CertificateError("it holds names of an unknown kind") from None
    except MALFORMED:
        raise CertificateError("it does not say whether it is for a hospital or a server") from None
    if purposes == [PURPOSES[Role.SERVER]]:
        party = server(hosts)
    elif purposes == [PURPOSES[Role.HOSPITAL]]:
        party = hospital(common_name)
    else:
        raise CertificateError("its purpose: expected hospital alone or server alone")
    if party.name[:64] != common_name:
        raise CertificateError("its subject is not the first of its hosts")
    return party


def name_of(subject: x509.Name) -> str:
    """Printable common name; empty unless there is exactly one."""
    with suppress(*MALFORMED):
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return printable(str(names[0].value), 64) if len(names) == 1 else ""
    return ""


def public_key_of(signed: Signed) -> PublicKey:
    """Public key in a certificate or a request: ECDSA on P-256."""
    with suppress(*MALFORMED):
        key = signed.public_key()
        if isinstance(key, PublicKey) and isinstance(key.curve, ec.SECP256R1):
            return key
    raise CertificateError("its key is not ECDSA on P-256")


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo), as 16 groups of 4 hexadecimal digits."""
    digest = sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    return " ".join(re.findall("....", digest))


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority's name and key signed a certificate."""
    with suppress(*MALFORMED):
        certificate.verify_directly_issued_by(authority)
        return True
    return False


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate is self-signed and may sign others."""
    with suppress(*MALFORMED):
        basics = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        return basics.ca and usage.key_cert_sign and is_issued_by(certificate, certificate)
    return False


def validity_problem(
    certificate: x509.Certificate, revocations: x509.CertificateRevocationList | None = None
) -> str | None:
    """Why a certificate is not valid now, without a subject, such as "expired on ..."; None if it is valid."""
    now, start, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        return f"is not valid before {format_time(start)} (this machine's clock: {format_time(now)})"
    if now > end:
        return f"expired on {format_time(end)} (this machine's clock: {format_time(now)})"
    if revoked := revocation_date(certificate, revocations):
        return f"was revoked on {format_time(revoked)}"
    return None


def revocation_date(
    certificate: x509.Certificate, revocations: x509.CertificateRevocationList | None
) -> datetime | None:
    """When a certificate was revoked, according to a list; None if it was not, or if there is no list."""
    entry = revocations and revocations.get_revoked_certificate_by_serial_number(certificate.serial_number)
    return entry.revocation_date_utc if entry else None


def format_time(time: datetime) -> str:
    """A UTC time in a message, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M UTC")
