"""The manifest of a folder of hospitals' CSVs, which `dataset_folder` writes: which hospitals, files and hashes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.data.task_files import DEFAULT_TASK, find_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.file_access import read_file
from federated_health.names import FEDERATION, is_hospital_name, printable

MANIFEST = "manifest.json"

MAX_MANIFEST_BYTES = 64 * 2**20
"""Largest size of a manifest."""

_EXPECTED_FLAGS = "expected --hospital N, or --data FILE with --name NAME or --tls DIR; see --help"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; a DataError unless create_dataset.py wrote one."""
    path = (folder / MANIFEST).absolute()
    try:
        manifest: dict[str, Any] = json.loads(read_file(path, MAX_MANIFEST_BYTES))
        names = [manifest["task"], manifest["source"]["name"], *(entry["name"] for entry in manifest["hospitals"])]
        if not all(isinstance(text, str) for text in (*names, *listed_hashes(manifest))):
            raise TypeError
        return manifest
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; create it with: python -m federated_health create-dataset") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path}: is not a manifest that create_dataset.py wrote") from None


def find_hospital(folder: Path, number: int) -> tuple[Path, str]:
    """CSV and name of a hospital by its number, from 1; a DataError if the folder has no such hospital."""
    hospitals = read_manifest(folder)["hospitals"]
    if not 1 <= number <= len(hospitals):
        raise DataError(f"{folder / MANIFEST}: expected a hospital from 1 to {len(hospitals)}, got {number}")
    hospital = hospitals[number - 1]
    path = folder / hospital["file"]
    _refuse_no_file(folder, path)
    return path, hospital["name"]


def listed_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SHA-256, in hex, of the files that a manifest lists."""
    single = [manifest[key] for key in ("picture", "task_file") if key in manifest]
    return {entry["file"]: entry["sha256"] for entry in [*manifest["hospitals"], *single]}


def is_public(data: Path) -> bool:
    """Whether a manifest beside a CSV says that exactly this file holds public data; CSVs without one do not."""
    manifest, entry = _find_entry(data)
    if manifest.get("public") is not True:
        return False
    with data.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == entry.get("sha256")


def find_task_file(folder: Path, manifest: Mapping[str, Any]) -> Path | None:
    """The task file that a manifest names; None for a task that comes with the package."""
    return folder / manifest["task_file"]["file"] if "task_file" in manifest else None


@dataclass(frozen=True, kw_only=True)
class OwnHospital:
    """A hospital before its CSV is read.

    Attributes:
        task_file: file that declares its task; None for a task that comes with the package.
        mapping: file that states how its export is written; None if it has the task's own columns.
    """

    data: Path
    name: str
    task: Task
    task_file: Path | None = None
    mapping: Path | None = None


def find_own_hospital(
    folder: Path,
    number: int | None,
    data: Path | None,
    name: str | None,
    *,
    task: str | None = None,
    task_file: Path | None = None,
    mapping: Path | None = None,
) -> OwnHospital:
    """The hospital that a client's flags name: by its number, from 1, in a folder, or by its CSV.

    What the flags leave out is taken from the manifest beside the CSV, if it lists the CSV.

    Args:
        task: name of the task; without it, a task file and a manifest, DEFAULT_TASK.

    Raises:
        SettingsError: the flags do not name exactly one hospital, or the name is not valid.
        DataError: the folder has no such hospital, or the task file cannot be used.
    """
    if task and task_file:
        raise SettingsError("expected --task or --task-file, got both")
    if number is not None and data is None and name is None:
        data, name = find_hospital(folder, number)
    elif number is not None or data is None:
        raise SettingsError(_EXPECTED_FLAGS)
    manifest, entry = _find_entry(data)
    name = entry.get("name") if name is None else name
    if name is None:
        raise SettingsError(_EXPECTED_FLAGS)
    if not is_hospital_name(name):
        raise SettingsError(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    if entry and not (task or task_file):
        task, task_file = manifest["task"], find_task_file(data.parent, manifest)
        _refuse_no_file(data.parent, task_file)
    if mapping is None and "mapping" in entry:
        mapping = data.parent / entry["mapping"]
        _refuse_no_file(data.parent, mapping)
    declared = find_task(task or DEFAULT_TASK, task_file)
    return OwnHospital(data=data, name=name, task=declared, task_file=task_file, mapping=mapping)


def _refuse_no_file(folder: Path, named: Path | None) -> None:
    """Raise a DataError if a manifest names something else than a file, such as a pipe that would never end."""
    if named is not None and not _is_file(named):
        raise DataError(f"{folder / MANIFEST}: names {printable(str(named))}, which is not a file")


def _find_entry(data: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A manifest beside a CSV that lists it, and the CSV's entry there; both empty if there is none.

    The manifest may also be one that a hospital wrote by hand, with the keys that this module reads.
    """
    path = data.parent / MANIFEST
    if not _is_file(path):
        return {}, {}
    try:
        manifest = json.loads(read_file(path, MAX_MANIFEST_BYTES))
        entry = next(entry for entry in manifest["hospitals"] if entry["file"] == data.name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, StopIteration):  # none, or another program's
        return {}, {}
    values = [manifest.get("task"), entry.get("name", ""), entry.get("mapping", "")]
    if "task_file" in manifest:
        values.append(manifest["task_file"].get("file") if isinstance(manifest["task_file"], dict) else None)
    if not all(isinstance(value, str) for value in values):
        raise DataError(f"{path}: expected task, task_file.file, and each hospital's name and mapping as text")
    return manifest, entry


def _is_file(path: Path) -> bool:
    """Whether a path is a visible file: no folder, and no pipe whose end a reader would wait for."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder without permission
        return False
