"""Replies of four hospitals whose weights are drawn by name, and a reader for them."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict

from federated_health.messages import validation
from federated_health.messages.content import Update
from federated_health.ml.networks import Weights
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import AcceptedReply, ReplyCollector

NAMES = {11: "hungary", 12: "cleveland", 13: "va-long-beach", 14: "switzerland"}
ROWS = {"cleveland": 227, "hungary": 220, "switzerland": 92, "va-long-beach": 150}
SHAPES: dict[str, tuple[int, ...]] = {"hidden/kernel": (41, 16), "logit/bias": (1,)}


def reply(node: int, content: RecordDict, kind: str = "train") -> Message:
    return Message(content, reply_to=Message(RecordDict(), node, kind))


def error_reply(node: int, reason: str | None) -> Message:
    return Message(Error(code=1, reason=reason), reply_to=Message(RecordDict(), node, "train"))


def weights_of(hospital: str) -> Weights:
    generator = np.random.default_rng(list(hospital.encode()))
    return {name: generator.normal(0, 2, shape).astype(np.float32) for name, shape in SHAPES.items()}


def update_of(hospital: str) -> RecordDict:
    return Update(weights=weights_of(hospital), examples=ROWS[hospital], loss=0.5).to_content()


def updates() -> list[Message]:
    return [reply(node, update_of(name)) for node, name in NAMES.items()]


def read_update(node: int, content: RecordDict) -> Update:
    return validation.read_update(content, SHAPES, ROWS.get(NAMES.get(node, ""), 1))


def accept(
    replies: list[Message], read: Callable[[int, RecordDict], Any] = read_update, names: Mapping[int, str] = NAMES
) -> tuple[list[AcceptedReply[Any]], ProblemLog]:
    """The valid replies, and the others by hospital and reason."""
    problems = ProblemLog()
    transport: Any = SimpleNamespace(names=dict)
    return ReplyCollector(transport, 7.5, problems).accept(replies, names, read), problems
