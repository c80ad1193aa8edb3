"""The parser class of all commands, and types for flags."""

import argparse
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from federated_health.cli.console import print_error
from federated_health.names import MAX_WAIT

Number = TypeVar("Number", int, float)

Command = Callable[[argparse.Namespace], None]


class _Formatter(argparse.HelpFormatter):
    """Wraps paragraphs at the terminal's width, but not indented lines: they are commands."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line if line[:1] == " " else super(_Formatter, self)._fill_text(line, width, indent) for line in lines
        )


class CommandParser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage of every flag above it.

    Flags cannot be abbreviated, since an abbreviation changes its meaning when a flag is added.

    Args:
        examples: flags of commands that --help shows below the flags.
    """

    def __init__(self, description: str, *, examples: Iterable[str] = (), **keywords: Any) -> None:
        keywords |= {"allow_abbrev": False, "formatter_class": partial(_Formatter, max_help_position=28)}
        super().__init__(description=description, **keywords)
        self.show_examples(examples)

    def show_examples(self, examples: Iterable[str]) -> None:
        command = f"python {self.prog}" if self.prog.endswith(".py") else self.prog
        self.epilog = "\n".join(["Examples:", *(f"  {command} {flags}".rstrip() for flags in examples)])

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(message, file)
        if file is sys.stdout:  # --help or --version
            from federated_health.cli.output import check_output  # noqa: PLC0415  # only there

            check_output()

    def error(self, message: str) -> NoReturn:
        print_error(f"error: {message}; see {self.prog} --help", 2)


def add_subcommand(subcommands: Any, name: str, run: Command, help: str, examples: Iterable[str]) -> Any:
    """Add a subcommand, whose help text is also its description.

    Args:
        run: function that carries it out; the parsed flags hold it as `run`.
        examples: flags of commands that its --help shows below the flags.
    """
    subcommand = subcommands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    subcommand.show_examples(examples)
    subcommand.set_defaults(run=run)
    return subcommand


def path_text(text: str) -> str:
    """Type of a setting that is a path; an empty one would mean that the flag is not given."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return text


def path(text: str) -> Path:
    """Type of a flag that is a path; an empty one would be the current folder."""
    return Path(path_text(text))


def _number(kind: Callable[[str], Number], rule: str, allowed: Callable[[Number], bool]) -> Callable[[str], Number]:
    """A flag's type for argparse: reads a number, and rejects what is not allowed with the rule as the message."""

    def read(text: str) -> Number:
        with suppress(ValueError):
            if allowed(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"expected {rule}, got {text!r}")

    return read


whole = _number(int, "a whole number", lambda _: True)
number = _number(float, "a number", lambda _: True)
"""Numbers whose range is checked elsewhere, such as by `Settings`."""

seconds = _number(float, f"a number above 0 and at most {MAX_WAIT:,.0f}", lambda value: 0 < value <= MAX_WAIT)
epsilon = _number(float, "a number above 0 and at most 1000", lambda value: 0 < value <= 1000)
seed = _number(int, "a whole number from 0 to 2147483647", lambda value: 0 <= value < 2**31)
count = _number(int, "a whole number from 1", lambda value: 1 <= value < 2**31)
port = _number(int, "a whole number from 1 to 65535", lambda value: 1 <= value < 2**16)
_ratio = _number(float, "numbers above 0 between commas, such as 8,4,2,1", lambda value: 0 < value < float("inf"))


def numbers(text: str) -> tuple[float, ...]:
    """Numbers above 0 separated by commas, for argparse."""
    return tuple(_ratio(part) for part in text.split(","))
