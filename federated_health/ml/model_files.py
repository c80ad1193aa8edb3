"""Saved Keras models: `.keras` files with a description inside of the run that made them."""

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federated_health.errors import DataError
from federated_health.files import sync_file, sync_folder
from federated_health.ml.backend import load_keras
from federated_health.ml.networks import FILE, Network, hidden_names, weights_hash

DESCRIPTION_MEMBER = "federated_health.json"

DESCRIPTIONS = DESCRIPTION_MEMBER, "config.json"
"""Members that are read whole: ours, and Keras's description of the layers."""

MAX_DESCRIPTION_BYTES = 8 * 2**20
"""Largest size of a description; ours holds a task file."""

MAX_MODEL_BYTES = 2 * 2**30
"""Largest size of a model file, unpacked; Keras does not pack it."""


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
    from federated_health.file_access import open_file  # noqa: PLC0415  # where a model is read, not saved

    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            sizes = [(member.filename, member.file_size) for member in archive.infolist()]  # zipfile unpacks no more
            unpacked = sum(size for _, size in sizes)
            is_small = all(size <= MAX_DESCRIPTION_BYTES for name, size in sizes if name in DESCRIPTIONS)
            description = json.loads(archive.read(DESCRIPTION_MEMBER)) if is_small else None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception:  # the parsers of zip and JSON raise many types
        description, unpacked = None, 0
    if not isinstance(description, dict):
        raise DataError(f"{path}: is not a model that a run saved")
    if unpacked > MAX_MODEL_BYTES:
        raise DataError(f"{path}: expected at most {MAX_MODEL_BYTES:,} bytes unpacked, got {unpacked:,}")
    return description


def load_model(path: Path) -> Any:
    """The Keras model in a file that `save_model` wrote.

    Raises:
        DataError: it is damaged, or its weights are not those whose hash its description states; or Keras refuses it,
            such as for a layer that holds code.
        RunError: Keras itself cannot be loaded.
    """
    description = read_description(path)
    if path.suffix != ".keras":  # Keras reads a file of another name as another format
        raise DataError(f"{path}: expected a name that ends in .keras")
    keras = load_keras()  # a failure here is not the file's
    try:
        with warnings.catch_warnings(action="ignore"):
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            actual = _hash_of(model, description)
    except Exception:  # Keras, and the parsers behind it, raise many types
        raise DataError(f"{path}: is damaged; Keras cannot load it") from None
    if actual is not None and actual != description.get("weights_sha256", actual):
        raise DataError(f"{path}: is damaged: its weights are not those of its description (SHA-256)")
    return model


def _hash_of(model: Any, description: Mapping[str, Any]) -> str | None:
    """The hash of a model's weights, under the names that they have in a run; None if it does not say which network."""
    if "network" not in description:  # a model of an early release
        return None
    network, weights = Network.from_config(description["network"]), model.weights
    if network.model == FILE:
        names = [f"{i:03}/{variable.name}" for i, variable in enumerate(weights)]
    else:
        names = [f"{layer}/{part}" for layer in (*hidden_names(network), "logit") for part in ("kernel", "bias")]
    return weights_hash({name: variable.numpy() for name, variable in zip(names, weights, strict=True)})
