"""The fits of a study: over several processes, each result on disk as soon as it is there, so that a study resumes."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from federated_health import __version__
from federated_health.errors import RunError, UserError
from federated_health.report.run_files import write_text
from federated_health.server.strategies import write_arguments
from federated_health.settings import OPERATIONAL
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.training_setups import (
    Fit,
    Protocol,
    Scored,
    TrainingSetup,
    plan_fits,
    run_fit,
    settings_of,
)
from federated_health.studies.workers import load_app, workers

JOURNAL = "fits.jsonl"

INDIFFERENT = OPERATIONAL | {"appraisal", "hospitals", "strategy"}
"""Settings that no result depends on: hospitals, their rows and the strategies are the study's own."""

Results = dict[Fit, Scored]


class Journal:
    """The file of a study's finished fits: a line that names the study, then a line a fit.

    Args:
        folder: of the study; it is there.
        fingerprint: all that the results depend on.
        force: start anew where the folder holds another study.

    Raises:
        RunError: the folder holds another study, or cannot be written to.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, force: bool) -> None:
        self._path = folder / JOURNAL
        self.results: Results = {}
        first = json.dumps(fingerprint, sort_keys=True)
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
            if lines and lines[0] != first and not force:
                raise RunError(f"{self._path}: is of another study (other data or settings); --force starts anew")
            whole = [first, *self._read(lines[1:])] if lines and lines[0] == first else [first]
            # Written anew, in one go, without a last line that a power cut tore.
            write_text(self._path, "".join(f"{line}\n" for line in whole))
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written to ({error.strerror})") from None
        except UnicodeDecodeError:
            raise RunError(f"{self._path}: is not a study's; --force does not overwrite it") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, fit: Fit, scored: Scored) -> None:
        """Keep a result, on disk when this returns."""
        self.results[fit] = scored
        try:
            self._file.write(json.dumps({**asdict(fit), **asdict(scored)}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written to ({error.strerror})") from None

    def _read(self, lines: Sequence[str]) -> Iterator[str]:
        """The lines that are whole, each of which becomes a result."""
        for line in lines:
            try:
                content = json.loads(line)
                fit = Fit(
                    repeat=content.pop("repeat"),
                    fold=content.pop("fold"),
                    regime=TrainingSetup(content.pop("regime")),
                    subject=content.pop("subject"),
                )
                self.results[fit] = Scored(**content)
            except (ValueError, KeyError, TypeError, AttributeError):  # the last: JSON, but not an object
                return
            yield line


def fingerprint_of(cohort: Cohort, protocol: Protocol) -> dict[str, Any]:
    """All that the results of a study depend on; a further strategy only adds to them."""
    settings = {key: value for key, value in protocol.settings.to_config().items() if key not in INDIFFERENT}
    return {
        "version": __version__,
        "settings": {**settings, "strategy-args": write_arguments(protocol.settings.strategy_arguments)},
        "folds": protocol.folds,
        "repeats": protocol.repeats,
        "strategy": protocol.strategies[0],
        "tune": protocol.tune,
        "schema": cohort.task.schema_hash,
        "hospitals": dict(cohort.hashes),
    }


def run_study(
    cohort: Cohort,
    protocol: Protocol,
    journal: Journal,
    *,
    app: str,
    jobs: int,
    show: Callable[[int, int], None] = lambda *_: None,
) -> Results:
    """Fit what the journal does not hold yet.

    Args:
        app: where the hospitals' ClientApp is, such as client:app.
        jobs: processes; the results do not depend on it.
        show: told after each fit how many of how many are done.

    Raises:
        RunError, SettingsError: a fit failed; what is finished stays in the journal.
    """
    fits = plan_fits(list(cohort.numbers), protocol)
    for fit in fits:
        settings_of(fit, protocol, len(cohort.numbers))  # a strategy that needs more hospitals is refused at once
    left = [fit for fit in fits if fit not in journal.results]
    show(len(fits) - len(left), len(fits))
    died = "a process of the study died; the same command goes on where it stopped"
    with workers(min(jobs, len(left)), _begin, (cohort, protocol, app), died=died) as run:
        for done, (fit, scored) in enumerate(run(left), start=len(fits) - len(left) + 1):
            journal.add(fit, scored)
            show(done, len(fits))  # the journal may hold those of further strategies, too
    return {fit: journal.results[fit] for fit in fits}


def _begin(work: tuple[Cohort, Protocol, str]) -> Callable[[Fit], Scored]:
    cohort, protocol, reference = work
    app = load_app(reference)

    def fit_one(fit: Fit) -> Scored:
        try:
            return run_fit(fit, cohort, protocol, app)
        except UserError as error:
            which = f"repeat {fit.repeat + 1}, fold {fit.fold + 1}, {fit.regime} {fit.subject}".rstrip()
            raise RunError(f"{which}: {error}") from None

    return fit_one
