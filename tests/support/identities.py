"""Authorities and identities for tests, valid ones and others that no subcommand would make."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from federated_health import files
from federated_health.security import certificates, issuing
from federated_health.security.authority import Authority, make_demo_identities
from federated_health.security.identity import CERTIFICATE, KEY, REVOKED, Identity, load_identity
from federated_health.security.parties import Party, Role, hospital

DAY = timedelta(days=1)
Valid = tuple[datetime, datetime]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def usual() -> Valid:
    return now() - DAY, now() + DAY


def expired() -> Valid:
    return now() - 2 * DAY, now() - DAY


def not_yet() -> Valid:
    return now() + DAY, now() + 2 * DAY


@dataclass
class Signer:
    """A key with a certificate. It signs whether or not it is permitted to."""

    name: str = "Test authority"
    valid: Valid = field(default_factory=usual)
    key: certificates.Key = field(default_factory=issuing.make_key)

    def __post_init__(self) -> None:
        self.certificate = issuing.make_authority_certificate(self.key, self.name, self.valid)

    @classmethod
    def of(cls, folder: Path) -> "Signer":
        """The authority in a folder."""
        signer = cls()
        signer.key = certificates.read_key(folder / "key.pem")
        signer.certificate = certificates.read_certificates(folder / "authority.pem")[0]
        return signer

    def sign(self, party: Party, key: certificates.Key, valid: Valid | None = None) -> x509.Certificate:
        return issuing.make_certificate(party, key.public_key(), self.certificate, self.key, valid or usual())

    def sign_freely(self, name: str, key: certificates.Key, *purposes: x509.ObjectIdentifier) -> x509.Certificate:
        """A certificate with any purposes, or none."""
        start, end = usual()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder(self.certificate.subject, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(self.key, SHA256())

    def revocations(self, *revoked: x509.Certificate, number: int = 2) -> bytes:
        dates = {certificate.serial_number: now() for certificate in revoked}
        return issuing.make_revocations(self.certificate, self.key, dates, number)


def write_identity(
    folder: Path, party: Party, signer: Signer, valid: Valid | None = None, *, key: certificates.Key | None = None
) -> Identity:
    """Write a TLS folder; returns its identity, valid or not."""
    key = key or issuing.make_key()
    leaf = signer.sign(party, key, valid)
    files.make_folder(folder, files.PRIVATE_FOLDER)
    files.write_bytes(folder / KEY, issuing.key_bytes(key), files.PRIVATE)
    files.write_bytes(folder / CERTIFICATE, issuing.pem(leaf, signer.certificate))
    return Identity(folder, party, leaf, signer.certificate)


@dataclass
class DemoIdentities:
    """An authority, a server and the hospitals a and b, in their folders."""

    folder: Path

    def __post_init__(self) -> None:
        server, hospitals = make_demo_identities(self.folder, ("a", "b"))
        self.authority = Authority(self.folder / "authority")
        self.signer = Signer.of(self.folder / "authority")
        self.server = load_identity(server, Role.SERVER)
        self.hospitals = {name: load_identity(folder, Role.HOSPITAL) for name, folder in hospitals.items()}

    def revoke(self, name: str) -> None:
        """Revoke a hospital, and give the server the new list."""
        self.authority.revoke(name)
        files.write_bytes(self.server.folder / REVOKED, (self.authority.folder / REVOKED).read_bytes())

    def add(self, name: str, valid: Valid | None = None, signer: Signer | None = None) -> Identity:
        """Identity of another hospital."""
        return write_identity(self.folder.parent / f"more-{name}", hospital(name), signer or self.signer, valid)
