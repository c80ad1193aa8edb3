"""Figures of one round, as a line of JSON and as rows of rounds.csv."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from federated_health.errors import StorageError
from federated_health.files import write_text
from federated_health.ml.metrics import EvaluationSums
from federated_health.ml.targets import Target, target_class
from federated_health.names import FEDERATION

CSV_COLUMNS = ("round", "hospital", "train_examples", "train_loss", "test_examples", "test_loss")
"""Columns of rounds.csv before those of the target's figures per round: test_accuracy, test_rmse, ..."""


@dataclass(frozen=True, slots=True)
class HospitalRound:
    """Figures of one hospital, or of all together, in one round.

    Attributes:
        train_loss: mean over the training rows, in nats; None where no update arrived, or its loss is withheld.
        counts: sums over the held-out rows under the round's new weights; None where no evaluation arrived.
    """

    train_examples: int
    train_loss: float | None
    counts: EvaluationSums | None


@dataclass(frozen=True, slots=True)
class Round:
    """Figures of one round: of each hospital, ordered by name, and of the federation, merged from the same counts."""

    number: int
    hospitals: Mapping[str, HospitalRound]
    federation: HospitalRound


def write_round(completed: Round) -> bytes:
    """A line of JSON: the number, then rows, loss and sums of each hospital and of the federation."""
    hospitals = {name: _write_figures(hospital) for name, hospital in completed.hospitals.items()}
    line = [completed.number, hospitals, _write_figures(completed.federation)]
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def read_round(line: bytes) -> Round:
    """The inverse of `write_round`."""
    number, hospitals, federation = json.loads(line)
    by_name = {name: _read_figures(*figures) for name, figures in hospitals.items()}
    return Round(number, by_name, _read_figures(*federation))


def _write_figures(hospital: HospitalRound) -> list[Any]:
    """Rows, loss and, unless there are none, the sums with the kind of their label before them."""
    counts = hospital.counts
    values = None if counts is None else [counts.kind, *astuple(counts)]  # type: ignore[call-overload]  # a dataclass
    return [hospital.train_examples, hospital.train_loss, values]


def _read_figures(train_examples: int, train_loss: float | None, values: list[Any] | None) -> HospitalRound:
    if values is None:
        return HospitalRound(train_examples, train_loss, None)
    kind, *parts = values
    counts = target_class(kind).sums(*(tuple(part) if isinstance(part, list) else part for part in parts))
    return HospitalRound(train_examples, train_loss, counts)


def write_rounds(path: Path, history: Sequence[Round], target: Target[Any]) -> None:
    """Write rounds.csv, whole or not at all; StorageError if it cannot be written."""
    write_text(path, rounds_csv(history, target))


def rounds_csv(history: Sequence[Round], target: Target[Any]) -> str:
    """The text of rounds.csv (see `write_rounds`)."""
    text = StringIO(newline="")
    csv.writer(text).writerows(
        [
            (*CSV_COLUMNS, *(f"test_{name}" for name in (target.headline, *target.also_per_round))),
            *(row for completed in history for row in _csv_rows(completed, target)),
        ]
    )
    return text.getvalue()


def append_round(path: Path, completed: Round, target: Target[Any]) -> None:
    """Add a round to rounds.csv; StorageError if it cannot be written."""
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_csv_rows(completed, target))
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written to ({error.strerror})") from None


def _csv_rows(completed: Round, target: Target[Any]) -> list[list[int | str]]:
    """A row per hospital, then the federation's."""
    rows: list[list[int | str]] = []
    for name, hospital in {**completed.hospitals, FEDERATION: completed.federation}.items():
        counts = hospital.counts
        of_test: list[float | None] = [None] * (2 + len(target.also_per_round))
        if counts:
            of_test = [counts.loss, counts.headline, *(getattr(counts, name) for name in target.also_per_round)]
        train_loss, *others = ("" if figure is None else f"{figure:.6f}" for figure in (hospital.train_loss, *of_test))
        test_examples = counts.examples if counts else 0
        rows.append([completed.number, name, hospital.train_examples, train_loss, test_examples, *others])
    return rows
