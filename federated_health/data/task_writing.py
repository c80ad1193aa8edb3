"""Writes a task as a task file; the inverse of `task_files.parse_task`."""

import json
import re
from collections.abc import Mapping

from federated_health.data.columns import Category, Label, Measurement
from federated_health.data.labels import ClassLabel, CountLabel, NumberLabel
from federated_health.data.subgroups import CODES
from federated_health.data.tasks import Task


def write_task(task: Task) -> str:
    """The text of a task file that declares the same task."""
    tables: dict[str, Mapping[str, object]] = {"label": describe_label(task.label)}
    if task.patient is not None:
        tables["patient"] = {"column": task.patient}
    if task.training:
        tables["training"] = task.training
    if task.subgroups:
        tables["subgroups"] = {name: list(edges) or CODES for name, edges in task.subgroups.items()}
    for column in task.columns:
        tables[f"columns.{column.name}"] = describe_column(column)
    lines = [f"name = {write_value(task.name)}"]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {write_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def describe_label(label: Label) -> dict[str, object]:
    """Keys and values of the label's table in a task file; without keys that have their default."""
    described: dict[str, object] = {"column": label.name, "meaning": label.meaning}
    match label:
        case ClassLabel():
            described |= {"kind": label.kind, "codes": {str(code): text for code, text in label.codes.items()}}
        case NumberLabel():
            described |= {"kind": label.kind, "unit": label.unit, "range": [label.low, label.high]}
            described |= {} if label.scale is None else {"scale": label.scale}
        case CountLabel():
            described |= {"kind": label.kind, "range": [0, label.high]}
        case _ if label.typical_share is not None:
            described["typical_share"] = label.typical_share
    return described


def describe_column(column: Measurement | Category) -> dict[str, object]:
    """Keys and values of a column's table in a task file; without keys that have their default."""
    if isinstance(column, Category):
        codes = {str(code): meaning for code, meaning in column.codes.items()}
        risk_codes = {"risk_codes": list(column.risk_codes)} if column.risk_codes else {}
        return {"meaning": column.meaning, "codes": codes, **risk_codes}
    units = {unit: {"factor": factor, "offset": offset} for unit, (factor, offset) in column.other_units.items()}
    optional = {
        "zero_is_missing": column.zero_is_missing,
        "typical_median": column.typical_median,
        "other_units": units,
        "scale": column.scale,
        "association": column.association,
    }
    return {
        "meaning": column.meaning,
        "unit": column.unit,
        "range": [column.low, column.high],
        **{key: value for key, value in optional.items() if value},
    }


def write_value(value: object) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{write_key(key)} = {write_value(entry)}" for key, entry in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(write_value, value))}]"
    return repr(value)


def write_key(key: str) -> str:
    """A key in TOML, in quotes where it needs them."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
