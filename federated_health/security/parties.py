"""The parties of certificates: a hospital, by its name, or a server, by the hosts where it is reached."""

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
"""Largest number of a server's hosts, not counting LOOPBACK."""

HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Role(Enum):
    """What a certificate permits its party to be."""

    HOSPITAL = "hospital"
    SERVER = "server"


@dataclass(frozen=True)
class Party:
    """The hospital or the server that a certificate or a request is for.

    Attributes:
        name: a hospital's name (see `names.is_hospital_name`), or the first of the server's hosts.
        hosts: DNS names and addresses where the server is reached, with LOOPBACK; empty for a hospital.
    """

    name: str
    role: Role
    hosts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def hospital(name: str) -> Party:
    """A hospital; raises CertificateError for a name that is not allowed."""
    if name == FEDERATION:
        raise CertificateError(f"the name {FEDERATION} is reserved: it stands for all hospitals together")
    if not is_hospital_name(name):
        shown = printable(name, 63)
        raise CertificateError(f"hospital name: expected lower-case letters, digits and hyphens, got {shown!r}")
    return Party(name, Role.HOSPITAL)


def server(hosts: Sequence[str]) -> Party:
    """A server with these DNS names and addresses and LOOPBACK; raises CertificateError for more than MAX_HOSTS."""
    hosts = [_normalise(host) for host in hosts]
    if (count := len(set(hosts) - set(LOOPBACK))) > MAX_HOSTS:
        raise CertificateError(f"server: expected at most {MAX_HOSTS} hosts, got {count}")
    unique = tuple(dict.fromkeys((*hosts, *LOOPBACK)))
    return Party(unique[0], Role.SERVER, unique)


def is_one_of(host: str, hosts: Sequence[str]) -> bool:
    """Whether a host that a user wrote is one of a certificate's."""
    try:
        return _normalise(host) in hosts
    except CertificateError:
        return False


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
        raise CertificateError(f"host {host}: expected a name or address that hospitals can reach")
    return str(address)
