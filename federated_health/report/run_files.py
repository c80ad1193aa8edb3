"""The files that a run leaves: settings, rounds, metrics, model and report. Each is whole or not there."""

import csv
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from federated_health import __version__
from federated_health.data.tasks import get_task
from federated_health.errors import RunError, StorageError
from federated_health.files import write_text
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights, build_model, save_model, weights_hash
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.names import FEDERATION
from federated_health.report.page import Page, render

logger = logging.getLogger(__name__)

SETTINGS, ROUNDS, METRICS, MODEL, REPORT = "settings.json", "rounds.csv", "metrics.json", "model.keras", "report.html"
_ROUND_COLUMNS = (
    "round",
    "hospital",
    "train_examples",
    "train_loss",
    "test_examples",
    "test_loss",
    "test_accuracy",
)


def metrics_of(told: TrainConfig) -> dict[str, Any]:
    """What metrics.json says of how a model was trained."""
    return {
        "task": told.task,
        "strategy": told.strategy,
        "strategy_args": told.strategy_args,
        "model": told.model,
        "rounds": told.rounds,
        "seed": told.seed,
        "threshold": told.threshold,
    }


def save_final_model(path: Path, train_config: TrainConfig, weights: Weights) -> None:
    """The self-contained Keras model of a federation's weights, with a description of how it came to be.

    Raises:
        RunError: it cannot be written.
    """
    model = build_model(get_task(train_config.task), train_config.model, train_config.normalisation, weights)
    description = {"version": __version__, "weights_sha256": weights_hash(weights), **asdict(train_config)}
    try:
        save_model(path, model, description)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def write_report(path: Path, make: Callable[[], Page]) -> None:
    """Write a page, or say in one line why there is none: what it shows is saved already, and should not seem lost.

    Raises:
        RunError: it cannot be made or written.
    """
    try:
        text = render(make())
    except Exception as error:
        # Where it happened, without the exception's words: they may hold values.
        frames = traceback.extract_tb(error.__traceback__)
        logger.debug("".join(traceback.format_list(frames)))
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise RunError(
            f"{path}: could not be made ({type(error).__name__} in {where}); everything else is saved"
        ) from error
    write_text(path, text)


def write_rounds(path: Path, history: Sequence[Round]) -> None:
    """rounds.csv whole or not at all."""
    text = StringIO(newline="")
    csv.writer(text).writerows([_ROUND_COLUMNS, *(row for record in history for row in _rows_of_round(record))])
    write_text(path, text.getvalue())


def append_round(path: Path, record: Round) -> None:
    """Add a round to rounds.csv.

    Raises:
        RunError: it cannot be written to.
    """
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_rows_of_round(record))
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written to ({error.strerror})") from None


def _rows_of_round(record: Round) -> list[list[int | str]]:
    """Of rounds.csv: a row a hospital, then the federation's."""
    of = {**record.hospitals, FEDERATION: record.federation}
    return [[record.number, name, *_round_cells(one)] for name, one in of.items()]


def _round_cells(one: HospitalRound) -> list[int | str]:
    counts = one.counts
    figures = [one.train_loss, counts.loss if counts else None, counts.accuracy if counts else None]
    train_loss, test_loss, accuracy = ("" if figure is None else f"{figure:.6f}" for figure in figures)
    return [one.train_examples, train_loss, counts.examples if counts else 0, test_loss, accuracy]
