"""Reads TOML files that people write: each key once, and errors that name the file and the line."""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from federated_health.errors import DataError
from federated_health.names import printable

MAX_BYTES = 2**18
"""Largest size of a TOML file."""

MAX_DOTS = 100
"""Largest number of dots outside of quotes in a line: a key of more parts nests tables deeper than Python can go."""

MAX_NUMBER = 1e30
"""Largest absolute value of a number: the network calculates in single precision, which ends at 3e38."""

PLACEHOLDER = "?"
"""Text that a draft leaves for a person to replace."""


class TomlTable:
    """A table of a TOML file, from which each key is read once.

    Args:
        file: the file's name, for errors.
        text: the whole file.
        table: the table's content.
        path: keys from the top of the file to this table.
    """

    def __init__(self, file: str, text: str, table: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
        self._file, self._text, self._path = file, text, path
        self._left = dict(table)

    def take(self, key: str, expected: str, allows: Callable[[Any], bool], default: Any = None) -> Any:
        """The value of a key, or the default if there is one; a DataError if the value is not as expected."""
        if key not in self._left:
            if default is None:
                raise self.error(f"lacks {key}: expected {expected}")
            return default
        value = self._left.pop(key)
        if value == PLACEHOLDER:
            raise self.error(f"expected {expected}, got {PLACEHOLDER!r}, which a draft leaves for you to replace", key)
        if not allows(value):
            from federated_health.data.toml_errors import describe  # noqa: PLC0415  # a valid file does not need it

            raise self.error(f"expected {expected}, got {describe(value)}", key)
        return value

    def take_text(self, key: str, default: str | None = None) -> str:
        """One line of text that is not empty."""
        text: str = self.take(key, "text in one line", is_text, default)
        return text

    def take_table(self, key: str, expected: str = "a table") -> "TomlTable":
        """A table within this one."""
        content = self.take(key, expected, lambda value: isinstance(value, dict))
        return TomlTable(self._file, self._text, content, (*self._path, key))

    def find_table(self, key: str) -> "TomlTable | None":
        """A table within this one, if it is there."""
        return self.take_table(key) if key in self._left else None

    def names(self) -> list[str]:
        """Keys that have not been taken, in the file's order."""
        return list(self._left)

    def end(self, known: str) -> None:
        """Raise a DataError for a key that has not been taken."""
        if self._left:
            key = next(iter(self._left))
            raise self.error(f"unknown key; known are: {known}", key)

    def error(self, problem: str, *keys: str) -> DataError:
        """An error about this table, or about one of its keys."""
        from federated_health.data.toml_errors import find_line  # noqa: PLC0415  # a valid file does not need it

        path = (*self._path, *keys)
        number = find_line(self._text, path)
        where = f", line {number}" if number else ""
        name = printable(".".join(path))
        return DataError(f"{self._file}{where}: {name}{': ' if path else ''}{problem}")


def read_content(path: Path) -> bytes:
    """Content of a TOML file; a DataError if it cannot be read, or is too large."""
    from federated_health.file_access import read_file  # noqa: PLC0415  # not at a server with a task of the package

    try:
        return read_file(path, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def read_toml(content: bytes, file: str) -> TomlTable:
    """The top of a TOML file; a DataError if it is too large or not TOML in UTF-8."""
    if len(content) > MAX_BYTES:
        raise DataError(f"{file}: expected at most {MAX_BYTES:,} bytes, got {len(content):,}")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        if any(line.count(".") > MAX_DOTS for line in re.sub(r"\"[^\"\n]*\"|'[^'\n]*'|#.*", "", text).splitlines()):
            raise RecursionError
        return TomlTable(file, text, tomllib.loads(text))
    except (ValueError, RecursionError) as error:
        from federated_health.data.toml_errors import explain  # noqa: PLC0415  # a valid file does not need it

        raise explain(file, error) from None


def is_number(value: object) -> bool:
    """Whether a value is a finite number that calculations can use."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER


def is_text(value: object) -> bool:
    """Whether a value is text in one line, neither empty nor the placeholder."""
    return isinstance(value, str) and value.strip() not in ("", PLACEHOLDER) and value.isprintable()
