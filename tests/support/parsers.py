"""Every parser of the project by the command that makes it, for the tests of --help."""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from unittest import mock

import create_dataset
import predict
from federated_health.cli import client, main, server


class _InterceptedError(Exception):
    pass


def _intercept(command: Callable[[], object]) -> argparse.ArgumentParser:
    """The parser with which a command parses its flags; nothing else of the command runs."""
    parsers: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        parsers.append(parser)
        raise _InterceptedError

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args),
        mock.patch.object(sys, "argv", [f"{command.__module__}.py"]),
    ):
        try:
            command()
        except _InterceptedError:
            return parsers[0]
    raise AssertionError(f"{command} parses no flags")


MAKERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "server.py": server.make_parser,
    "client.py": client.make_parser,
    "create_dataset.py": partial(_intercept, create_dataset.parse),
    "predict.py": partial(_intercept, predict.predict),
    "-m federated_health": main.make_parser,
}


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers by command, with its subcommand if it has them."""
    parsers = {}
    for command, make_parser in MAKERS.items():
        with mock.patch.object(sys, "argv", [command]):  # from which argparse takes the name
            parsers.update({" ".join(names): parser for names, parser in _with_subcommands([command], make_parser())})
    return parsers


def _with_subcommands(
    names: list[str], parser: argparse.ArgumentParser
) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    yield names, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, subcommand in action.choices.items():
                yield from _with_subcommands([*names, name], subcommand)
