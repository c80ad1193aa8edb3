"""What is suspicious in a hospital's labels that are not binary. Loaded only for a task with such a label."""

from collections.abc import Iterator

import pandas as pd

from federated_health.data.columns import Label
from federated_health.data.data_check import FEW_OF_A_CLASS


def warn_about_labels(label: Label, labels: "pd.Series[float]") -> Iterator[str]:
    """What is suspicious in a hospital's valid labels, without a value of a quantity; one line each."""
    if labels.empty:
        return
    if labels.nunique() == 1:
        yield f"{label.name} has one value in every row: there is nothing to learn from it"
    elif label.classes:
        rows = labels.value_counts().reindex(label.classes, fill_value=0)
        if none := _list_codes(rows[rows == 0]):
            yield f"no row has {label.name} {none}: are the file's codes those of the task?"
        if rare := _list_codes(rows[(rows > 0) & (rows < FEW_OF_A_CLASS)]):
            yield f"few rows have {label.name} {rare}: this hospital's own figures for these are too noisy to interpret"


def _list_codes(rows: "pd.Series[int]") -> str:
    return ", ".join(map(str, rows.index))
