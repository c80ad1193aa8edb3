"""What a run has come to after a round, and with which task and settings it may go on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from federated_health.data.tasks import Task
from federated_health.errors import CheckpointError
from federated_health.messages.content import Registration
from federated_health.messages.task_agreement import find_difference
from federated_health.ml.networks import Weights
from federated_health.ml.normalisation import Normalisation
from federated_health.server.history import Round
from federated_health.settings import OPERATIONAL, Value

MAY_CHANGE = OPERATIONAL | {"min-hospitals"}
"""Settings that a run may go on with although they are others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """All that a run has come to.

    Attributes:
        run: a random token of the run.
        round_number: rounds that are finished.
        settings: `Settings.to_config`.
        agreement: `Task.agreement`, what the columns mean.
        strategy_state: `StrategyDeclaration.read_state`.
        registrations: of the hospitals that have joined, ordered by name.
        problems: what went wrong so far; JSON.
        history: every finished round.
    """

    run: str
    round_number: int
    settings: Mapping[str, Value]
    agreement: Mapping[str, str]
    weights: Weights
    strategy_state: Mapping[str, npt.NDArray[Any]]
    normalisation: Normalisation
    registrations: tuple[Registration, ...]
    problems: Mapping[str, Any]
    history: Sequence[Round]

    def check_task(self, task: Task) -> None:
        """Refuse a task that is not the checkpoint's, or whose columns mean something else now.

        Raises:
            CheckpointError: names the first term that differs.
        """
        if difference := find_difference(self.agreement, task.agreement, whose="checkpoint"):
            raise CheckpointError(difference)


def check_settings(saved: Mapping[str, Value], given: Mapping[str, Value]) -> None:
    """Refuse settings that are not the checkpoint's, apart from those that may change (MAY_CHANGE).

    Args:
        given: all settings, or those that somebody gave.

    Raises:
        CheckpointError: names each that differs.
    """
    differing = [
        f"{name} is {_quote(saved.get(name))} and not {_quote(value)}"
        for name, value in given.items()
        if name not in MAY_CHANGE and saved.get(name) != value
    ]
    if differing:
        raise CheckpointError(f"a run goes on with the settings that it began with: {'; '.join(differing)}")


def settings_hash(settings: Mapping[str, Value]) -> str:
    """SHA-256, in hex, of the settings that a result depends on."""
    relevant = {name: value for name, value in settings.items() if name not in OPERATIONAL}
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _quote(value: Value | None) -> str:
    return "not set" if value is None else json.dumps(value)
