"""A run's folder: its files (see `run_files`) and its checkpoints, for one server at a time."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from federated_health.data.manifest import hash_file
from federated_health.errors import RunError, StorageError
from federated_health.folders import locked_folder
from federated_health.report.run_files import (
    METRICS,
    MODEL,
    REPORT,
    ROUNDS,
    SETTINGS,
    append_round,
    make_folder,
    metrics_of,
    write_json,
    write_report,
    write_rounds,
)
from federated_health.report.svg import get_ready
from federated_health.server.checkpoints import Checkpoint, CheckpointFolder, check_settings
from federated_health.server.history import Round
from federated_health.server.model_saver import ModelSaver
from federated_health.server.plain_run import PlainRun
from federated_health.server.report_page import page_of_run
from federated_health.server.run import FederatedRun
from federated_health.settings import Settings, Value

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_FILES = (SETTINGS, ROUNDS, METRICS, MODEL, REPORT)


class RunFolder:
    """Where a run's results go, and its checkpoints, from which a run that was cut off goes on.

    Use it as a context, in which no other server can use the folder. Of a run that ends before its first round is
    finished, nothing is left. An earlier run's checkpoints are removed when it begins, and its results when the first
    round is finished.

    Args:
        settings: `out` names the folder, or is empty for runs/ and the date and time; `force` allows an earlier run's
            files to be replaced; `resume` names the folder of a run to go on with.

    Attributes:
        checkpoint: where the run goes on; None for a new one.

    Raises:
        RunError: the folder holds a run already, or none that these settings can go on with, or cannot be made.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.resume or settings.out or time.strftime("runs/%Y-%m-%d-%H%M%S"))
        self._settings = settings
        self._checkpoints = CheckpointFolder(self.path / CHECKPOINTS)
        self.checkpoint = _load(self.path, self._checkpoints) if settings.resume else None
        self._has_begun = self._has_rounds = False
        self._model_saver = ModelSaver()
        self._lock = ExitStack()
        present = files_of_run(self.path)
        if self.checkpoint is not None:
            check_settings(self.checkpoint.settings, settings.to_config())
            self.checkpoint.check_task(settings.task_declaration)
        elif present and not settings.force:
            goes_on = "--resume goes on with it, " if CHECKPOINTS in present else ""
            raise RunError(f"{self.path}: holds a run already ({', '.join(present)}); {goes_on}--force overwrites it")
        self._is_new = not _is_there(self.path)
        make_folder(self.path)

    def __enter__(self) -> Self:
        self._lock.enter_context(_locked(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._model_saver.close()
        self._lock.close()
        if self._has_begun and self.checkpoint is None and not self._has_rounds:
            self._checkpoints.remove()
        if self._is_new:
            with suppress(OSError):  # it holds something, or somebody has removed it
                self.path.rmdir()

    def begin(self, federation: FederatedRun) -> None:
        """Keep what is settled when the hospitals are gathered, before the first round."""
        if self.checkpoint is None:
            self._checkpoints.remove()
        else:
            self._write_rounds(federation.history)
        self._has_begun = True
        self._checkpoints.save(federation.checkpoint())

    def append_round(self, federation: FederatedRun) -> None:
        """Add the last finished round to rounds.csv, and save a checkpoint, which is on disk when this returns."""
        self._has_rounds = True
        if len(federation.history) == 1:
            self._write_rounds(federation.history)
        else:
            append_round(self.path / ROUNDS, federation.history[-1])
        self._checkpoints.save(federation.checkpoint())

    def prepare_to_finish(self, federation: FederatedRun) -> None:
        """The rounds are over: what saves the model gets ready while the last questions are answered."""
        if isinstance(federation, PlainRun):
            self._model_saver.prepare()

    def _write_rounds(self, history: Sequence[Round]) -> None:
        """settings.json, and rounds.csv from its beginning, in place of all that an earlier run left."""
        try:
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written to ({error.strerror})") from None
        config = self._settings.to_config()
        if self.checkpoint is not None:  # its settings say how to do it again, not how it went on
            config |= {"out": str(self.path), "resume": ""}
        write_json(self.path / SETTINGS, config)
        write_rounds(self.path / ROUNDS, history)

    def finish(self, federation: FederatedRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
        """Write metrics.json, model.keras and report.html, in this order; a run that is over needs no checkpoints.

        Of a run that the server cannot read it writes metrics.json alone. Where such a run was stopped, the key is gone
        with the hospitals' processes, and no checkpoint could be gone on from.

        Args:
            figures: see `FederatedRun.evaluate_finally`.
            stopped: whether the run ended before its last round.

        Raises:
            RunError: one of them could not be made or written; those before it are there.
        """
        if stopped:  # perhaps since the last round could not be added
            write_rounds(self.path / ROUNDS, federation.history)
        metrics = {
            **metrics_of(federation.train_config()),
            **({"stopped": True} if stopped else {}),
            **({"privacy": federation.privacy.to_json()} if federation.privacy else {}),
            "faults": federation.problems.to_json(),
            **figures,
        }
        if isinstance(federation, PlainRun):
            write_json(self.path / METRICS, metrics)
            self._save_model(federation, figures, stopped=stopped)
        else:
            write_json(self.path / METRICS, {key: value for key, value in metrics.items() if key != "threshold"})
        if not stopped or not isinstance(federation, PlainRun):
            self._checkpoints.remove()

    def _save_model(self, federation: PlainRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
        """model.keras, and report.html, which names it."""
        if self._model_saver.is_getting_ready:
            get_ready()
        self._model_saver.save(self.path / MODEL, federation.train_config(), federation.weights)
        files = {f"SHA-256 of {MODEL}": hash_file(self.path / MODEL)}
        write_report(
            self.path / REPORT,
            lambda: page_of_run(federation, figures, list(federation.history), stopped=stopped, others=files),
        )


def read_checkpoint(path: Path) -> Checkpoint:
    """Where the run of a folder goes on.

    Raises:
        RunError: there is no run, or it is over, or it has no checkpoint that is whole.
    """
    return _load(path, CheckpointFolder(path / CHECKPOINTS))


def _load(path: Path, checkpoints: CheckpointFolder) -> Checkpoint:
    # An encrypted run leaves metrics.json, and no model.
    if checkpoints.is_empty() and (_is_there(path / MODEL) or _is_there(path / METRICS)):
        raise RunError(f"{path}: the run is over; there is nothing to resume")
    if not _is_there(path):
        raise RunError(f"{path}: holds no checkpoint: there is no such folder, or it may not be looked into")
    return checkpoints.load()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other servers off a folder.

    Raises:
        RunError: one is at work on it, or it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(path, wait=False))
        except BlockingIOError:
            raise RunError(f"{path}: another server is at work on it") from None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror})") from None
        yield


def settings_to_resume(path: Path, given: Mapping[str, Value]) -> dict[str, Value]:
    """The settings with which the run of a folder goes on: those that it had, but for given ones that may change.

    Raises:
        RunError: see `read_checkpoint`; or a given setting, on which results depend, is not the run's.
    """
    saved = read_checkpoint(path).settings
    check_settings(saved, given)
    return {**saved, "out": "", "force": False, **given}


def files_of_run(path: Path) -> list[str]:
    """The names of a run's files, and of its checkpoints if there are any, that are in a folder."""
    files = [name for name in _FILES if _is_there(path / name)]
    return files if CheckpointFolder(path / CHECKPOINTS).is_empty() else [*files, CHECKPOINTS]


def spare_run(path: Path, own: Iterable[str], *, force: bool) -> None:
    """Refuse a run's folder to what would replace its report, unless it holds a file of its own there already.

    Raises:
        RunError: it is one.
    """
    others = files_of_run(path)
    if others and not any((path / name).exists() for name in own) and not force:
        raise RunError(f"{path}: holds a run ({', '.join(others)}); --force replaces its report")


def _is_there(path: Path) -> bool:
    """Whether it can be seen; what is made of it says why not."""
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False
