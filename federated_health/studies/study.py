"""What the studies share: the hospitals' files, and the folder of the results."""

from collections.abc import Collection, Iterable
from pathlib import Path

from federated_health.data.manifest import read_manifest
from federated_health.data.tasks import Task, get_task
from federated_health.errors import DataError, RunError, SettingsError
from federated_health.files import make_folder
from federated_health.server.run_folder import files_of_run


def find_hospitals(folder: Path) -> tuple[Task, dict[str, Path]]:
    """The task of a dataset folder, and hospital -> its CSV.

    Raises:
        DataError: the folder has no manifest, or fewer than two hospitals.
    """
    manifest = read_manifest(folder)
    hospitals = manifest["hospitals"]
    if len(hospitals) < 2:
        raise DataError(f"{folder}: expected at least 2 hospitals, got {len(hospitals)}")
    return get_task(manifest["task"]), {entry["name"]: folder / entry["file"] for entry in hospitals}


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
