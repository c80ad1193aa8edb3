"""A proxy whose link carries a limited number of bytes per second, each way."""

import socket
import time
from contextlib import suppress

from tests.support.streams import Proxy

STEPS_PER_SECOND = 50


class SlowProxy(Proxy):
    """Forwards at most `rate` bytes per second each way; what does not fit waits in the buffers of both systems."""

    def __init__(self, target: str, rate: int) -> None:
        self._rate = rate
        super().__init__(target)

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(max(1, self._rate // STEPS_PER_SECOND)):
                self._flows.wait()
                target.sendall(content)
                time.sleep(len(content) / self._rate)
