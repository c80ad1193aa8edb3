"""Resuming a run: the checkpoint of its folder, and the settings with which it continues."""

import json
from collections.abc import Mapping
from pathlib import Path

from federated_health.errors import CheckpointError, RunError
from federated_health.files import path_exists
from federated_health.names import METRICS, MODEL
from federated_health.server.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFolder
from federated_health.setting_fields import Value
from federated_health.settings import OPERATIONAL

MAY_CHANGE = OPERATIONAL | {"min-hospitals"}
"""Names of settings that may differ when a run resumes."""


def check_settings(saved: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Raise CheckpointError if a given setting or flag differs from the checkpoint's, apart from MAY_CHANGE."""
    differing = [
        f"{name}: expected {json.dumps(saved[name]) if name in saved else 'none'}, got {json.dumps(value)}"
        for name, value in given.items()
        if name not in MAY_CHANGE and saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"a run resumes with the settings that it began with: {'; '.join(differing)}")


def read_checkpoint(path: Path, checkpoints: CheckpointFolder | None = None) -> Checkpoint:
    """The checkpoint from which the run of a folder resumes; the given checkpoints are those of the folder.

    Raises:
        RunError: there is no run, or it is over, or it has no whole checkpoint.
    """
    checkpoints = checkpoints or CheckpointFolder(path / CHECKPOINTS)
    # An encrypted run leaves metrics.json and no model.
    if checkpoints.is_empty() and (path_exists(path / MODEL) or path_exists(path / METRICS)):
        raise RunError(f"{path}: the run is over; there is nothing to resume")
    if not path_exists(path):
        raise RunError(f"{path}: holds no checkpoint: the folder does not exist, or cannot be read")
    return checkpoints.load()


def settings_to_resume(path: Path, given: Mapping[str, Value]) -> dict[str, Value]:
    """The settings with which a run resumes: its own, except for given ones that may change.

    Raises:
        RunError: see `read_checkpoint`; or a given setting, on which results depend, differs from the run's.
    """
    saved = read_checkpoint(path).settings
    check_settings(saved, given)
    return {**saved, "out": "", "force": False, **given}
