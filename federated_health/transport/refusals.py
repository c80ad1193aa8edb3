"""Log of the callers that a server refused: each refusal once, with the caller's address."""

from collections.abc import Callable
from urllib.parse import unquote

import grpc

from federated_health.names import printable

MAX_REFUSALS = 1000
"""Different refusals that are announced until a hospital joins, so that a stranger cannot fill the log."""


class RefusalLog:
    """Announces refusals.

    Args:
        announce: receives a line per refusal.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._announced: set[str] = set()

    def add(self, refusal: str, context: grpc.aio.ServicerContext) -> None:
        """Announce a refusal of a call, unless it was announced before: a refused caller may retry every second."""
        line = f"{refusal} (from {caller_address(context)})"
        if line not in self._announced and len(self._announced) < MAX_REFUSALS:
            self._announce(line)
            self._announced.add(line)

    def clear(self) -> None:
        """Announce every refusal anew."""
        self._announced.clear()


def caller_address(context: grpc.aio.ServicerContext) -> str:
    """Address that a call comes from, without the port, which differs in every call."""
    family, _, address = unquote(str(context.peer())).partition(":")
    return printable(address.rpartition(":")[0] if family.startswith("ip") else family, 100)
