"""Addresses, channel options, credentials, and how a Flower message is wrapped: what both ends of a stream share."""

import errno
import ipaddress
import re
import socket

import grpc
from flwr.app import Message, RecordDict
from flwr.common.serde import recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.transport_pb2 import Parameters

from federated_health.errors import AddressError
from federated_health.security import Identity
from federated_health.transport.capacity import max_connections

PROTOCOL = "3"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_METADATA_BYTES = 128 * 1024  # the terms of a hospital are in them; gRPC's own limit is 8 KiB

KEEPALIVE_SECONDS = 20.0
"""Of silence, after which either end asks whether the other is there; as many later it is given up."""

TENSOR_TYPE = "flwr.proto.Message"

MAX_MESSAGE_KEY = "largest-message"
"""Of the metadata with which a server accepts a hospital: bytes that a message of the hospital may have."""

MAX_REPLY_BYTES = MAX_MESSAGE_BYTES // 2
"""Bytes of a message that a server takes from a hospital, where it is told nothing else."""

HANDSHAKE_SECONDS = 20.0
"""For a new connection to begin to speak gRPC; it is closed when it does not."""

TAKEN = "another server may be using the port"

IDLE_SECONDS = 60.0
"""That a connection may stay without a call; a hospital's has one as long as it is there."""


def channel_options(keepalive: float) -> list[tuple[str, int]]:
    """Options of a hospital's end of a connection; the server's has them, too.

    Args:
        keepalive: seconds of silence, see KEEPALIVE_SECONDS.
    """
    milliseconds = round(keepalive * 1000)
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.http2.ping_timeout_ms", milliseconds),  # else gRPC waits for a minute
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A server counts more frequent questions as an attack, and a hospital that trains for long asks often.
        ("grpc.http2.min_ping_interval_without_data_ms", milliseconds // 2),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5000),  # also how long a connection may take to be made
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.enable_retries", 0),  # else gRPC may send again by itself what a hospital's ledger has once
        ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the delay after a failed one
    ]


CHANNEL_OPTIONS = channel_options(KEEPALIVE_SECONDS)


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of the server's end.

    Args:
        max_message_bytes: bytes of a hospital's message that is read. gRPC itself ends the stream of a hospital that
            sends more than twice as many, without a word to the server's code: what is between is named.
    """
    return [
        *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.max_receive_message_length"),
        ("grpc.max_receive_message_length", 2 * max_message_bytes),
        ("grpc.so_reuseport", 0),  # else two servers share a port, and its hospitals
        ("grpc.max_concurrent_streams", 100),  # of one connection; a hospital needs one
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.server_handshake_timeout_ms", round(HANDSHAKE_SECONDS * 1000)),
        ("grpc.max_connection_idle_ms", round(IDLE_SECONDS * 1000)),
    ]


def check_address(address: str, *, encrypted: bool = False, insecure: bool = False) -> None:
    """Refuse what is not HOST:PORT, and what would carry messages unencrypted past this machine.

    Args:
        encrypted: whether TLS is used.
        insecure: whether it may be done without.

    Raises:
        AddressError: says what is wrong.
    """
    host, _ = split_address(address)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host.lower() == "localhost"
    if not loopback and not encrypted and not insecure:
        raise AddressError(
            f"address {address}: is not loopback, and without --tls messages are not encrypted: anyone on the way "
            "could read and change them; --insecure allows it all the same"
        )


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port.

    Raises:
        AddressError: it is not HOST:PORT.
    """
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", address, re.ASCII)
    if parts is None or not 1 <= int(parts[2]) <= 65535:
        raise AddressError(f"address: expected HOST:PORT with a port from 1 to 65535, got {address[:80]!r}")
    return parts[1].strip("[]"), int(parts[2])


# The two places where credentials are made. gRPC's TLS is 1.2 at least, and each end checks the other's authority and
# purpose (RFC 5280's extended key usage); a hospital checks the server's name, too.


def listen(server: grpc.aio.Server, address: str, tls: Identity | None = None) -> None:
    """Open the server's port, to hospitals with a certificate of its authority where it has an identity.

    Raises:
        AddressError: it is taken, or the host is not this machine's.
        CertificateError: the identity's key cannot be read.
    """
    host, port = split_address(address)
    # `localhost` has two addresses, and gRPC is content with either: a second server could take the other one.
    host = "127.0.0.1" if host.lower() == "localhost" else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    key = tls.read_key() if tls else b""
    try:
        # gRPC does not say why it cannot listen, other than in a line of its own on stderr.
        socket.create_server((host, port), family=family).close()
        if tls is None:
            opened = server.add_insecure_port(where)
        else:
            pair = (key, tls.certificate_bytes)
            opened = server.add_secure_port(
                where, grpc.ssl_server_credentials([pair], tls.authority_bytes, require_client_auth=True)
            )
    except (OSError, RuntimeError, UnicodeError) as error:  # UnicodeError: a host that no DNS can hold
        raise AddressError(f"address {address}: cannot be listened on; {_why(error)}") from None
    if not opened:
        raise AddressError(f"address {address}: cannot be listened on; {TAKEN}")


def _why(error: Exception) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "its host is not known"
    reasons = {
        errno.EADDRINUSE: TAKEN,
        errno.EADDRNOTAVAIL: "its host is not this machine's",
        errno.EACCES: "this user may not open that port",
    }
    if not isinstance(error, OSError):
        return TAKEN
    return reasons.get(error.errno or 0) or error.strerror or TAKEN


def open_channel(address: str, tls: Identity | None = None) -> grpc.Channel:
    """A hospital's connection to its server; it is made when it is first used.

    Raises:
        CertificateError: the identity's key cannot be read.
    """
    if tls is None:
        return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.authority_bytes, tls.read_key(), tls.certificate_bytes)
    return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


def wrap(proto: ProtoMessage) -> Parameters:
    """A Flower message as the one tensor of Flower's `Parameters`."""
    return Parameters(tensors=[proto.SerializeToString()], tensor_type=TENSOR_TYPE)


def wrap_question(message: Message, message_id: str, content: bytes) -> Parameters:
    """As `wrap`, of a message whose content was serialised before, since others have the same.

    Args:
        content: as `serialise_content` gives it.
    """
    envelope = ProtoMessage(metadata=metadata_to_proto(message.metadata))
    envelope.metadata.message_id = message_id
    # Serialised fields, one after the other, are the message that has them all.
    return Parameters(tensors=[envelope.SerializeToString() + content], tensor_type=TENSOR_TYPE)


def serialise_content(content: RecordDict) -> bytes:
    """A Flower message that has this content and nothing else, in protobuf's bytes."""
    return ProtoMessage(content=recorddict_to_proto(content)).SerializeToString()


def unwrap(parameters: Parameters) -> ProtoMessage:
    """The inverse of `wrap`; raises ValueError or protobuf's DecodeError on other content."""
    (content,) = parameters.tensors
    return ProtoMessage.FromString(content)
