"""The keys of a label that is not binary, and what such a label allows the columns of a task file to declare.

`docs/task-files.md` explains every key. Loaded only for a task with such a label.
"""

import re
from collections.abc import Sequence
from typing import Any

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_files import (
    MAX_CODES,
    normal_unit,
    refuse_small_scale,
    take_codes,
    take_range,
    take_scale,
)
from federated_health.data.toml_reading import TomlTable

MIN_CLASSES = 3
"""Smallest number of classes: a label of two is binary, which has a threshold and its own figures."""

MAX_COUNT = 10_000
"""Largest number of events that a label may count."""

RESERVED = re.compile(r"expected|probability_[0-9]+|(add|exp|softmax)(_[0-9]+)?")
"""Names, besides those in `task_files`, that the output of `predict` and operations in a Keras model use."""


QUANTITIES = {
    "number": NumberLabel,
}
"""Kinds of labels with a unit, a range and a scale."""


def take_label(table: TomlTable, kind: str, name: str, meaning: str) -> Label:
    """The label that the table [label] declares, whose other keys have been taken; a DataError if it is not valid."""
    if kind == ClassLabel.kind:
        example = '{ 0 = "none", 1 = "mild", 2 = "severe" }'
        expected = (
            f"{MIN_CLASSES} to {MAX_CODES} whole numbers, such as 1 and not 01, with their meanings: {example}; "
            f'a label of two classes is of the kind "{Label.kind}"'
        )
        codes = take_codes(table, expected, MIN_CLASSES)
        table.end("column, meaning, kind, codes")
        return ClassLabel(name, meaning, codes)
    if kind == CountLabel.kind:
        expected = f"0 and the largest plausible number, a whole one from 1 to {MAX_COUNT:,}, such as [0, 50]"
        _, high = table.take("range", expected, _is_count_range)
        table.end("column, meaning, kind, range")
        return CountLabel(name, meaning, high=high)
    unit = normal_unit(table.take_text("unit"))
    low, high = take_range(table)
    label = QUANTITIES[kind](name, meaning, unit, low=low, high=high, scale=take_scale(table))
    refuse_small_scale(label, table)
    table.end("column, meaning, kind, unit, range, scale")
    return label


def _is_count_range(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)
    return is_pair and value[0] == 0 and 1 <= value[1] <= MAX_COUNT


def refuse_columns(label: Label, columns: Sequence[Measurement | Category], top: TomlTable) -> None:
    """Raise a DataError for a column with a reserved name, or with a key that has a meaning for a binary label only.

    Args:
        top: the task file.
    """
    names = [column.name for column in columns]
    if reserved := next((name for name in (*names, label.name) if RESERVED.fullmatch(name)), None):
        path = ("columns", reserved) if reserved in names else ("label", "column")
        raise top.error(f"expected another name: {reserved} is reserved for a label of the kind {label.kind}", *path)
    for column in columns:
        key = "association" if isinstance(column, Measurement) else "risk_codes"
        if getattr(column, key):
            problem = f"is about patients with the label 1, but the label is of the kind {label.kind}: remove this line"
            raise top.error(problem, "columns", column.name, key)
