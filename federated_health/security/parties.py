"""Parties that a certificate is for: a hospital, by its name, or a server, by the hosts where it is reached."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from federated_health.errors import CertificateError
from federated_health.names import FEDERATION, is_hospital_name, printable

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that every server's certificate includes."""

MAX_HOSTS = 20
"""Hosts of a server, not counting LOOPBACK."""

HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Role(Enum):
    """The one purpose of a party's certificate."""

    HOSPITAL = "hospital"
    SERVER = "server"


@dataclass(frozen=True)
class Party:
    """A hospital or a server that a certificate or a request is for.

    Attributes:
        name: a hospital's name (see `names.is_hospital_name`), or the first of the server's hosts.
        hosts: DNS names and addresses where the server is reached, including LOOPBACK; empty for a hospital.
    """

    name: str
    role: Role
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def hospital(name: str) -> Party:
    """A hospital; CertificateError if its name is not allowed."""
    if name == FEDERATION:
        raise CertificateError(f"the name {FEDERATION} is reserved: it stands for all hospitals together")
    if not is_hospital_name(name):
        shown = printable(name, 63)
        raise CertificateError(f"a hospital's name is lower-case letters, digits and hyphens, got {shown!r}")
    return Party(name, Role.HOSPITAL)


def server(hosts: Sequence[str]) -> Party:
    """A server with these DNS names and addresses, at most MAX_HOSTS, and LOOPBACK; else CertificateError."""
    hosts = [_normalise(host) for host in hosts]
    if (count := len(set(hosts) - set(LOOPBACK))) > MAX_HOSTS:
        raise CertificateError(f"a server has at most {MAX_HOSTS} names, got {count}")
    unique = tuple(dict.fromkeys((*hosts, *LOOPBACK)))
    return Party(unique[0], Role.SERVER, unique)


def _normalise(host: str) -> str:
    """Host as certificates spell it: lower case, no final dot, no brackets."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        name = host.lower().removesuffix(".")
        if not HOST_NAME.fullmatch(name) or name.rpartition(".")[2].isdigit():
            shown = printable(host, 63)
            raise CertificateError(f"host {shown!r}: expected a DNS name or an address, without a port") from None
        return name
    if address.is_unspecified:
        raise CertificateError(f"host {host}: hospitals cannot call this address; give a name that they can reach")
    return str(address)
