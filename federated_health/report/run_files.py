"""The files of a run: settings, rounds, metrics, model and report. Each is written whole or not at all."""

import csv
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health import __version__, report
from federated_health.data.tasks import get_task
from federated_health.errors import RunError, StorageError
from federated_health.files import write_text
from federated_health.messages.content import TrainConfig
from federated_health.ml.networks import Weights, build_model, save_model, weights_hash
from federated_health.ml.rounds import HospitalRound, Round
from federated_health.names import FEDERATION
from federated_health.report.run_summary import RunSummary

if TYPE_CHECKING:
    from federated_health.report.page import Page

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


def metrics_of(config: TrainConfig, *, stopped: bool) -> dict[str, Any]:
    """The entries of metrics.json that describe how a model was trained.

    Args:
        stopped: whether the run ended before its last round.
    """
    keys = ("task", "strategy", "strategy_args", "model", "rounds", "seed", "threshold")
    return {
        **{key: getattr(config, key) for key in keys},
        **({"stopped": True} if stopped else {}),
        **({"privacy": config.privacy.to_json()} if config.privacy else {}),
    }


def save_final_model(path: Path, config: TrainConfig, weights: Weights) -> None:
    """Save the self-contained Keras model of a run's weights, with a description of how it was trained.

    Raises:
        StorageError: it cannot be written.
    """
    model = build_model(get_task(config.task), config.model, config.normalisation, weights)
    description = {"version": __version__, "weights_sha256": weights_hash(weights), **asdict(config)}
    try:
        save_model(path, model, description)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def prepare_report() -> None:
    """Load everything that a report needs, while another process loads Keras."""
    report.load().svg.warm_up()


def write_run_report(path: Path, summary: RunSummary) -> None:
    """Write the page of a run, as `write_report` does."""
    write_report(path, lambda: report.load().run_page.page_of_run(summary))


def write_report(path: Path, make: Callable[[], "Page"]) -> None:
    """Write a page.

    Raises:
        RunError: it cannot be made or written. Its message says that all other results are saved.
    """
    try:
        text = report.load().page.render(make())
    except Exception as error:
        # Only where it happened, since the exception's text may hold patients' values.
        frames = traceback.extract_tb(error.__traceback__)
        logger.debug("".join(traceback.format_list(frames)))
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise RunError(
            f"{path}: could not be made ({type(error).__name__} in {where}); everything else is saved"
        ) from error
    write_text(path, text)


def write_rounds(path: Path, history: Sequence[Round]) -> None:
    """Write rounds.csv whole or not at all."""
    text = StringIO(newline="")
    csv.writer(text).writerows([_ROUND_COLUMNS, *(row for record in history for row in _rows_of_round(record))])
    write_text(path, text.getvalue())


def append_round(path: Path, record: Round) -> None:
    """Add a round to rounds.csv.

    Raises:
        StorageError: it cannot be written to.
    """
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_rows_of_round(record))
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written to ({error.strerror})") from None


def _rows_of_round(record: Round) -> list[list[int | str]]:
    """One row of rounds.csv per hospital, then one for the federation."""
    parts = {**record.hospitals, FEDERATION: record.federation}
    return [[record.number, name, *_round_cells(part)] for name, part in parts.items()]


def _round_cells(part: HospitalRound) -> list[int | str]:
    counts = part.counts
    figures = [part.train_loss, counts.loss if counts else None, counts.accuracy if counts else None]
    train_loss, test_loss, accuracy = ("" if figure is None else f"{figure:.6f}" for figure in figures)
    return [part.train_examples, train_loss, counts.examples if counts else 0, test_loss, accuracy]
