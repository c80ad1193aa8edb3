"""The terminal of a command: lines with the time, logging, exit codes and signals."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape


class _Console(Console):
    """Goes on without output when its reader is gone, such as `head`: a run does not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Console(highlight=False, emoji=False)


def say(line: str) -> None:
    """Print a line with the time."""
    console.print(escape(f"{time.strftime('%H:%M:%S')} {line}"), soft_wrap=True)


def print_lines(title: str, lines: Iterable[str]) -> None:
    """Print a line, and others indented below it."""
    console.print(escape(title), soft_wrap=True)
    for line in lines:
        console.print(escape(f"  {line}"), soft_wrap=True)


def figure(value: float | None) -> str:
    """A figure with three decimals; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main` and end the process; an error that the user can fix is printed as one line.

    Such an exception has an `exit_code`. Ctrl-C and SIGTERM end with 130. A closed pipe is no error.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
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
                if stream is not None:  # it was closed at the start
                    stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


@contextmanager
def interrupts_deferred(announcement: str) -> Iterator[None]:
    """Defer Ctrl-C or SIGTERM to the end of the block, and announce that; a second one ends the block at once."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return
    caught: list[int] = []

    def defer(number: int, _: object) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt
        # A handler may interrupt a print, within which it must not print.
        threading.Thread(target=say, args=(announcement,), daemon=True).start()

    before = {number: signal.signal(number, defer) for number in (signal.SIGINT, signal.SIGTERM)}
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
    """Show the package's log as lines with the time, and only warnings of libraries unless verbose.

    Args:
        file: a log file that also receives every message of the package.
    """
    logger = logging.getLogger("federated_health")
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
    for name in ("flwr", "grpc", "tensorflow"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ConsoleStream:
    """Writes through the console, so that log lines and a live progress bar do not overwrite each other."""

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            console.print(escape(line), soft_wrap=True)
