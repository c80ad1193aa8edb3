"""Flower's SuperLink with this project's certificates: its command, and which hospitals' nodes it lets in."""

import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from itertools import chain
from pathlib import Path

from cryptography import x509

from federated_health.errors import AddressError, CertificateError, RunError
from federated_health.files import PRIVATE_FOLDER, PUBLIC, make_folder, write_bytes
from federated_health.processes import free_port
from federated_health.security import certificates
from federated_health.security.identity import CERTIFICATE, KEY, REVOKED, Identity
from federated_health.security.parties import Role
from federated_health.transport.channels import split_address
from federated_health.transport.deployment.flower import (
    authority_file,
    check_connection_name,
    check_free,
    executable,
    public_line,
    write_connection,
)

STARTING = 60.0
"""Seconds that a SuperLink gets to answer."""

LOOK_INTERVAL = 0.2

KEYS = "supernodes"
"""In the server's TLS folder: hospitals' public keys as `flwr supernode register` reads them."""


@dataclass(frozen=True, kw_only=True)
class SuperLink:
    """A SuperLink that hospitals reach over TLS, and that only keys of registered hospitals may use.

    What starts runs is on loopback: who reaches it may send any code to every hospital, and Flower asks for no key
    there.

    Attributes:
        identity: the server's.
        address: HOST:PORT that hospitals' nodes call.
        control: port of loopback for `flwr run`.
        name: under which `flwr run . NAME` finds it.

    Raises:
        AddressError: an address is none, or taken.
        RunError: the name cannot be.
    """

    identity: Identity
    address: str
    control: int
    name: str
    legacy: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        check_connection_name(self.name)
        host, port = split_address(self.address)
        split_address(f"127.0.0.1:{self.control}")
        if port == self.control:
            raise AddressError(f"{self.address}: has the port of --control-port, too; each needs its own")
        check_free(host, port)
        check_free("127.0.0.1", self.control)

    def command(self) -> list[str]:
        """Flower's command.

        Raises:
            CertificateError: the authority's certificate cannot be written.
            RunError: Flower is not there.
        """
        folder = self.identity.folder.absolute()
        return [
            executable("flower-superlink"),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",  # requirements.txt was installed; nothing is fetched for a run
            *("--ssl-certfile", str(folder / CERTIFICATE)),
            *("--ssl-keyfile", str(folder / KEY)),
            *("--ssl-ca-certfile", str(authority_file(self.identity))),
            *("--fleet-api-address", self.address),
            *("--host", "127.0.0.1", "--port", str(self.control)),
            # Of older Flower; by default it would listen on every interface.
            *("--control-api-address", f"127.0.0.1:{self.legacy}"),
        ]

    def connect(self) -> Path:
        """Make `flwr run . NAME` find it; returns the file that says so."""
        return write_connection(self.name, f"127.0.0.1:{self.control}", authority_file(self.identity))

    def wait_until_up(self, running: "subprocess.Popen[bytes]") -> None:
        """Wait until it answers.

        Raises:
            RunError: it ended, or did not answer in time.
        """
        context = ssl.create_default_context(cadata=self.identity.authority_bytes.decode())
        deadline = time.monotonic() + STARTING
        while time.monotonic() < deadline:
            if running.poll() is not None:
                raise RunError(f"flower-superlink ended with code {running.returncode}; its words are above")
            with suppress(OSError, HTTPException):
                connection = HTTPSConnection("127.0.0.1", self.control, timeout=2, context=context)
                try:
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        return
                finally:
                    connection.close()
            time.sleep(LOOK_INTERVAL)
        raise RunError(f"flower-superlink did not answer within {STARTING:g} s")

    def register(
        self, hospitals: Mapping[str, x509.Certificate], env: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        """Let these hospitals' nodes in, by the keys of their certificates.

        Raises:
            RunError: the SuperLink refuses one.
        """
        make_folder(self.identity.folder / KEYS, PRIVATE_FOLDER)
        for name, certificate in sorted(hospitals.items()):
            path = self.identity.folder / KEYS / f"{name}.pub"
            write_bytes(path, public_line(certificates.public_key_of(certificate)), PUBLIC)
            command = [executable("flwr"), "supernode", "register", str(path), self.name, "--name", name]
            ended = subprocess.run(command, env=dict(env), check=False, capture_output=True, text=True)
            if ended.returncode:
                said = " ".join((ended.stdout + ended.stderr).split())
                raise RunError(f"{name}: its node cannot be registered: {said[-300:]}")
            say(f"registered {name}")


def accepted_hospitals(identity: Identity, paths: Iterable[Path]) -> dict[str, x509.Certificate]:
    """The hospitals that a server lets in: those whose certificates its own authority signed and did not take back.

    Where a hospital has several, the last in time counts.

    Args:
        paths: certificates as the authority sent them, or folders of them, such as its `issued`.

    Returns:
        Name -> certificate.

    Raises:
        CertificateError: a file is not such a certificate, or no hospital is left.
    """
    taken_back = identity.folder / REVOKED
    revoked = certificates.read_revocations(taken_back, identity.authority) if taken_back.exists() else None
    found: dict[str, x509.Certificate] = {}
    for path in chain.from_iterable(sorted(given.glob("*.pem")) if given.is_dir() else [given] for given in paths):
        certificate = certificates.read_certificates(path)[0]
        if not certificates.is_issued_by(certificate, identity.authority):
            raise CertificateError(f"{path}: was not signed by the authority of {identity.folder}")
        party = certificates.party_of(certificate)
        is_ended = certificates.find_revocation(certificate, revoked) or certificates.find_lapse(certificate)
        if party.role is not Role.HOSPITAL or is_ended:
            continue
        earlier = found.get(party.name)
        if earlier is None or earlier.not_valid_before_utc <= certificate.not_valid_before_utc:
            found[party.name] = certificate
    if not found:
        raise CertificateError("--hospitals: holds no hospital's certificate that is valid now")
    return found
