"""Which hospital a client is: by its number in a folder, or by a CSV and a name of its own."""

from dataclasses import dataclass
from pathlib import Path

from federated_health.data.dataset_folder import find_hospital, read_manifest
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
        folder: where numbers count, as create_dataset.py wrote it.
        number: from 1; else `data` and `name` are given.
        task: of a number the folder's, if it is None, and of a file the default.

    Raises:
        SettingsError: the flags do not name one hospital, or its name cannot be.
        DataError: the folder has no such hospital.
    """
    if (number is None) == (data is None) or (data is None) != (name is None):
        raise SettingsError("expected either --hospital N, or --data PATH and --name NAME; see client.py --help")
    if number is not None:
        data, name = find_hospital(folder, number)
        task = task or read_manifest(folder)["task"]
    assert data is not None
    assert name is not None
    if not is_hospital_name(name):
        raise SettingsError(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    return OwnHospital(data, name, get_task(task or default_task))
