"""The folder of a run: its results, and the checkpoints from which it resumes; for one server at a time."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from federated_health import report
from federated_health.errors import RunError, StorageError
from federated_health.files import locked_folder, make_folder, path_exists, write_json
from federated_health.ml.rounds import Round, append_round, write_rounds
from federated_health.ml.targets import target_of
from federated_health.names import METRICS, MODEL, REPORT, ROUNDS, SETTINGS
from federated_health.server.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFolder
from federated_health.server.run import FederatedRun
from federated_health.settings import Settings

if TYPE_CHECKING:
    from federated_health.report.saved_model import ModelSaver

_FILES = (SETTINGS, ROUNDS, METRICS, MODEL, REPORT)


class RunFolder:
    """Where a run's results and checkpoints go.

    As a context manager it locks the folder against other servers. A run that ends before its first round is completed
    leaves no files. An earlier run's checkpoints are removed when the new run begins, and its results when the first
    round is completed.

    Args:
        settings: `out` names the folder, or is empty for runs/ and the date and time; `force` allows an earlier run's
            files to be replaced; `resume` names the folder of a run to resume.

    Attributes:
        checkpoint: from which the run resumes; None for a new run.

    Raises:
        RunError: the folder holds a run already, or none that these settings can resume, or cannot be made.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.resume or settings.out or time.strftime("runs/%Y-%m-%d-%H%M%S"))
        self._settings = settings
        self._checkpoints = CheckpointFolder(self.path / CHECKPOINTS)
        self.checkpoint: Checkpoint | None = None
        self._has_no_round = False  # whether a new run has begun without completing a round
        self._resources = ExitStack()
        if settings.resume:
            from federated_health.server import resuming  # noqa: PLC0415  # a new run does without it

            self.checkpoint = resuming.read_checkpoint(self.path, self._checkpoints)
            resuming.check_settings(self.checkpoint.settings, settings.to_config())
            self.checkpoint.check_agreement(settings.agreement)
        elif (present := files_of_run(self.path)) and not settings.force:
            resume = "--resume continues it, " if CHECKPOINTS in present else ""
            raise RunError(f"{self.path}: holds a run already ({', '.join(present)}); {resume}--force overwrites it")
        self._is_new = not path_exists(self.path)
        make_folder(self.path)

    def __enter__(self) -> Self:
        try:
            self._resources.enter_context(locked_folder(self.path, wait=False))
        except BlockingIOError:
            raise RunError(f"{self.path}: is in use by another server") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()
        if self._has_no_round:
            self._checkpoints.remove()
        if self._is_new:
            with suppress(OSError):  # it holds files, or is gone
                self.path.rmdir()

    def begin(self, run: FederatedRun) -> None:
        """Save the state of the run before its first round, once the hospitals have gathered."""
        if self.checkpoint is None:
            self._checkpoints.remove()
        else:
            self._write_rounds(run.history)
        self._has_no_round = self.checkpoint is None
        self._checkpoints.save(run.checkpoint())

    def append_round(self, run: FederatedRun) -> None:
        """Add the last completed round to rounds.csv, and save a checkpoint, which is on disk when this returns."""
        self._has_no_round = False
        if len(run.history) == 1:
            self._write_rounds(run.history)
        else:
            append_round(self.path / ROUNDS, run.history[-1])
        self._checkpoints.save(run.checkpoint())
        if len(run.history) == self._settings.rounds and run.weights is not None:
            self._model_saver.prepare()  # during the final evaluation

    @cached_property
    def _model_saver(self) -> "ModelSaver":
        from federated_health.report.saved_model import ModelSaver  # noqa: PLC0415  # once the rounds are over

        saver = ModelSaver()
        self._resources.callback(saver.close)
        return saver

    @property
    def _headline(self) -> str:
        return target_of(self._settings.task_declaration).headline

    def _write_rounds(self, history: Sequence[Round]) -> None:
        """Write settings.json and rounds.csv, and remove what an earlier run left."""
        try:
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written to ({error.strerror})") from None
        config = self._settings.to_config()
        if self.checkpoint is not None:  # the file says how to repeat the run, not that it was resumed
            config |= {"out": str(self.path), "resume": ""}
        write_json(self.path / SETTINGS, config)
        write_rounds(self.path / ROUNDS, history, self._headline)

    def finish(self, run: FederatedRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
        """Write metrics.json, model.keras and report.html, in this order; a completed run needs no checkpoints.

        A run whose weights the server cannot read has metrics.json only. Once stopped, such a run cannot resume, since
        its key ends with the hospitals' processes.

        Raises:
            RunError: a file could not be made or written; the files before it are written.
        """
        from federated_health.server import run_summary  # noqa: PLC0415  # once the rounds are over

        if stopped:  # the last round may not have been added
            write_rounds(self.path / ROUNDS, run.history, self._headline)
        config, run_page = run.train_config(), report.load().run_page
        run_summary.write_metrics(self.path, run, figures, stopped=stopped)
        if run.weights is not None:
            report.load().svg.warm_up()  # while the other process gets ready
            model = self.path / MODEL
            self._model_saver.save(model, run.settings.task_declaration, config, run.weights)
            facts = run_page.hashes_of_model(model, run.weights)
            summary = run_summary.summarise(run, figures, stopped=stopped, facts=facts)
            run_page.write_run_report(self.path / REPORT, summary)
        if not stopped or run.weights is None:
            self._checkpoints.remove()


def files_of_run(path: Path) -> list[str]:
    """Names of a run's files in a folder, and of its checkpoints' folder if it holds any."""
    files = [name for name in _FILES if path_exists(path / name)]
    return files if CheckpointFolder(path / CHECKPOINTS).is_empty() else [*files, CHECKPOINTS]
