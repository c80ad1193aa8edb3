"""X.509 as this project reads it: keys, certificates, requests and lists of revoked ones, and whose they are.

How it is made is in `issuing`.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federated_health.errors import CertificateError
from federated_health.names import printable
from federated_health.security.files import check_private, read_file
from federated_health.security.parties import Party, Role, hospital, server

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Read = TypeVar("Read")

PURPOSES = {Role.HOSPITAL: ExtendedKeyUsageOID.CLIENT_AUTH, Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH}


def read_key(path: Path) -> Key:
    """A private key.

    Raises:
        CertificateError: others may read it, or it is not a key of the kind that is made here.
    """
    check_private(path)
    content = read_file(path)
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError:
        raise CertificateError(f"{path}: is protected by a password, which nothing here can ask for") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{path}: is not a private key (PEM)") from None
    if not isinstance(key, Key) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError(f"{path}: is not an ECDSA key on P-256")
    return key


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a file, in its order.

    Raises:
        CertificateError: it cannot be read, or holds none.
    """
    return _parse(read_file(path), x509.load_pem_x509_certificates, f"{path}: is not a certificate (PEM)")


def parse_certificate(content: bytes) -> x509.Certificate:
    """The first certificate of a PEM text.

    Raises:
        CertificateError: there is none.
    """
    return _parse(content, x509.load_pem_x509_certificate, "not a certificate (PEM)")


def read_request(path: Path) -> x509.CertificateSigningRequest:
    """A signing request, signed by the key that it holds.

    Raises:
        CertificateError: it is not, or not of the kind that is made here.
    """
    request = _parse(read_file(path), x509.load_pem_x509_csr, f"{path}: is not a signing request (PEM)")
    try:
        is_signed = request.is_signature_valid
        public_key_of(request)
    except (ValueError, UnsupportedAlgorithm, CertificateError):
        raise CertificateError(f"{path}: is not a request of an ECDSA key on P-256") from None
    if not is_signed:
        raise CertificateError(f"{path}: was changed after it was made: its signature is not that of its key")
    return request


def read_revocations(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList:
    """An authority's list of revoked certificates.

    Raises:
        CertificateError: it is not, or another authority's.
    """
    listed = parse_revocations(read_file(path), path)
    is_ours = listed.issuer == authority.subject
    try:
        is_ours = is_ours and listed.is_signature_valid(public_key_of(authority))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        is_ours = False
    if not is_ours:
        raise CertificateError(f"{path}: was not signed by this authority, {name_of(authority.subject)}")
    return listed


def parse_revocations(content: bytes, path: Path) -> x509.CertificateRevocationList:
    """A list of revoked certificates, whoever signed it.

    Raises:
        CertificateError: it is not one; the path is named.
    """
    return _parse(content, x509.load_pem_x509_crl, f"{path}: is not a list of revoked certificates (PEM)")


def _parse(content: bytes, parse: Callable[[bytes], Read], complaint: str) -> Read:
    try:
        return parse(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError(complaint) from None


def party_of(signed: x509.Certificate | x509.CertificateSigningRequest) -> Party:
    """Who a certificate or a request is for; whatever else it says is left out.

    Raises:
        CertificateError: it names nobody, or not in the form that is made here.
    """
    try:
        extensions = signed.extensions
        purposes = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        roles = [role for role, purpose in PURPOSES.items() if purposes == [purpose]]
        hosts = [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    except (ValueError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise CertificateError("it does not say whether it is for a hospital or a server") from None
    except x509.UnsupportedGeneralNameType:
        raise CertificateError("it holds names of a kind that is not used here") from None
    if not roles:
        raise CertificateError("it is not for a hospital alone, nor for a server alone")
    party = server(hosts) if roles[0] is Role.SERVER else hospital(name_of(signed.subject))
    if party.name[:64] != name_of(signed.subject):
        raise CertificateError("its subject is not the first of its hosts")
    return party


def name_of(subject: x509.Name) -> str:
    """The common name, fit to be shown; empty where there is not exactly one."""
    try:
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return printable(str(names[0].value), 64) if len(names) == 1 else ""


def public_key_of(signed: x509.Certificate | x509.CertificateSigningRequest) -> PublicKey:
    """Its public key.

    Raises:
        CertificateError: it is not ECDSA on P-256.
    """
    try:
        key = signed.public_key()
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateError("its key is not ECDSA on P-256")
    return key


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key (its SubjectPublicKeyInfo), as 16 groups of four hexadecimal digits."""
    digest = Hash(SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return " ".join(re.findall("....", digest.finalize().hex()))


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority's name and key are those that signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate is a self-signed one that may sign others."""
    try:
        basics = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    return basics.ca and usage.key_cert_sign and is_issued_by(certificate, certificate)


def find_lapse(certificate: x509.Certificate) -> str | None:
    """Why a certificate is not valid now, in words; None where it is."""
    now = datetime.now(UTC)
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {moment(certificate.not_valid_before_utc)} (this machine's clock: {moment(now)})"
    if now > certificate.not_valid_after_utc:
        return f"expired on {moment(certificate.not_valid_after_utc)} (this machine's clock: {moment(now)})"
    return None


def find_revocation(certificate: x509.Certificate, listed: x509.CertificateRevocationList | None) -> datetime | None:
    """When a certificate was taken back, by a list if there is one; None where it was not."""
    entry = listed.get_revoked_certificate_by_serial_number(certificate.serial_number) if listed else None
    return entry.revocation_date_utc if entry else None


def describe_rest(certificate: x509.Certificate) -> str:
    """How long a certificate is valid yet, in words."""
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if now > end:
        return "expired"
    left = -((now - end) // timedelta(days=1))
    return "not valid yet" if now < certificate.not_valid_before_utc else f"{left} day{'s' if left > 1 else ''} left"


def moment(time: datetime) -> str:
    """A time as lines show it."""
    return time.strftime("%Y-%m-%d %H:%M UTC")
