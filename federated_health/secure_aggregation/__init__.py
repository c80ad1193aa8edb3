"""Secure aggregation: the server learns sums over at least three hospitals, never a single hospital's part.

Each pair of hospitals derives masks that only these two know; one adds them, the other subtracts them, so that they
cancel in the sum of all (Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning).
An answer has two steps, and no secret sharing:

1. The server sends a message. A hospital computes its answer, keeps it, and says only that it is ready.
2. The server names the hospitals that are ready. Each verifies them, and sends its answer masked for exactly these.

**Keys.** A hospital's process makes a key on X25519 for one run, and signs it with its certificate's key (`offers`).

**Participants.** A hospital answers only for participants of this federation by their certificates, not revoked, of
distinct names, itself among them, and at least three or as many as it demands.

**Masks.** The seed of two hospitals' mask is HKDF of their common secret and a label: a hash of the run, the kind and
round of the message, all that the message holds (weights, configuration), and the participants with their offers and
rows. A server that sends different weights, settings or participants to different hospitals (Pasquini et al. 2022,
Eluding Secure Aggregation in Federated Learning via Model Inconsistency) gets masks that do not cancel: noise.

**Once.** A hospital's answer to a question (a kind and a round) is part of one sum. Otherwise a server that pretends
that a hospital dropped out would subtract two sums. So where a hospital drops out between the two steps, its sum is
lost; a round is then trained again under its next number, on other batches. Shares of secrets would save these sums
(Bonawitz et al. 2017; Bell et al. 2020, Secure Single-Server Aggregation with (Poly)Logarithmic Overhead). But against
as many colluding hospitals as here (all but three) they tolerate one drop-out per sum only, and need two more messages.

**What holds**, for an active server together with all but two of the participants: of one question it learns at most
the sum over the other participants, and nothing if these got different messages. `docs/privacy.md` says what does not.

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
