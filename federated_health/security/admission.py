"""Whom a party deals with: the other side's certificate against one's own authority, its role, its name and its list.

The handshake has proved already that the other side has the key of a certificate that the authority signed. What a
handshake does not look at is looked at here, at joining and as long as a connection lasts.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.security import certificates
from federated_health.security.identity import REVOKED, Identity
from federated_health.security.parties import Role


@dataclass(frozen=True)
class _List:
    """A list of revoked certificates as it was read."""

    stamp: tuple[int, ...] | None
    content: x509.CertificateRevocationList | None
    complaint: str | None


class Admission:
    """Judges certificates for a party.

    `revoked.pem` in its TLS folder is read again whenever it changes. One that cannot be used, is older than what was
    read before, or is gone changes nothing: what was revoked stays revoked.

    Args:
        identity: the party that judges.

    Raises:
        CertificateError: its `revoked.pem` is there and cannot be used, or revokes the party itself.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._path: Path = identity.folder / REVOKED
        self._list = self._read()
        if self._list.complaint:
            raise CertificateError(self._list.complaint)
        if obstacle := self.find_obstacle(identity.certificate, identity.party.role):
            raise CertificateError(f"{identity.folder}: {obstacle}")

    def find_obstacle(self, certificate: x509.Certificate, role: Role, name: str | None = None) -> str | None:
        """Why a party must not be dealt with, in words without more of it than its certificate says; None where it may.

        Args:
            role: what it has to be.
            name: what it calls itself, if it does.
        """
        of = f"the {role.value}'s certificate"
        if not certificates.is_issued_by(certificate, self.identity.authority):
            return f"{of} is of another authority"
        try:
            party = certificates.party_of(certificate)
        except CertificateError as error:
            return f"{of} is not one of a {role.value}: {error}"
        if party.role is not role:
            return f"{of} is of {party}"
        if name is not None and name != party.name:
            return f"{of} is of {party}, and it calls itself otherwise"
        return self.find_end(certificate, role)

    def find_end(self, certificate: x509.Certificate, role: Role) -> str | None:
        """Why a certificate that had no obstacle has one now; None where it has none. Cheap: for every message."""
        of = f"the {role.value}'s certificate"
        if lapse := certificates.find_lapse(certificate):
            return f"{of} {lapse}"
        if revoked := certificates.find_revocation(certificate, self._list.content):
            return f"{of} was revoked on {certificates.moment(revoked)}"
        return None

    def refresh(self) -> str | None:
        """Read `revoked.pem` if it changed; what is wrong with it, in words, once a change."""
        if self._stamp() == self._list.stamp:
            return None
        self._list = self._read(self._list.content)
        return self._list.complaint

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self, before: x509.CertificateRevocationList | None = None) -> _List:
        stamp = self._stamp()  # taken before reading: what changes meanwhile is read again
        if stamp is None and before is None and not self._path.exists():
            return _List(None, None, None)
        stays = "" if before is None else "; what was revoked before stays revoked"
        try:
            content = certificates.read_revocations(self._path, self.identity.authority)
        except CertificateError as error:
            return _List(stamp, before, f"{error}{stays}")
        if before is not None and _number(content) < _number(before):
            return _List(stamp, before, f"{self._path}: is older than the list in use{stays}")
        return _List(stamp, content, None)


def _number(listed: x509.CertificateRevocationList) -> int:
    try:
        return listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return 0
