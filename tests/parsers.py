"""Every parser of the project, as its door makes it, for the tests of what --help says."""

import argparse
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import client
import create_dataset
import predict
import server
from federated_health import __main__ as verbs

SCRIPTS: dict[str, Callable[[], object]] = {
    "server.py": server.serve,
    "client.py": client.parse,
    "create_dataset.py": create_dataset.parse,
    "predict.py": predict.predict,
    "-m federated_health": verbs.main,
}


class _MadeError(Exception):
    pass


def all_parsers() -> dict[str, argparse.ArgumentParser]:
    """Door, and verb if it has verbs -> parser; nothing is run."""
    return {
        " ".join(names): parser
        for script_command in SCRIPTS
        for names, parser in _below([script_command], _parser_of(script_command))
    }


def _parser_of(script_command: str) -> argparse.ArgumentParser:
    made: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        made.append(parser)
        raise _MadeError

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", keep),
        mock.patch.object(sys, "argv", [script_command]),
    ):
        try:
            SCRIPTS[script_command]()
        except _MadeError:
            return made[0]
    raise AssertionError(f"{script_command} parses no flags")


def _below(names: list[str], parser: argparse.ArgumentParser) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    yield names, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, one in action.choices.items():
                yield from _below([*names, verb], one)
