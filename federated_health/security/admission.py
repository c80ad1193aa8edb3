"""Decides whether a party accepts the other side of a connection, by that side's certificate.

The TLS handshake has proved that the other side holds the key of a certificate that the authority signed. What a
handshake does not check (role, name, revocation) is checked here, when a party joins and while it stays connected.
"""

from collections.abc import Callable
from contextlib import suppress

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.security import certificates
from federated_health.security.identity import REVOKED, Identity
from federated_health.security.parties import Role


class Admission:
    """Checks the certificates of the parties that connect to a party.

    `revoked.pem` in the TLS folder is read again whenever it changes. If the new file is damaged, older than the list
    in use, or missing, nothing changes: revoked certificates stay revoked.

    Args:
        identity: identity of the party that checks.
        announce: receives a line, once per change, when `revoked.pem` cannot be used.

    Raises:
        CertificateError: `revoked.pem` exists and cannot be used, or revokes the party itself.
    """

    def __init__(self, identity: Identity, announce: Callable[[str], None] = lambda _: None) -> None:
        self._identity = identity
        self._announce = announce
        self._path = identity.folder / REVOKED
        self._stamp: tuple[int, ...] | None = None
        self._revocations: x509.CertificateRevocationList | None = None
        self._refresh()
        if reason := self.rejection_reason(identity.certificate, identity.party.role):
            raise CertificateError(f"{identity.folder}: {reason}")

    def rejection_reason(self, certificate: x509.Certificate | None, role: Role, name: str | None = None) -> str | None:
        """Why a party is rejected; None if it is accepted. The reason holds only what the party's certificate says.

        Args:
            certificate: the party's certificate; None if it has shown none.
            role: role that the party must have.
            name: name that the party gave, if it gave one.
        """
        if certificate is None:
            return "it has no readable certificate"
        title = f"the {role.value}'s certificate"
        if not certificates.is_issued_by(certificate, self._identity.authority):
            return f"{title} was signed by another authority"
        try:
            party = certificates.party_of(certificate)
        except CertificateError as error:
            return f"{title} is not a {role.value}'s: {error}"
        if party.role is not role:
            return f"{title} is for {party}"
        if name is not None and name != party.name:
            return f"{title} is for {party}, but it gave another name"
        return self.expiry_reason(certificate, role)

    def expiry_reason(self, certificate: x509.Certificate, role: Role) -> str | None:
        """Why an accepted party is now rejected (expired or revoked); None if it is not. Cheap per message."""
        try:
            self._refresh()
        except CertificateError as error:
            note = "" if self._revocations is None else "; revoked certificates stay revoked"
            self._announce(f"{error}{note}")
        problem = certificates.validity_problem(certificate, self._revocations)
        return f"the {role.value}'s certificate {problem}" if problem else None

    def _refresh(self) -> None:
        """Read `revoked.pem` if it was changed or removed; CertificateError, once per change, if it cannot be used."""
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        self._stamp = stamp  # taken before reading: a change in the meantime is read at the next check
        revocations = certificates.read_revocations(self._path, self._identity.authority)
        if self._revocations is not None and _number(revocations) < _number(self._revocations):
            raise CertificateError(f"{self._path}: is older than the list in use")
        self._revocations = revocations


def _number(revocations: x509.CertificateRevocationList) -> int:
    with suppress(*certificates.MALFORMED):
        return revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return 0
