"""What a finished run's report shows, and the files metrics.json and report.html."""

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from federated_health import report
from federated_health.errors import RunError
from federated_health.files import write_text
from federated_health.messages.content import Evaluation, Registration, TrainConfig
from federated_health.ml.rounds import Round
from federated_health.settings import Settings

if TYPE_CHECKING:
    from federated_health.report.page import Page

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A finished or stopped run as the writer of the page knows it. Sections without data are left out.

    Attributes:
        config: the train config of the final model; `rounds` counts the finished rounds.
        figures: `hospitals`, `federation` and what else there is of metrics.json.
        hospital: the hospital that writes the page; empty for the server.
        hospitals: number of hospitals that trained, if `rounds` does not hold all of them; 0 if it is not known.
        settings: None if `hospital` does not know them.
        registrations: by hospital.
        rounds: the finished rounds, as far as they are known.
        evaluations: final evaluations by hospital, or of the federation alone.
        problems: one line each.
        stopped: whether the run ended before its last round.
        encrypted: whether the server could not read updates.
        privacy_spent: the differential privacy that `hospital` has spent, in a sentence.
        facts: further names and values, such as hashes of files.
    """

    config: TrainConfig
    figures: Mapping[str, Any]
    hospital: str = ""
    hospitals: int = 0
    settings: Settings | None = None
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    rounds: Sequence[Round] = ()
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    problems: Sequence[str] = ()
    stopped: bool = False
    encrypted: bool = False
    privacy_spent: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def rounds_trained(self) -> Counter[str]:
        """Number of known rounds in which each hospital trained; without those that did not."""
        return Counter(name for record in self.rounds for name, part in record.hospitals.items() if part.train_examples)

    @property
    def hospital_count(self) -> int:
        """Number of hospitals that trained; 0 if `hospital` does not know it."""
        return self.hospitals or len(self.rounds_trained)


def metrics_of(config: TrainConfig, *, stopped: bool) -> dict[str, Any]:
    """The entries of metrics.json that describe how a model was trained, and whether its run was stopped."""
    keys = ("task", "strategy", "strategy_args", "model", "rounds", "seed", "threshold")
    entries: dict[str, Any] = {key: getattr(config, key) for key in keys}
    entries |= {"stopped": True} if stopped else {}
    return entries | ({"privacy": config.privacy.to_json()} if config.privacy else {})


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
        what = f"{type(error).__name__} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"
        raise RunError(f"{path}: could not be made ({what}); everything else is saved") from error
    write_text(path, text)
