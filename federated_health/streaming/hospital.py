"""The hospital's side of a stream: joins, answers with its app, and comes back when the connection was lost."""

import threading
import time
from collections.abc import Callable, Mapping
from uuid import uuid4

import grpc
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto
from flwr.proto.transport_pb2 import ServerMessage

from federated_health.egress import JOIN, UNFIT, Ledger
from federated_health.errors import JoinError
from federated_health.streaming.channels import PROTOCOL, open_channel, unwrap
from federated_health.streaming.grids import call_app
from federated_health.streaming.outbox import Outbox
from federated_health.terms import write_terms

JOIN_INTERVAL = 1.0
"""Seconds between attempts to reach the server."""

UNFIT_SECONDS = 3.0
"""For telling the server that a hospital may not join."""


def join_federation(
    app: ClientApp,
    context: Context,
    *,
    name: str,
    address: str,
    terms: Mapping[str, str],
    wait: float,
    announce: Callable[[str], None],
    prepare: Callable[[], object],
    ledger: Ledger,
) -> None:
    """Join the server, answer its messages with the app, and return when the run is over.

    A server that is not up yet, or goes away, is waited for.

    Args:
        app: answers messages; its process and memory stay from message to message.
        terms: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached, anew each time that it was lost.
        announce: told, in words, what happens.
        prepare: called once the server has accepted the hospital, before the first message is answered.
        ledger: has a line for all that is sent, before it is.

    Raises:
        LedgerError: something cannot be recorded, and was not sent.
        JoinError: no server within the wait, or it refused or stopped.
    """
    # The token lets this process, and no other, take the place of a stream of its own that was cut.
    metadata = (*_introduction(name, terms), ("process", uuid4().hex))
    deadline = time.monotonic() + wait
    said = False
    while True:
        with open_channel(address) as channel:
            outbox = Outbox(channel, ledger)
            call = outbox.begin(JOIN, metadata)
            # What accepts connections and says nothing must not hold a hospital past its wait.
            patience = threading.Timer(max(0.0, deadline - time.monotonic()), call.cancel)
            patience.start()
            is_accepted = False
            try:
                call.initial_metadata()  # blocks until the server accepts; refused or unreachable, the call is done
                patience.cancel()
                if not call.done():
                    is_accepted = True
                    announce(f"joined {address} as {name}; loading Keras")
                    prepare()
                for wrapped in call:
                    question = _read(wrapped)
                    outbox.send(question, call_app(app, question, context))
                return
            except grpc.RpcError:
                code, reason = call.code(), call.details()
            finally:
                patience.cancel()
                outbox.close()
        if is_accepted:
            deadline, said = time.monotonic() + wait, False
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise JoinError(f"{address}: {reason}")
        if time.monotonic() >= deadline:
            raise JoinError(f"{address}: no server within {wait:g} s")
        if not said:
            announce(f"waiting up to {wait:g} s for the server at {address}")
            said = True
        time.sleep(min(JOIN_INTERVAL, max(0.0, deadline - time.monotonic())))


def report_unfit(name: str, address: str, terms: Mapping[str, str], reason: str, ledger: Ledger) -> None:
    """Tell a server, if it is there, that this hospital may not join, and why, without joining or waiting.

    Args:
        reason: words without values.
        ledger: has a line for it before it is told.

    Raises:
        LedgerError: it cannot be recorded, and was not told.
    """
    metadata = (*_introduction(name, terms), ("unfit", reason))
    with open_channel(address) as channel:
        outbox = Outbox(channel, ledger)
        outbox.close()
        call = outbox.begin(UNFIT, metadata, timeout=UNFIT_SECONDS)
        call.code()  # blocks until the server has refused; whether it is there at all does not matter


def _introduction(name: str, terms: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a stream's metadata begins with."""
    return ("hospital", name), ("terms", write_terms({"protocol": PROTOCOL, **terms}))


def _read(wrapped: ServerMessage) -> Message:
    return message_from_proto(unwrap(wrapped.fit_ins.parameters))
