"""Shared by the studies: the hospitals' files, the folder of the results, and federated runs over rows in memory."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from federated_health.data.hospital import Hospital
from federated_health.data.manifest import find_task_file, read_manifest
from federated_health.data.task_files import find_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, RunError, SettingsError
from federated_health.files import make_folder
from federated_health.hospital import handlers
from federated_health.hospital.policy import Policy
from federated_health.server.plain_run import PlainRun
from federated_health.server.run_folder import files_of_run
from federated_health.settings import Settings
from federated_health.transport.app_calls import App
from federated_health.transport.in_process import InProcessTransport

if TYPE_CHECKING:
    from federated_health.hospital.local_model import LocalModel

NO_WAIT = 0.1
"""Seconds to wait for hospitals: in process, one that cannot take part at once never will."""


def find_hospitals(folder: Path, task_file: Path | None = None) -> tuple[Task, Path | None, dict[str, Path]]:
    """The task of a dataset folder, its task file if it has one, and hospital -> its CSV.

    Args:
        task_file: declares the task of the CSVs; by default, the folder's manifest names it.

    Raises:
        DataError: the folder has no manifest, or fewer than two hospitals, or the task file cannot be used.
    """
    manifest = read_manifest(folder)
    hospitals = manifest["hospitals"]
    if len(hospitals) < 2:
        raise DataError(f"{folder}: expected at least 2 hospitals, got {len(hospitals)}")
    file = task_file or find_task_file(folder, manifest)
    task = find_task(manifest["task"], file)
    return task, file, {entry["name"]: folder / entry["file"] for entry in hospitals}


def refuse_duplicates(flag: str, values: Collection[str]) -> None:
    """Raise SettingsError if a list names a value twice."""
    if len(set(values)) < len(values):
        raise SettingsError(f"{flag}: expected different values, got {', '.join(values)}")


def prepare_folder(path: Path, own_files: Iterable[str], *, force: bool) -> None:
    """Make the folder of a study's results, unless it exists.

    Raises:
        RunError: it cannot be written to; or it holds a run, whose report would be replaced, and none of the study's
            own files, and `force` is false.
    """
    present = files_of_run(path)
    if present and not any((path / name).exists() for name in own_files) and not force:
        raise RunError(f"{path}: holds a run ({', '.join(present)}); --force replaces its report")
    make_folder(path)


def open_run(hospitals: Mapping[str, Hospital], settings: Settings, app: App, policy: Policy | None = None) -> PlainRun:
    """A run of these hospitals in this process, not yet started.

    Everything may leave a hospital, unless a policy says otherwise. The norm of updates is not limited: hospitals in
    process are honest, and the smaller of two may well move further.
    """
    # TensorFlow warns of repeated compilation: here hospitals of many sizes share one process.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    contexts = {
        name: handlers.InMemoryHospital(hospital, settings.network_declaration.path, policy)
        for name, hospital in hospitals.items()
    }
    settings = replace(settings, hospitals=len(hospitals), appraisal=False, max_update_norm=0.0, wait=NO_WAIT)
    return PlainRun(InProcessTransport(app, contexts), settings)


def require_all_updates(run: PlainRun, hospitals: Mapping[str, Hospital]) -> None:
    """Raise RunError if a hospital's update is missing in a round: a study compares models of the same hospitals."""
    for record in run.history:
        updated = {name for name, figures in record.hospitals.items() if figures.train_examples}
        if missing := sorted(hospitals.keys() - updated):
            raise RunError(f"{', '.join(missing)} sent no usable update in round {record.number}")


def local_model(run: PlainRun, hospital: Hospital) -> "LocalModel":
    """A hospital's rows under the run's network and normalisation; the hospital need not be part of the run."""
    config = run.train_config()
    return handlers.local_model(hospital, config.network, config.normalisation)


forget_local_models = handlers.local_model.cache_clear
"""Frees the rows that `local_model` and the hospitals' handlers keep."""
