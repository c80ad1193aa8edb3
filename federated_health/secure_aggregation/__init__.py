"""Secure aggregation: the server learns sums over at least three hospitals, never a single hospital's part.

`handlers` states the protocol and what it guarantees; `docs/privacy.md` says what it does not.

A plain run loads nothing but this module. May import `server`, `hospital` and everything below; these two reach it
through the functions here only.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from flwr.app import Context, Message

from federated_health.errors import AnswerError

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federated_health.data.tasks import Task
    from federated_health.ml.networks import Network


def load(name: str) -> ModuleType:
    """A module of this folder."""
    return import_module(f"{__name__}.{name}")


def max_reply_bytes(task: "Task", network: "Network") -> int:
    """Size limit of a hospital's message in a run with secure aggregation."""
    limit: int = load("messages").max_reply_bytes(task, network)
    return limit


def answer(message: Message, context: Context) -> Message:
    """A hospital's reply to a message of a run with secure aggregation.

    Raises:
        AnswerError: see `hospital.handlers.reply`.
    """
    try:
        reply: Message = load("handlers").reply(message, context)
        return reply
    except Exception as error:
        raise AnswerError(error) from error


def add_handlers(app: "ClientApp") -> None:
    """Have an app answer the messages of such runs; the folder's modules are loaded with the first of them."""
    for action in ("offer", "sums", "masked"):
        app.query(action)(answer)
    app.train("masked")(answer)
    for action in ("masked", "masked_threshold", "masked_final"):
        app.evaluate(action)(answer)
