"""Saved Keras models: `.keras` files with a description inside of the run that made them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health.errors import DataError
from federated_health.files import sync_file, sync_folder
from federated_health.ml.backend import load_keras

DESCRIPTION_MEMBER = "federated_health.json"


def save_model(path: Path, model: Any, description: Mapping[str, Any]) -> None:
    """Write a `.keras` file, whole or not at all, with a description inside of how it was made; `task` is its task.

    It is on disk when this returns.
    """
    partial = path.with_name(f".{path.stem}.partial.keras")
    try:
        model.save(partial)
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(DESCRIPTION_MEMBER, json.dumps(description, indent=2))
        sync_file(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_description(path: Path) -> dict[str, Any]:
    """The description in a file that `save_model` wrote; needs no Keras. DataError if it is not such a file."""
    try:
        with zipfile.ZipFile(path) as archive:
            description = json.loads(archive.read(DESCRIPTION_MEMBER))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise DataError(f"{path}: is not a model that a run saved")
    return description


def load_model(path: Path) -> Any:
    """The Keras model in a file that `save_model` wrote; DataError if it is damaged."""
    try:
        return load_keras().saving.load_model(path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise DataError(f"{path}: is damaged; Keras cannot load it") from None
