"""The files of a run: settings, rounds, metrics, model and report. Each is written whole or not at all."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health import report
from federated_health.errors import RunError
from federated_health.files import write_text
from federated_health.messages.content import TrainConfig
from federated_health.report.run_summary import RunSummary

if TYPE_CHECKING:
    from federated_health.report.page import Page

logger = logging.getLogger(__name__)


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
