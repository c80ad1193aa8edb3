"""The parser of every command: types of its flags, and a flag for every setting."""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

from federated_health.cli.console import print_error
from federated_health.setting_fields import MAX_WAIT, flag_of, plain

Number = TypeVar("Number", int, float)


class _Formatter(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width, and leaves indented lines, which are commands, as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            line if line[:1] == " " else super(_Formatter, self)._fill_text(line, width, indent) for line in lines
        )


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage of every flag above it.

    Flags cannot be abbreviated, since an abbreviation changes its meaning when a flag is added.

    Args:
        examples: commands that --help shows below the flags.
    """

    def __init__(self, *, examples: Iterable[str] = (), **keywords: Any) -> None:
        shown = "\n".join(["Examples:", *(f"  {command}" for command in examples)])
        keywords = {"allow_abbrev": False, "formatter_class": _Formatter, **keywords}
        super().__init__(epilog=shown if examples else None, **keywords)

    def error(self, message: str) -> NoReturn:
        print_error(f"error: {message}; see {self.prog} --help", 2)


def make_parser(description: str, prog: str | None = None, examples: Iterable[str] = ()) -> argparse.ArgumentParser:
    """A parser that ends in one line where a flag is wrong, and shows examples in its --help."""
    return _Parser(prog=prog, description=description, examples=examples)


def whole(text: str) -> int:
    """A whole number whose range is checked elsewhere, for argparse."""
    return _within(text, int, lambda _: True, "a whole number")


def number(text: str) -> float:
    """A number whose range is checked elsewhere, for argparse."""
    return _within(text, float, lambda _: True, "a number")


def seconds(text: str) -> float:
    """A positive number of seconds, for argparse."""
    return _within(text, float, lambda value: 0 < value <= MAX_WAIT, f"a number above 0 and at most {plain(MAX_WAIT)}")


def epsilon(text: str) -> float:
    """A privacy budget, for argparse."""
    return _within(text, float, lambda value: 0 < value <= 1000, "a number above 0 and at most 1000")


def seed(text: str) -> int:
    """A whole number from 0 to 2**31 - 1, for argparse."""
    return _within(text, int, lambda value: 0 <= value < 2**31, "a whole number from 0 to 2147483647")


def count(text: str) -> int:
    """A whole number from 1 to 2**31 - 1, for argparse."""
    return _within(text, int, lambda value: 1 <= value < 2**31, "a whole number from 1")


def port(text: str) -> int:
    """A TCP port, for argparse."""
    return _within(text, int, lambda value: 1 <= value < 2**16, "a whole number from 1 to 65535")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers above 0 between commas, for argparse."""
    rule = "numbers above 0 between commas, such as 8,4,2,1"
    return tuple(_within(part, float, lambda value: 0 < value < float("inf"), rule) for part in text.split(","))


def _within(text: str, kind: Callable[[str], Number], allowed: Callable[[Number], bool], rule: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(f"expected {rule}, got {text!r}")
    return value


_readers: Mapping[Any, Callable[[str], Any]] = {str: str, int: whole, float: number}
"""Readers of a setting's value by its type. `Settings` checks ranges, also for Flower's run config."""


def by_flag(flags: argparse.Namespace) -> dict[str, Any]:
    """Parsed values under their flags' own names, with dashes, as settings and the run config have them."""
    return {name.replace("_", "-"): value for name, value in vars(flags).items()}


def add_settings(
    parser: argparse.ArgumentParser, settings: type[Any], defaults: Mapping[str, Any], *, leave_out: Collection[str]
) -> None:
    """Add a flag for every field of a settings dataclass, with the group, help text and range of its metadata.

    Only flags that the user gives are among the parsed values.
    """
    groups: dict[str, Any] = {}
    for setting in fields(settings):
        flag = flag_of(setting)
        if flag in leave_out:
            continue
        default, rules = defaults[flag], setting.metadata
        title = rules["group"]
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        shown = ("no", "yes")[default] if isinstance(default, bool) else "none" if default == "" else f"{default}"
        listed = f"one of {', '.join(rules['choices'])}" if rules["choices"] and rules["unit"] else rules["range"]
        text = f"{rules['help']} ({'; '.join(part for part in (listed, f'default: {shown}') if part)})"
        keywords: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if setting.type is not bool:
            keywords = {
                "type": _readers[setting.type],
                "choices": rules["choices"] or None,
                "metavar": rules["unit"] or None,
            }
        group.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=text.replace("%", "%%"), **keywords)
