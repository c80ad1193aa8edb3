"""Why a connection to a server cannot be made, in one line: a handshake with `ssl`, which says what gRPC does not.

gRPC's server closes a handshake that it refuses without an alert, and its client learns 'Socket closed'. So a hospital
finds out by itself: what its own certificate lacks it can see, and of the server's it learns what `ssl` complains of.
With TLS 1.3 a client's handshake is over before the server has looked at its certificate: only what the server says
next, its settings of HTTP/2, or the end of the connection, tells whether it was content.
"""

import socket
import ssl
from dataclasses import dataclass

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.names import printable
from federated_health.security import certificates, files
from federated_health.security.admission import Admission
from federated_health.security.identity import CERTIFICATE, KEY, Identity
from federated_health.security.parties import Role

PREFLIGHT_SECONDS = 2.0
"""For a preflight handshake."""

ALPN = "h2"
"""The protocol without which gRPC talks to nobody."""

_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "WRONG_SSL_VERSION"})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's reasons."""


@dataclass(frozen=True)
class Finding:
    """What is in the way of a connection.

    Attributes:
        words: one line, which begins where `HOST:PORT: ` ends.
        final: whether waiting does not help: somebody has to put something right.
    """

    words: str
    final: bool


def diagnose(host: str, port: int, identity: Identity, patience: float = PREFLIGHT_SECONDS) -> Finding | None:
    """Try a handshake as a hospital's gRPC channel would make it.

    A connection that is made later may still end at another server: what is found here is advice, and the channel
    checks authority, name and purpose by itself. Only whether the server was revoked it does not.

    Args:
        identity: the hospital's.
        patience: seconds for each of connecting, the handshake, and the server's first words.

    Returns:
        What is wrong; None where the server took the certificate.
    """
    try:
        identity.check_lapse()
        admission, context = Admission(identity), _make_context(identity)
    except CertificateError as error:
        return Finding(str(error), final=True)
    try:
        with (
            socket.create_connection((host, port), timeout=patience) as connection,
            context.wrap_socket(connection, server_hostname=host) as encrypted,
        ):
            shown = x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
            if obstacle := admission.find_obstacle(shown, Role.SERVER):
                return Finding(obstacle, final=True)
            if encrypted.selected_alpn_protocol() != ALPN:
                return Finding("what listens there speaks TLS but not HTTP/2: no federation's server", final=True)
            if encrypted.recv(1):
                return None
    except ssl.SSLCertVerificationError as error:
        return Finding(_judge(error, host, identity, _peek(host, port, patience)), final=True)
    except (ssl.SSLEOFError, ConnectionResetError):
        pass
    except ssl.SSLError as error:
        return _interpret(error)
    except TimeoutError:
        return Finding("what listens there does not answer", final=False)
    except (OSError, ValueError) as error:  # ValueError: a host that no DNS can hold
        return Finding(f"it cannot be reached ({getattr(error, 'strerror', None) or error})", final=False)
    return Finding(
        "the server ends the handshake without a word: it is stopping, or its clock or its authority is another than "
        f"this hospital's (certificates show {identity.folder} says what this one has)",
        final=False,
    )


def speaks_tls(host: str, port: int, patience: float = PREFLIGHT_SECONDS) -> bool:
    """Whether what listens there answers a TLS handshake, with whatever certificate."""
    return _peek(host, port, patience) is not None


def _make_context(identity: Identity) -> ssl.SSLContext:
    """A hospital's side of mutual TLS; raises CertificateError where its files cannot be used any more."""
    files.check_private(identity.folder / KEY)
    files.check_regular(identity.folder / CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    try:
        context.load_cert_chain(identity.folder / CERTIFICATE, identity.folder / KEY)
        context.load_verify_locations(cadata=identity.authority_bytes.decode())
    except OSError as error:  # ssl.SSLError among them
        raise CertificateError(f"{identity.folder}: cannot be used ({error.strerror})") from None
    return context


def _judge(error: ssl.SSLCertVerificationError, host: str, identity: Identity, shown: x509.Certificate | None) -> str:
    """What is wrong with the server's certificate, in words; `shown` is what it shows to anybody."""
    lapse = certificates.find_lapse(shown) if shown else None
    match error.verify_code:
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
            return f"the server's certificate {lapse or 'is not valid now'}"
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            return f"the server's certificate is not for {host}, but for {_hosts(shown)}"
        case 26:  # X509_V_ERR_INVALID_PURPOSE
            whose = _party(shown)
            return f"what listens there shows a certificate that is not a server's{whose}"
    theirs = f", {certificates.name_of(shown.issuer)!r}" if shown else ""
    ours = certificates.name_of(identity.authority.subject)
    return f"the server's certificate is of another authority{theirs}, than this hospital's, {ours!r}"


def _interpret(error: ssl.SSLError) -> Finding:
    """What a handshake without a certificate's fault failed of."""
    if error.reason in _TOO_OLD:
        return Finding("the server speaks no TLS that is new enough (1.2 or newer)", final=True)
    if error.reason in _NOT_TLS:
        words = "what listens there does not encrypt: a server without --tls, or no federation's server"
        return Finding(words, final=True)
    return Finding(f"the handshake failed ({printable(error.reason or 'for no reason that is said')})", final=False)


def _peek(host: str, port: int, patience: float) -> x509.Certificate | None:
    """The certificate that a server shows to anybody, unverified; None where it shows none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only looked at: nothing is sent, and nothing that comes is believed
    context.set_alpn_protocols([ALPN])
    try:
        with (
            socket.create_connection((host, port), timeout=patience) as connection,
            context.wrap_socket(connection, server_hostname=host) as encrypted,
        ):
            return x509.load_der_x509_certificate(encrypted.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None


def _hosts(shown: x509.Certificate | None) -> str:
    try:
        return ", ".join(certificates.party_of(shown).hosts) if shown else "others"
    except CertificateError:
        return "others"


def _party(shown: x509.Certificate | None) -> str:
    try:
        return f", but of {certificates.party_of(shown)}" if shown else ""
    except CertificateError:
        return ""
