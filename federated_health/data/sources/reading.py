"""Reads a source's files by one layout into one table, and finds the cells that break a rule."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from federated_health.data.columns import Category, Column, Label, Measurement
from federated_health.data.csv_reading import MISSING_MARKS, check_cells
from federated_health.data.labels import NumberLabel
from federated_health.data.patient_ids import PATIENT_RULE, number_patients
from federated_health.data.reading_errors import describe_first_invalid
from federated_health.data.sources.label_meaning import FLAG, LabelMeaning, find_label_codes
from federated_health.data.sources.layouts import Layout
from federated_health.data.sources.recognition import OWN_COLUMNS_HINT, RecognisedFile
from federated_health.data.sources.short_cells import shorten
from federated_health.data.sources.uci_comparison import (
    MIN_AGREEMENT,
    MIN_AGREEMENT_IF_STATED,
    Evidence,
    compare_with_uci,
)
from federated_health.errors import DataError
from federated_health.names import HOSPITAL_COLUMN, hospital_name_from

MAX_DROPPED = 0.2
"""Largest share of invalid rows at which an error suggests --drop-invalid; above it, something else is wrong."""

MIN_REPEATED = 3
"""Smallest number of equal invalid cells of a column that count as a code of the file, not as typing errors."""

MAX_REPEATED = 0.01
"""Largest share of rows with the same invalid code at which --drop-invalid drops them."""

HOSPITAL_NAMES = ("hospital", "dataset", "location", "site", "center", "centre", "clinic", "institution")
"""Columns that may name a row's hospital, in lower case."""

MIN_ROWS_PER_HOSPITAL = 8
"""Smallest mean number of rows of each value of a column that is taken for hospitals, unless it is called hospital."""

_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val"}
"""Values of a column that divides rows for training and testing, not by hospital."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The files' rows as one layout reads them.

    Attributes:
        layout: the layout, with the label's codes as the user states them.
        files: the files that were read.
        meaning: what the user states about the label, if anything.
        table: all rows: the hospital if there is one, the task's columns and the label as numbers, NaN for missing.
        invalid: where a cell breaks a rule, in the same columns.
        label: the label's cells in their shortest form, "" for missing.
        zeros: column -> rows with a 0 that means missing.
        evidence: how the rows agree with UCI's table.
        remarks: what users should know.
    """

    layout: Layout
    files: Sequence[RecognisedFile]
    meaning: LabelMeaning | None
    table: pd.DataFrame
    invalid: pd.DataFrame
    label: "pd.Series[str]"
    zeros: Mapping[str, int]
    evidence: Evidence
    remarks: tuple[str, ...] = ()

    @property
    def is_valid(self) -> "pd.Series[bool]":
        return ~self.invalid.any(axis=1)

    @property
    def invalid_rows(self) -> int:
        return int((~self.is_valid).sum())

    def mismatch(self) -> tuple[bool, int, int]:
        """Sort key among layouts of the same header: the smaller, the better the layout fits."""
        return not self.evidence.confirms, len(self.evidence.contradicted), self.invalid_rows


def read_files(files: Sequence[RecognisedFile], layout: Layout, meaning: LabelMeaning | None) -> Reading:
    """Read files of one layout into one table; invalid cells are recorded, not refused."""
    task = layout.task
    labels = pd.concat([shorten(file.text[layout.label_name]) for file in files], ignore_index=True)
    labels = labels.mask(labels.isin(_missing_marks(layout)), "")
    codes = find_label_codes(layout, Counter(labels[labels != ""]), meaning)
    if meaning is not None:
        layout = replace(layout, codes={**layout.codes, task.label.name: codes})
    tables, invalids, zeros, remarks = zip(*(_read_file(file, layout) for file in files), strict=True)
    table = pd.concat(tables, ignore_index=True)
    invalid = pd.concat(invalids, ignore_index=True)
    names = [column.name for column in task.labelled_columns]
    min_agreement = MIN_AGREEMENT if files[0].is_guess else MIN_AGREEMENT_IF_STATED
    return Reading(
        layout=layout,
        files=files,
        meaning=meaning,
        table=table,
        invalid=invalid,
        label=labels,
        zeros={column.name: sum(counts[column.name] for counts in zeros) for column in task.columns},
        evidence=compare_with_uci(table[names].mask(invalid[names]), task, min_agreement),
        remarks=tuple(dict.fromkeys(remark for file_remarks in remarks for remark in file_remarks)),
    )


def _missing_marks(layout: Layout) -> frozenset[str]:
    return MISSING_MARKS | layout.missing_marks


def _read_file(file: RecognisedFile, layout: Layout) -> tuple[pd.DataFrame, pd.DataFrame, Mapping[str, int], list[str]]:
    """Table, invalid cells, zeros that mean missing, and remarks of one file."""
    task = layout.task
    canonical = pd.DataFrame(
        {
            column.name: "" if column.name in layout.absent else file.text[layout.name_in_file(column)]
            for column in task.labelled_columns
        },
        index=file.text.index,
    )
    if task.patient is not None:
        canonical[task.patient] = file.text[task.patient]
    missing = dict.fromkeys(_missing_marks(layout), "")
    for name, codes in layout.codes.items():
        canonical[name] = shorten(canonical[name]).map({**codes, **missing}).fillna("not allowed")
    cells = check_cells(canonical, task.labelled_columns, layout.missing_marks, task.patient)
    table, invalid = cells.numbers, cells.invalid
    if task.patient is not None and cells.patients is not None:
        table[task.patient] = number_patients(cells.patients)
    column, remarks = _find_hospital_column(file.text, layout)
    if column is not None:
        table.insert(0, HOSPITAL_COLUMN, read_hospitals(file.text[column], f"{file.name}: column {column}"))
        invalid.insert(0, HOSPITAL_COLUMN, table[HOSPITAL_COLUMN] == "")
        remarks += [f"hospitals are those of the column {column}"] if column != HOSPITAL_COLUMN else []
    return table, invalid, cells.zeros, remarks


def _find_hospital_column(text: pd.DataFrame, layout: Layout) -> tuple[str | None, list[str]]:
    """The column that names each row's hospital, if any, and why others are not taken for it."""
    known = {layout.name_in_file(column) for column in layout.task.labelled_columns}
    found = [name for name in text.columns if name.strip().lower() in HOSPITAL_NAMES and name not in known]
    found.sort(key=lambda name: (name != layout.hospital, HOSPITAL_NAMES.index(name.strip().lower())))
    chosen, remarks = None, []
    for name in dict.fromkeys(found):
        reason = "another column names the hospitals" if chosen else _why_no_hospitals(text, name)
        if name == layout.hospital and not chosen:
            reason = ""  # a row without a hospital is reported as an invalid cell
        if reason:
            remarks.append(f"column {name} is not used for hospitals: {reason}")
        else:
            chosen = name
    return chosen, remarks


def _why_no_hospitals(text: pd.DataFrame, column: str) -> str:
    """Why a column does not name hospitals, as its name suggests; empty if it does."""
    if list(text.columns).count(column) > 1:
        return "the header has it more than once"
    values = text[column].astype(str).str.strip().unique()
    if set(map(str.lower, values)) <= _SPLITS:
        return "it divides the rows for training and testing"
    names = [hospital_name_from(value) for value in values]
    if not all(names) or len(set(names)) < len(names):
        return "a row has no valid name of a hospital, or two names are alike"
    if all(name.isdigit() for name in names) or len(names) * MIN_ROWS_PER_HOSPITAL > len(text):
        return "it has numbers, or too many different values"
    return ""


def read_hospitals(cells: "pd.Series[Any]", where: str) -> "pd.Series[str]":
    """Hospital name of each row; empty where the row has none.

    Raises:
        DataError: two hospitals would have one name; the text begins with `where`, the file and the column.
    """
    cells = cells.astype(str)
    names = {cell: hospital_name_from(cell) for cell in cells.unique()}
    present = [name for name in names.values() if name]
    if repeated := sorted({name for name in present if present.count(name) > 1}):
        raise DataError(f"{where}: two hospitals would both be called {repeated[0]}")
    return cells.map(names)


def drop_invalid_rows(reading: Reading) -> pd.DataFrame:
    """The valid rows; a DataError if a class of patients would be lost, or if an invalid code is no slip, so that the
    valid ones may be another file's. All labels must be valid.
    """
    for column in reading.layout.task.columns:
        repeated = _count_repeated(reading, column) if isinstance(column, Category) else 0
        if repeated >= max(MIN_REPEATED, MAX_REPEATED * len(reading.table)):
            raise DataError(
                f"{reading.files[0].name}: --drop-invalid: {repeated} rows have the same invalid "
                f"{reading.layout.name_in_file(column)}, so that its other codes may have another meaning, too; if it "
                f"means missing, empty these cells; otherwise, {OWN_COLUMNS_HINT}"
            )
    label, lost = reading.layout.task.label, _lost_classes(reading)
    if lost:
        raise DataError(
            f"{reading.files[0].name}: --drop-invalid would drop every patient with {label.name} "
            f"{' and '.join(map(str, lost))}: {reading.invalid_rows} of {len(reading.table)} rows break a rule; "
            "without it, the error names the first"
        )
    return with_whole_labels(reading.table[reading.is_valid].reset_index(drop=True), label)


def with_whole_labels(table: pd.DataFrame, label: Label) -> pd.DataFrame:
    """A table in which labels are whole numbers, unless they are a quantity with a unit."""
    return table if isinstance(label, NumberLabel) else table.astype({label.name: "int64"})


def _lost_classes(reading: Reading) -> list[int]:
    """Codes of the label that no valid row has, of those that any row has."""
    label = reading.layout.task.label
    labels, kept = reading.table[label.name], reading.table.loc[reading.is_valid, label.name]
    return [code for code in sorted(label.classes) if (labels == code).any() and not (kept == code).any()]


def refuse_invalid_labels(reading: Reading) -> None:
    """Raise a DataError for rows without a label, or with one that is not known."""
    layout, label = reading.layout, reading.layout.task.label
    invalid = reading.invalid[label.name]
    if not invalid.any():
        return
    file, rows = _file_with(reading, invalid)
    first = describe_first_invalid(file.text[layout.label_name], rows, layout.rule(label))
    more = f"; {int(invalid.sum())} of {len(invalid)} rows have no valid label" if invalid.sum() > 1 else ""
    raise DataError(f"{file.name}: {first}{more}; {_label_hint(reading, invalid)}")


def _label_hint(reading: Reading, invalid: "pd.Series[bool]") -> str:
    """What to do about labels that are not the layout's."""
    label, present = reading.layout.task.label, set(reading.label) - {""}
    if (reading.label[invalid] == "").all():
        return f"a row without {label.name} can be neither trained on nor tested: delete it from the file"
    if reading.meaning is not None:
        return f"{FLAG} must name all values that mean {label.name}, separated by commas, and leave at most one other"
    if label.kind != "binary":
        return "correct these rows, or state in a mapping file (--mapping) how the file writes labels"
    if present == {"1", "2"}:
        return describe_statlog(label.name)
    if len(present) == 2:
        return f"state which of its two values means {label.name}: {FLAG} {label.name}=VALUE"
    return "correct these rows: --drop-invalid never drops a row for its label"


def describe_statlog(label: str) -> str:
    """What a label of 1 and 2 seems to be."""
    return f"1 and 2 seem to be Statlog's codes, 1 for absence and 2 for presence: if so, state {FLAG} {label}=2"


def refuse_invalid_cells(reading: Reading, columns: Iterable[str]) -> None:
    """Raise a DataError, which names the first invalid cell, if one of these columns of the table has any."""
    layout = reading.layout
    name = next((name for name in columns if reading.invalid[name].any()), None)
    if name is None:
        return
    file, rows = _file_with(reading, reading.invalid[name])
    if name == HOSPITAL_COLUMN:
        column, rule = _find_hospital_column(file.text, layout)[0], "a hospital's name, with letters or digits"
    elif name == layout.task.patient:
        column, rule = name, PATIENT_RULE
    else:
        [declared] = [column for column in layout.task.columns if column.name == name]
        column, rule = layout.name_in_file(declared), layout.rule(declared)
    more = f"; {reading.invalid_rows} of {len(reading.table)} rows break a rule" if reading.invalid_rows > 1 else ""
    first = describe_first_invalid(file.text[column], rows, rule)
    hint = "" if "decimal comma" in first else f"; {_invalid_hint(reading)}"
    raise DataError(f"{file.name}: {first}{more}{hint}")


def _invalid_hint(reading: Reading) -> str:
    """What to do about invalid cells; never to drop rows with the file's own codes, or a class of patients."""
    layout = reading.layout
    for column in layout.task.columns:
        if (repeated := _count_repeated(reading, column)) >= MIN_REPEATED:
            same = f"{repeated} rows have the same invalid {layout.name_in_file(column)}, so it is not a typing error"
            right = "convert its unit" if isinstance(column, Measurement) else "replace it by one of the codes above"
            return f"{same}: if it means missing, empty these cells; otherwise, {right}"
    if reading.invalid_rows > max(1, MAX_DROPPED * len(reading.table)):
        return f"so many rows point to another unit or other codes, not to typing errors: {OWN_COLUMNS_HINT}"
    fix = "correct it in the file"
    return fix if _lost_classes(reading) else f"{fix}, or leave such rows out: --drop-invalid"


def _count_repeated(reading: Reading, column: Column) -> int:
    """Number of rows with the most frequent invalid cell of a column."""
    invalid = reading.invalid[column.name]
    if not invalid.any():
        return 0
    cells = pd.concat([file.text[reading.layout.name_in_file(column)].astype(str) for file in reading.files])
    return int(shorten(cells[invalid.to_numpy()]).value_counts().max())


def _file_with(reading: Reading, invalid: "pd.Series[bool]") -> tuple[RecognisedFile, "pd.Series[bool]"]:
    """The first file with an invalid row, and which of its rows are."""
    start = 0
    for file in reading.files:
        rows = invalid.iloc[start : start + len(file.text)]
        if rows.any():
            return file, rows
        start += len(file.text)
    raise AssertionError("no row is invalid")
