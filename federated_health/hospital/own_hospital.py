"""Finds the hospital of a client: by its number in a folder of CSVs, or by a CSV and a name."""

from dataclasses import dataclass
from pathlib import Path

from federated_health.data.manifest import find_hospital, read_manifest
from federated_health.data.tasks import Task, get_task
from federated_health.errors import SettingsError
from federated_health.names import FEDERATION, is_hospital_name


@dataclass(frozen=True)
class OwnHospital:
    """A hospital before its CSV is read."""

    data: Path
    name: str
    task: Task


def find_own_hospital(
    folder: Path, number: int | None, data: Path | None, name: str | None, task: str | None, default_task: str
) -> OwnHospital:
    """The hospital that a client's flags name.

    Args:
        folder: folder that create_dataset.py wrote.
        number: the hospital's number in the folder, from 1; None if `data` and `name` are given.
        task: name of the task; if None, the folder's task for a number, else `default_task`.

    Raises:
        SettingsError: the flags do not name exactly one hospital, or the name is not valid.
        DataError: the folder has no such hospital.
    """
    if number is not None and data is None and name is None:
        data, name = find_hospital(folder, number)
        task = task or read_manifest(folder)["task"]
    elif number is not None or data is None or name is None:
        raise SettingsError("expected either --hospital N, or --data PATH and --name NAME; see client.py --help")
    if not is_hospital_name(name):
        raise SettingsError(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    return OwnHospital(data, name, get_task(task or default_task))
