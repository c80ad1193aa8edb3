"""Hospitals in process for secure aggregation: they may be absent, hang, die, restart, or answer otherwise."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message

from federated_health.hospital import handlers
from federated_health.ml.networks import Weights
from federated_health.names import node_id_of
from federated_health.secure_aggregation.run import SecureRun
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import ReplyFutures

NAMES = ("cleveland", "hungary", "switzerland", "va-long-beach")


@dataclass
class Hospitals:
    """Hospitals in process, whose replies can be altered, and which can restart without memory.

    Attributes:
        requests: by name and message type, what replaces a message on its way to the hospital.
        alterations: by name and message type, what replaces a reply.
        messages, replies: name, message type and message or reply, in their order, before any alteration.
    """

    paths: Mapping[str, Path]
    identities: Mapping[str, Path]
    contexts: dict[str, Context] = field(default_factory=dict)
    requests: dict[tuple[str, str], Callable[[Message], Message]] = field(default_factory=dict)
    alterations: dict[tuple[str, str], Callable[[Message], Message]] = field(default_factory=dict)
    messages: list[tuple[str, str, Message]] = field(default_factory=list)
    replies: list[tuple[str, str, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.paths:
            self.start(name)

    def start(self, name: str, **node: Any) -> None:
        """Start a hospital's process, or start it again."""
        config: dict[str, Any] = {"data": str(self.paths[name]), "tls": str(self.identities.get(name, ""))}
        self.contexts[name] = hospital_context(name, {**config, **node})

    def ask(self, name: str, message: Message) -> Message:
        """A hospital's reply; an error reply if it refuses."""
        transport = InProcessTransport(handlers.answer, {name: self.contexts[name]})
        return transport.send({"": message})[""].result()

    def received(self, name: str) -> list[str]:
        """Types of the messages that a hospital received."""
        return [kind for other, kind, _ in self.messages if other == name]


class Grid(ReplyFutures):
    """Hospitals that may be absent, and return.

    Args:
        knows_processes: whether it reports a restarted hospital, as our streams do and Flower's grids do not.

    Attributes:
        dies_at, hangs_at: by name, the type of the message that is the last; `dies_after` answers it.
    """

    def __init__(self, hospitals: Hospitals, present: tuple[str, ...] = NAMES, *, knows_processes: bool = True) -> None:
        super().__init__()
        self.hospitals = hospitals
        self.present = set(present)
        self.dies_at: dict[str, str] = {}
        self.dies_after: dict[str, str] = {}
        self.hangs_at: dict[str, str] = {}
        self.knows_processes = knows_processes

    def processes(self) -> dict[int, str]:
        contexts = self.hospitals.contexts
        return {node: str(id(contexts[name])) for node, name in self.names().items() if self.knows_processes}

    def names(self) -> dict[int, str]:
        return {node_id_of(name): name for name in self.hospitals.contexts if name in self.present}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        replies = {}
        for key, message in messages.items():
            name = self.names().get(message.metadata.dst_node_id, "")
            kind = message.metadata.message_type
            if self.dies_at.get(name) == kind:
                del self.dies_at[name]
                self.present.discard(name)
            self.hospitals.messages.append((name, kind, message))
            replies[key] = Future[Message]()
            if self.hangs_at.get(name) in (kind, "everything"):
                self.hangs_at[name] = "everything"
                continue
            if change := self.hospitals.requests.get((name, kind)):
                message = change(message)
            contexts = {name: self.hospitals.contexts[name] for name in self.present}
            reply = InProcessTransport(handlers.answer, contexts).send({key: message})[key].result()
            self.hospitals.replies.append((name, kind, reply))
            if alter := self.hospitals.alterations.get((name, kind)):
                reply = alter(reply)
            if self.dies_after.get(name) == kind:
                del self.dies_after[name]
                self.present.discard(name)
            replies[key].set_result(reply)
        return replies


def settings_of(**changes: Any) -> Settings:
    quick = {"rounds": 3, "local_epochs": 2, "wait": 0.5, "secure_aggregation": True, "appraisal": False}
    return replace(Settings(), **{**quick, **changes})


def secure_run(hospitals: Hospitals, **changes: Any) -> tuple[SecureRun, Grid]:
    """A run with secure aggregation that has gathered, and its grid."""
    grid = Grid(hospitals)
    run = SecureRun(grid, settings_of(**changes))
    run.gather()
    return run, grid


def plain_run(paths: Mapping[str, Path], settings: Settings) -> PlainRun:
    """A whole plain run with otherwise the same settings."""
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in paths.items()}
    run = PlainRun(InProcessTransport(handlers.answer, contexts), replace(settings, secure_aggregation=False))
    run.run()
    return run


def greatest_difference(left: Weights, right: Weights) -> float:
    return max(float(np.abs(left[name] - right[name]).max()) for name in right)
