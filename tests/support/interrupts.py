"""Ctrl-C in tests."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sigint_enabled() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt in this process, and in every Python process that it starts.

    A shell script that starts the tests in the background has them ignore SIGINT, and so does nohup in some shells;
    child processes inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
