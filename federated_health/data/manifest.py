"""The manifest of a folder of hospitals' CSVs, which `dataset_folder` writes: which hospitals, files and hashes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health.errors import DataError

MANIFEST = "manifest.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        DataError: the manifest does not exist, or create_dataset.py did not write it.
    """
    path = (folder / MANIFEST).absolute()
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        manifest["task"], manifest["source"]["name"], [hospital["name"] for hospital in manifest["hospitals"]]
        listed_hashes(manifest)
        return manifest
    except FileNotFoundError:
        raise DataError(f"{path}: is not there; run: python create_dataset.py") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{path}: is not a manifest that create_dataset.py wrote") from None


def find_hospital(folder: Path, number: int) -> tuple[Path, str]:
    """CSV and name of a hospital by its number, from 1.

    Raises:
        DataError: the folder has no manifest, or no hospital with that number.
    """
    hospitals = read_manifest(folder)["hospitals"]
    if not 1 <= number <= len(hospitals):
        raise DataError(f"{folder / MANIFEST}: expected a hospital from 1 to {len(hospitals)}, got {number}")
    hospital = hospitals[number - 1]
    return folder / hospital["file"], hospital["name"]


def listed_hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SHA-256, in hex, of the files that a manifest lists."""
    entries = [*manifest["hospitals"], *([manifest["picture"]] if "picture" in manifest else [])]
    return {entry["file"]: entry["sha256"] for entry in entries}
