"""Certificates, admission of peers, and diagnosis of failed connections.

A hospital or a server makes its key on its own machine, and the key stays there. A signing request travels one way and
a certificate the other, and neither is secret. A certificate states its party's role: a hospital's is valid only for
joining, so that no hospital can impersonate the server.

A run without TLS loads nothing but this module. May import `report` and everything below.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from federated_health.security.identity import Identity


def load() -> ModuleType:
    """This package with `handshake`, `server_checks` and what these import, such as `proof`."""
    from federated_health.security import handshake, server_checks  # noqa: F401, PLC0415  # the loader of this folder

    return sys.modules[__name__]


def load_tls(folder: Path, role: Literal["server", "hospital"]) -> "Identity":
    """The identity in a TLS folder (see `identity.load_identity`)."""
    security = load()
    identity: Identity = security.identity.load_identity(folder, security.parties.Role(role))
    return identity
