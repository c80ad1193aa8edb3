"""The folder of a run: its results, and the checkpoints from which it resumes; for one server at a time."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from federated_health.errors import RunError, StorageError
from federated_health.files import locked_folder, make_folder, path_exists, sync_folder, write_json
from federated_health.ml.rounds import Round, append_round, write_rounds
from federated_health.ml.targets import Target, target_of
from federated_health.names import METRICS, MODEL, REPORT, ROUNDS, SETTINGS, TABLES, TABLES_INDEX
from federated_health.server.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFolder
from federated_health.server.run import FederatedRun
from federated_health.settings import Settings

if TYPE_CHECKING:
    from federated_health.report.saved_model import ModelSaver

_FILES = (SETTINGS, ROUNDS, METRICS, MODEL, REPORT)


class RunFolder:
    """Where a run's results and checkpoints go.

    As a context manager it locks the folder against other servers. A run that ends before its first round is completed
    leaves no files. An earlier run's files stay until that round is saved: its results are then removed. Results of a
    run that resumes stay until the new ones replace them. What is removed has its replacement on disk already.

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
        self._is_unchanged = True  # whether no round was completed since it began or resumed
        self._was_finished = False  # whether it extends a finished run, whose results are there
        self._has_others_results = False  # whether it resumes beside results of an earlier run
        self._resources = ExitStack()
        if settings.resume:
            from federated_health.server import resuming  # noqa: PLC0415  # a new run does without it

            self.checkpoint = resuming.read_checkpoint(self.path, settings.to_config(), self._checkpoints)
            self.checkpoint.check_agreement(settings.agreement)
            self._has_others_results = resuming.has_others_results(self.path, self.checkpoint)
        elif (present := files_of_run(self.path)) and not settings.force:
            resume = "--resume continues or extends it, " if CHECKPOINTS in present else ""
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
        self._has_no_round = self.checkpoint is None
        self._was_finished = self.checkpoint is not None and self._checkpoints.is_finished()
        if self._has_others_results:
            self._remove_results()
        self._checkpoints.save(run.checkpoint())

    def append_round(self, run: FederatedRun) -> None:
        """Save a checkpoint, which is on disk when this returns, and add the last completed round to rounds.csv.

        rounds.csv is on disk at the end of the run: until then, the history beside the checkpoints holds its figures.
        """
        self._has_no_round = False
        self._checkpoints.save(run.checkpoint())
        if len(run.history) == 1:
            self._remove_results()
        if self._is_unchanged:
            self._write_rounds(run.history)
        else:
            append_round(self.path / ROUNDS, run.history[-1], self._target)
        self._is_unchanged = False
        if len(run.history) == self._settings.rounds:
            self._model_saver.prepare()  # during the final evaluation

    @cached_property
    def _model_saver(self) -> "ModelSaver":
        from federated_health.report.saved_model import ModelSaver  # noqa: PLC0415  # once the rounds are over

        saver = ModelSaver()
        self._resources.callback(saver.close)
        return saver

    @property
    def _target(self) -> Target[Any]:
        return target_of(self._settings.task_declaration)

    def _remove_results(self) -> None:
        """Remove the results of an earlier run; they are removed on disk when this returns."""
        try:
            for name in reversed(_FILES):
                (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written to ({error.strerror})") from None
        if path_exists(self.path / TABLES / TABLES_INDEX):
            from federated_health.report.tables_folder import remove_tables  # noqa: PLC0415  # of an earlier run only

            remove_tables(self.path / TABLES)

    def _write_rounds(self, history: Sequence[Round]) -> None:
        """Write settings.json and rounds.csv; they are on disk when this returns."""
        config = self._settings.to_config()
        if self.checkpoint is not None:  # the file says how to repeat the run, not that it was resumed
            config |= {"out": str(self.path), "resume": ""}
        write_json(self.path / SETTINGS, config)
        write_rounds(self.path / ROUNDS, history, self._target)

    def finish(self, run: FederatedRun, figures: Mapping[str, Any], *, stopped: bool) -> None:
        """Write settings.json, rounds.csv, metrics.json, model.keras, report.html and tables/, in this order.

        Only then are checkpoints removed, except for the last one, from which a finished run can be extended. A run
        with differential privacy leaves none, since its rounds are planned.

        Raises:
            RunError: a file could not be made or written; the files before it are written.
        """
        from federated_health.server import run_summary  # noqa: PLC0415  # once the rounds are over

        if stopped and self._was_finished and self._is_unchanged:
            return  # its results are those of a whole run
        self._write_rounds(run.history)  # the last round may not have been added
        run_summary.write_metrics(self.path, run, figures, stopped=stopped)
        run_summary.write_model_and_report(self.path, run, figures, self._model_saver, stopped=stopped)
        if run.privacy is not None and not stopped:
            self._checkpoints.remove()
        elif not stopped:
            self._checkpoints.remove(but_last=True)


def files_of_run(path: Path) -> list[str]:
    """Names of a run's files in a folder, and of the folders of its tables and of its checkpoints."""
    files = [name for name in _FILES if path_exists(path / name)]
    files += [TABLES] if path_exists(path / TABLES / TABLES_INDEX) else []
    return files if CheckpointFolder(path / CHECKPOINTS).is_empty() else [*files, CHECKPOINTS]
