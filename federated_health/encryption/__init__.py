"""Encrypted averaging: the server sums ciphertexts that it cannot decrypt, and only the hospitals hold the key.

It protects from an honest-but-curious server and operator: they follow the protocol, but try to learn from what they
see. Hospitals make a key of the CKKS scheme, encrypt what they send, and decrypt the sums that the server sends back.
All of them hold the same key: a hospital that passes it, or a ciphertext, to the server's operator reveals every
hospital's updates.

A plain run loads nothing but this module. May import `server`, `hospital` and everything below; these two reach it
through the functions here only.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from flwr.app import Context, Message

from federated_health.errors import AnswerError, check_installed

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federated_health.data.tasks import Task
    from federated_health.ml.networks import Network


def load(name: str) -> ModuleType:
    """A module of this folder; MissingLibraryError if TenSEAL is not installed."""
    check_installed("tenseal")
    return import_module(f"{__name__}.{name}")


def max_reply_bytes(task: "Task", network: "Network") -> int:
    """Size limit of a hospital's message in an encrypted run."""
    limit: int = load("messages").max_reply_bytes(task, network)
    return limit


def answer(message: Message, context: Context) -> Message:
    """A hospital's reply to a message of an encrypted run.

    Raises:
        AnswerError: see `hospital.handlers.reply`.
    """
    try:
        reply: Message = load("handlers").reply(message, context)
        return reply
    except Exception as error:
        raise AnswerError(error) from error


def add_handlers(app: "ClientApp") -> None:
    """Have an app answer the messages of encrypted runs; the folder's modules are loaded with the first of them."""
    for action in ("offer", "key", "briefing", "sums", "closing"):
        app.query(action)(answer)
    app.train("encrypted")(answer)
    for action in ("encrypted", "encrypted_threshold", "encrypted_final"):
        app.evaluate(action)(answer)
