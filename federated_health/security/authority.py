"""A federation's authority: signs hospitals and its server, takes certificates back, and remembers what it issued.

Its folder holds `authority.pem`, `key.pem`, `revoked.pem` (the list of revoked certificates) and `issued/`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from federated_health.errors import CertificateError
from federated_health.files import PRIVATE, PRIVATE_FOLDER, PUBLIC, locked_folder, make_folder, write_bytes
from federated_health.names import printable
from federated_health.security import certificates, issuing
from federated_health.security.parties import Party

CERTIFICATE, KEY, REVOKED, ISSUED = "authority.pem", "key.pem", "revoked.pem", "issued"
MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class Issued:
    """A certificate that an authority signed.

    Attributes:
        path: the file with it and the authority's own, which is to be sent to the party.
        revoked: when it was taken back, if it was.
    """

    path: Path
    party: Party
    certificate: x509.Certificate
    revoked: datetime | None

    @property
    def is_valid(self) -> bool:
        """Whether it is in force, or will be."""
        return self.revoked is None and datetime.now(UTC) <= self.certificate.not_valid_after_utc


class Authority:
    """An authority in its folder.

    Raises:
        CertificateError: there is none, or its folder is not as it left it.
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
    def found(cls, folder: Path, name: str, days: int = issuing.AUTHORITY_DAYS) -> "Authority":
        """Make a new authority, whose list of revoked certificates is empty.

        Args:
            name: what people call it; up to 64 printable characters.

        Raises:
            CertificateError: the folder holds one already, or the name or the days cannot be.
        """
        if printable(name, MAX_NAME_LENGTH) != name or not name.strip():
            raise CertificateError(f"an authority's name is 1 to {MAX_NAME_LENGTH} printable characters")
        valid = issuing.lifetime(days)
        make_folder(folder, PRIVATE_FOLDER)
        with locked_folder(folder, wait=True):
            if found := [file for file in (CERTIFICATE, KEY, REVOKED, ISSUED) if (folder / file).exists()]:
                raise CertificateError(f"{folder}: holds {found[0]} already; no authority is replaced")
            key = issuing.make_key()
            certificate = issuing.make_authority_certificate(key, name, valid)
            make_folder(folder / ISSUED, PRIVATE_FOLDER)
            write_bytes(folder / REVOKED, issuing.make_revocations(certificate, key, {}, 1), PUBLIC)
            write_bytes(folder / KEY, issuing.key_bytes(key), PRIVATE)
            write_bytes(
                folder / CERTIFICATE, issuing.pem(certificate), PUBLIC
            )  # the last: it makes the folder complete
        return cls(folder)

    def sign(self, request: Path, days: int = issuing.LEAF_DAYS) -> Issued:
        """Answer a signing request with a certificate, which ends no later than the authority's own.

        Of the request only the party and the key are taken.

        Raises:
            CertificateError: the request is not one, the authority expired, the name has a valid certificate of
                another key, or the key is another's or was revoked.
        """
        asked = certificates.read_request(request)
        try:
            party = certificates.party_of(asked)
        except CertificateError as error:
            raise CertificateError(f"{request}: {error}") from None
        key = certificates.public_key_of(asked)
        self._check_lapse()
        start, end = issuing.lifetime(days)
        end = min(end, self.certificate.not_valid_after_utc)
        with locked_folder(self.folder, wait=True):
            self._check(party, key)
            leaf = issuing.make_leaf(party, key, self.certificate, self._key, (start, end))
            path = self.folder / ISSUED / f"{party.name[:63].replace(':', '-')}-{leaf.serial_number:040x}.pem"
            make_folder(path.parent, PRIVATE_FOLDER)
            write_bytes(path, issuing.pem(leaf, self.certificate), PUBLIC)
        return Issued(path, party, leaf, None)

    def _check_lapse(self) -> None:
        if lapse := certificates.find_lapse(self.certificate):
            raise CertificateError(f"{self.folder}: this authority {lapse}")

    def _check(self, party: Party, key: certificates.PublicKey) -> None:
        for issued in self.issued():
            same_key = issued.certificate.public_key() == key
            if same_key and issued.revoked:
                raise CertificateError(
                    f"{party}: the certificate of this key was revoked on {certificates.moment(issued.revoked)}; "
                    "make a new key: request --force"
                )
            if same_key and (issued.party.name, issued.party.role) != (party.name, party.role):
                raise CertificateError(f"{party}: this key is that of {issued.party}; every party makes its own")
            if issued.is_valid and issued.party.name == party.name and not same_key:
                end = certificates.moment(issued.certificate.not_valid_after_utc)
                raise CertificateError(
                    f"{party}: {issued.party} has a certificate of another key, valid to {end}; "
                    f"if that key is out of use: revoke {issued.party.name}, then sign again"
                )

    def revoke(self, name: str) -> list[Issued]:
        """Take back every certificate of a name that has not expired, and say so in the signed list.

        Raises:
            CertificateError: the name has none that is valid, or the authority expired.
        """
        self._check_lapse()
        with locked_folder(self.folder, wait=True):
            issued = list(self.issued())
            if not any(one.party.name == name for one in issued):
                raise CertificateError(f"{self.folder}: nothing was issued to {printable(name, 63)}; see show")
            taken = [one for one in issued if one.party.name == name and one.is_valid]
            if not taken:
                raise CertificateError(f"{self.folder}: {name} has no certificate that is valid; see show")
            listed = self.revocations()
            dates = {one.serial_number: one.revocation_date_utc for one in listed}
            now = datetime.now(UTC).replace(microsecond=0)
            dates |= {one.certificate.serial_number: now for one in taken}
            number = listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            content = issuing.make_revocations(self.certificate, self._key, dates, number + 1)
            write_bytes(self.folder / REVOKED, content, PUBLIC)
        return taken

    def revocations(self) -> x509.CertificateRevocationList:
        """The list of revoked certificates.

        Raises:
            CertificateError: it is not there, or another authority's.
        """
        return certificates.read_revocations(self.folder / REVOKED, self.certificate)

    def issued(self) -> Iterator[Issued]:
        """All that was signed, by name and then from the oldest to the newest.

        Raises:
            CertificateError: a file in `issued/` is not one that was written there.
        """
        listed = self.revocations()
        found = []
        for path in (self.folder / ISSUED).glob("*.pem"):
            certificate = certificates.read_certificates(path)[0]
            if not certificates.is_issued_by(certificate, self.certificate):
                raise CertificateError(f"{path}: was not issued by this authority")
            when = certificates.find_revocation(certificate, listed)
            found.append(Issued(path, certificates.party_of(certificate), certificate, when))
        yield from sorted(found, key=lambda one: (one.party.name, one.certificate.not_valid_before_utc, one.path))
