"""Explains why a TLS connection to a server fails, by a handshake with `ssl`, which reports more than gRPC.

gRPC's server closes a rejected handshake without an alert, and its client only reports 'Socket closed'. A hospital can
check its own certificate itself, and `ssl` reports what is wrong with the server's. In TLS 1.3 a client completes the
handshake before the server has checked the client's certificate. Only what the server sends next (its HTTP/2 settings,
or the end of the connection) shows whether it accepted the certificate.
"""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.names import printable
from federated_health.security import certificates
from federated_health.security.admission import Admission
from federated_health.security.identity import CERTIFICATE, KEY, Identity
from federated_health.security.parties import Party, Role

ALPN = "h2"
"""Protocol that a gRPC server requires in the handshake."""

_TOO_OLD = "the server's TLS is too old: expected 1.2 or newer"
_NOT_TLS = "the server does not use TLS: it runs without --tls, or is not a federation's server"
FINAL_REASONS = {
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION"), _TOO_OLD),
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"), _NOT_TLS),
}
"""OpenSSL's names for the reasons of an `ssl.SSLError` after which waiting does not help."""


@dataclass(frozen=True)
class ConnectionProblem:
    """Why a connection cannot be made.

    Attributes:
        reason: one line, to follow `HOST:PORT: `.
        is_final: whether waiting cannot help, because a file or a setting must be corrected.
    """

    reason: str
    is_final: bool


Connect = Callable[[str, int, float], socket.socket]
"""Opens a connection to a host and a port, given a time limit in seconds."""


def _connect_directly(host: str, port: int, timeout: float) -> socket.socket:
    return socket.create_connection((host, port), timeout=timeout)


def find_connection_problem(
    host: str, port: int, identity: Identity, timeout: float, connect: Connect | None = None
) -> ConnectionProblem | None:
    """Why a handshake like that of a hospital's gRPC channel fails; None if the server accepts the certificate.

    The result is advice, since a later connection may reach another server. The channel checks authority, host name and
    purpose itself, but not whether the server's certificate was revoked.

    Args:
        identity: the hospital's identity.
        timeout: seconds per step: the connection, the handshake, and the server's first bytes.
        connect: opens the connection, such as through a proxy; by default directly.
    """
    connect = connect or _connect_directly
    reason = (
        "the server ended the handshake without a reason: it has too many connections or is stopping, or its clock or "
        f"its authority differs from this hospital's (see certificates show {identity.folder})"
    )
    try:
        identity.check_validity()
        admission, context = Admission(identity), _make_context(identity)
        with (
            connect(host, port, timeout) as connection,
            context.wrap_socket(connection, server_hostname=host) as encrypted,
        ):
            certificate = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
            if rejection := admission.rejection_reason(certificate, Role.SERVER):
                raise CertificateError(rejection)
            if encrypted.selected_alpn_protocol() != ALPN:
                raise CertificateError("the server uses TLS but not HTTP/2, so it is not a federation's server")
            if encrypted.recv(1):
                return None
    except CertificateError as error:
        return ConnectionProblem(str(error), is_final=True)
    except ssl.SSLCertVerificationError as error:
        return ConnectionProblem(_explain(error, host, port, identity, timeout, connect), is_final=True)
    except (ssl.SSLEOFError, ConnectionResetError):
        pass
    except ssl.SSLError as error:
        if error.reason in FINAL_REASONS:
            return ConnectionProblem(FINAL_REASONS[error.reason], is_final=True)
        if error.reason:  # some releases of Python have none where a connection ends
            reason = f"the handshake failed ({printable(error.reason)})"
    except TimeoutError:
        reason = "the server does not answer: it has too many connections, is stopping or hangs"
    except (OSError, ValueError) as error:  # ValueError: a host name that no DNS can hold
        reason = f"it cannot be reached ({getattr(error, 'strerror', None) or error})"
    return ConnectionProblem(reason, is_final=False)


def find_server_key(host: str, port: int, identity: Identity, timeout: float, connect: Connect | None = None) -> str:
    """Fingerprint of the key of the server that such a handshake reaches; empty if there is no connection."""
    with (
        suppress(OSError, ValueError, CertificateError, *certificates.MALFORMED),
        (connect or _connect_directly)(host, port, timeout) as connection,
        _make_context(identity).wrap_socket(connection, server_hostname=host) as encrypted,
    ):
        certificate = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
        return certificates.fingerprint(certificates.public_key_of(certificate))
    return ""


def _make_context(identity: Identity) -> ssl.SSLContext:
    """A hospital's side of mutual TLS; CertificateError if the identity's files can no longer be used."""
    certificates.read_file(identity.folder / KEY, private=True)
    certificates.read_file(identity.folder / CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(identity.folder / CERTIFICATE, identity.folder / KEY)
        context.load_verify_locations(cadata=identity.authority_bytes.decode())
    except OSError as error:  # includes ssl.SSLError
        raise CertificateError(f"{identity.folder}: cannot be used ({error.strerror})") from None
    return context


def _explain(
    error: ssl.SSLCertVerificationError, host: str, port: int, identity: Identity, timeout: float, connect: Connect
) -> str:
    """What is wrong with the server's certificate, which is fetched again without verification."""
    shown: x509.Certificate | None = None
    party: Party | None = None
    theirs = ""
    with suppress(OSError, CertificateError, *certificates.MALFORMED):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with connect(host, port, timeout) as connection, context.wrap_socket(connection, server_hostname=host) as tls:
            shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        theirs = f", {certificates.name_of(shown.issuer)!r}"
        party = certificates.party_of(shown)
    match error.verify_code:
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            problem = certificates.validity_problem(shown) if shown else None
            return f"the server's certificate {problem or 'is not valid now'}"
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            hosts = ", ".join(party.hosts) if party else "other hosts"
            return f"the server's certificate: expected one for {host}, got one for {hosts}"
        case 26:  # X509_V_ERR_INVALID_PURPOSE
            return f"the server shows the certificate of {party or 'another party'}: expected a server's"
    ours = certificates.name_of(identity.authority.subject)
    return f"the server's certificate was signed by another authority{theirs}; expected this hospital's, {ours!r}"
