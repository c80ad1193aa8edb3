"""Which cells of a file's label column mean the task's label 1, where a user states it."""

from collections.abc import Mapping
from dataclasses import dataclass

from federated_health.data.sources.layouts import Layout
from federated_health.data.sources.short_cells import shorten_distinct
from federated_health.errors import DataError, SettingsError

FLAG = "--label-means"

COMMON_CELLS = frozenset({"0", "1", "2", "3", "4", "yes", "no", "true", "false"})
"""Cells of a label that are codes and not a patient's text, so that a message may quote them."""

MIN_ROWS = 3
"""Smallest number of rows with another cell, to take it for a value of the label and not for a typing error."""


@dataclass(frozen=True)
class LabelMeaning:
    """A user's statement: these cells of the file mean the task's label of this name, as in `disease=2`.

    Attributes:
        text: the statement as the user wrote it.
        cells: cells in lower case, numbers in their shortest form.
    """

    text: str
    label: str
    cells: frozenset[str]


def parse_label_meaning(text: str) -> LabelMeaning:
    """Read `NAME=CELL` or `NAME=CELL,CELL`; a SettingsError if it is neither."""
    label, equals, values = text.partition("=")
    cells = [cell.strip().lower() for cell in values.split(",")]
    if not label.strip() or not equals or not all(cells):
        raise SettingsError(f"expected LABEL=VALUE, such as disease=1, got {text!r}")
    return LabelMeaning(text, label.strip(), frozenset(shorten_distinct(cells)))


def find_label_codes(layout: Layout, present: Mapping[str, int], meaning: LabelMeaning | None) -> Mapping[str, str]:
    """Cell of the label in the file -> "0" or "1", as the user states it, or else as the layout declares it.

    A statement about one of two cells settles the other one. If there are more, as in UCI's num from 0 to 4, the
    statement decides which of the layout's two groups means 1. Cells that neither settles have no code.

    Args:
        present: cell of the label, without missing-value markers -> rows with it.

    Raises:
        DataError: the statement is about another label than the task's.
    """
    declared = layout.label_codes
    if meaning is None:
        return declared
    if meaning.label != layout.task.label.name:
        raise DataError(f"{FLAG}: expected {layout.task.label.name}=VALUE, for {layout.title}, got {meaning.text}")
    if layout.task.label.kind != "binary":
        raise DataError(f"{FLAG}: expected a binary label; state the codes of {meaning.label} in a mapping (--mapping)")
    cells, held = meaning.cells, set(present)
    others = held - cells
    is_one_value = len(others) <= 1 and all(cell in COMMON_CELLS or present[cell] >= MIN_ROWS for cell in others)
    if cells & held and (is_one_value or (len(cells) > 1 and others <= declared.keys())):
        return {**dict.fromkeys(others, "0"), **dict.fromkeys(cells, "1")}
    stated, codes = declared.get(min(cells)), {declared.get(cell) for cell in held}
    is_settled = cells & held or (len(held) == 1 and stated not in codes)
    if len(cells) == 1 and is_settled and None not in {stated, *codes}:
        return {cell: str(int(code == stated)) for cell, code in declared.items()}
    return dict.fromkeys(cells, "1")
