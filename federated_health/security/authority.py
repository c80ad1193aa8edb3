"""The authority of a federation: signs hospitals and their server, revokes certificates, and records what it issued.

Its folder holds `authority.pem`, `key.pem`, `revoked.pem` (the list of revoked certificates) and `issued/`.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.files import PRIVATE, PRIVATE_FOLDER, PUBLIC, locked_folder, make_folder, write_bytes
from federated_health.names import printable
from federated_health.security import certificates, identity, issuing
from federated_health.security.parties import Party, hospital, server

CERTIFICATE, KEY, REVOKED, ISSUED = "authority.pem", "key.pem", "revoked.pem", "issued"
MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate that an authority signed, the file to be sent to its party, and when it was revoked, if it was."""

    path: Path
    party: Party
    certificate: x509.Certificate
    revoked: datetime | None = None

    @property
    def is_valid(self) -> bool:
        """Whether the certificate is valid now or will be later."""
        return self.revoked is None and datetime.now(UTC) <= self.certificate.not_valid_after_utc


class Authority:
    """The authority of a folder that `create` made.

    Raises:
        CertificateError: the folder is not an authority's, its files do not match, or a method refuses its arguments.
        StorageError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / CERTIFICATE).is_file():
            raise CertificateError(f"{folder}: is not an authority's folder: it has no {CERTIFICATE}; see init")
        self.folder = folder
        self.certificate = certificates.read_certificates(folder / CERTIFICATE)[0]
        if not certificates.is_authority(self.certificate):
            raise CertificateError(f"{folder / CERTIFICATE}: is not an authority's certificate")
        self._key = certificates.read_key(folder / KEY)
        if self._key.public_key() != self.certificate.public_key():
            raise CertificateError(f"{folder / KEY}: is not the key of {CERTIFICATE}")

    @classmethod
    def create(cls, folder: Path, name: str, days: int = issuing.AUTHORITY_DAYS) -> Self:
        """Make a new authority with an empty list of revoked certificates, in a folder that holds none yet.

        Args:
            name: name for people to read; 1 to 64 printable characters.
        """
        if printable(name, MAX_NAME_LENGTH) != name or not name.strip():
            raise CertificateError(f"authority's name: expected 1 to {MAX_NAME_LENGTH} printable characters")
        validity = issuing.validity_of(days)
        make_folder(folder, PRIVATE_FOLDER)
        with locked_folder(folder, wait=True):
            if present := [file for file in (CERTIFICATE, KEY, REVOKED, ISSUED) if (folder / file).exists()]:
                raise CertificateError(f"{folder}: already holds {present[0]}; an authority is never replaced")
            key = issuing.make_key()
            certificate = issuing.make_authority_certificate(key, name, validity)
            make_folder(folder / ISSUED, PRIVATE_FOLDER)
            write_bytes(folder / REVOKED, issuing.make_revocations(certificate, key, {}, 1), PUBLIC)
            write_bytes(folder / KEY, issuing.key_bytes(key), PRIVATE)
            write_bytes(folder / CERTIFICATE, issuing.pem(certificate), PUBLIC)  # last: it marks the folder as complete
        return cls(folder)

    def sign(self, request: Path, days: int = issuing.CERTIFICATE_DAYS) -> IssuedCertificate:
        """Issue the certificate that a signing request asks for, valid at most as long as the authority's own.

        Only the party and the key of the request are used. A request is refused if the authority has expired, if the
        party has a valid certificate for another key, or if the key is another party's or was revoked.
        """
        signing_request = certificates.read_request(request)
        try:
            party = certificates.party_of(signing_request)
        except CertificateError as error:
            raise CertificateError(f"{request}: {error}") from None
        key = certificates.public_key_of(signing_request)
        self._check_validity()
        start, end = issuing.validity_of(days)
        validity = start, min(end, self.certificate.not_valid_after_utc)
        with locked_folder(self.folder, wait=True):
            self._check_key(party, key)
            certificate = issuing.make_certificate(party, key, self.certificate, self._key, validity)
            name = f"{party.name[:63].replace(':', '-')}-{certificate.serial_number:040x}.pem"
            make_folder(self.folder / ISSUED, PRIVATE_FOLDER)
            write_bytes(self.folder / ISSUED / name, issuing.pem(certificate, self.certificate), PUBLIC)
        return IssuedCertificate(self.folder / ISSUED / name, party, certificate)

    def _check_validity(self) -> None:
        if problem := certificates.validity_problem(self.certificate):
            raise CertificateError(f"{self.folder}: this authority {problem}")

    def _check_key(self, party: Party, key: certificates.PublicKey) -> None:
        for issued in self.issued():
            same_key = issued.certificate.public_key() == key
            if same_key and issued.revoked:
                raise CertificateError(
                    f"{party}: the certificate of this key was revoked on {certificates.format_time(issued.revoked)}; "
                    "make a new key: request --force"
                )
            if same_key and (issued.party.name, issued.party.role) != (party.name, party.role):
                raise CertificateError(f"{party}: this key belongs to {issued.party}; every party makes its own")
            if issued.is_valid and issued.party.name == party.name and not same_key:
                end = certificates.format_time(issued.certificate.not_valid_after_utc)
                raise CertificateError(
                    f"{party}: {issued.party} has a certificate for another key, valid to {end}; "
                    f"if that key is out of use: revoke {issued.party.name}, then sign again"
                )

    def revoke(self, name: str) -> list[IssuedCertificate]:
        """Revoke every certificate of a name that has not expired, at least one, and sign the new list."""
        self._check_validity()
        with locked_folder(self.folder, wait=True):
            issued = [issued for issued in self.issued() if issued.party.name == name]
            if not issued:
                raise CertificateError(f"{self.folder}: nothing was issued to {printable(name, 63)}; see show")
            if not (valid := [issued for issued in issued if issued.is_valid]):
                raise CertificateError(f"{self.folder}: {name} has no valid certificate; see show")
            revocations = self.revocations()
            dates = {entry.serial_number: entry.revocation_date_utc for entry in revocations}
            dates |= {issued.certificate.serial_number: datetime.now(UTC) for issued in valid}
            number = revocations.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            content = issuing.make_revocations(self.certificate, self._key, dates, number + 1)
            write_bytes(self.folder / REVOKED, content, PUBLIC)
        return valid

    def revocations(self) -> x509.CertificateRevocationList:
        """The list of revoked certificates, signed by this authority."""
        return certificates.read_revocations(self.folder / REVOKED, self.certificate)

    def issued(self) -> list[IssuedCertificate]:
        """All certificates that this authority signed, by name and then from the oldest to the newest."""
        revocations, issued = self.revocations(), []
        for path in (self.folder / ISSUED).glob("*.pem"):
            certificate = certificates.read_certificates(path)[0]
            if not certificates.is_issued_by(certificate, self.certificate):
                raise CertificateError(f"{path}: was not issued by this authority")
            revoked = certificates.revocation_date(certificate, revocations)
            issued.append(IssuedCertificate(path, certificates.party_of(certificate), certificate, revoked))
        return sorted(issued, key=lambda item: (item.party.name, item.certificate.not_valid_before_utc, item.path))


def make_demo_identities(folder: Path, names: Iterable[str]) -> tuple[Path, dict[str, Path]]:
    """Make an authority, a server on loopback and hospitals in one folder, for demos, benchmarks and tests only.

    Replaces what an earlier call made, and refuses a folder that holds something else.

    Returns:
        The server's TLS folder, and hospital's name -> its TLS folder.
    """
    try:
        if folder.exists():
            if others := {path.name for path in folder.iterdir()} - {"authority", "server", "hospitals"}:
                reason = f"holds {min(others)}, which is not part of a demo, so the folder is not replaced"
                raise CertificateError(f"{folder}: {reason}")
            shutil.rmtree(folder)
    except OSError as error:
        raise CertificateError(f"{folder}: cannot be replaced ({error.strerror})") from None
    authority = Authority.create(folder / "authority", "Demo")

    def certify(path: Path, party: Party) -> Path:
        issued = authority.sign(identity.request_identity(path, party))
        write_bytes(path / identity.CERTIFICATE, issued.path.read_bytes(), PUBLIC)
        return path

    server_folder = certify(folder / "server", server(()))
    write_bytes(server_folder / identity.REVOKED, (authority.folder / REVOKED).read_bytes(), PUBLIC)
    return server_folder, {name: certify(folder / "hospitals" / name, hospital(name)) for name in names}
