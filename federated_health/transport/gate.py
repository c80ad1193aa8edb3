"""Who calls a server: by certificate and by address, who must not be dealt with, and how that is told."""

from collections.abc import Callable
from urllib.parse import unquote

import grpc
from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.names import printable
from federated_health.security.admission import Admission
from federated_health.security.certificates import parse_certificate
from federated_health.security.identity import Identity
from federated_health.security.parties import Role

MAX_REFUSALS = 1000
"""Different ones that are told between two hospitals that join: a stranger must not fill a log."""


class Gate:
    """Judges who calls, and tells it once.

    Args:
        tls: who the server is; None where nothing is encrypted, and nobody can prove who he is.
        tell: told who was refused, and what is wrong with the list of revoked certificates.

    Raises:
        CertificateError: what is in the identity's folder cannot be used.
    """

    def __init__(self, tls: Identity | None, tell: Callable[[str], None]) -> None:
        self._admission = Admission(tls) if tls is not None else None
        self._tell = tell
        self._told: set[str] = set()

    def find_obstacle(self, certificate: x509.Certificate | None, name: str) -> str | None:
        """Why who has a certificate must not be dealt with as the hospital of a name, as of now; None where it may."""
        if self._admission is None:
            return None
        self._refresh(self._admission)
        if certificate is None:
            return "it has no certificate that can be read"
        return self._admission.find_obstacle(certificate, Role.HOSPITAL, name)

    def find_end(self, certificate: x509.Certificate | None) -> str | None:
        """Why who was taken with a certificate must not be dealt with any more; None where it may."""
        if self._admission is None or certificate is None:
            return None
        self._refresh(self._admission)
        return self._admission.find_end(certificate, Role.HOSPITAL)

    def refuse(self, certificate: x509.Certificate | None, name: str) -> tuple[grpc.StatusCode, str] | None:
        """How to answer who must not be dealt with; None where it may."""
        obstacle = self.find_obstacle(certificate, name)
        return (grpc.StatusCode.PERMISSION_DENIED, obstacle) if obstacle else None

    def tell(self, words: str, context: grpc.aio.ServicerContext) -> None:
        """Say of whom a call is, unless it was said since somebody joined: he may try again every second."""
        line = f"{words} (from {address_of(context)})"
        if line not in self._told and len(self._told) < MAX_REFUSALS:
            self._tell(line)
            self._told.add(line)

    def forget(self) -> None:
        """Tell everything anew."""
        self._told.clear()

    def _refresh(self, admission: Admission) -> None:
        if complaint := admission.refresh():
            self._tell(complaint)


def certificate_of(context: grpc.aio.ServicerContext) -> x509.Certificate | None:
    """The certificate that the other side showed, and whose key it has; None where there is none."""
    try:
        return parse_certificate(context.auth_context()["x509_pem_cert"][0])
    except (KeyError, IndexError, CertificateError):
        return None


def address_of(context: grpc.aio.ServicerContext) -> str:
    """Where a call comes from, without the port, which is another one every time."""
    family, _, address = unquote(str(context.peer())).partition(":")
    return printable(address.rpartition(":")[0] if family.startswith("ip") else family, 100)
