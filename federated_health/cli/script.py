"""How a command runs and ends: exit codes, signals, logging."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from rich.markup import escape

from federated_health.cli.console import console

PACKAGE = "federated_health"
LIBRARIES = ("flwr", "grpc", "tensorflow")
"""Loggers that are kept to warnings unless the user asks for more."""


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main`, and end with one line and an exit code where the user can fix what is wrong.

    An exception with an `exit_code` is the user's to fix; Ctrl-C and SIGTERM end with 130; a closed pipe is no error.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
    except KeyboardInterrupt:
        print_error("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # otherwise Python reports the pipe again at exit
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        print_error(f"error: {error}", error.exit_code)
    sys.exit(0)


def run_process(main: Callable[[], None]) -> NoReturn:
    """`run_script` without Python's clean-up at exit, which takes seconds after TensorFlow.

    Functions registered with `atexit` are not called.
    """
    try:
        run_script(main)
    except SystemExit as end:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # its reader is gone, or it is closed
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the block, such as while results are saved."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return
    caught: list[int] = []
    before = {number: signal.signal(number, lambda *_: caught.append(1)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


def print_error(line: str, code: int) -> NoReturn:
    """Print one line for the user, and end the process with an exit code."""
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


def configure_logging(*, verbose: bool, file: Path | None = None) -> None:
    """Show the package's log as lines with the time, and libraries' logs from warnings on, unless verbose.

    Args:
        file: a log that gets every message of the package, too.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(logging.DEBUG if verbose or file else logging.INFO)
    logger.propagate = False
    screen = logging.StreamHandler(_ConsoleStream())
    screen.setLevel(logging.DEBUG if verbose else logging.INFO)
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(screen)
    if file is not None:
        handler = logging.FileHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ConsoleStream:
    """Writes through the console, so that log lines and a live progress bar do not overwrite each other."""

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            console.print(escape(line), soft_wrap=True)

    def flush(self) -> None:
        """The console flushes by itself."""


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt
