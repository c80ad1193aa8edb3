"""The journal of a study: it saves each result at once, so that an interrupted study can resume."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from federated_health import __version__
from federated_health.errors import RunError
from federated_health.file_access import append, open_to_append, read_file
from federated_health.files import PRIVATE, write_bytes
from federated_health.ml.strategies import write_arguments
from federated_health.settings import OPERATIONAL
from federated_health.studies.benefit.cohort import Cohort
from federated_health.studies.benefit.compared_strategies import without_defaults
from federated_health.studies.benefit.training_setups import EvaluationProtocol, Fit, FitResult, TrainingSetup

JOURNAL = "fits.jsonl"

MAX_JOURNAL_BYTES = 2**30
"""Largest size of a journal."""

IRRELEVANT_SETTINGS = OPERATIONAL | {"appraisal", "hospitals", "strategy"}
"""Settings on which no result depends: the study itself defines hospitals and strategies."""

Results = dict[Fit, FitResult]


class Journal:
    """The file of finished fits: a first line that identifies the study, then one line per fit.

    Args:
        folder: folder of the study, which exists.
        fingerprint: everything that the results depend on.
        force: start anew if the folder holds another study.

    Attributes:
        results: the finished fits, by their `Fit.key`.
        is_new: whether the file was made anew, so that no fit of the study was finished before.

    Raises:
        RunError: the folder holds another study, or the file cannot be written.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, force: bool) -> None:
        self._path = folder / JOURNAL
        self.results: Results = {}
        first = json.dumps(fingerprint, sort_keys=True)
        try:
            lines = read_file(self._path, MAX_JOURNAL_BYTES).decode().splitlines() if self._path.exists() else []
        except OSError as error:
            raise RunError(f"{self._path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise RunError(f"{self._path}: expected a study's journal; --force does not overwrite it") from None
        is_same = lines[:1] == [first]
        self.is_new = not is_same
        if lines and not is_same and not force:
            raise RunError(f"{self._path}: belongs to another study (other data or settings); --force starts anew")
        whole = [first, *(self._read(lines[1:]) if is_same else [])]
        # Replaced atomically, without a last line that was only partly written when the power failed.
        write_bytes(self._path, "".join(f"{line}\n" for line in whole).encode(), PRIVATE)

    def add(self, fit: Fit, result: FitResult) -> None:
        """Save a result; it is on disk when this returns."""
        fit = fit.key
        self.results[fit] = result
        key = {"repeat": fit.repeat, "fold": fit.fold, "regime": fit.setup, "subject": fit.subject}
        try:
            with open_to_append(self._path) as file:
                append(file, f"{json.dumps({**key, **asdict(result)})}\n".encode())
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written ({error.strerror})") from None

    def _read(self, lines: Sequence[str]) -> Iterator[str]:
        """The lines up to the first damaged one, each of which becomes a result."""
        for line in lines:
            try:
                content = json.loads(line)
                setup = TrainingSetup(content.pop("regime"))
                place = {name: content.pop(name) for name in ("repeat", "fold", "subject")}
                self.results[Fit(setup=setup, **place)] = FitResult(**content)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # JSON, but not an object
                return
            yield line


def fingerprint_of(cohort: Cohort, protocol: EvaluationProtocol) -> dict[str, Any]:
    """Everything that the results of a study depend on; a further strategy only adds results."""
    config = protocol.settings.to_config()
    settings = {key: value for key, value in config.items() if key not in IRRELEVANT_SETTINGS}
    return {
        "version": __version__,
        "settings": {**settings, "strategy-args": write_arguments(protocol.settings.strategy_arguments)},
        "network": protocol.settings.network_declaration.sha256,
        "folds": protocol.folds,
        "repeats": protocol.repeats,
        "strategy": without_defaults(protocol.strategies[0]),
        "tune": protocol.tune,
        "schema": cohort.task.schema_hash,
        "hospitals": dict(cohort.hashes),
    }
