"""Shared by the studies: the hospitals' files, the folder of the results, and federated runs over rows in memory."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from federated_health.data.data_check import DataCheck, check_data, min_patients
from federated_health.data.hospital import Hospital
from federated_health.data.manifest import find_task_file, read_manifest
from federated_health.data.task_files import find_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, RunError, SettingsError, StorageError
from federated_health.files import make_folder, sync_folder
from federated_health.hospital import handlers
from federated_health.hospital.policy import Policy
from federated_health.names import REPORT
from federated_health.report.formatting import list_some
from federated_health.report.tables_folder import folder_of, remove_tables
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
    files = {entry["name"]: folder / entry["file"] for entry in manifest["hospitals"]}
    if len(files) < 2:
        raise DataError(f"{folder}: expected at least 2 hospitals, got {len(files)}")
    file = task_file or find_task_file(folder, manifest)
    return find_task(manifest["task"], file), file, files


def check_hospitals(
    files: Mapping[str, Path], task: Task, folds: int = 0
) -> tuple[dict[str, DataCheck], dict[str, str]]:
    """Check the CSVs of the hospitals, and leave out those with too few patients.

    A hospital with patients of one class only stays, as in a run.

    Args:
        folds: number of folds into which each hospital's patients are divided; 0 for none.

    Returns:
        Hospital -> its check; and hospital -> why it is left out.

    Raises:
        DataError: a CSV cannot be read or has an invalid cell; or fewer than two hospitals have enough patients.
        SettingsError: only with fewer folds, two hospitals have enough patients.
    """
    joining = min_patients(task.label)
    needed, purpose = (folds, f"for {folds} folds") if folds > joining else (joining, "to join a run")
    checks, left_out, sizes = {}, {}, []
    for name, path in files.items():
        check = check_data(path, task)
        patients = count_patients(check)
        sizes.append(patients)
        if patients < needed and not check.cells.invalid.to_numpy().any():
            left_out[name] = f"different patients: expected at least {needed} {purpose}, got {patients}"
        else:
            check.raise_obstacle()
            checks[name] = check
    if len(checks) < 2 and (second := sorted(sizes)[-2]) >= joining:
        raise SettingsError(
            f"folds: expected at most {second}, the patients of the second largest hospital, got {folds}"
        )
    refuse_too_few(checks, left_out)
    return checks, left_out


def count_patients(check: DataCheck) -> int:
    """Number of patients of one hospital; equal rows count once where no column identifies patients."""
    if check.cells.patients is not None:
        return len(np.unique(check.cells.patients))
    return len(check.numbers[list(check.task.column_names)].drop_duplicates())


def refuse_too_few(hospitals: Collection[str], left_out: Mapping[str, str]) -> None:
    """Raise a DataError if fewer than two hospitals are left."""
    if len(hospitals) < 2:
        which = describe_left_out(left_out)
        raise DataError(f"hospitals: expected at least 2 with enough patients, got {len(hospitals)}; {which}")


def describe_left_out(left_out: Mapping[str, str]) -> str:
    """The hospitals that are left out, with the reasons."""
    return f"left out: {list_some(f'{name} ({reason})' for name, reason in left_out.items())}"


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


def remove_results(folder: Path, files: Iterable[str]) -> None:
    """Remove the report's tables and these files of an earlier study, in this order; they are removed on disk.

    Raises:
        StorageError: one cannot be removed.
    """
    remove_tables(folder_of(folder / REPORT))
    for path in (folder / name for name in files):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror})") from None
    sync_folder(folder)


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
