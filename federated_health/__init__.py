"""Federated learning between hospitals: one risk model, and no patient record leaves a hospital."""

import os

# gRPC writes a line to stderr for every handshake that fails, without saying whose: an unknown peer could fill a
# terminal with them. It reads this when it is imported, so a server imports something of this package first.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

__version__ = "0.2.0"
