"""What the doors share: how a command ends, logging, the console. Nothing of medicine; of libraries the logs' names."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False, emoji=False)

PACKAGE = "federated_health"
CHATTY = ("flwr", "grpc", "tensorflow")

MAX_ROWS = 200
"""Of a printed table."""

NARROWEST = 13
"""Letters of a name that a table shows in one line, as far as the name has them."""


def run_script(main: Callable[[], None]) -> NoReturn:
    """Run a command's `main`, and turn what a user can cause into one line and an exit code.

    An exception with an `exit_code` is the user's to put right; Ctrl-C and SIGTERM end with 130; a pipe that was closed
    at the other end is no error.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
    except KeyboardInterrupt:
        print_error("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()  # else Python complains about the pipe once more at exit
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        print_error(f"error: {error}", error.exit_code)
    sys.exit(0)


def run_process(main: Callable[[], None]) -> NoReturn:
    """`run_script` as a process's last act, which then ends without clearing up: after TensorFlow that takes seconds.

    What is to be done at the end is to be done in `main`: functions of `atexit` are not called.
    """
    try:
        run_script(main)
    except SystemExit as end:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
                stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is over, such as while a result is saved."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers, or gets signals
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


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def print_error(line: str, code: int) -> NoReturn:
    """One line for the user, and the end of the process with an exit code."""
    print(" ".join(line.split()), file=sys.stderr)
    sys.exit(code)


def configure_logging(*, verbose: bool, file: Path | None = None) -> None:
    """Show the package's messages as lines with the time; keep chatty libraries to warnings unless verbose.

    Args:
        file: a log that gets everything of the package, too.
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
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.WARNING)


class _ConsoleStream:
    """Writes through the console, so that lines and a live progress bar do not overwrite each other."""

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            console.print(escape(line), soft_wrap=True)

    def flush(self) -> None:
        """The console flushes by itself."""


def say(line: str) -> None:
    """One line with the time."""
    console.print(escape(f"{time.strftime('%H:%M:%S')} {line}"), soft_wrap=True)


@contextmanager
def round_progress(total: int) -> Iterator[Callable[[int, float | None, float | None], None]]:
    """A bar over rounds with loss and accuracy; some ten lines instead where there is no terminal.

    The first round that is shown need not be round 1.

    Yields:
        A function to call after each round with its number, the federation's loss and accuracy.
    """
    columns = TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[text]}")
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("round", total=total, text="")
        started = first_done = time.monotonic()
        first = 0

        def update(number: int, loss: float | None, accuracy: float | None) -> None:
            nonlocal first, first_done
            if not first:
                first, first_done = number, time.monotonic()
            is_known = loss is not None or accuracy is not None  # the server of an encrypted run cannot read them
            text = f"loss {figure(loss)}  accuracy {figure(accuracy)}" if is_known else ""
            progress.update(bar, completed=number, text=text)
            if not console.is_terminal and (number % max(1, total // 10) == 0 or number in (first, total)):
                say(f"round {number}/{total}{text and f': {text}'}")
            if number == total:
                after_first = (total - first) / max(time.monotonic() - first_done, 1e-9)
                line = f"{total - first + 1} rounds in {time.monotonic() - started:.1f} s"
                say(line + (f"; {after_first:.1f} rounds a second after the first" if total > first else ""))

        yield update


@contextmanager
def progress(noun: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left; some ten lines instead where there is no terminal.

    Yields:
        A function to call with how many of how many are done.
    """
    columns = (
        TextColumn(noun),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=120) as bars:
        bar = bars.add_task(noun, total=None)

        def update(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)
            if not console.is_terminal and (done % max(1, total // 10) == 0 or done == total):
                say(f"{noun} {done}/{total}")

        yield update


def print_lines(title: str, lines: Iterable[str]) -> None:
    """A line, and others below it, indented."""
    console.print(escape(title), soft_wrap=True)
    for line in lines:
        console.print(escape(f"  {line}"), soft_wrap=True)


class Page(Protocol):
    """A title, lines below it, and tables."""

    @property
    def title(self) -> str: ...
    def lines(self) -> Iterable[str]: ...
    def tables(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]: ...


def print_page(page: Page) -> None:
    """Lines, then tables."""
    print_lines(page.title, page.lines())
    for title, table in page.tables().items():
        print_figures(title, table)


def figure(value: float | None) -> str:
    """A figure with three decimals; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def difference(interval: Mapping[str, float | None]) -> str:
    """A difference with its interval, `value` and `low` and `high`; a dash where it is not defined."""
    if interval["value"] is None:
        return "-"
    return f"{interval['value']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})"


def print_figures(title: str, figures: Mapping[str, Mapping[str, Any]], note: str = "") -> None:
    """A table with a row a name and a column a figure; whole numbers as they are, others with three decimals.

    Of many rows the first ones are shown.
    """
    more = max(0, len(figures) - MAX_ROWS)
    figures = dict(list(figures.items())[:MAX_ROWS])
    columns = list(dict.fromkeys(key for row in figures.values() for key in row))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    # Names and words give way where a terminal is narrow, so that no figure does.
    table.add_column("", overflow="fold", min_width=min(NARROWEST, max(map(len, figures), default=0)))
    for column in columns:
        cells = [row.get(column, "") for row in figures.values()]
        words = all(isinstance(cell, str) and not re.search(r"\d", cell) for cell in cells)
        head = column.removesuffix("_examples").replace("_", " ")
        table.add_column(head, justify="right", no_wrap=not words)
    for name, row in figures.items():
        cells = [row.get(column, "") for column in columns]
        table.add_row(escape(name), *(str(cell) if isinstance(cell, int | str) else figure(cell) for cell in cells))
    console.print(f"\n[bold]{escape(title)}[/bold]", soft_wrap=True)
    console.print(Padding(table, (1, 0, 1, 1), expand=False))
    if more:
        console.print(f"... and {more} more\n")
    if note:
        console.print(escape(note), "")
