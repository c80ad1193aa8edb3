"""Addresses and channel options, which both ends of a stream share."""

import ipaddress
import re

from federated_health.errors import AddressError

PROTOCOL = "6"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_METADATA_BYTES = 128 * 1024  # they hold a hospital's task agreement; gRPC's own limit is 8 KiB

KEEPALIVE_SECONDS = 20.0
"""Silence after which either end sends a ping; it closes the connection after the same time without any byte.

An answer to the ping is not needed, since on a slow link it waits behind a large message. So that the receiver of that
message sends bytes meanwhile, each end sends a part without content at least every `signal_seconds`.
"""

MAX_PING_SECONDS = 3600.0
"""Time limit for the answer to a ping."""

MAX_MESSAGE_KEY = "largest-message"
"""Metadata key with which a server accepts a hospital: the size limit, in bytes, of the hospital's messages."""

MAX_REPLY_BYTES = MAX_MESSAGE_BYTES // 2
"""Default size limit, in bytes, of a hospital's message."""


def channel_options(keepalive: float) -> list[tuple[str, int]]:
    """gRPC options of both ends of a connection.

    Args:
        keepalive: seconds of silence before a ping.
    """
    milliseconds = round(keepalive * 1000)
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.http2.ping_timeout_ms", round(MAX_PING_SECONDS * 1000)),  # unless longer, gRPC needs answers, not bytes
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC's server treats more frequent pings as an attack, and a hospital that trains for long sends many.
        ("grpc.http2.min_ping_interval_without_data_ms", milliseconds // 2),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5000),  # also the time limit for making a connection
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.enable_retries", 0),  # gRPC must not resend what the ledger recorded once
        ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits the delay after a failed one
    ]


CHANNEL_OPTIONS = channel_options(KEEPALIVE_SECONDS)


def signal_seconds() -> float:
    """Silence after which either end of a stream sends a part without content: see KEEPALIVE_SECONDS."""
    return KEEPALIVE_SECONDS / 2


def check_address(address: str, *, encrypted: bool = False, insecure: bool = False) -> None:
    """Raise AddressError for a malformed address, or for one beyond this machine without TLS or permission.

    Args:
        encrypted: whether TLS is used.
        insecure: whether the user allows a connection without TLS.
    """
    host, _ = split_address(address)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host.lower() == "localhost"
    if not loopback and not encrypted and not insecure:
        raise AddressError(
            f"address {address}: is not loopback, and without --tls messages are not encrypted: anyone on the network "
            "could read and change them; use --tls, or --insecure to allow it"
        )


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port; raises AddressError for an address that is not HOST:PORT."""
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", address, re.ASCII)
    if parts is None or not 1 <= int(parts[2]) <= 65535:
        raise AddressError(f"address: expected HOST:PORT with a port from 1 to 65535, got {address[:80]!r}")
    return parts[1].strip("[]"), int(parts[2])
