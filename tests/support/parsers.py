"""Every parser of the project by the command that makes it, for the tests of --help."""

import argparse
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from unittest import mock

from federated_health.cli import main

COMMAND = "federated-health"
SCRIPTS = ("server.py", "client.py", "create_dataset.py", "predict.py")


class _InterceptedError(Exception):
    pass


def parser_of(command: Callable[[], None], name: str) -> argparse.ArgumentParser:
    """The parser of a command's flags; the command itself does not run."""
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        parsers.append(parser)
        raise _InterceptedError

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", [name]),  # argparse takes the name from here
    ):
        try:
            command()
        except _InterceptedError:
            return parsers[0]
    raise AssertionError(f"{command} parses no flags")


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers by command, including those of subcommands."""
    parsers = {COMMAND: parser_of(main.main, COMMAND)}
    for name, (target, _) in main.SUBCOMMANDS.items():
        module, function = target.split(":")
        command = getattr(import_module(f"federated_health.cli.{module}"), function)
        script = f"{name.replace('-', '_')}.py"
        for prefix in [f"{COMMAND} {name}", *([script] if script in SCRIPTS else [])]:
            parsers.update(_with_subcommands(prefix, parser_of(command, prefix)))
    return parsers


def _with_subcommands(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand, subparser in action.choices.items():
                yield from _with_subcommands(f"{name} {subcommand}", subparser)
