"""An attacker that holds idle connections to a server on this machine, and opens each that is closed again at once.

`python idle_sockets.py HOST:PORT CONNECTIONS SECONDS` ends after that time or MAX_OPENED connections, and prints their
number. It sends nothing: neither a TLS handshake nor HTTP/2.
"""

import selectors
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks run from a checkout, not installed

from federated_health.transport.channels import split_address
from federated_health.transport.listening import open_files

MAX_OPENED = 1_000_000
PER_TURN = 200
"""Largest number of connections that are opened before closed ones are looked for."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which a closed connection keeps no port of this machine in use."""


def hold(address: str, connections: int, seconds: float) -> int:
    """Hold this number of connections for a time; returns how many were opened in all."""
    where, deadline = split_address(address), time.monotonic() + seconds
    opened, held = 0, set[socket.socket]()
    with selectors.DefaultSelector() as selector:
        while time.monotonic() < deadline and opened < MAX_OPENED:
            for _ in range(min(PER_TURN, connections - len(held))):
                end = socket.socket()
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.setblocking(False)
                with suppress(BlockingIOError):
                    end.connect(where)
                selector.register(end, selectors.EVENT_READ)
                held.add(end)
                opened += 1
            readable = selector.select(0.01 if len(held) == connections else 0)
            files = {key.fd for key, _ in readable}
            for end in [end for end in held if end.fileno() in files and _has_ended(end)]:
                selector.unregister(end)
                held.remove(end)
                end.close()
        for end in held:
            end.close()
    return opened


def _has_ended(end: socket.socket) -> bool:
    try:
        return not end.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    open_files(int(sys.argv[2]) + 100)
    print(hold(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
