"""HTTP proxies that environment variables ask gRPC to use, for servers that are not on this machine.

gRPC knows these variables in lower case only, and proxies of the kind `http://[USER:PASSWORD@]HOST[:PORT]` only. A user
and a password are sent to the proxy, and never shown.
"""

import base64
import ipaddress
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from federated_health.names import printable
from federated_health.transport.channels import PROXY_VARIABLES

EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
"""Variables with hosts that are reached without a proxy. The first one that is set counts."""

DEFAULT_PORT = 443
MAX_ANSWER_BYTES = 8192


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the variable that names it.

    Attributes:
        url: its address as gRPC reads it, which may hold a password.
    """

    host: str
    port: int
    variable: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {printable(host, 100)}:{self.port} of {self.variable}"

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connection through the proxy; OSError if the proxy cannot be reached or refuses."""
        try:
            connection = socket.create_connection((self.host, self.port), timeout=timeout)
        except OSError as error:
            raise OSError(f"the proxy: {error.strerror or error}") from None
        try:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
            user = urlsplit(self.url).netloc.rpartition("@")[0]
            if user:
                lines.append(f"Proxy-Authorization: Basic {base64.b64encode(unquote(user).encode()).decode()}")
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n") and len(answer) < MAX_ANSWER_BYTES and (byte := connection.recv(1)):
                answer += byte
            status = answer.partition(b"\r\n")[0].decode("latin-1").partition(" ")[2]
            if not status.startswith("2"):
                raise OSError(f"the proxy answers {printable(status, 60)!r}" if status else "the proxy does not answer")
        except BaseException:
            connection.close()
            raise
        return connection


def find_proxy(host: str) -> Proxy | None:
    """The proxy through which gRPC would reach a host, or None."""
    variable = next((name for name in PROXY_VARIABLES if name in os.environ), None)
    if variable is None or _is_exception(host):
        return None
    url = os.environ[variable]
    with suppress(ValueError):  # a malformed port or address
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            return Proxy(parts.hostname, parts.port or DEFAULT_PORT, variable, url)
    return None


def _is_exception(host: str) -> bool:
    """Whether a host is in the list of exceptions: itself, a parent domain, or a network in CIDR notation."""
    listed = next((os.environ[name] for name in EXCEPTIONS if name in os.environ), "")
    for entry in filter(None, (text.strip().lower() for text in listed.split(","))):
        with suppress(ValueError):  # a name
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
        if host.lower() == entry.lstrip(".") or host.lower().endswith(f".{entry.lstrip('.')}"):
            return True
    return False
