"""Resuming or extending a run: the checkpoint of its folder, and the settings with which it continues."""

import json
from collections.abc import Mapping
from pathlib import Path

from federated_health.errors import CheckpointError, RunError
from federated_health.files import path_exists
from federated_health.names import METRICS, MODEL, SETTINGS
from federated_health.server.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFolder
from federated_health.setting_fields import Value
from federated_health.settings import OPERATIONAL

MAY_CHANGE = OPERATIONAL | {"min-hospitals", "rounds"}
"""Names of settings that may differ when a run resumes; `check_rounds` limits the number of rounds."""


def check_settings(saved: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Raise CheckpointError if a given setting or flag differs from the checkpoint's, apart from MAY_CHANGE."""
    differing = [
        f"{name}: expected {json.dumps(saved[name]) if name in saved else 'none'}, got {json.dumps(value)}"
        for name, value in given.items()
        if name not in MAY_CHANGE and saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"a run resumes with the settings that it began with: {'; '.join(differing)}")


def check_rounds(path: Path, checkpoint: Checkpoint, rounds: Value, *, is_finished: bool) -> None:
    """Check the number of rounds with which a run continues; more than it began with extend it.

    Raises:
        RunError: the run is over, and the number does not extend it.
        CheckpointError: more rounds are completed; or the run has differential privacy, whose rounds are planned.
    """
    completed, saved = checkpoint.round_number, checkpoint.settings["rounds"]
    if checkpoint.settings.get("dp-epsilon") and rounds != saved:
        raise CheckpointError(f"rounds: expected {saved}, the number in the run's privacy plan, got {rounds}")
    if is_finished and rounds == saved:
        more = "--rounds with a larger number extends it"
        raise RunError(f"{path}: the run is over after {completed} rounds; there is nothing to resume; {more}")
    if int(rounds) < (least := completed + is_finished):
        raise CheckpointError(f"rounds: expected at least {least}, since {completed} are completed, got {rounds}")


def read_checkpoint(
    path: Path, given: Mapping[str, Value] = {}, checkpoints: CheckpointFolder | None = None
) -> Checkpoint:
    """The checkpoint from which the run of a folder resumes.

    Args:
        given: settings or flags, which may be those of the run or change what MAY_CHANGE allows.
        checkpoints: those of the folder, which then continue after the checkpoint.

    Raises:
        RunError: there is no run, or it is over, or it has no whole checkpoint; or a given setting, on which results
            depend, differs from the run's.
    """
    checkpoints = checkpoints or CheckpointFolder(path / CHECKPOINTS)
    if checkpoints.is_empty() and (path_exists(path / MODEL) or path_exists(path / METRICS)):
        reason = "a run with differential privacy, or of an earlier version, cannot be extended"
        raise RunError(f"{path}: the run is over and left no checkpoint; there is nothing to resume; {reason}")
    if not path_exists(path):
        raise RunError(f"{path}: holds no checkpoint: the folder does not exist, or cannot be read")
    checkpoint = checkpoints.load()
    check_settings(checkpoint.settings, given)
    rounds = given.get("rounds", checkpoint.settings["rounds"])
    check_rounds(path, checkpoint, rounds, is_finished=checkpoints.is_finished())
    return checkpoint


def has_others_results(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether a folder has results of another run than its checkpoint's, which a run with --force is to replace.

    They are removed right after the first round is saved, unless the server or its power fails just then. The run's own
    settings.json is written after that.
    """
    if checkpoint.round_number != 1:
        return False
    try:
        written = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        check_settings(checkpoint.settings, written)
    except (OSError, ValueError, AttributeError, CheckpointError):
        return True
    return False


def settings_to_resume(path: Path, given: Mapping[str, Value]) -> dict[str, Value]:
    """The settings with which a run resumes: its own, except for given ones that may change (see `read_checkpoint`)."""
    return {**read_checkpoint(path, given).settings, "out": "", "force": False, **given}
