"""Makers of X.509 objects: keys, signing requests, certificates and revocation lists.

Keys are ECDSA on P-256; signatures use SHA-256. An authority signs end-entity certificates only (path length 0). Such a
certificate has one purpose: clientAuth for a hospital, serverAuth for the server (RFC 5280, 4.2.1.12).
"""

import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from federated_health.errors import CertificateError
from federated_health.security.certificates import PURPOSES, Key, PublicKey
from federated_health.security.parties import Party

AUTHORITY_DAYS, CERTIFICATE_DAYS, MAX_DAYS = 3650, 365, 36500
"""Default lifetimes of an authority's and of a party's certificate, and the longest lifetime of either."""

BACKDATED = timedelta(minutes=5)
"""A certificate is valid from this long before it was made, for machines whose clock is slow."""

KEY_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)

Validity = tuple[datetime, datetime]


def make_key() -> Key:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: Key) -> bytes:
    """Private key as PEM (PKCS #8, not encrypted)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def validity_of(days: int) -> Validity:
    """Start and end of a certificate valid for this many days from now; raises CertificateError beyond MAX_DAYS."""
    if not 1 <= days <= MAX_DAYS:
        raise CertificateError(f"days: expected 1 to {MAX_DAYS}, got {days}")
    now = datetime.now(UTC)
    return now - BACKDATED, now + timedelta(days=days)


def make_authority_certificate(key: Key, name: str, validity: Validity) -> x509.Certificate:
    """A self-signed certificate that may sign other certificates and revocation lists."""
    subject, constraints = _subject(name), x509.BasicConstraints(ca=True, path_length=0)
    usage = key_usage("key_cert_sign", "crl_sign")
    return _builder(subject, subject, key.public_key(), validity, constraints, usage).sign(key, SHA256())


def make_certificate(
    party: Party, key: PublicKey, authority: x509.Certificate, authority_key: Key, validity: Validity
) -> x509.Certificate:
    """A party's certificate, signed by an authority."""
    constraints, usage = x509.BasicConstraints(ca=False, path_length=None), key_usage("digital_signature")
    builder = _builder(authority.subject, _subject(party.name), key, validity, constraints, usage)
    for extension in (_authority_identifier(authority_key), *_party_extensions(party)):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority_key, SHA256())


def _builder(
    issuer: x509.Name, subject: x509.Name, key: PublicKey, validity: Validity, *critical: x509.ExtensionType
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    builder = builder.not_valid_before(validity[0]).not_valid_after(validity[1])
    for extension in critical:
        builder = builder.add_extension(extension, critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def make_request(party: Party, key: Key) -> x509.CertificateSigningRequest:
    """A signing request for a party's certificate, signed by the party's key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(party.name))
    for extension in _party_extensions(party):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256())


def make_revocations(
    authority: x509.Certificate, authority_key: Key, dates: Mapping[int, datetime], number: int
) -> bytes:
    """A signed list of revoked certificates as PEM. It stays valid until there is a newer list.

    Args:
        dates: serial number -> when that certificate was revoked.
        number: number of the list, greater than that of the authority's previous list.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(max(authority.not_valid_before_utc, datetime.now(UTC)))
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_identifier(authority_key), critical=False)
    )
    for serial, date in sorted(dates.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority_key, SHA256()).public_bytes(Encoding.PEM)


def key_usage(*allowed: str) -> x509.KeyUsage:
    """An extension that allows these of KEY_USAGES and no others."""
    return x509.KeyUsage(**{usage: usage in allowed for usage in KEY_USAGES})


def _party_extensions(party: Party) -> tuple[x509.ExtensionType, ...]:
    names: list[x509.GeneralName] = []
    for host in party.hosts or (party.name,):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.ExtendedKeyUsage([PURPOSES[party.role]]), x509.SubjectAlternativeName(names)


def _authority_identifier(authority_key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())


def _subject(name: str) -> x509.Name:
    # X.509 allows 64 characters, and a host name may be longer; the whole name is among the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
