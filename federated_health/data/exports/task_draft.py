"""Drafts a task file from one hospital's export.

A draft is not valid until each "?" has been replaced. It holds no patient's value: bounds of ranges are rounded
(see `plausible_ranges`), and codes are shown only if they are in at least MIN_ROWS rows.
"""

import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from federated_health.data import label_kinds
from federated_health.data.columns import Label
from federated_health.data.csv_reading import distinct_cells
from federated_health.data.exports.column_draft import (
    count_values,
    may_be_shown,
    shorten,
    write_category,
    write_measurement,
)
from federated_health.data.exports.column_kinds import Kind, find_kind, follows, predicts
from federated_health.data.exports.drafts import MAX_WORDS, Draft
from federated_health.data.exports.export_profile import Export, ExportColumn, profile_export
from federated_health.data.exports.header_words import fold, split_unit
from federated_health.data.exports.label_draft import find_label_kind, note_missing, write_classes, write_quantity
from federated_health.data.exports.mapping_rules import normal_cell, normal_header
from federated_health.data.labels import ClassLabel
from federated_health.data.reading_errors import looks_like_name
from federated_health.data.task_files import MAX_COLUMNS, RESERVED
from federated_health.data.task_writing import write_value
from federated_health.data.toml_reading import PLACEHOLDER
from federated_health.errors import DataError
from federated_health.names import hospital_name_from, printable

MAX_LISTED = 20
"""Largest number of headers that an error lists."""

_INSTRUCTIONS = f"""\
# Replace each "{PLACEHOLDER}", review each "check", and delete columns that are not known when the risk is needed.
# range: the possible values of any patient. typical_median: the range in which the medians of hospitals usually lie.
# Both are proposed from the middle 90 % of this export's values, and rounded.
# Missing cells must be empty in the CSV, or a mapping file must state how they are marked.""".splitlines()

_OF_BINARY_LABELS = """\
# Add association or risk_codes where you know the sign, so that an inverted label is noticed, and other_units that
# hospitals use: see docs/task-files.md.""".splitlines()

_OF_OTHER_LABELS = ("# Add other_units that hospitals use: see docs/task-files.md.",)

_NO_PATIENT = """\
# check: no column identifies patients, so each row counts as one patient. If a patient can have several rows:
# [patient]
# column = "patient_id\""""


def draft_task(path: Path, target: str, name: str | None = None) -> Draft:
    """A draft of the task that predicts one column of an export from the others.

    Args:
        target: header of the column to predict.
        name: name of the task; by default made from the file's name.

    Raises:
        DataError: the file is not a table, or its target cannot be a label. The text quotes no cell.
        MissingLibraryError: the library that reads such a file is not installed.
    """
    export = profile_export(path)
    position = _find_target(export, path, target)
    text = _Drafter(export, position, path).write(name or hospital_name_from(path.name.split(".")[0]) or "my-task")
    return Draft(text, sum(f'"{PLACEHOLDER}"' in line.partition("#")[0] for line in text.splitlines()))


def _find_target(export: Export, path: Path, target: str) -> int:
    """Position of the column to predict; a DataError, which quotes no cell, if it cannot be a label."""
    if not len(export.table):
        raise DataError(f"{path}: has no patients, only a header")
    found = [i for i, column in enumerate(export.columns) if column.header == normal_header(target)]
    if not found:
        headers = [column.header for column in export.columns if looks_like_name(column.header)]
        folded = {fold(header): header for header in headers}
        near = [folded[match] for match in get_close_matches(fold(target), folded, n=3)]
        listed = ", ".join(headers[:MAX_LISTED]) + (", ..." if len(headers) > MAX_LISTED else "")
        hint = f"did you mean {' or '.join(near)}?" if near else f"its header is: {listed}"
        raise DataError(f"{path}: lacks the target {target}; {hint}")
    if len(found) > 1:
        raise DataError(f"{path}: expected the target {target} once in the header, got {len(found)} times")
    if not find_label_kind(export.columns[found[0]]):
        got = f"got {len(count_values(export.columns[found[0]]))} different values"
        raise DataError(f"{path}: expected numbers, or 2 to {MAX_WORDS} different texts, in the target {target}; {got}")
    return found[0]


class _Drafter:
    """Writes a draft of the task that predicts the column at `target`."""

    def __init__(self, export: Export, target: int, path: Path) -> None:
        self._export, self._path = export, path
        self._target = export.columns[target]
        self._names: set[str] = set()
        self._kind = find_label_kind(self._target)
        positions, distinct = distinct_cells(export.table.iloc[:, target])
        texts = [shorten(self._target, normal_cell(cell)) for cell in distinct]
        if self._is_quantity:
            numbers = [self._target.format.number(text) for text in map(normal_cell, distinct)]
            label = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        else:
            values = sorted(count_values(self._target))
            label = np.array([values.index(text) if text in values else -1 for text in texts], dtype=np.float64)
        self._label_rows = label[positions]

    @property
    def _is_quantity(self) -> bool:
        return self._kind not in (Label.kind, ClassLabel.kind)

    def write(self, name: str) -> str:
        """The text of the draft."""
        label = self._label()
        patient, blocks, unused = "", [], []
        for position, column in enumerate(self._export.columns):
            if column is self._target:
                continue
            kind = self._find_kind(column, position, has_patient=bool(patient))
            if kind.role == "unused":
                unused.append(f"# - {_in_comment(column.header) or 'a column without a header'}: {kind.reason}")
            elif kind.role == "patient":
                patient = "\n".join(self._patient(column))
            else:
                lines = write_category(column) if kind.role == "category" else write_measurement(column)
                blocks.append("\n".join([*self._open(column), *lines]))
        if not 1 <= len(blocks) <= MAX_COLUMNS:
            problem = f"expected 1 to {MAX_COLUMNS} columns that can be inputs, got {len(blocks)}"
            raise DataError(f"{self._path}: {problem} of {len(self._export.columns)} columns")
        head = "\n".join([*self._head(), f"name = {write_value(name)}"])
        tail = ["\n".join(["# Left out:", *unused])] if unused else []
        return "\n\n".join([head, label, patient or _NO_PATIENT, *blocks, *tail]) + "\n"

    def _find_kind(self, column: ExportColumn, position: int, *, has_patient: bool) -> Kind:
        """What a column can be, given its header, the label and the columns before it."""
        if column.occurrence is not None:
            return Kind("unused", "several columns have this header")
        if not column.header:
            return Kind("unused", "it has no name")
        if fold(column.header) == "hospital":
            return Kind("unused", "the hospital of a row is not an input")
        kind = find_kind(column, len(self._export.table))
        if kind.role == "patient" and has_patient:
            return Kind("unused", "an identifier, like the one above")
        is_input = kind.role in ("measurement", "category")
        if is_input and self._predicts_label(self._export.table.iloc[:, position], column):
            return Kind("unused", "predicts the label of nearly every row: was it recorded with the outcome?")
        return kind

    def _predicts_label(self, cells: "pd.Series[str]", column: ExportColumn) -> bool:
        """Whether a column was probably recorded with the outcome; of classes, one that tells any of them is enough."""
        label = self._label_rows
        if self._is_quantity:
            return follows(cells, column, label)
        classes = range(1 if self._kind == Label.kind else 0, int(label.max()) + 1)
        return any(predicts(cells, column, np.where(label < 0, -1, label == value)) for value in classes)

    def _head(self) -> Iterator[str]:
        yield f"# Draft of a task file, from {_in_comment(self._path.name)}. docs/task-files.md explains every key."
        yield from _INSTRUCTIONS
        yield from _OF_BINARY_LABELS if self._kind == Label.kind else _OF_OTHER_LABELS
        if not self._export.decimal_is_certain:
            mark = "point" if self._export.format.decimal == "." else "comma"
            yield f"# check: numbers such as 1.234 or 1,234 are ambiguous; the decimal mark was taken to be the {mark}."

    def _label(self) -> str:
        lines = ["[label]", f"column = {self._quoted_name(self._target)}"]
        if self._kind != Label.kind:
            written = write_quantity(self._target, self._kind) if self._is_quantity else write_classes(self._target)
            missing = note_missing(self._target)
            return "\n".join([*lines, f'meaning = "{PLACEHOLDER}"  # what is predicted?', *written, *missing])
        values = sorted(count_values(self._target).items())
        question = f'meaning = "{PLACEHOLDER}"  # what is true of a patient with a 1'
        if [value for value, _ in values] == ["0", "1"]:
            lines.append(f"{question}, and not of one with a 0?")
        else:
            shown = [write_value(value) for value, rows in values if may_be_shown(value, rows)]
            words = " and ".join(shown) if len(shown) == 2 else "two values other than 0 and 1"
            lines += [f"{question}?", f"# The export has {words}. A mapping file states which of them is 1"]
        return "\n".join([*lines, *note_missing(self._target)])

    def _patient(self, column: ExportColumn) -> Iterator[str]:
        yield "[patient]"
        yield f"column = {self._quoted_name(column)}"
        yield "# check: does it identify the patient? All rows of a patient stay on one side of the split"

    def _open(self, column: ExportColumn) -> Iterator[str]:
        """The first lines of a column's table."""
        name, comment = self._name(column)
        yield f"[columns.{name}]{comment}"
        yield f'meaning = "{PLACEHOLDER}"'

    def _quoted_name(self, column: ExportColumn) -> str:
        name, comment = self._name(column)
        return f"{write_value(name)}{comment}"

    def _name(self, column: ExportColumn) -> tuple[str, str]:
        """A valid name for a column of the task that no other column has, and a comment if it is not the header."""
        base = make_column_name(column.header) or "column"
        name, number = base, 2
        while name in self._names or RESERVED.fullmatch(name) or self._is_reserved(name):
            name, number = f"{base[:55]}_{number}", number + 1
        self._names.add(name)
        return name, "" if name == column.header else f"  # in the export: {_in_comment(column.header)}"

    def _is_reserved(self, name: str) -> bool:
        return self._kind != Label.kind and label_kinds.RESERVED.fullmatch(name) is not None


def make_column_name(header: str) -> str:
    """A valid name for a column made from its header, without the unit in brackets; empty if there is none."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,59}", header):
        return header
    german = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss", "µ": "u"})
    plain = unicodedata.normalize("NFKD", split_unit(header)[0].translate(german)).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    return (f"c_{name}" if name[:1].isdigit() else name)[:60].rstrip("_")


def _in_comment(text: str) -> str:
    """Text of the export in a comment: one line, printable, not too long."""
    return printable(text, 80)
