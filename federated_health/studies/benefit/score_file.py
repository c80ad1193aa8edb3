"""scores.csv: what every model of a study predicts for the rows that it was not trained on.

The file is data about patients, which a study keeps beside its journal: it stays where the hospitals' rows are.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from federated_health.errors import StorageError
from federated_health.files import PRIVATE, replace_file
from federated_health.studies.benefit.comparison import OutOfFold, Scores

SCORES = "scores.csv"

FIRST_ROW = 2
"""Number of the first patient's row in a spreadsheet, where row 1 has the names of the columns."""

NUMBER = "%.9g"
"""Nine digits: no two different outputs of a network become equal predictions."""


def write_scores(path: Path, scores: Scores) -> None:
    """Write a line per hospital, repeat and row; a StorageError if it cannot be written.

    Columns: hospital; row, the number of the row in the hospital's CSV, from FIRST_ROW; repeat and fold, from 1; label;
    then by model what `Target.prediction_columns` calls the prediction, such as risk_own, and threshold_own where there
    are thresholds.
    """
    try:
        replace_file(path, _pieces(scores), PRIVATE)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def _pieces(scores: Scores) -> Iterator[bytes]:
    """The text of the file, with one piece per hospital and repeat."""
    is_first = True
    for name, labels in scores.labels.items():
        for repeat, fold_of_row in enumerate(scores.folds[name]):
            columns: dict[str, Any] = {
                "hospital": name,
                "row": np.arange(len(labels)) + FIRST_ROW,
                "repeat": repeat + 1,
                "fold": fold_of_row + 1,
                "label": labels.astype(np.float64),
            }
            for model, by_hospital in scores.models.items():
                columns |= _columns_of(scores, model, by_hospital[name], repeat)
            text = pd.DataFrame(columns).to_csv(index=False, header=is_first, float_format=NUMBER, lineterminator="\n")
            is_first = False
            yield text.encode()


def _columns_of(scores: Scores, model: str, out_of_fold: OutOfFold, repeat: int) -> dict[str, npt.NDArray[Any]]:
    """The columns of one model, each [rows]."""
    predictions = scores.target.predict(out_of_fold.outputs[repeat])
    named = scores.target.prediction_columns(predictions.reshape(len(predictions), -1), threshold=0.0)
    if len(named) > 1:
        del named["prediction"]  # the class that follows from the others
    if scores.target.has_threshold:
        named["threshold"] = out_of_fold.thresholds[repeat]
    return {f"{column}_{model}": values for column, values in named.items()}
