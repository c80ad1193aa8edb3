"""Explains why a TOML file is invalid, and finds the line of a key, which Python's parser does not keep."""

import re
import tomllib
from typing import Any

from federated_health.errors import DataError
from federated_health.names import printable


def explain(file: str, error: ValueError | RecursionError) -> DataError:
    """The error about a file that Python cannot parse."""
    where, problem = "", "is not valid TOML: "
    match error:
        case UnicodeDecodeError():
            problem = "is not UTF-8 text"
        case tomllib.TOMLDecodeError():
            found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
            cause, line = found.groups() if found else (str(error), None)
            where, problem = f", line {line}" if line else "", problem + cause
        case RecursionError():
            problem += "nested too deeply"
        case _:  # Python's limit on the digits of a whole number
            problem += "a number has too many digits"
    return DataError(f"{file}{where}: {problem}")


def describe(value: object) -> str:
    """A value for a message."""
    try:
        return printable(repr(value))
    except ValueError:  # Python's limit on the digits of a whole number
        return "a number with too many digits"


def find_line(text: str, path: tuple[str, ...]) -> int | None:
    """Number of the line, from 1, that sets a key of a TOML text, or that opens its table; None if there is none.

    For a key within an inline table, or one that is not there, it is the line of the nearest table around it.
    """
    table: tuple[str, ...] = ()
    found, length = None, 0
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("["):
            keys = table = _keys_of(line.split("#")[0]) or table
        else:
            keys = (*table, *_keys_of(line.partition("=")[0] + "= 0"))
        if length < len(keys) <= len(path) and keys == path[: len(keys)]:
            found, length = number, len(keys)
    return found


def _keys_of(line: str) -> tuple[str, ...]:
    """Keys of a line of TOML, from the outermost; empty if it is no line of its own."""
    try:
        content: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys = []
    while isinstance(content, dict) and content:
        key, content = next(iter(content.items()))
        keys.append(key)
    return tuple(keys)
