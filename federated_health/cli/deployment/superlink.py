"""The subcommand `superlink`: starts Flower's SuperLink with this project's certificates and registers hospitals."""

import argparse
import socket
import ssl
import subprocess
import time
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from federated_health.cli import parsing
from federated_health.cli.console import say
from federated_health.cli.deployment import flower_commands
from federated_health.errors import AddressError, CertificateError, RunError
from federated_health.files import PRIVATE_FOLDER, PUBLIC, make_folder, write_bytes
from federated_health.processes import free_port, process
from federated_health.security import certificates
from federated_health.security.admission import Admission
from federated_health.security.identity import CERTIFICATE, KEY, Identity, load_identity
from federated_health.security.parties import Role
from federated_health.transport.channels import split_address

DESCRIPTION = (
    "Starts Flower's SuperLink with this server's certificate. It admits the nodes of hospitals whose certificates the "
    "same authority signed, and `flwr run . NAME` starts a run. Results are written below the current folder."
)

EXAMPLES = (
    "--tls server-tls --hospitals authority/issued --address 0.0.0.0:9092",
    "--tls server-tls --hospitals cleveland.pem hungary.pem --name heart",
)

START_SECONDS = 60.0
"""Longest time for a SuperLink to start."""

PUBLIC_KEYS = "supernodes"
"""In the server's TLS folder: hospitals' public keys as `flwr supernode register` reads them."""


def check_flags(flags: argparse.Namespace) -> None:
    """Raise RunError for a name that Flower reserves, AddressError for an address that is malformed or taken."""
    if flags.name in ("default", "local", "supergrid") or not flags.name.replace("-", "").isalnum():  # Flower's own
        raise RunError(
            f"--name: expected letters, digits and hyphens, but not default, local or supergrid, got {flags.name!r}"
        )
    host, port = split_address(flags.address)
    if port == flags.control_port:
        raise AddressError(f"{flags.address}: expected another port than --control-port, got {port} for both")
    check_free(host, port)
    check_free("127.0.0.1", flags.control_port)


def link_command(flags: argparse.Namespace, identity: Identity) -> list[str]:
    """Flower's command for a SuperLink that hospitals reach over TLS and only keys of registered hospitals may use.

    The port for starting runs is on loopback, because Flower requires no key there: whoever connects can send any code
    to every hospital.
    """
    folder = identity.folder.absolute()
    return [
        flower_commands.executable("flower-superlink"),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",  # requirements.txt was installed; nothing is fetched for a run
        *("--ssl-certfile", str(folder / CERTIFICATE)),
        *("--ssl-keyfile", str(folder / KEY)),
        *("--ssl-ca-certfile", str(flower_commands.authority_file(identity))),
        *("--fleet-api-address", flags.address),
        *("--host", "127.0.0.1", "--port", str(flags.control_port)),
        # For older versions of Flower; by default it would listen on every interface.
        *("--control-api-address", f"127.0.0.1:{free_port()}"),
    ]


def wait_until_up(running: "subprocess.Popen[bytes]", identity: Identity, control_port: int) -> None:
    """Wait until the SuperLink answers; RunError if it ends or does not answer in time."""
    context = ssl.create_default_context(cadata=identity.authority_bytes.decode())
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))  # a proxy would not reach loopback
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise RunError(f"flower-superlink ended with code {running.returncode}; its output is above")
        with suppress(OSError, HTTPException), opener.open(f"https://127.0.0.1:{control_port}/health", timeout=2):
            return
        time.sleep(0.2)
    raise RunError(f"flower-superlink did not answer within {START_SECONDS:g} s")


def register(name: str, certificate: x509.Certificate, folder: Path, link: str) -> None:
    """Register a hospital at the SuperLink by its certificate's key, which is written to a file that Flower reads."""
    path = folder / f"{name}.pub"
    write_bytes(path, public_key_line(certificate), PUBLIC)
    command = [flower_commands.executable("flwr"), "supernode", "register", str(path), link, "--name", name]
    done = subprocess.run(command, env=flower_commands.environment(), check=False, capture_output=True, text=True)
    if done.returncode:
        output = " ".join((done.stdout + done.stderr).split())
        raise RunError(f"{name}: cannot be registered at the SuperLink: {output[-300:]}")


def public_key_line(certificate: x509.Certificate) -> bytes:
    """Public key of a certificate as `flwr supernode register` reads it: ecdsa-sha2-nistp256 and base64."""
    key = certificates.public_key_of(certificate)
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"


def write_connection(name: str, address: str, authority: Path) -> Path:
    """Add a SuperLink to Flower's configuration, so that `flwr run . NAME` finds it; replaces one of that name.

    Returns:
        The configuration's file.

    Raises:
        RunError: the file cannot be read or written.
    """
    # Internals of Flower: imported here, so that another version of it can break this subcommand only.
    from flwr.cli.flower_config import init_flwr_config, write_superlink_connection  # noqa: PLC0415  # slow, and needed by one command
    from flwr.cli.typing import SuperLinkConnection  # noqa: PLC0415  # slow, and needed by one command
    from flwr.supercore.utils import get_flwr_home  # noqa: PLC0415  # slow, and needed by one command

    path = get_flwr_home() / "config.toml"
    connection = SuperLinkConnection(name=name, address=address, root_certificates=str(authority), insecure=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            tomllib.loads(path.read_text())
        else:
            init_flwr_config()
        write_superlink_connection(connection)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
    except ValueError:
        raise RunError(f"{path}: is not TOML; correct Flower's configuration by hand") from None
    return path


def check_free(host: str, port: int) -> None:
    """Raise AddressError if a port is in use; gRPC would share it, and hospitals would reach either server."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise AddressError(f"{host}:{port}: the SuperLink cannot open this port ({error.strerror})") from None


def accepted_hospitals(identity: Identity, paths: Iterable[Path]) -> dict[str, x509.Certificate]:
    """Hospitals that a server admits: those with a valid certificate that its own authority signed and did not revoke.

    If a hospital has several, the newest counts.

    Args:
        paths: certificates as the authority sent them, or folders of them, such as its `issued`.

    Returns:
        Name -> certificate, at least one.
    """
    admission = Admission(identity)
    hospitals: dict[str, x509.Certificate] = {}
    for path in chain.from_iterable(sorted(path.glob("*.pem")) if path.is_dir() else [path] for path in paths):
        certificate = certificates.read_certificates(path)[0]
        if not certificates.is_issued_by(certificate, identity.authority):
            raise CertificateError(f"{path}: was not signed by the authority of {identity.folder}")
        try:
            party = certificates.party_of(certificate)
        except CertificateError as error:
            raise CertificateError(f"{path}: {error}") from None
        if party.role is not Role.HOSPITAL or admission.expiry_reason(certificate, Role.HOSPITAL):
            continue
        earlier = hospitals.get(party.name)
        if earlier is None or earlier.not_valid_before_utc <= certificate.not_valid_before_utc:
            hospitals[party.name] = certificate
    if not hospitals:
        raise CertificateError("--hospitals: expected a hospital's certificate that is valid now, got none")
    return hospitals


def make_parser() -> parsing.CommandParser:
    """The parser of `superlink`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    participants = parser.add_argument_group("participants")
    help_text = "folder of the server's key and certificate, which `python -m federated_health certificates` makes"
    participants.add_argument("--tls", type=parsing.path, required=True, metavar="DIR", help=help_text)
    help_text = "certificates of the hospitals to admit, or folders of them, such as the authority's issued/"
    participants.add_argument(
        "--hospitals", type=parsing.path, nargs="+", required=True, metavar="PATH", help=help_text
    )
    connection = parser.add_argument_group("connection")
    help_text = "address for hospitals' nodes; 0.0.0.0:9092 accepts other machines (default: %(default)s)"
    connection.add_argument("--address", default=flower_commands.DEFAULT_ADDRESS, metavar="HOST:PORT", help=help_text)
    help_text = "port for `flwr run`, from this machine only (1 to 65535; default: %(default)s)"
    connection.add_argument("--control-port", type=parsing.port, default=8000, metavar="PORT", help=help_text)
    help_text = "name of the connection in `flwr run . NAME` (default: %(default)s)"
    connection.add_argument("--name", default="hospitals", metavar="NAME", help=help_text)
    return parser


def main() -> None:
    """The command `superlink`: parse the flags, and run a SuperLink."""
    run(make_parser().parse_args())


def run(flags: argparse.Namespace) -> None:
    """Start a SuperLink, admit the hospitals, and wait until it ends."""
    identity = load_identity(flags.tls, Role.SERVER)
    hospitals = accepted_hospitals(identity, flags.hospitals)
    check_flags(flags)
    command = link_command(flags, identity)
    say(flower_commands.shell_line(command))
    with process(command, env=flower_commands.environment()) as running:
        wait_until_up(running, identity, flags.control_port)
        authority = flower_commands.authority_file(identity)
        config = write_connection(flags.name, f"127.0.0.1:{flags.control_port}", authority)
        say(f"wrote superlink.{flags.name} in {config}")
        make_folder(identity.folder / PUBLIC_KEYS, PRIVATE_FOLDER)
        for name, certificate in sorted(hospitals.items()):
            register(name, certificate, identity.folder / PUBLIC_KEYS, flags.name)
            say(f"registered {name}")
        say(f"ready: flwr run . {flags.name} --stream --run-config hospitals={len(hospitals)}")
        if running.wait() not in (0, -15):
            raise RunError(f"flower-superlink ended with code {running.returncode}; its output is above")
