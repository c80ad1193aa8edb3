"""Federated learning between hospitals: one risk model, and no patient record leaves a hospital.

`docs/python-api.md` explains the public names, which are loaded on first use.
"""

import os

TYPE_CHECKING = False  # instead of importing typing, which delays `interrupts.begin_script`

if TYPE_CHECKING:
    from typing import Any

    from federated_health.api import (
        Model,
        Result,
        Task,
        UserError,
        draft_task,
        federate,
        load_model,
        read_task,
        write_task,
    )

# gRPC writes a line to stderr for every handshake that fails, without saying whose: an unknown peer, or a proxy, could
# fill a terminal with them. It reads this when it is imported, so a server imports something of this package first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
for _name in ("GRPC_POLL_STRATEGY", "GRPC_SSL_CIPHER_SUITES", "GRPC_EXPERIMENTS"):
    os.environ.pop(_name, None)  # they can end the process, or change how it connects

__version__ = "0.2.0"

__all__ = ["Model", "Result", "Task", "UserError", "draft_task", "federate", "load_model", "read_task", "write_task"]


def __getattr__(name: str) -> "Any":
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from federated_health import api  # noqa: PLC0415  # a server and a client need none of it

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
