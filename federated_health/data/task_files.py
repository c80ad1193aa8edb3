"""Parses task files: TOML files that declare a prediction task. heart-disease and readmission come with the package.

`docs/task-files.md` explains every key. An error names the file and the line.
"""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.tasks import MAX_AGREEMENT_CHARACTERS, Task, write_agreement
from federated_health.data.toml_reading import TomlTable, is_number, is_text, read_content, read_toml
from federated_health.errors import SettingsError
from federated_health.names import is_hospital_name, printable

if TYPE_CHECKING:
    from federated_health.data.labels import NumberLabel

DEFAULT_TASK = "heart-disease"

TASK_FILE = "task-file"
"""Key of a node's config and of a run's: path of a task file; empty or absent for a task of the package."""

MAX_COLUMNS, MAX_CODES = 1000, 100

LABEL_KINDS = ("binary", "classes", "number", "count")

MIN_DEVIATION = 1e-12
"""Smallest standard deviation of a scale: the network divides by it in single precision."""

PROTOCOL_CHARACTERS = 36
"""What a hospital sends beside its task agreement, in the same text, at most."""

RESERVED = re.compile(
    r"hospital|risk|prediction|(cast|concatenate|equal|isnan|logical_or|multiply|sigmoid|subtract|sum|where)(_[0-9]+)?"
)
"""Names that sources and the output of `predict` use for other columns, and those of operations in a Keras model, whose
inputs must have other names."""


NAME_RULE = (
    "a column's name: letters, digits and _, first a letter, and none of the reserved names (docs/task-files.md)"
)


def read_task_file(path: Path) -> Task:
    """The task that a file declares, the same object for the same content; a DataError if it is not a task file."""
    return parse_task(read_content(path), str(path))


@lru_cache(maxsize=64)
def parse_task(content: bytes, file: str, *, is_shipped: bool = False) -> Task:
    """The task that a task file declares.

    Args:
        file: name of the file, for errors.
        is_shipped: whether it comes with the package, whose tests check the training settings.

    Raises:
        DataError: the content is not a valid task file.
    """
    top = read_toml(content, file)
    expected = "lower-case letters, digits and hyphens"
    name = top.take("name", expected, lambda value: isinstance(value, str) and is_hospital_name(value))
    label = _take_label(top)
    patient = top.find_table("patient")
    patient_column = _take_column_name(patient) if patient else None
    if patient:
        patient.end("column")
    training = top.take("training", "a table", lambda value: isinstance(value, dict), {})
    if training and not is_shipped:
        _check_training(training, top)
    tables = top.take_table("columns")
    columns = tuple(take_column(tables, key) for key in tables.names())
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise top.error(f"expected 1 to {MAX_COLUMNS} columns, got {len(columns)}", "columns")
    groups = top.take("subgroups", "a table", lambda value: isinstance(value, dict), {})
    if groups and not is_shipped:
        from federated_health.data.subgroups import check_subgroups  # noqa: PLC0415  # few task files declare them

        check_subgroups(groups, columns, label, top)
    top.end("name, label, patient, training, subgroups, columns")
    if label.kind != "binary":
        from federated_health.data import label_kinds  # noqa: PLC0415  # most labels are binary

        label_kinds.refuse_columns(label, columns, top)
    for reserved, key in ((label.name, "label"), (patient_column, "patient")):
        if reserved in [column.name for column in columns] or (key == "patient" and reserved == label.name):
            raise top.error(f"expected a name that no other column has, got {reserved}", key, "column")
    task = Task(
        name=name,
        columns=columns,
        label=label,
        patient=patient_column,
        training=training,
        subgroups={of: () if value == "codes" else tuple(value) for of, value in groups.items()},
    )
    limit, size = MAX_AGREEMENT_CHARACTERS - PROTOCOL_CHARACTERS, len(write_agreement(task.agreement))
    if size > limit:
        raise top.error(
            "names, meanings, units and codes are too long for server and hospital to compare: expected at most "
            f"{limit:,} characters, got {size:,}",
            "columns",
        )
    return task


def _check_training(training: Mapping[str, Any], top: TomlTable) -> None:
    """Raise a DataError if a training setting is not known, or its value is not allowed."""
    from federated_health.setting_fields import TRAINING, coerce, find_problem  # noqa: PLC0415  # of the server only

    for name, value in training.items():
        if name not in TRAINING:
            raise top.error(f"unknown key; known are: {', '.join(TRAINING)}", "training", name)
        if problem := find_problem(TRAINING[name], coerce(TRAINING[name]["type"], value)):
            raise top.error(printable(problem), "training", name)


def _take_label(top: TomlTable) -> Label:
    table = top.take_table("label")
    name, meaning = _take_column_name(table), table.take_text("meaning")
    kind = table.take("kind", f"one of {', '.join(LABEL_KINDS)}", lambda value: value in LABEL_KINDS, Label.kind)
    if kind != Label.kind:
        from federated_health.data import label_kinds  # noqa: PLC0415  # as above

        return label_kinds.take_label(table, kind, name, meaning)
    expected = "a share above 0 and below 1, such as 0.1"
    share = table.take("typical_share", expected, lambda value: is_number(value) and 0 < value < 1, 0.0)
    table.end("column, meaning, kind, typical_share, or further keys of another kind")
    return Label(name, meaning, typical_share=share or None)


def _take_column_name(table: TomlTable) -> str:
    name: str = table.take("column", NAME_RULE, _is_column_name)
    return name


def take_column(tables: TomlTable, name: str) -> Measurement | Category:
    """The column that one of the tables of `columns` declares; a DataError if it is not valid."""
    if not _is_column_name(name):
        raise tables.error(f"expected {NAME_RULE}", name)
    table = tables.take_table(name)
    if "codes" in table.names():
        return _take_category(table, name)
    return _take_measurement(table, name)


def _take_category(table: TomlTable, name: str) -> Category:
    meaning = table.take_text("meaning")
    expected = f'2 to {MAX_CODES} whole numbers, such as 1 and not 01, with their meanings: {{ 0 = "no", 1 = "yes" }}'
    codes = take_codes(table, expected)
    expected = f"a list of some, not all, of the codes {', '.join(map(str, codes))}, such as [{next(iter(codes))}]"
    risk_codes = table.take("risk_codes", expected, lambda value: _are_some_of(value, codes), [])
    table.end("meaning, codes, risk_codes")
    return Category(name, meaning, codes, tuple(risk_codes))


def take_codes(table: TomlTable, expected: str, least: int = 2) -> dict[int, str]:
    """Codes and their meanings, at least so many."""
    codes = table.take("codes", expected, lambda value: _are_codes(value) and len(value) >= least)
    return {int(code): text for code, text in codes.items()}


def take_range(table: TomlTable) -> tuple[float, float]:
    """Lowest and highest plausible number."""
    low, high = table.take("range", "two numbers, the lower one first, such as [0, 120]", _is_range)
    return low, high


def take_scale(table: TomlTable) -> tuple[float, float] | None:
    """Mean and standard deviation; None if they are not declared."""
    expected = "mean and standard deviation, such as [60, 30]"
    return tuple(table.take("scale", expected, lambda value: _are_numbers(value) and value[1] > 0, [])) or None


def refuse_small_scale(column: "Measurement | NumberLabel", table: TomlTable) -> None:
    """Raise a DataError if the standard deviation by which the network divides is too small."""
    if column.public_scale[1] < MIN_DEVIATION:
        raise table.error(
            f"expected a standard deviation of at least {MIN_DEVIATION:g}; write it in a smaller unit",
            "range" if column.scale is None else "scale",
        )


def _take_measurement(table: TomlTable, name: str) -> Measurement:
    meaning, unit = table.take_text("meaning"), normal_unit(table.take_text("unit"))
    low, high = take_range(table)
    zero_is_missing = table.take("zero_is_missing", "true or false", lambda value: isinstance(value, bool), False)
    median = table.take(
        "typical_median",
        f"two numbers within {low:g} and {high:g}",
        lambda v: _is_range(v) and low <= v[0] and v[1] <= high,
        [],
    )
    scale = take_scale(table)
    association = table.take(
        "association", '"positive" or "negative"', lambda value: value in ("positive", "negative"), ""
    )
    units = table.find_table("other_units")
    measurement = Measurement(
        name,
        meaning,
        unit,
        low=low,
        high=high,
        zero_is_missing=zero_is_missing,
        typical_median=tuple(median) or None,
        other_units={} if units is None else {normal_unit(key): _take_unit(units, key) for key in units.names()},
        scale=scale,
        association=association or None,
    )
    refuse_small_scale(measurement, table)
    table.end("meaning, unit, range, zero_is_missing, typical_median, other_units, scale, association, or codes")
    return measurement


def _take_unit(units: TomlTable, unit: str) -> tuple[float, float]:
    """Factor and offset that convert a unit."""
    if not is_text(unit):
        raise units.error("expected the name of a unit", unit)
    table = units.take_table(unit, "{ factor = NUMBER } or { factor = NUMBER, offset = NUMBER }")
    factor = table.take("factor", "a number other than 0", lambda value: is_number(value) and value != 0)
    offset = table.take("offset", "a number", is_number, 0)
    table.end("factor, offset")
    return factor, offset


def normal_unit(unit: str) -> str:
    """A unit with the micro sign instead of the Greek letter that looks like it."""
    return unit.replace("\u03bc", "\u00b5")


def _is_column_name(value: object) -> bool:
    is_name = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,59}", value) is not None
    return is_name and RESERVED.fullmatch(str(value)) is None


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_range(value: Any) -> bool:
    return _are_numbers(value) and value[0] < value[1]


def _are_codes(value: Any) -> bool:
    is_table = isinstance(value, dict) and 2 <= len(value) <= MAX_CODES
    return is_table and all(
        re.fullmatch(r"0|-?[1-9][0-9]{0,5}", code) and is_text(text) for code, text in value.items()
    )


def _are_some_of(value: Any, codes: Collection[int]) -> bool:
    return isinstance(value, list) and all(type(code) is int for code in value) and set(value) < set(codes)


_SHIPPED = Path(__file__).parent / "shipped_tasks"

HEART_DISEASE, READMISSION_30D, READMISSION = (
    parse_task((_SHIPPED / name).read_bytes(), name, is_shipped=True)
    for name in ("heart-disease.toml", "readmission-30d.toml", "readmission.toml")
)

TASKS: Mapping[str, Task] = {task.name: task for task in (HEART_DISEASE, READMISSION_30D, READMISSION)}
"""The tasks that come with the package, by name."""


def task_name(name: str) -> str:
    """The name of a task, where `readmission-generated` is another one of `readmission`."""
    return READMISSION.name if name == "readmission-generated" else name


def get_task(name: str) -> Task:
    """The task of this name that comes with the package; a SettingsError if there is none."""
    if (name := task_name(name)) not in TASKS:
        raise SettingsError(f"task: expected one of {', '.join(TASKS)}, or a task file, got {name!r}")
    return TASKS[name]


def find_task(name: str, file: Path | None) -> Task:
    """The task that a file declares; without a file, the one of the package with this name."""
    return read_task_file(file) if file else get_task(name)
