"""Who is who in a federation: its authority, whom it signs, and what an encrypted connection says of the other side.

A hospital's or server's key is made on its own machine and stays there. What travels is a signing request one way and
a certificate the other, and neither is secret. Roles are in the certificate: a hospital's is good for joining and for
nothing else, so that no hospital can pose as the server.
"""

from federated_health.security.admission import Admission
from federated_health.security.authority import Authority
from federated_health.security.diagnosis import Finding, diagnose, speaks_tls
from federated_health.security.identity import Identity, load_identity, renew_request, request_identity
from federated_health.security.parties import Party, Role, hospital, server
from federated_health.security.rehearsal import make_all_identities

__all__ = [
    "Admission",
    "Authority",
    "Finding",
    "Identity",
    "Party",
    "Role",
    "diagnose",
    "hospital",
    "load_identity",
    "make_all_identities",
    "renew_request",
    "request_identity",
    "server",
    "speaks_tls",
]
