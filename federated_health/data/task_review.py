"""Reviews a task file: lists all of its errors with their lines, and notes on a valid one."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federated_health.data.columns import Category, Measurement
from federated_health.data.task_files import parse_task, take_column
from federated_health.data.tasks import Task
from federated_health.data.toml_errors import find_line
from federated_health.data.toml_reading import PLACEHOLDER, read_content, read_toml
from federated_health.errors import DataError

MAX_DEPTH = 3
"""Number of keys of a column's key, such as columns.sex.codes; other tables have one key less."""

WIDE = 50
"""A range this many times as wide as that of usual medians probably detects no errors."""

WIDEST = 1_000_000
"""The same, as a width, for a range without usual medians."""


def find_mistakes(path: Path) -> list[str]:
    """All mistakes of a task file, one line each: open placeholders, and the first mistake of each column.

    Raises:
        DataError: the file cannot be read, or is not TOML.
    """
    content, file = read_content(path), str(path)
    read_toml(content, file)
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    places = list(dict.fromkeys(_find_placeholders(tomllib.loads(text))))
    mistakes = [f'{file}, line {find_line(text, at)}: {".".join(at)}: replace each "{PLACEHOLDER}"' for at in places]
    open_columns = {at[1] for at in places if at[0] == "columns" and len(at) > 2}
    mistakes += _find_column_mistakes(content, file, open_columns)
    if not places:
        try:
            parse_task(content, file)
        except DataError as error:
            mistakes = list(dict.fromkeys([str(error), *mistakes]))
    return mistakes


def _find_placeholders(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Keys, from the outermost to that of a column, of all placeholders."""
    if value == PLACEHOLDER:
        yield path[: MAX_DEPTH if path[0] == "columns" else MAX_DEPTH - 1]
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _find_placeholders(entry, (*path, key))


def _find_column_mistakes(content: bytes, file: str, skipped: set[str]) -> Iterator[str]:
    """The first mistake of each column."""
    try:
        tables = read_toml(content, file).take_table("columns")
    except DataError:  # there are no columns, which parse_task says, too
        return
    for name in tables.names():
        try:
            if name not in skipped:
                take_column(tables, name)
        except DataError as error:
            yield str(error)


def review_task(task: Task) -> list[str]:
    """Notes on what may be missing in a valid task, one line each."""
    return list(_notes(task))


def _notes(task: Task) -> Iterator[str]:
    categories = [column for column in task.columns if isinstance(column, Category)]
    if task.patient is None:
        yield "no patient column: rows of the same patient can be on both sides of the split"
    is_binary = task.label.kind == "binary"
    has_signs = any(column.association for column in task.measurements) or any(c.risk_codes for c in categories)
    if is_binary and not has_signs:
        yield "no association and no risk_codes: an inverted label is detected only by comparison with other hospitals"
    if names := [column.name for column in task.measurements if column.typical_median is None]:
        yield f"no typical_median, so that a wrong unit stays undetected: {', '.join(names)}"
    if names := [column.name for column in task.measurements if _is_wide(column)]:
        yield f"a range that allows nearly every number, also missing-value markers such as 999: {', '.join(names)}"
    if names := [column.name for column in categories if _could_be_mixed_up(column)]:
        without = "gaps or risk_codes" if is_binary else "gaps"
        yield f"codes without {without}, so that another numbering stays undetected: {', '.join(names)}"


def _is_wide(column: Measurement) -> bool:
    width = column.high - column.low
    if column.typical_median is None:
        return width >= WIDEST
    return width >= WIDE * (column.typical_median[1] - column.typical_median[0])


def _could_be_mixed_up(column: Category) -> bool:
    codes = sorted(column.codes)
    return not column.risk_codes and codes[-1] - codes[0] == len(codes) - 1
