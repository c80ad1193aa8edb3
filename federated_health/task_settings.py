"""The training settings of a task (table `[training]` of its file): which of them apply to a run."""

from collections.abc import Mapping
from typing import Any

from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.ml.networks import FILE, Network
from federated_health.names import SGD
from federated_health.setting_fields import TRAINING, Value, coerce
from federated_health.settings import Settings

WITHOUT_PRIVACY = {"rounds", "local_epochs", "batch_size", "learning_rate", "optimizer", "dropout"}
"""Settings of a task that do not apply to a run with differential privacy."""


def applicable_settings(task: Task, given: Mapping[str, Any]) -> dict[str, Value]:
    """The settings of a task that have an effect in a run.

    Without differential privacy `dp_...` have none; with it `dp_rounds` replaces `rounds`. A learning rate belongs to
    its optimizer.

    Args:
        given: the settings that the user gave, or all settings of a run.
    """
    if unknown := sorted(task.training.keys() - TRAINING.keys()):
        raise SettingsError(f"unknown training setting of task {task.name}: {', '.join(unknown)}")
    is_private = bool(given.get("dp_epsilon"))
    unused = WITHOUT_PRIVACY | {"dp_rounds"} if is_private else {name for name in TRAINING if name.startswith("dp_")}
    optimizer = task.training.get("optimizer", SGD)
    if given.get("optimizer", optimizer) != optimizer:
        unused.add("learning_rate")
    model = given.get("model", task.training.get("model", "mlp"))
    unused |= Network(FILE if given.get("network") else model).unused_settings
    settings = {
        name: coerce(TRAINING[name]["type"], value) for name, value in task.training.items() if name not in unused
    }
    if is_private and "dp_rounds" in task.training:
        settings["rounds"] = task.training["dp_rounds"]
    return settings


def settings_from_task(settings: Settings) -> dict[str, Value]:
    """The settings of a run that have the value of its task, spelled with dashes."""
    of_task = applicable_settings(settings.task_declaration, vars(settings))
    return {name.replace("_", "-"): value for name, value in of_task.items() if getattr(settings, name) == value}
