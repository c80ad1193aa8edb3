"""Hospitals of `chaos.py` that hang while their connection lives: a handler, or the disk of the ledger, freezes."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from unittest.mock import patch

from chaos_hospital import round_of
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

MAX_UNANSWERED = 3
"""Largest number of messages that a hanging hospital may leave unanswered, however many rounds it misses.

That of the round in which it hangs, and at most two that it got before it was noticed, or after it had answered again.
"""

HANDLER, DISK = "handler", "disk"


@dataclass(frozen=True)
class Hang:
    """What freezes: HANDLER or DISK, and whether it never thaws."""

    part: str
    is_lasting: bool


HANGS: Mapping[str, Hang] = {
    "a handler, for ever": Hang(HANDLER, True),
    "the ledger's disk, for a while": Hang(DISK, False),
    "the ledger's disk, for ever": Hang(DISK, True),
    "a handler, for a while": Hang(HANDLER, False),
}


class HangingApp(ClientApp):
    """A hospital's app that freezes once.

    Args:
        first: round in which it freezes, or the next round in which the hospital trains.
        seconds: for how long, unless the hang is lasting.
    """

    def __init__(self, app: ClientApp, hang: Hang, first: int, seconds: float) -> None:
        super().__init__()
        self._app, self._hang, self._first, self._seconds = app, hang, first, seconds
        self._has_hung = False

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self._app(message, context)
        if not self._has_hung and message.metadata.message_type == "train" and round_of(message) >= self._first:
            self._has_hung = True
            if self._hang.part == DISK:
                self._freeze_disk()
            else:
                self._wait()
        return reply

    def _freeze_disk(self) -> None:
        """Make the next synchronisation with the disk wait; a hospital's ledger is synchronised before a reply."""
        synchronise = os.fsync

        def wait_and_synchronise(descriptor: int) -> None:
            patched.stop()
            self._wait()
            synchronise(descriptor)

        patched = patch("os.fsync", wait_and_synchronise)
        patched.start()

    def _wait(self) -> None:
        if self._hang.is_lasting:
            threading.Event().wait()
        time.sleep(self._seconds)
