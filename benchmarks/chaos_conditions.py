"""What a process of `chaos.py` finds when it starts: environment variables, its output, keep-alive, file systems."""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chaos_mounts import enter_mounts

FULL_DISK, CLOSED_PIPE, CLOSED, ASCII = "a full disk", "a pipe without a reader", "closed", "ASCII only"

OUTPUTS = (FULL_DISK, CLOSED_PIPE, CLOSED, ASCII)
"""How the output of a process fails."""

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What differs from an ordinary start.

    Attributes:
        environment: variables besides the inherited ones.
        output: a kind of OUTPUTS; empty for the log file alone.
        seconds: after which a disk is full, or a pipe's reader ends.
        keepalive: seconds of silence before a ping; None for the package's own.
        mounts: id of a process whose file systems this one sees, too; None for the parent's.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    output: str = ""
    seconds: float = 0.0
    keepalive: float | None = None
    mounts: int | None = None

    def enter(self) -> None:
        """Make them so for this process, which is to do this before anything else."""
        os.environ.update(self.environment)
        if self.mounts is not None:
            enter_mounts(self.mounts)
        if self.keepalive is not None:
            from federated_health.transport import channels  # most processes need no other keep-alive

            channels.KEEPALIVE_SECONDS = self.keepalive
            channels.CHANNEL_OPTIONS = channels.channel_options(self.keepalive)
        if self.output == FULL_DISK:
            _start_timer(self.seconds, lambda: _redirect_output(os.open("/dev/full", os.O_WRONLY)))
        elif self.output == CLOSED_PIPE:
            reader, writer = os.pipe()
            _redirect_output(writer)
            _start_timer(self.seconds, lambda: os.close(reader))
        elif self.output == CLOSED:  # as Python finds it after `>&- 2>&-`
            sys.stdout = sys.stderr = None
            os.close(1)
            os.close(2)
        elif self.output == ASCII:
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(encoding="ascii", errors="strict")  # type: ignore[union-attr]  # a text file


ORDINARY = Conditions()


def proxy_variables(address: str) -> dict[str, str]:
    """The variables that name a proxy, in both spellings."""
    names = [*PROXY_VARIABLES, *(name.upper() for name in PROXY_VARIABLES)]
    return dict.fromkeys(names, f"http://{address}") | {"no_proxy": "", "NO_PROXY": ""}


def _redirect_output(descriptor: int) -> None:
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


def _start_timer(seconds: float, call: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
