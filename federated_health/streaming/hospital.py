"""The hospital's side of a stream: joins, answers with its app, and comes back when the connection was lost."""

import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from uuid import uuid4

import grpc
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from federated_health.errors import JoinError
from federated_health.security import Finding, Identity, diagnose, speaks_tls
from federated_health.security.diagnosis import PREFLIGHT_SECONDS
from federated_health.streaming.channels import PROTOCOL, open_channel, split_address, unwrap, wrap
from federated_health.streaming.grids import call_app
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
    tls: Identity | None = None,
) -> None:
    """Join the server, answer its messages with the app, and return when the run is over.

    A server that is not up yet, or goes away, is waited for.

    Args:
        app: answers messages; its process and memory stay from message to message.
        terms: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached, anew each time that it was lost.
        announce: told, in words, what happens.
        prepare: called once the server has accepted the hospital, before the first message is answered.
        tls: who the hospital is; None to go without encryption.

    Raises:
        JoinError: no server within the wait, it refused or stopped, or its or the hospital's certificate will not do.
        CertificateError: the certificate has another name, or its key cannot be read any more.
    """
    # The token lets this process, and no other, take the place of a stream of its own that was cut.
    metadata = (*_introduction(name, terms), ("process", uuid4().hex))
    deadline = time.monotonic() + wait
    said = False
    if tls is not None:
        tls.check_name(name)
        if remark := tls.remark():
            announce(remark)
        _find_obstacle(address, tls, wait)
    while True:
        with open_channel(address, tls) as channel:
            outbox: SimpleQueue[ClientMessage | None] = SimpleQueue()
            call = FlowerServiceStub(channel).Join(iter(outbox.get, None), metadata=metadata)
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
                    outbox.put(_answer(app, context, wrapped))
                return
            except grpc.RpcError:
                code, reason = call.code(), call.details()
            finally:
                patience.cancel()
                outbox.put(None)
        if is_accepted:
            deadline, said = time.monotonic() + wait, False
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise JoinError(f"{address}: {reason}")
        why = _find_obstacle(address, tls, deadline - time.monotonic())
        if time.monotonic() >= deadline:
            raise JoinError(f"{address}: no server within {wait:g} s{why}")
        if not said:
            announce(f"waiting up to {wait:g} s for the server at {address}{why}")
            said = True
        time.sleep(min(JOIN_INTERVAL, max(0.0, deadline - time.monotonic())))


def report_unfit(
    name: str, address: str, terms: Mapping[str, str], reason: str, *, tls: Identity | None = None
) -> None:
    """Tell a server, if it is there, that this hospital may not join, and why, without joining or waiting.

    Args:
        reason: words without values.
    """
    metadata = (*_introduction(name, terms), ("unfit", reason))
    with open_channel(address, tls) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=metadata, timeout=UNFIT_SECONDS)
        call.code()  # blocks until the server has refused; whether it is there at all does not matter


def _find_obstacle(address: str, tls: Identity | None, left: float) -> str:
    """Why there is no connection, as the end of a line; empty where nothing but a server is missing.

    Args:
        left: seconds that may be spent.

    Raises:
        JoinError: waiting does not help.
    """
    host, port = split_address(address)
    patience = min(PREFLIGHT_SECONDS, max(0.05, left / 4))  # a diagnosis has up to four steps that may be waited for
    if tls is not None:
        finding = diagnose(host, port, tls, patience)
    elif speaks_tls(host, port, patience):
        finding = Finding("the server speaks TLS: to join it takes --tls, the folder of this hospital's identity", True)
    else:
        finding = None
    if finding and finding.final:
        raise JoinError(f"{address}: {finding.words}")
    return f": {finding.words}" if finding else ""


def _introduction(name: str, terms: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a stream's metadata begins with."""
    return ("hospital", name), ("terms", write_terms({"protocol": PROTOCOL, **terms}))


def _answer(app: ClientApp, context: Context, wrapped: ServerMessage) -> ClientMessage:
    message = message_from_proto(unwrap(wrapped.fit_ins.parameters))
    reply = call_app(app, message, context)
    return ClientMessage(fit_res=ClientMessage.FitRes(parameters=wrap(message_to_proto(reply))))
