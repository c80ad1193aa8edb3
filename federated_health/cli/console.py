"""The terminal of a command: lines with the time, logging and exit codes.

What cannot be written to standard output or standard error is dropped, so that it never changes what a command does.
"""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from rich.console import Console
from rich.markup import escape

from federated_health import interrupts


class SafeStream:
    """A stream of text on which writing never raises: a full disk, a reader that is gone, a missing character.

    What cannot be written is dropped. A character that the encoding lacks becomes an escape sequence.

    Args:
        stream: the stream; None if it was closed before the process began.

    Attributes:
        problem: the first error; None if everything was written.
    """

    def __init__(self, stream: Any) -> None:
        self.problem: Exception | None = None
        if stream is None:
            self.problem = OSError(errno.EBADF, "it is closed")
            stream = open(os.devnull, "w")  # noqa: PTH123, SIM115  # for the life of the process
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._write, text)
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[..., object], *arguments: str) -> None:
        try:
            act(*arguments)
        except (OSError, ValueError) as error:  # a ValueError if the stream was closed
            self.problem = self.problem or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Console(Console):
    """Drops what it cannot write, also in a process of Flower's, whose streams are not `SafeStream`s."""

    @property  # type: ignore[misc]  # nothing sets it
    def file(self) -> IO[str]:
        return cast(IO[str], SafeStream(super().file))


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

    Such an exception has an `exit_code`. Ctrl-C and SIGTERM end with 130.
    """
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), SafeStream):
            setattr(sys, name, SafeStream(stream))
    interrupts.raise_interrupts()
    try:
        try:
            main()
        finally:
            interrupts.end_at_once()
    except KeyboardInterrupt:
        print_error(interrupts.STOPPED, interrupts.EXIT_CODE)
    except Exception as error:
        if hasattr(error, "exit_code"):
            print_error(f"error: {error}", error.exit_code)
        if interrupts.is_interrupted():
            print_error(interrupts.STOPPED, interrupts.EXIT_CODE)
        raise
    sys.exit(0)


def run_process(main: Callable[[], None]) -> NoReturn:
    """`run_script` without Python's clean-up at exit, which takes seconds after TensorFlow.

    Functions registered with `atexit` are not called.
    """
    try:
        run_script(main)
    except SystemExit as end:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


def print_error(line: str, code: int) -> NoReturn:
    """Print one line for the user, and end the process with an exit code."""
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


def configure_logging(*, verbose: bool, file: Path | None = None) -> None:
    """Show the package's log as lines with the time, and only warnings of libraries unless verbose.

    Args:
        file: a log file that also receives every message of the package.

    Raises:
        StorageError: the log file cannot be opened.
    """
    logging.raiseExceptions = False  # a library's own handler, too, drops what it cannot write
    logger = logging.getLogger("federated_health")
    logger.setLevel(logging.DEBUG if verbose or file else logging.INFO)
    logger.propagate = False
    screen = logging.StreamHandler(_ConsoleStream())
    screen.setLevel(logging.DEBUG if verbose else logging.INFO)
    screen.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.addHandler(screen)
    if file is not None:
        from federated_health.cli.output import LogFile  # noqa: PLC0415  # most commands write no log

        handler = LogFile(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    for name in ("flwr", "grpc", "tensorflow"):
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ConsoleStream:
    """Writes through the console, so that log lines and a live progress bar do not overwrite each other."""

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            console.print(escape(line), soft_wrap=True)
