"""The hospital's side of a stream: joins a server, answers its messages with an app, and reconnects.

A hospital records everything in its egress ledger before gRPC gets it.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

import grpc
from flwr.app import Context, Message

from federated_health.data.tasks import write_agreement
from federated_health.errors import JoinError, MissingLibraryError, TermsError
from federated_health.messages.records import NumpyArray
from federated_health.messages.run_terms import MAX_TERMS_CHARACTERS, hash_of
from federated_health.names import printable
from federated_health.transport import channels
from federated_health.transport.app_calls import App, call_app, failed_reply
from federated_health.transport.channels import MAX_MESSAGE_BYTES, MAX_MESSAGE_KEY, MAX_REPLY_BYTES, PROTOCOL
from federated_health.transport.framing import Receiver, Serialised, UndecodableError, serialise_reply
from federated_health.transport.reconnect import Reconnector

if TYPE_CHECKING:
    from federated_health.security.identity import Identity
    from federated_health.security.proof import ServerCheck

logger = logging.getLogger(__name__)

JOIN_METHOD = "/flwr.proto.FlowerService/Join"
PROVE_METHOD = "/flwr.proto.FlowerService/Prove"
TERMS_METHOD = "/flwr.proto.FlowerService/Terms"

JOIN, UNFIT = "join", "unfit"
"""Kinds of metadata in the ledger: from a hospital that joins, and from one that may not join."""

_TERMS_LIMIT = (
    "grpc.service_config",
    '{"methodConfig": [{"name": [{"service": "flwr.proto.FlowerService", "method": "Terms"}], '
    f'"maxResponseMessageBytes": {MAX_TERMS_CHARACTERS}}}]}}',
)
"""gRPC's option by which it reads no larger terms; all other messages may be as large as weights."""

MAX_REASON = 1_000
"""Largest number of characters of a server's reason for ending a stream that are shown."""

MAX_CHANGES = 3
"""Largest number of terms that a hospital accepts one after the other without joining."""


Limited = Callable[[grpc.Call], AbstractContextManager[object]]
"""Limits the time that a call takes."""

Consent = Callable[[str, str], None]
"""Accepts run terms, from their text and the fingerprint of the server's key, or raises; empty without TLS."""


class _NewTermsError(Exception):
    """The server states run terms that the hospital has not accepted."""


class Ledger(Protocol):
    """Records what leaves a hospital, or raises LedgerError (see `hospital.ledger`)."""

    def record_metadata(self, kind: str, metadata: Sequence[tuple[str, str]]) -> None: ...
    def record_reply(
        self, message: Message, reply: Message, envelope: bytes, header: bytes, arrays: Sequence[NumpyArray]
    ) -> None: ...


def join_run(
    app: App,
    context: Context,
    *,
    name: str,
    address: str,
    agreement: Mapping[str, str],
    wait: float,
    announce: Callable[[str], None],
    prepare: Callable[[], object],
    ledger: Ledger,
    tls: "Identity | None" = None,
    consent: Consent | None = None,
) -> None:
    """Join the server, answer its messages with the app, and return when the run is over.

    The hospital retries with growing, random delays while the server is not up yet, or is lost. A reconnecting hospital
    rejoins the run with its process, its context and everything that its app remembers.

    Args:
        app: answers messages.
        agreement: what the server must agree to, such as task and schema.
        wait: seconds to wait for a server that cannot be reached; counted anew after each loss.
        announce: receives lines for the user.
        prepare: called once the server has accepted the hospital, before the first message is answered.
        ledger: records everything before it is sent.
        tls: the hospital's identity; None for no encryption.
        consent: called with the run's terms before the hospital joins, and again when they have changed; None to join
            whatever they are.

    Raises:
        MissingLibraryError: the run needs a library that is not installed; the server has received the reason.
        TermsError: a message was outside the terms of the run; the server has received the reason.
        LedgerError: a message could not be recorded, and was not sent.
        JoinError: no server answered within the wait; it refused, stopped or sent invalid bytes; or a side rejected the
            other's certificate.
        CertificateError: the certificate is for another name, or its key cannot be read.
        AddressError: a proxy could read the messages.
    """
    # Only this process knows the token, so no other can replace its stream after a lost connection.
    metadata = (*join_metadata(name, agreement), ("process", uuid4().hex))
    check: ServerCheck | None = None
    proxy = channels.proxy_of(address, encrypted=tls is not None)
    port = proxy.port if proxy else channels.split_address(address)[1]
    reconnector = Reconnector(address, tls, wait, announce)
    if tls is not None:
        from federated_health.transport.obstacles import find_obstacle  # noqa: PLC0415  # optional feature

        tls.check_name(name)
        if remark := tls.expiry_warning():
            announce(remark)
        find_obstacle(address, tls, wait)
        check = make_check(address, tls, announce)
    note = "; loading Keras"
    obstacle: MissingLibraryError | TermsError | None = None
    accepted, changes = None if consent else "", 0
    while True:
        began, limit = time.monotonic(), None
        offered: str | None = None
        with ExitStack() as stack:
            channel = stack.enter_context(open_channel(address, tls))
            stream = HospitalStream(channel, ledger)
            stack.enter_context(_watched(port, stream, channel))
            try:
                call, limit = _begin(stream, channel, metadata, check, reconnector, accepted)
                if limit is not None:
                    announce(f"joined {address} as {name}{note}")
                    note = " again"
                    prepare()
                for message in _read_messages(call, address):
                    if check is not None:
                        check.check_validity()
                    try:
                        reply = call_app(app, message, context)
                    except (MissingLibraryError, TermsError) as error:
                        obstacle = error
                        reply = failed_reply(message, error.reason)
                    if check is not None:
                        check.check_validity()  # again, since training may take long
                    stream.send(message, reply, limit or MAX_REPLY_BYTES)
                    if obstacle is not None:
                        break
            except grpc.RpcError:
                pass
            except _NewTermsError as new:
                offered = str(new)
            finally:
                stream.close()
            if offered is None:
                code, reason = call.code(), printable(call.details() or "", MAX_REASON)
        if offered is not None and consent is not None:  # no connection is open while a person reads them
            if (changes := changes + 1) > MAX_CHANGES:
                raise JoinError(f"{address}: the server states other terms of the run each time")
            consent(offered, check.fingerprint if check else "")
            accepted = offered
            reconnector.restart()
            continue
        if obstacle is not None:
            raise obstacle
        if code is grpc.StatusCode.OK:
            return
        if limit is not None:
            changes = 0
            reconnector.restart(lasted=time.monotonic() - began)
        reconnector.wait_after(code, reason)


def open_channel(address: str, tls: "Identity | None" = None) -> grpc.Channel:
    """A hospital's channel. It connects on first use; gRPC checks the server's certificate and name.

    Raises:
        AddressError: a proxy could read the messages.
    """
    proxy = channels.proxy_of(address, encrypted=tls is not None)
    options = (*channels.CHANNEL_OPTIONS, *(proxy.options if proxy else channels.DIRECT), _TERMS_LIMIT)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(tls.authority_bytes, tls.read_key(), tls.certificate_bytes)
    return grpc.secure_channel(address, credentials, options=options)


@contextmanager
def _watched(port: int, stream: "HospitalStream", channel: grpc.Channel) -> Iterator[None]:
    """Close the channel to a server's port once nothing has arrived for too long."""
    ended = threading.Event()

    def watch() -> None:
        if not ended.wait(channels.KEEPALIVE_SECONDS):
            from federated_health.transport.liveness import watch_connections  # noqa: PLC0415  # after a while only

            watch_connections(port, stream, channel.close, ended)

    if channels.CAN_COUNT:
        threading.Thread(target=watch, name="liveness", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _begin(
    stream: "HospitalStream",
    channel: grpc.Channel,
    metadata: Sequence[tuple[str, str]],
    check: "ServerCheck | None",
    reconnector: Reconnector,
    accepted: str | None,
) -> tuple[grpc.Call, int | None]:
    """Begin a stream, and wait until the server accepts; JoinError if its certificate is rejected.

    The server is checked before the metadata leaves, and again on the stream, for which gRPC may connect once more.

    Args:
        accepted: text of the run terms that the hospital accepted; None before, empty if it does not ask for them.

    Raises:
        _NewTermsError: the server's terms are others.

    Returns:
        The call and the size limit of a reply, in bytes; a call that has ended and None if the server does not accept.
    """
    if failed := prove(channel, check, reconnector.limited):
        return failed, None
    if accepted != "":
        failed, terms = ask_terms(channel, reconnector.limited)
        if failed:
            return failed, None
        if terms != accepted:
            raise _NewTermsError(terms)
        metadata = (*metadata, (channels.ACCEPTED_TERMS_KEY, hash_of(terms)))
    if check is not None:
        metadata = (*metadata, *check.challenge())
    call = stream.begin(JOIN, metadata)
    with reconnector.limited(call):
        limit = _read_limit(call.initial_metadata())
    if check is not None and limit is not None:
        check.check_answer(call.initial_metadata())
    return call, limit


def prove(
    channel: grpc.Channel, check: "ServerCheck | None", limited: Limited = nullcontext, timeout: float | None = None
) -> grpc.Call | None:
    """A call that failed; None if the server proved itself, or there is no TLS. JoinError if it is rejected."""
    return check.ask(channel.unary_unary(PROVE_METHOD), limited, timeout) if check else None


def ask_terms(
    channel: grpc.Channel,
    limited: Limited = nullcontext,
    timeout: float | None = None,
) -> tuple[grpc.Call | None, str]:
    """A call that failed, or None; and the run terms as text."""
    call = channel.unary_unary(TERMS_METHOD).future(b"", timeout)
    with limited(call):
        code = call.code()
    if code is grpc.StatusCode.OK:
        return None, call.result().decode("ascii", "replace")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        raise JoinError(f"the run terms: expected at most {MAX_TERMS_CHARACTERS:,} bytes, got more")
    return call, ""


def make_check(address: str, tls: "Identity", announce: Callable[[str], None]) -> "ServerCheck":
    """The check of a server over TLS."""
    from federated_health import security  # noqa: PLC0415  # optional feature

    check: ServerCheck = security.load().proof.ServerCheck(tls, address, announce)
    return check


class HospitalStream:
    """The hospital's end of one stream.

    Replies are serialised here rather than by gRPC, so that the ledger holds the hash of the bytes that leave. If the
    ledger cannot record a message, LedgerError is raised and the message is not sent.
    """

    def __init__(self, channel: grpc.Channel, ledger: Ledger) -> None:
        self._begin = channel.stream_stream(JOIN_METHOD)
        self._ledger = ledger
        self._replies: SimpleQueue[Serialised | None] = SimpleQueue()
        self.sent = 0

    def begin(self, kind: str, metadata: Sequence[tuple[str, str]], timeout: float | None = None) -> grpc.Call:
        """Begin the stream with metadata; iterating over the call yields the parts of the server's messages."""
        self._ledger.record_metadata(kind, metadata)
        return self._begin(self._parts(), metadata=tuple(metadata), timeout=timeout)

    def send(self, message: Message, reply: Message, limit: int) -> None:
        """Send the reply to a message, or an error if it cannot be serialised or exceeds the limit in bytes."""
        reason = ""
        try:
            envelope, serialised = serialise_reply(reply)
            if serialised.size > limit:
                reason = f"its reply is too large: the server accepts {limit} bytes, got {serialised.size}"
        except Exception as error:  # such as an integer of more than 64 bits
            reason = f"{type(error).__name__} at the hospital"
        if reason:
            logger.error("the reply to %s cannot be sent: %s", message.metadata.message_type, reason)
            reply = failed_reply(message, reason)
            envelope, serialised = serialise_reply(reply)
        self._ledger.record_reply(message, reply, envelope, serialised.header, serialised.arrays)
        self.sent += 1
        self._replies.put(serialised)

    def _parts(self) -> Iterator[bytes]:
        for reply in iter(self._replies.get, None):
            yield from reply.parts()

    def signal(self) -> None:
        """Send a part without content, unless a reply is on its way."""
        if self._replies.empty():
            self._replies.put(Serialised(b""))

    def close(self) -> None:
        """Send nothing more."""
        self._replies.put(None)


def join_metadata(name: str, agreement: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The metadata with which every stream begins."""
    return ("hospital", name), ("terms", write_agreement({"protocol": PROTOCOL, **agreement}))


def _read_limit(initial_metadata: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """Size limit of a reply, in bytes, with which a server accepts a hospital; None if it has not accepted it."""
    value = str(dict(initial_metadata or ()).get(MAX_MESSAGE_KEY, ""))
    return int(value) if re.fullmatch("[0-9]{1,12}", value) else None


def _read_messages(call: Iterable[bytes], address: str) -> Iterator[Message]:
    receiver = Receiver(MAX_MESSAGE_BYTES)
    for part in call:
        try:
            message = receiver.add(part)
        except UndecodableError as error:
            raise JoinError(f"{address}: the server {error}") from None
        if message is not None:
            yield message
