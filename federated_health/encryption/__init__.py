"""Encrypted averaging: the server sums ciphertexts that it cannot decrypt, and only the hospitals hold the key.

It protects from a server, and its operator, that follow the protocol and are curious. Hospitals make a key of the CKKS
scheme, encrypt what they send, and decrypt the sums that the server sends back. All of them hold the same key: a
hospital that passes it, or a ciphertext, to the server's operator reveals every hospital's updates.

A plain run loads nothing but this module. May import `server`, `hospital` and everything below; these two reach it
through the functions here only.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message

from federated_health.errors import AnswerError

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp

    from federated_health.data.tasks import Task


def load_run() -> ModuleType:
    """The module `run`, for the server."""
    from federated_health.encryption import run  # noqa: PLC0415  # the loader of this folder

    return run


def max_reply_bytes(task: "Task", model: str) -> int:
    """Size limit of a hospital's message in an encrypted run."""
    from federated_health.encryption import messages  # noqa: PLC0415  # the loader of this folder

    return messages.max_reply_bytes(task, model)


def load_results() -> ModuleType:
    """The module `results`, for the files of a hospital."""
    from federated_health.encryption import results  # noqa: PLC0415  # the loader of this folder

    return results


def load_handlers() -> Mapping[str, Callable[..., Any]]:
    """A hospital's handlers of encrypted runs, by message type."""
    from federated_health.encryption import (  # noqa: PLC0415  # the loader of this folder
        handlers,
        hospital_key,
        hospital_result,
        messages,
    )

    return {
        messages.OFFER: hospital_key.offer_public_key,
        messages.KEY: hospital_key.seal_run_key,
        messages.DELIVERY: hospital_key.accept_delivery,
        messages.SUMS: handlers.share_sums,
        messages.TRAIN: handlers.train,
        messages.EVALUATE: handlers.evaluate,
        messages.THRESHOLD: handlers.score_training_rows,
        messages.FINAL: handlers.evaluate_final_weights,
        messages.RESULT: hospital_result.store_result,
    }


def answer(message: Message, context: Context) -> Message:
    """A hospital's reply to a message of an encrypted run.

    Raises:
        AnswerError: see `hospital.handlers.reply`.
    """
    try:
        handler = load_handlers()[message.metadata.message_type]
        return Message(handler(message, context).to_content(), reply_to=message)
    except Exception as error:
        raise AnswerError(error) from error


def add_handlers(app: "ClientApp") -> None:
    """Have an app answer the messages of encrypted runs; the folder's modules are loaded with the first of them."""
    for action in ("offer", "key", "briefing", "sums", "closing"):
        app.query(action)(answer)
    app.train("encrypted")(answer)
    for action in ("encrypted", "encrypted_threshold", "encrypted_final"):
        app.evaluate(action)(answer)
