"""What a server checks, proves and announces over TLS, besides what gRPC does."""

from collections.abc import Callable
from functools import partial

import grpc

from federated_health.security.admission import Admission
from federated_health.security.certificates import peer_certificate
from federated_health.security.identity import ExpiryReminders, Identity
from federated_health.security.parties import Role
from federated_health.security.proof import Prover


class ServerChecks:
    """The checks of one server.

    Args:
        identity: the server's.
        announce: receives a line, once per change, when `revoked.pem` cannot be used.

    Attributes:
        prove: metadata that answers the challenge of a call (see `proof.Prover.answer`).
        due_reminders: lines about the ends of certificates that are due now (see `ExpiryReminders.due`).

    Raises:
        CertificateError: a file in the identity's folder cannot be used.
    """

    def __init__(self, identity: Identity, announce: Callable[[str], None]) -> None:
        self._admission = Admission(identity, announce)
        self.prove = Prover(identity).answer
        self.due_reminders = ExpiryReminders(identity).due

    def check_hospital(
        self, context: grpc.aio.ServicerContext, name: str
    ) -> tuple[str | None, Callable[[], str | None]]:
        """Check the certificate of the peer of a call.

        Returns:
            Why the peer is rejected, or None; a function that says later why it is no longer accepted, or None.
        """
        certificate = peer_certificate(context.auth_context())
        rejection = self._admission.rejection_reason(certificate, Role.HOSPITAL, name)
        if certificate is None:
            return rejection, lambda: rejection
        return rejection, partial(self._admission.expiry_reason, certificate, Role.HOSPITAL)
