"""Drafts the label of a task file: which kind it is, and the lines of classes, numbers and counts."""

from collections.abc import Iterator

import numpy as np

from federated_health.data.columns import Label
from federated_health.data.exports.column_draft import (
    count_values,
    find_unit,
    find_usual_values,
    note_marks,
    write_category,
    write_range,
)
from federated_health.data.exports.column_kinds import MIN_NUMERIC, are_whole, holds_codes
from federated_health.data.exports.drafts import MAX_WORDS
from federated_health.data.exports.export_profile import ExportColumn
from federated_health.data.exports.plausible_ranges import propose_ranges
from federated_health.data.label_kinds import MAX_COUNT
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.task_writing import write_value
from federated_health.data.toml_reading import PLACEHOLDER


def find_label_kind(column: ExportColumn) -> str:
    """Kind of label that a column holds, PLACEHOLDER for a number or a count, empty if it cannot be a label."""
    different = len(count_values(column))
    if different < 2 or column.date_formats:
        return ""
    if different == 2:
        return Label.kind
    if column.numeric_share < MIN_NUMERIC:
        return ClassLabel.kind if different <= MAX_WORDS else ""
    if holds_codes(column):
        return ClassLabel.kind
    numbers = column.numbers[~np.isnan(column.numbers)]
    may_be_count = are_whole(numbers) and numbers.min() >= 0 and numbers.max() <= MAX_COUNT
    return PLACEHOLDER if may_be_count else NumberLabel.kind


def write_classes(column: ExportColumn) -> Iterator[str]:
    """Lines of a label of classes in a task file, after its meaning."""
    yield f"kind = {write_value(ClassLabel.kind)}  # check: from its {len(count_values(column))} different values"
    if len(count_values(column)) == 3:
        yield "# check: if one of the values means missing, leave out its rows; the label is then binary"
    yield from write_category(column, with_missing=False)


def write_quantity(column: ExportColumn, kind: str) -> Iterator[str]:
    """Lines of a label in a task file, after its meaning, that is a number, or with PLACEHOLDER a number or a count."""
    is_open = kind == PLACEHOLDER
    question = f': "{CountLabel.kind}" for a number of events, or "{NumberLabel.kind}" for a quantity'
    yield f"kind = {write_value(kind)}  # check{question if is_open else ''}"
    comment = "check: from the header" if (unit := find_unit(column.header)) else ""
    if is_open:
        comment += f"{'; ' if comment else ''}delete this line for a count"
    yield f"unit = {write_value(unit or PLACEHOLDER)}{f'  # {comment}' if comment else ''}"
    values, marks = find_usual_values(column)
    ranges = propose_ranges(values)
    if ranges is None:
        yield f'range = "{PLACEHOLDER}"  # too few different values to propose one'
    else:
        low, high = ranges.plausible
        outside = "" if ranges.covers_all else ": some values are outside; are they errors?"
        yield f"range = {write_range((0, min(high, MAX_COUNT)) if is_open else (low, high))}  # check{outside}"
    yield from note_marks(marks)
    if np.isnan(column.numbers).any():
        yield "# check: some cells are neither a number nor a common missing-value marker"


def note_missing(column: ExportColumn) -> Iterator[str]:
    """A comment on words that usually mean missing, which a label never is."""
    if words := [write_value(word) for word in sorted(column.missing) if word]:
        yield f"# check: {' and '.join(words)} would be read as missing, but may be a value of its own"
