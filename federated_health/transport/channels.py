"""Addresses and channel options, which both ends of a stream share."""

import ipaddress
import os
import re
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from federated_health.errors import AddressError

if TYPE_CHECKING:
    from federated_health.transport.proxies import Proxy

PROTOCOL = "9"
MAX_MESSAGE_BYTES = 512 * 1024 * 1024
MAX_METADATA_BYTES = 128 * 1024  # they hold a hospital's task agreement; gRPC's own limit is 8 KiB

OPEN_FILES = "/proc/self/fd"
"""Folder with the numbers of this process's open files, on Linux."""

RECEIVED = slice(128, 136)
"""Where Linux's TCP_INFO holds the bytes that a connection has received (`tcpi_bytes_received` in `linux/tcp.h`)."""


def _can_count() -> bool:
    if sys.platform != "linux" or not os.path.isdir(OPEN_FILES):  # noqa: PTH112
        return False
    with suppress(OSError), socket.socket() as unconnected:
        return len(unconnected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.stop)) == RECEIVED.stop
    return False


CAN_COUNT = _can_count()
"""Whether this system counts the bytes that arrive (see `liveness`); without, gRPC's pings decide alone."""

KEEPALIVE_SECONDS = 20.0
"""Silence after which either end sends a ping."""

MAX_SILENCE = 2.0
"""Time without a byte after which either end closes a stream, in keepalives.

An interruption of one keepalive must pass, and the last byte may have come as long before it.
"""

MAX_PING_SECONDS = 3600.0
"""Time limit for the answer to a ping, which on a slow link waits behind a large message."""

DIRECT = (("grpc.enable_http_proxy", 0), ("grpc.address_http_proxy_enabled_addresses", ""))
"""Options of a channel that uses no proxy, whatever the environment says."""

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Environment variables by which gRPC finds a proxy. The first one that is set counts, even if it is empty."""

MAX_MESSAGE_KEY = "largest-message"
"""Metadata key with which a server accepts a hospital: the size limit, in bytes, of the hospital's messages."""

ACCEPTED_TERMS_KEY = "accepted-terms"
"""Metadata key with which a hospital joins: the hash of the run terms that it accepted."""

MAX_REPLY_BYTES = MAX_MESSAGE_BYTES // 2
"""Default size limit, in bytes, of a hospital's message."""


def channel_options(keepalive: float) -> list[tuple[str, int]]:
    """gRPC options of both ends of a connection.

    Args:
        keepalive: seconds of silence before a ping.
    """
    milliseconds = round(keepalive * 1000)
    answer_within = round(MAX_PING_SECONDS * 1000) if CAN_COUNT else milliseconds
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", answer_within),
        ("grpc.http2.ping_timeout_ms", answer_within),
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


def check_address(address: str, *, encrypted: bool = False, insecure: bool = False) -> None:
    """Raise AddressError for a malformed address, or for one beyond this machine without TLS or permission.

    Args:
        encrypted: whether TLS is used.
        insecure: whether the user allows a connection without TLS.
    """
    host, _ = split_address(address)
    if not is_loopback(host) and not encrypted and not insecure:
        raise AddressError(
            f"address {address}: is not loopback, and without --tls messages are not encrypted: anyone on the network "
            "could read and change them; use --tls, or --insecure to allow it"
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which is never reached through a proxy."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def proxy_of(address: str, *, encrypted: bool = True) -> "Proxy | None":
    """The proxy to a hospital's server, see `proxies.find_proxy`; None for a direct connection."""
    host, _ = split_address(address)
    if is_loopback(host) or not any(name in os.environ for name in PROXY_VARIABLES):
        return None
    from federated_health.transport.proxies import find_proxy  # noqa: PLC0415  # only where there may be a proxy

    return find_proxy(host, encrypted=encrypted)


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port; raises AddressError for an address that is not HOST:PORT."""
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]]+):([0-9]{1,5})", address, re.ASCII)
    if parts is None or not 1 <= int(parts[2]) <= 65535:
        raise AddressError(f"address: expected HOST:PORT with a port from 1 to 65535, got {address[:80]!r}")
    return parts[1].strip("[]"), int(parts[2])
