"""What the studies share: the request, the hospitals' files and the results folder."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.data.dataset_folder import read_manifest
from federated_health.data.tasks import Task, get_task
from federated_health.errors import DataError, SettingsError
from federated_health.report.page import Page
from federated_health.report.run_files import REPORT, make_folder, write_json, write_report
from federated_health.server.run_folder import spare_run
from federated_health.settings import Settings, Value, read_defaults


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

    def make_settings(self, task: Task, hospitals: int, **changes: Value) -> Settings:
        """The settings of the study's runs.

        Args:
            changes: further settings, with _ for -.

        Raises:
            SettingsError: one of them is not valid.
        """
        changed = {name.replace("_", "-"): value for name, value in changes.items()}
        return Settings.from_config(
            {**read_defaults(), **self.settings, "task": task.name, "hospitals": hospitals, **changed}
        )

    def open_folder(self, own_files: Iterable[str]) -> None:
        """Make the results folder.

        Args:
            own_files: names of files that mark the folder as one of this study.

        Raises:
            RunError: it holds a run's report and `force` is not set, or cannot be written to.
        """
        spare_run(self.out, own_files, force=self.force)
        make_folder(self.out)

    def write_results(self, name: str, figures: Mapping[str, Any], make_page: Callable[[], Page]) -> None:
        """Write the figures as JSON under this name, then the report.

        Raises:
            RunError: one of them cannot be made or written.
        """
        write_json(self.out / name, figures)
        write_report(self.out / REPORT, make_page)


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
    """Refuse a list flag that names a value twice.

    Raises:
        SettingsError: it does.
    """
    if len(set(values)) < len(values):
        raise SettingsError(f"{flag}: expected different values, got {', '.join(values)}")
