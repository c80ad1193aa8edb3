"""Encrypted averaging: the server sums ciphertexts that it cannot decrypt, and only the hospitals hold the key.

It protects from a server, and its operator, that follow the protocol and are curious. Hospitals make a key of the CKKS
scheme, encrypt what they send, and decrypt the sums that the server sends back. All of them hold the same key: a hospital
that passes it, or a ciphertext, to the server's operator reveals every hospital's updates.

A plain run loads nothing but this module. May import `server`, `hospital` and everything below; these two reach it
through `load` only.
"""

import sys
from types import ModuleType


def load() -> ModuleType:
    """This package with `handlers`, `messages` and `run`, for an encrypted run."""
    from federated_health.encryption import handlers, messages, run  # noqa: F401, PLC0415  # the loader of this folder

    return sys.modules[__name__]
