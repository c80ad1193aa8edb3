"""Certificates of a federation: its authority, the parties that it signs, and who is admitted over mutual TLS.

A hospital's or server's key is made on its own machine and stays there; only a signing request and a certificate
travel, and neither is secret. A certificate has one role: a hospital's is good for joining only, so that no hospital
can pose as the server. Imports only errors, names and files; a run without TLS does not import it.
"""

from federated_health.security.admission import Admission
from federated_health.security.authority import Authority, make_demo_identities
from federated_health.security.certificates import peer_certificate
from federated_health.security.handshake import find_connection_problem
from federated_health.security.identity import Identity, load_identity, renew_request, request_identity
from federated_health.security.parties import Party, Role, hospital, server

__all__ = [
    "Admission",
    "Authority",
    "Identity",
    "Party",
    "Role",
    "find_connection_problem",
    "hospital",
    "load_identity",
    "make_demo_identities",
    "peer_certificate",
    "renew_request",
    "request_identity",
    "server",
]
