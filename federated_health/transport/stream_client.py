"""The hospital's side of a stream: joins, answers with its app, and comes back when the connection was lost."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from uuid import uuid4

import grpc
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto
from flwr.proto.transport_pb2 import ServerMessage

from federated_health.errors import JoinError
from federated_health.hospital.ledger import JOIN, UNFIT, Ledger
from federated_health.messages.task_agreement import write_agreement
from federated_health.security import Identity
from federated_health.transport.channels import (
    MAX_MESSAGE_KEY,
    MAX_REPLY_BYTES,
    PROTOCOL,
    open_channel,
    unwrap,
)
from federated_health.transport.grids import call_app
from federated_health.transport.outbox import Outbox
from federated_health.transport.reconnect import Reconnector, StreamEnd, find_obstacle

UNFIT_SECONDS = 3.0
"""For telling the server that a hospital may not join."""


def join_federation(
    app: ClientApp,
    context: Context,
    *,
    name: str,
    address: str,
    agreement: Mapping[str, str],
    wait: float,
    announce: Callable[[str], None],
    prepare: Callable[[], object],
    ledger: Ledger,
    tls: Identity | None = None,
) -> None:
    """Join the server, answer its messages with the app, and return when the run is over.

    A server that is not up yet, or goes away, is waited for, and tried again with growing, random delays. A hospital
    that comes back goes on in the same run: its process, its context and what its app remembers stay.

    Args:
        app: answers messages; its process and memory stay from message to message.
        agreement: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached, anew each time that it was lost.
        announce: told, in words, what happens.
        prepare: called once the server has accepted the hospital, before the first message is answered.
        ledger: has a line for all that is sent, before it is.
        tls: who the hospital is; None to go without encryption.

    Raises:
        LedgerError: something cannot be recorded, and was not sent.
        JoinError: no server within the wait; it refused, stopped, or sent what is not a message; or its or the
            hospital's certificate will not do.
        CertificateError: the certificate has another name, or its key cannot be read any more.
    """
    # The token lets this process, and no other, take the place of a stream of its own that was cut.
    metadata = (*_introduction(name, agreement), ("process", uuid4().hex))
    reconnector = Reconnector(address, tls, wait, announce)
    if tls is not None:
        tls.check_name(name)
        if remark := tls.expiry_warning():
            announce(remark)
        find_obstacle(address, tls, wait)
    was_in = False

    def enter() -> None:
        nonlocal was_in
        announce(f"joined {address} as {name}{' again' if was_in else '; loading Keras'}")
        was_in = True
        prepare()

    while True:
        began = time.monotonic()
        ending = _take_part(app, context, address, metadata, reconnector, enter, ledger, tls)
        if ending.code is grpc.StatusCode.OK:
            return
        if ending.was_accepted:
            reconnector.begin(lasted=time.monotonic() - began)
        reconnector.wait_after(ending)


def _take_part(
    app: ClientApp,
    context: Context,
    address: str,
    metadata: tuple[tuple[str, str], ...],
    reconnector: Reconnector,
    enter: Callable[[], None],
    ledger: Ledger,
    tls: Identity | None,
) -> StreamEnd:
    """One stream, from the attempt to join to its end."""
    with open_channel(address, tls) as channel:
        outbox = Outbox(channel, ledger)
        call = outbox.begin(JOIN, metadata)
        largest = None
        try:
            with reconnector.patience(call):
                # Blocks until the server accepts; refused or unreachable, there is none, and the call ends.
                largest = _largest_of(call.initial_metadata())
            if largest is not None:
                enter()
            for wrapped in call:
                question = _read(wrapped)
                outbox.send(question, call_app(app, question, context), largest or MAX_REPLY_BYTES)
        except grpc.RpcError:
            pass
        except _NotAMessageError:
            raise JoinError(f"{address}: the server sent what is not a message") from None
        finally:
            outbox.close()
        return StreamEnd(call.code(), call.details() or "", was_accepted=largest is not None)


def report_unfit(
    name: str,
    address: str,
    agreement: Mapping[str, str],
    reason: str,
    ledger: Ledger,
    tls: Identity | None = None,
) -> None:
    """Tell a server, if it is there, that this hospital may not join, and why, without joining or waiting.

    Args:
        reason: words without values.
        ledger: has a line for it before it is told.

    Raises:
        LedgerError: it cannot be recorded, and was not told.
    """
    metadata = (*_introduction(name, agreement), ("unfit", reason))
    with open_channel(address, tls) as channel:
        outbox = Outbox(channel, ledger)
        outbox.close()
        call = outbox.begin(UNFIT, metadata, timeout=UNFIT_SECONDS)
        call.code()  # blocks until the server has refused; whether it is there at all does not matter


def _introduction(name: str, agreement: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a stream's metadata begins with."""
    return ("hospital", name), ("terms", write_agreement({"protocol": PROTOCOL, **agreement}))


def _largest_of(initial_metadata: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """Bytes that a reply may have, which a server says when it accepts a hospital; None where it has not."""
    said = str(dict(initial_metadata or ()).get(MAX_MESSAGE_KEY, ""))
    return int(said) if re.fullmatch("[0-9]{1,12}", said) else None


class _NotAMessageError(Exception):
    """The server sent it."""


def _read(wrapped: ServerMessage) -> Message:
    try:
        return message_from_proto(unwrap(wrapped.fit_ins.parameters))
    except Exception:  # whatever another server's bytes make protobuf or Flower raise
        raise _NotAMessageError from None
