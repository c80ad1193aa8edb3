"""A TLS folder: a party's private key, its certificate with that of its authority, and a list of revoked certificates.

`key.pem` is made in the folder and stays there. `request.pem` goes to the authority; its answer is saved as
`certificate.pem`. With an optional `revoked.pem` a server rejects revoked hospitals, and a hospital a revoked server.

Functions raise CertificateError if a file is missing, does not match the others or would be replaced, and StorageError
if one cannot be written.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from federated_health.errors import CertificateError
from federated_health.files import PRIVATE, PRIVATE_FOLDER, PUBLIC, make_folder, write_bytes
from federated_health.security import certificates, issuing
from federated_health.security.parties import Party, Role

KEY, REQUEST, CERTIFICATE, REVOKED = "key.pem", "request.pem", "certificate.pem", "revoked.pem"

REMINDERS = [timedelta(days=30), timedelta(days=7), timedelta(days=1), timedelta()]
"""Times before the end of a certificate or list of revoked ones at which its owner is reminded."""

READING_PERIOD = timedelta(hours=1)
"""Time after which a running program looks again when its list of revoked certificates ends."""


@dataclass(frozen=True)
class Identity:
    """A party with its key and certificate, checked; made by `load_identity`.

    Attributes:
        folder: the TLS folder.
        certificate: the party's own certificate.
        authority: certificate of the authority, which must have signed every peer's certificate, too.
    """

    folder: Path
    party: Party
    certificate: x509.Certificate
    authority: x509.Certificate

    @property
    def name(self) -> str:
        return self.party.name

    @property
    def certificate_bytes(self) -> bytes:
        """The party's certificate as PEM."""
        return issuing.pem(self.certificate)

    @property
    def authority_bytes(self) -> bytes:
        """The authority's certificate as PEM."""
        return issuing.pem(self.authority)

    @property
    def authority_hash(self) -> str:
        """SHA-256, in hex, of the authority's certificate."""
        return self.authority.fingerprint(SHA256()).hex()

    def read_key(self) -> bytes:
        """The private key as PEM."""
        return issuing.key_bytes(certificates.read_key(self.folder / KEY))

    def check_name(self, name: str) -> None:
        """Refuse a name that is not the certificate's."""
        if name != self.name:
            raise CertificateError(f"{self.folder / CERTIFICATE}: is for {self.party}, got the name {name}")

    def check_validity(self) -> None:
        """Refuse the party's or the authority's certificate if it has expired or is not valid yet."""
        for certificate, title in ((self.certificate, "certificate"), (self.authority, "authority's certificate")):
            if problem := certificates.validity_problem(certificate):
                advice = "; renew it" if "expired" in problem and certificate is self.certificate else ""
                raise CertificateError(f"{self.folder / CERTIFICATE}: the {title} {problem}{advice}")

    def expiry_warning(self) -> str | None:
        """A line for the owner of what ends soon in the folder; None if nothing does."""
        return "; ".join(ExpiryReminders(self).due()) or None


class ExpiryReminders:
    """Lines, once each, when a certificate or the list of revoked ones ends in 30, 7 and 1 days, and when it has ended.

    Args:
        identity: its certificate, its authority's, and the list in its folder.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._given: dict[tuple[str, datetime], timedelta] = {}  # the last reminder of each end
        self._list_end: datetime | None = None
        self._list_read = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def due(self) -> list[str]:
        """The lines that are due now and were not returned before. Cheap, for calls once per second."""
        now, lines = self.now(), []
        for subject, end, advice, consequence in self._ends(now):
            reached = [reminder for reminder in REMINDERS if end - now <= reminder]
            if reached and self._given.get((subject, end), timedelta.max) > min(reached):
                self._given[subject, end] = min(reached)
                moment = certificates.format_time(end)
                past = f"{subject} ended on {moment}: {advice}; until then {consequence}"
                lines.append(past if end <= now else f"{subject} ends on {moment}: {advice}")
        return lines

    def _ends(self, now: datetime) -> Iterator[tuple[str, datetime, str, str]]:
        """What ends in the folder, when, what to do about it, and what follows if nobody does."""
        own, folder = self._identity, self._identity.folder
        closed = "nobody can connect"
        yield f"the certificate in {folder}", own.certificate.not_valid_after_utc, "renew it and start again", closed
        yield f"the authority in {folder}", own.authority.not_valid_after_utc, "found a new authority", closed
        if abs(now - self._list_read) >= READING_PERIOD:
            self._list_read, self._list_end = now, None
            with suppress(CertificateError):  # there is none; a damaged one is announced at admission
                self._list_end = certificates.read_revocations(folder / REVOKED, own.authority).next_update_utc
        if self._list_end is not None:
            unknown = "later revocations may be unknown here"
            yield str(folder / REVOKED), self._list_end, "copy the authority's current list there", unknown


def request_identity(folder: Path, party: Party, *, force: bool = False) -> Path:
    """Make a private key and a signing request for it; returns the path of the request, which is not secret.

    Args:
        force: replace an existing key, which makes its certificate useless.
    """
    make_folder(folder, PRIVATE_FOLDER)
    if (folder / KEY).exists() and not force:
        raise CertificateError(f"{folder / KEY}: exists already; renew keeps it, --force replaces it")
    key = issuing.make_key()
    write_bytes(folder / KEY, issuing.key_bytes(key), PRIVATE)
    return _write_request(folder, party, key)


def renew_request(folder: Path) -> Path:
    """Make a new signing request for the key and party of a certificate, expired or not; returns its path."""
    return _write_request(folder, read_identity(folder).party, certificates.read_key(folder / KEY))


def _write_request(folder: Path, party: Party, key: certificates.Key) -> Path:
    path = folder / REQUEST
    write_bytes(path, issuing.make_request(party, key).public_bytes(Encoding.PEM), PUBLIC)
    return path


def load_identity(folder: Path, role: Role) -> Identity:
    """Identity in a TLS folder, which must have this role and be valid now."""
    identity = read_identity(folder)
    if identity.party.role is not role:
        raise CertificateError(f"{folder / CERTIFICATE}: is for {identity.party}; expected a {role.value}'s")
    identity.check_validity()
    return identity


def read_identity(folder: Path) -> Identity:
    """Identity in a TLS folder, in either role, valid now or not."""
    if not folder.is_dir():
        raise CertificateError(f"{folder}: is not a folder; `certificates request --tls {folder}` makes one")
    key, path = certificates.read_key(folder / KEY), folder / CERTIFICATE
    if not path.exists():
        raise CertificateError(f"{path}: does not exist yet: save the authority's answer to {REQUEST} there")
    certificate, *others = certificates.read_certificates(path)
    if len(others) != 1 or not certificates.is_authority(others[0]):
        raise CertificateError(f"{path}: expected a certificate and then its authority's, as `sign` writes them")
    if not certificates.is_issued_by(certificate, others[0]):
        raise CertificateError(f"{path}: its first certificate was not signed by its second, the authority's")
    if certificate.public_key() != key.public_key():
        raise CertificateError(f"{path}: is for another key than {KEY}: it answers another request")
    try:
        party = certificates.party_of(certificate)
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from None
    return Identity(folder, party, certificate, others[0])
