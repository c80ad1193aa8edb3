"""Who a certificate is for: a hospital by its name, or a server by the hosts under which it may be reached."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from federated_health.errors import CertificateError
from federated_health.names import FEDERATION, is_hospital_name, printable

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names that every server's certificate has."""

MAX_HOSTS = 20
"""Names of a server beside LOOPBACK."""

HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Role(Enum):
    """What a leaf is good for."""

    HOSPITAL = "hospital"
    SERVER = "server"


@dataclass(frozen=True)
class Party:
    """Who a certificate or a request is for.

    Attributes:
        name: a hospital's name (see `names.is_hospital_name`), or the first of the server's hosts.
        hosts: DNS names and addresses under which the server may be reached, LOOPBACK among them; of a hospital none.
    """

    name: str
    role: Role
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def hospital(name: str) -> Party:
    """A hospital.

    Raises:
        CertificateError: no hospital may be called so.
    """
    if name == FEDERATION:
        raise CertificateError(f"the name {FEDERATION} is reserved: it stands for all hospitals together")
    if not is_hospital_name(name):
        shown = printable(name, 63)
        raise CertificateError(f"a hospital's name is lower-case letters, digits and hyphens, got {shown!r}")
    return Party(name, Role.HOSPITAL)


def server(hosts: Sequence[str]) -> Party:
    """A server with these DNS names and addresses, and LOOPBACK's.

    Raises:
        CertificateError: one is neither a DNS name nor an address, or there are too many.
    """
    own = tuple(dict.fromkeys(_plain_host(host) for host in hosts))
    more = [host for host in own if host not in LOOPBACK]
    if len(more) > MAX_HOSTS:
        raise CertificateError(f"a server has at most {MAX_HOSTS} names, got {len(more)}")
    return Party((*own, *LOOPBACK)[0], Role.SERVER, tuple(dict.fromkeys((*own, *LOOPBACK))))


def _plain_host(host: str) -> str:
    """A host as certificates spell it."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        plain = host.lower().removesuffix(".")
        if not HOST_NAME.fullmatch(plain) or plain.rpartition(".")[2].isdigit():
            shown = printable(host, 63)
            raise CertificateError(f"host {shown!r}: expected a DNS name or an address, without a port") from None
        return plain
    if address.is_unspecified:
        raise CertificateError(f"host {host}: is no address that a hospital can call; name what hospitals type")
    return str(address)
