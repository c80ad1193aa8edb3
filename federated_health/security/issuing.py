"""X.509 as this project makes it: keys, certificates, requests and lists of revoked ones.

Keys are ECDSA on P-256, and signatures use SHA-256. An authority signs leaves only (path length 0). A leaf serves one
purpose: a hospital's clientAuth, the server's serverAuth (RFC 5280, 4.2.1.12).
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
from federated_health.security import certificates
from federated_health.security.parties import Party

AUTHORITY_DAYS, LEAF_DAYS = 3650, 365
"""Lifetimes, unless told otherwise."""

MAX_DAYS = 36500

BACKDATED = timedelta(minutes=5)
"""How long before its making a certificate is valid, for clocks that are behind."""


def make_key() -> certificates.Key:
    """A new private key: ECDSA on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: certificates.Key) -> bytes:
    """The private key as PEM (PKCS #8, not encrypted)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def pem(*chain: x509.Certificate) -> bytes:
    """Certificates as PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def lifetime(days: int) -> tuple[datetime, datetime]:
    """From a little before now on; whole seconds of UTC.

    Raises:
        CertificateError: not 1 to MAX_DAYS.
    """
    if not 1 <= days <= MAX_DAYS:
        raise CertificateError(f"days: expected 1 to {MAX_DAYS}, got {days}")
    now = datetime.now(UTC).replace(microsecond=0)
    return now - BACKDATED, now + timedelta(days=days)


def make_authority_certificate(key: certificates.Key, name: str, valid: tuple[datetime, datetime]) -> x509.Certificate:
    """A self-signed certificate that may sign leaves and lists of revoked ones."""
    subject = _subject(name)
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    return (
        _builder(subject, subject, key.public_key(), valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def make_leaf(
    party: Party,
    key: certificates.PublicKey,
    issuer: x509.Certificate,
    issuer_key: certificates.Key,
    valid: tuple[datetime, datetime],
) -> x509.Certificate:
    """A party's certificate."""
    builder = _builder(_subject(party.name), issuer.subject, key, valid)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    for extension in _party_extensions(party):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, SHA256())


def make_request(party: Party, key: certificates.Key) -> x509.CertificateSigningRequest:
    """A request for a party's certificate, signed by the party's key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(party.name))
    for extension in _party_extensions(party):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: certificates.PublicKey, valid: tuple[datetime, datetime]
) -> x509.CertificateBuilder:
    start, end = valid
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _party_extensions(party: Party) -> tuple[x509.ExtensionType, ...]:
    names: list[x509.GeneralName] = []
    for host in party.hosts or (party.name,):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.ExtendedKeyUsage([certificates.PURPOSES[party.role]]), x509.SubjectAlternativeName(names)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    # X.509 has a limit of 64 characters, which a host's name may exceed; its full name is among the alternative ones.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def make_revocations(
    issuer: x509.Certificate, key: certificates.Key, dates: Mapping[int, datetime], number: int
) -> bytes:
    """The signed list of revoked certificates as PEM. It holds until a newer one is there.

    Args:
        dates: serial number -> when that certificate was revoked.
        number: of this list; every list of an authority has a greater one than the list before.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(max(issuer.not_valid_before_utc, datetime.now(UTC).replace(microsecond=0)))
        .next_update(issuer.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial, date in sorted(dates.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(date).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
