"""Flower's own engines as transports: its simulation and its deployment of SuperNodes."""

import math
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from federated_health.data.data_check import MIN_PATIENTS
from federated_health.data.manifest import find_task_file, read_manifest
from federated_health.data.task_files import TASK_FILE
from federated_health.errors import DataError, SettingsError
from federated_health.settings import Settings
from federated_health.transport.interface import Transport

PULL_INTERVAL = 0.25
"""Seconds between two requests for replies; `send_and_receive` of Flower's deployment waits 3."""


class EngineTransport(Transport):
    """One of Flower's grids as a transport. Flower ends a hospital's process after each message.

    A node of a deployment has the name under which the operator registered its key. The SuperLink admits nodes by key,
    so that no hospital can impersonate another. Nodes of a simulation have no name.
    """

    keeps_processes = False

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def names(self) -> dict[int, str]:
        return {node.node_id: node.name for node in self._grid.get_nodes() if node.name}

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The replies that arrive within the timeout, in seconds."""
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        replies = list[Message]()
        waiting = {key for key in self._grid.push_messages(messages) if key}  # no key for an undeliverable message
        while waiting and time.monotonic() < deadline:
            arrived = list(self._grid.pull_messages(waiting))
            replies += arrived
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            if waiting:
                time.sleep(PULL_INTERVAL)
        return replies


class SimulationTransport(EngineTransport):
    """Flower's simulation, whose virtual hospitals read their CSVs from a folder of this machine."""

    def names(self) -> dict[int, str]:
        return {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return list(self._grid.send_and_receive(messages, timeout=timeout))

    def check(self, settings: Settings) -> None:
        """Refuse a simulation whose hospitals cannot be found, or whose number differs from the settings.

        The server would otherwise leave out every virtual hospital in every round, and wait for them in vain.

        Raises:
            DataError: the folder `data` holds no hospitals.
            SettingsError: there are more or fewer CSVs than virtual nodes, too few to join, or CSVs of another task.
        """
        folder = Path(settings.data).absolute()
        try:
            manifest = read_manifest(folder)
        except DataError as error:
            where = "" if Path(settings.data).is_absolute() else ", where Flower's local SuperLink was started"
            raise DataError(
                f"{error}. data={settings.data!r} was searched for in {Path.cwd()}{where}; name a folder, such as: "
                "--run-config \"data='$PWD/data'\""
            ) from None
        hospitals, nodes = len(manifest["hospitals"]), len(list(self.get_node_ids()))
        small = sum(entry["rows"] < MIN_PATIENTS for entry in manifest["hospitals"])
        if nodes != hospitals or settings.hospitals > hospitals - small:
            excluded = f", {small} of them with fewer than {MIN_PATIENTS} rows, which cannot join" if small else ""
            raise SettingsError(
                f"{folder} holds {hospitals} hospitals{excluded}; the simulation has {nodes} nodes, and hospitals is "
                f"{settings.hospitals}: use --federation-config num-supernodes={hospitals} "
                f"--run-config hospitals={hospitals - small}"
            )
        if manifest["task"] != settings.task:
            file = find_task_file(folder, manifest)
            setting = f"{TASK_FILE}='{file}'" if file else f"task='{manifest['task']}'"
            raise SettingsError(
                f"task: expected {manifest['task']}, the task of {folder}, got {settings.task!r}; use "
                f'--run-config "{setting}"'
            )


def wrap_engine(grid: Grid) -> Transport:
    """The transport of one of Flower's engines."""
    # Flower has no public way to tell its grids apart. Only the simulation's grid holds the state of its nodes.
    return SimulationTransport(grid) if hasattr(grid, "state") else EngineTransport(grid)
