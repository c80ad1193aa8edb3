"""How a script reacts to Ctrl-C and SIGTERM: while it starts and ends they end it at once, else they interrupt it.

An exception that a signal raises during an import may be lost, or become another one, in a library's C code. A process
that imports this package as a library keeps its own signal handlers.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TYPE_CHECKING = False  # what is not imported here delays `begin_script` less

if TYPE_CHECKING:
    from typing import Any

SIGNALS = signal.SIGINT, signal.SIGTERM

STOPPED, EXIT_CODE = "stopped", 130
"""What an interrupted script writes to standard error, and its exit code."""

RETRY_SECONDS = 0.1
"""Delay before an interrupt is raised again that a library dropped."""

_received: list[int] = []


def begin_script(name: str) -> None:
    """From here on, signals end a script at once; does nothing unless the name of its module is `__main__`.

    A script calls this before it imports anything large.
    """
    if name == "__main__":
        _open_standard_streams()
        end_at_once()


def _open_standard_streams() -> None:
    """Open /dev/null in place of closed standard streams, so that no file gets their numbers, and then their output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def end_at_once(stderr: int = 2) -> None:
    """From here on, signals end the process without any clean-up.

    Args:
        stderr: file descriptor for the line that says so.
    """

    def end(*_: object) -> None:
        with suppress(OSError):
            os.write(stderr, f"{STOPPED}\n".encode())
        os._exit(EXIT_CODE)

    _handle(end)


def raise_interrupts() -> None:
    """From here on, signals raise KeyboardInterrupt in the main thread, again if a library drops the exception."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _raise_again
    _handle(_interrupt)


def _raise_again(unraisable: "Any") -> None:
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    if os.name == "nt":  # it has no `pthread_kill`; Ctrl-C once more ends the script
        return
    import threading  # noqa: PLC0415  # seldom needed

    main = threading.main_thread().ident or 0  # where a signal also ends a wait
    timer = threading.Timer(RETRY_SECONDS, signal.pthread_kill, (main, signal.SIGTERM))
    timer.daemon = True
    timer.start()


def is_interrupted() -> bool:
    """Whether a signal has interrupted this process, so that an unexpected exception may come from it."""
    return bool(_received)


@contextmanager
def ending_at_once(stderr: int = 2) -> Iterator[None]:
    """Let signals end a script at once until the block ends, for a large import; other processes are left alone.

    Args:
        stderr: see `end_at_once`.
    """
    import threading  # noqa: PLC0415  # not yet when a script begins

    in_main_thread = threading.current_thread() is threading.main_thread()  # only it can set signal handlers
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not _interrupt:
        yield
        return
    end_at_once(stderr)
    try:
        yield
    finally:
        _handle(_interrupt)


def _interrupt(number: int, _: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _handle(handler: "Any") -> None:
    """Set the handler of both signals; Ctrl-C stays ignored in a process that a shell script runs in the background."""
    for number in SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
