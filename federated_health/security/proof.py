"""Proof of a server's certificate on the very stream that a hospital uses, which gRPC does not show to a client.

The hospital sends a random challenge. The server signs it with its certificate's key, together with the certificate
that the hospital has shown in the TLS handshake of this connection. A revoked server cannot pass the challenge on to
a valid one: that one would sign the certificate of the connection to it, whose key the revoked server does not have.
"""

import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import sha256

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from federated_health.errors import CertificateError, JoinError
from federated_health.security import certificates, parties
from federated_health.security.admission import Admission
from federated_health.security.identity import KEY, Identity
from federated_health.security.parties import Role

CHALLENGE_KEY, CERTIFICATE_KEY, SIGNATURE_KEY = "server-challenge", "server-certificate-bin", "server-signature-bin"
"""Metadata keys of the hospital's challenge, in hex, and of the server's certificate (DER) and signature."""

PURPOSE = b"federated-health: the server of this connection\0"
"""Beginning of what is signed, so that the signature cannot serve another purpose."""

MAX_CHALLENGE_LENGTH = 64

Metadata = tuple[tuple[str, str | bytes], ...]


class Prover:
    """The server's side.

    Raises:
        CertificateError: the server's key cannot be read.
    """

    def __init__(self, identity: Identity) -> None:
        self._key = certificates.read_key(identity.folder / KEY)
        self._certificate = identity.certificate.public_bytes(Encoding.DER)

    def answer(self, context: grpc.aio.ServicerContext) -> Metadata:
        """Metadata that answers the challenge of a call, if it has one."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        hospital = certificates.peer_certificate(context.auth_context())
        return self.prove(metadata.get(CHALLENGE_KEY, ""), hospital)

    def prove(self, challenge: str, hospital: x509.Certificate | None) -> Metadata:
        """Metadata that answers a challenge; empty without a challenge or a certificate of the hospital."""
        if hospital is None or not 0 < len(challenge) <= MAX_CHALLENGE_LENGTH:
            return ()
        signature = self._key.sign(_statement(challenge, hospital), ec.ECDSA(SHA256()))
        return (CERTIFICATE_KEY, self._certificate), (SIGNATURE_KEY, signature)


class ServerCheck:
    """The hospital's side: checks the server of a connection at its beginning, and whether it is still valid later.

    Args:
        identity: the hospital's.
        address: HOST:PORT of the server; its certificate must hold the host.
        announce: receives a line, once per change, when `revoked.pem` cannot be used.

    Raises:
        CertificateError: `revoked.pem` cannot be used, or revokes the hospital itself.
    """

    def __init__(self, identity: Identity, address: str, announce: Callable[[str], None]) -> None:
        self._own = identity.certificate
        self._address = address
        self._host = address.rpartition(":")[0]
        self._admission = Admission(identity, announce)
        self._certificate: x509.Certificate | None = None
        self._challenge = ""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the key of the server that has proved itself (see `certificates`); empty before."""
        shown = self._certificate
        return certificates.fingerprint(certificates.public_key_of(shown)) if shown else ""

    def challenge(self) -> tuple[tuple[str, str], ...]:
        """Metadata with a new challenge. From now on only its answer counts."""
        self._challenge, self._certificate = secrets.token_hex(16), None
        return ((CHALLENGE_KEY, self._challenge),)

    def ask(
        self,
        prove: grpc.UnaryUnaryMultiCallable,
        limited: Callable[[grpc.Call], AbstractContextManager[object]] = nullcontext,
        timeout: float | None = None,
    ) -> grpc.Call | None:
        """Have a server prove itself; JoinError if it is rejected.

        Args:
            prove: the method of the server that does.
            limited: limits the time that a call takes.
            timeout: time limit in seconds.

        Returns:
            A call that failed, if the server cannot be reached.
        """
        call = prove.future(b"", timeout, self.challenge())
        with limited(call):
            code = call.code()
        if code not in (grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED):
            return call
        self.check_answer(call.initial_metadata())
        return None

    def check_answer(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> None:
        """Raise JoinError if the server that answered the challenge with this metadata is rejected."""
        if reason := self.rejection_reason(metadata):
            raise JoinError(f"{self._address}: {reason}")

    def check_validity(self) -> None:
        """Raise JoinError if the server has not been accepted, or has expired or been revoked since. Cheap."""
        if reason := self.expiry_reason():
            raise JoinError(f"{self._address}: {reason}")

    def rejection_reason(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
        """Why the server that answered the challenge with this metadata is rejected; None if it is accepted."""
        answer = dict(metadata or ())
        certificate, signature = answer.get(CERTIFICATE_KEY), answer.get(SIGNATURE_KEY)
        shown = None
        with suppress(*certificates.MALFORMED):
            shown = x509.load_der_x509_certificate(certificate)  # type: ignore[arg-type]  # a TypeError is MALFORMED
        if shown is None:
            return "the server does not prove its certificate: it is of another version, or not a federation's server"
        if reason := self._admission.rejection_reason(shown, Role.SERVER):
            return reason
        if not parties.is_one_of(self._host, certificates.party_of(shown).hosts):
            return f"the server's certificate is not for {self._host}"
        with suppress(*certificates.MALFORMED, CertificateError):
            statement = _statement(self._challenge, self._own)
            certificates.public_key_of(shown).verify(signature, statement, ec.ECDSA(SHA256()))  # type: ignore[arg-type]
            self._certificate = shown
            return None
        return "the server does not hold the key of its certificate, or passes another server's answers on"

    def expiry_reason(self) -> str | None:
        """Why the server is now rejected; None if it is not."""
        if self._certificate is None:
            return "the server has not proved its certificate"
        return self._admission.expiry_reason(self._certificate, Role.SERVER)


def _statement(challenge: str, hospital: x509.Certificate) -> bytes:
    """What the server signs."""
    return PURPOSE + challenge.encode() + b"\0" + sha256(hospital.public_bytes(Encoding.DER)).digest()
