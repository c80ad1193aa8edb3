"""Data sets as people have them -> one canonical table: a `hospital` column, the task's columns, the label."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from federated_health.errors import DataError
from federated_health.tables import hash_file, read_table
from federated_health.tasks import HEART_DISEASE, Task

HOSPITAL_COLUMN = "hospital"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A canonical table and where it comes from.

    Attributes:
        table: a row a patient; `hospital`, then the task's columns as numbers (NaN for missing), then the label 0 or 1.
    """

    name: str
    task: Task
    file: str
    sha256: str
    table: pd.DataFrame


def read_uci(path: Path) -> Source:
    """The UCI Heart Disease table that the project carries (see data/README.md); disease is num > 0.

    Raises:
        DataError: the file is not there or is not that table.
    """
    task = HEART_DISEASE
    text = read_table(path)
    expected = [HOSPITAL_COLUMN, *task.column_names, "num"]
    if list(text.columns) != expected:
        raise DataError(f"{path}: expected the columns {', '.join(expected)}; got {', '.join(text.columns)}")
    try:
        numbers = text[expected[1:]].replace("", None).apply(pd.to_numeric)
    except ValueError:
        raise DataError(f"{path}: is not the table that comes with the project: it has text in a number") from None
    table = pd.concat([text[[HOSPITAL_COLUMN]], numbers], axis=1)
    if table.empty or not table["num"].isin(range(5)).all() or (table[HOSPITAL_COLUMN] == "").any():
        raise DataError(f"{path}: column num must hold 0 to 4, and column {HOSPITAL_COLUMN} a name, in every row")
    label = (table.pop("num") > 0).astype("int64")
    return Source(
        name="uci",
        task=task,
        file=path.name,
        sha256=hash_file(path),
        table=table.assign(**{task.label.name: label}),
    )
