"""Rejected calls at the server's port: each kind is announced once, and calls are counted per peer."""

from collections import Counter, OrderedDict
from urllib.parse import unquote

from federated_health.names import printable
from federated_health.transport.announcements import REJECTIONS, Announcements

MAX_ANNOUNCED = 1000
"""Number of the latest rejections that are not announced again until the hospital has joined, and of counted peers."""

MAX_CALLS = 10
"""Number of rejected calls after which a connection is closed; a hospital connects anew for every attempt."""


class Rejections:
    """The rejections of one server; a rejected caller may retry every second."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements
        self._announced: OrderedDict[str, str] = OrderedDict()  # lines, with the hospital's name
        self._calls: Counter[str] = Counter()

    def add(self, peer: str, name: str, verb: str, reason: str) -> None:
        """Count a rejected call, and announce what has happened to a peer unless it was announced before.

        Args:
            peer: gRPC's text for the peer.
            name: that the peer gave, whatever it is.
            verb: such as "rejected".
        """
        family, _, address = unquote(peer).partition(":")
        # The port is left out, since it differs in every call.
        caller = printable(address.rpartition(":")[0] if family.startswith("ip") else family, 100)
        shown = printable(name, 63) or "an unknown peer"
        line = f"{verb} {shown}: {reason} (from {caller})"
        if line not in self._announced:
            self._announcements.announce(line, shown, REJECTIONS)
            self._announced[line] = name
            if len(self._announced) > MAX_ANNOUNCED:
                self._announced.popitem(last=False)
        if len(self._calls) >= MAX_ANNOUNCED:
            self._calls.clear()
        self._calls[peer] += 1

    def forget(self, name: str) -> None:
        """Announce rejections of a hospital again: it has joined."""
        self._announced = OrderedDict(item for item in self._announced.items() if item[1] != name)

    def take_persistent(self) -> set[str]:
        """Peers whose connection must end, after MAX_CALLS rejected calls; their count begins anew."""
        peers = {peer for peer, calls in self._calls.items() if calls >= MAX_CALLS}
        for peer in peers:
            del self._calls[peer]
        return peers
