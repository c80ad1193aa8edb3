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

from federated_health.data.csv_reading import distinct_cells
from federated_health.data.exports.column_draft import (
    count_values,
    may_be_shown,
    shorten,
    write_category,
    write_measurement,
)
from federated_health.data.exports.column_kinds import Kind, find_kind, predicts
from federated_health.data.exports.drafts import Draft
from federated_health.data.exports.export_profile import Export, ExportColumn, profile_export
from federated_health.data.exports.header_words import fold, split_unit
from federated_health.data.exports.mapping_rules import normal_cell, normal_header
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
# Missing cells must be empty in the CSV, or a mapping file must state how they are marked.
# Add association or risk_codes where you know the sign, so that an inverted label is noticed, and other_units that
# hospitals use: see docs/task-files.md.""".splitlines()

_NO_PATIENT = """\
# check: no column identifies patients, so each row counts as one patient. If a patient can have several rows:
# [patient]
# column = "patient_id\""""


def draft_task(path: Path, target: str, name: str | None = None) -> Draft:
    """A draft of the task that predicts one column of an export from the others.

    Args:
        target: header of the column to predict, which has two values.
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
    if (different := len(count_values(export.columns[found[0]]))) != 2:
        hint = "; if one of them means missing, empty these cells" if different == 3 else ""
        raise DataError(f"{path}: expected 2 different values in the target {target}, got {different}{hint}")
    return found[0]


class _Drafter:
    """Writes a draft of the task that predicts the column at `target`."""

    def __init__(self, export: Export, target: int, path: Path) -> None:
        self._export, self._path = export, path
        self._target = export.columns[target]
        self._names: set[str] = set()
        values = sorted(count_values(self._target))
        positions, distinct = distinct_cells(export.table.iloc[:, target])
        texts = [shorten(self._target, normal_cell(cell)) for cell in distinct]
        codes = [values.index(text) if text in values else -1 for text in texts]
        self._label_rows = np.array(codes, dtype=np.intp)[positions]

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
        if is_input and predicts(self._export.table.iloc[:, position], column, self._label_rows):
            return Kind("unused", "predicts the label of nearly every row: was it recorded with the outcome?")
        return kind

    def _head(self) -> Iterator[str]:
        yield f"# Draft of a task file, from {_in_comment(self._path.name)}. docs/task-files.md explains every key."
        yield from _INSTRUCTIONS
        if not self._export.decimal_is_certain:
            mark = "point" if self._export.format.decimal == "." else "comma"
            yield f"# check: numbers such as 1.234 or 1,234 are ambiguous; the decimal mark was taken to be the {mark}."

    def _label(self) -> str:
        values = sorted(count_values(self._target).items())
        lines = ["[label]", f"column = {self._quoted_name(self._target)}"]
        question = f'meaning = "{PLACEHOLDER}"  # what is true of a patient with a 1'
        if [value for value, _ in values] == ["0", "1"]:
            lines.append(f"{question}, and not of one with a 0?")
        else:
            shown = [write_value(value) for value, rows in values if may_be_shown(value, rows)]
            words = " and ".join(shown) if len(shown) == 2 else "two values other than 0 and 1"
            lines += [f"{question}?", f"# The export has {words}. A mapping file states which of them is 1"]
        return "\n".join(lines)

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
        while name in self._names or RESERVED.fullmatch(name):
            name, number = f"{base[:55]}_{number}", number + 1
        self._names.add(name)
        return name, "" if name == column.header else f"  # in the export: {_in_comment(column.header)}"


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
