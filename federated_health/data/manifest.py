"""The manifest of a folder of hospitals' CSVs, which `dataset_folder` writes: which hospitals, files and hashes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_health.data.task_files import get_task
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.names import FEDERATION, is_hospital_name

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; a DataError unless create_dataset.py wrote one."""
    path = (folder / MANIFEST).absolute()
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["task"], manifest["source"]["name"], [hospital["name"] for hospital in manifest["hospitals"]]
        listed_hashes(manifest)
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
    return folder / hospital["file"], hospital["name"]


def listed_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SHA-256, in hex, of the files that a manifest lists."""
    entries = [*manifest["hospitals"], *([manifest["picture"]] if "picture" in manifest else [])]
    return {entry["file"]: entry["sha256"] for entry in entries}


@dataclass(frozen=True)
class OwnHospital:
    """A hospital before its CSV is read."""

    data: Path
    name: str
    task: Task


def find_own_hospital(
    folder: Path, number: int | None, data: Path | None, name: str | None, task: str | None, default_task: str
) -> OwnHospital:
    """The hospital that a client's flags name: by its number, from 1, in a folder, or by its CSV and name.

    Args:
        task: name of the task; if None, the folder's task for a number, else `default_task`.

    Raises:
        SettingsError: the flags do not name exactly one hospital, or the name is not valid.
        DataError: the folder has no such hospital.
    """
    if number is not None and data is None and name is None:
        data, name = find_hospital(folder, number)
        task = task or read_manifest(folder)["task"]
    elif number is not None or data is None or name is None:
        raise SettingsError("expected --hospital N, or --data FILE with --name NAME or --tls DIR; see --help")
    if not is_hospital_name(name):
        raise SettingsError(f"--name: expected lower-case letters, digits and hyphens, and not {FEDERATION!r}")
    return OwnHospital(data, name, get_task(task or default_task))
