"""What the studies share: the request, and the hospitals' files."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from federated_health.data.manifest import read_manifest
from federated_health.data.tasks import Task, get_task
from federated_health.errors import DataError, RunError, SettingsError
from federated_health.server.run_folder import files_of_run
from federated_health.setting_fields import Value
from federated_health.settings import Settings, read_defaults


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What every study is asked for.

    Attributes:
        data: folder that create_dataset.py wrote.
        out: folder of the results.
        force: whether `out` may hold a run, whose report is replaced.
        settings: training settings by flag; the others keep their defaults.
    """

    data: Path
    out: Path
    force: bool
    settings: Mapping[str, Value]

    def make_settings(self, task: Task, hospitals: int, changes: Mapping[str, Value]) -> Settings:
        """The settings of the study's runs.

        Raises:
            SettingsError: one of them is not valid.
        """
        config = {**read_defaults(), **self.settings, "task": task.name, "hospitals": hospitals, **changes}
        return Settings.from_config(config)


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


def refuse_run_folder(path: Path, own_files: Iterable[str], *, force: bool) -> None:
    """Refuse to replace the report in a run's folder, unless the folder holds one of these own files already.

    Raises:
        RunError: the folder is a run's.
    """
    present = files_of_run(path)
    if present and not any((path / name).exists() for name in own_files) and not force:
        raise RunError(f"{path}: holds a run ({', '.join(present)}); --force replaces its report")
