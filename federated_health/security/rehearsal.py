"""A federation's authority and all its identities in one place: for demos, benchmarks and tests, and nothing else."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from federated_health.errors import CertificateError
from federated_health.files import PUBLIC, write_bytes
from federated_health.security import files
from federated_health.security.authority import REVOKED, Authority
from federated_health.security.identity import CERTIFICATE, request_identity
from federated_health.security.parties import Party, hospital, server

AUTHORITY, SERVER, HOSPITALS = "authority", "server", "hospitals"


def make_all_identities(folder: Path, names: Iterable[str]) -> tuple[Path, dict[str, Path]]:
    """A new authority, a server on loopback, and hospitals, in place of those that an earlier call left.

    Returns:
        The server's TLS folder, and each hospital's name -> its TLS folder.

    Raises:
        CertificateError: the folder holds something else, or cannot be written to.
    """
    try:
        if folder.exists():
            if others := {path.name for path in folder.iterdir()} - {AUTHORITY, SERVER, HOSPITALS}:
                raise CertificateError(f"{folder}: holds what is none of a rehearsal's: {min(others)}")
            shutil.rmtree(folder)
    except OSError as error:
        raise CertificateError(f"{folder}: cannot be replaced ({error.strerror})") from None
    authority = Authority.found(folder / AUTHORITY, "Demo")
    ours = _certify(authority, folder / SERVER, server(()))
    write_bytes(ours / REVOKED, files.read_file(folder / AUTHORITY / REVOKED), PUBLIC)
    return ours, {name: _certify(authority, folder / HOSPITALS / name, hospital(name)) for name in names}


def _certify(authority: Authority, folder: Path, party: Party) -> Path:
    issued = authority.sign(request_identity(folder, party))
    write_bytes(folder / CERTIFICATE, files.read_file(issued.path), PUBLIC)
    return folder
