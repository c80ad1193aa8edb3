"""A TLS folder: one party's own key, its certificate with that of its authority, and what the authority revoked.

`key.pem` is made here and stays here. `request.pem` goes to the authority; its answer is saved as `certificate.pem`.
`revoked.pem` may be there: the server refuses hospitals by it, and a hospital a server.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federated_health.errors import CertificateError
from federated_health.files import PRIVATE, PRIVATE_FOLDER, PUBLIC, make_folder, write_bytes
from federated_health.security import certificates, issuing
from federated_health.security.parties import Party, Role

KEY, REQUEST, CERTIFICATE, REVOKED = "key.pem", "request.pem", "certificate.pem", "revoked.pem"

SOON = timedelta(days=30)
"""Before its end a certificate should be renewed."""


@dataclass(frozen=True)
class Identity:
    """A party with its key and certificate, checked; made by `load_identity`.

    Attributes:
        certificate: its own.
        authority: that of the authority that signed it, and all whom it deals with.
    """

    folder: Path
    party: Party
    certificate: x509.Certificate
    authority: x509.Certificate

    @property
    def name(self) -> str:
        return self.party.name

    @property
    def certificate_bytes(self) -> bytes:
        """Its own certificate as PEM."""
        return issuing.pem(self.certificate)

    @property
    def authority_bytes(self) -> bytes:
        """The authority's certificate as PEM."""
        return issuing.pem(self.authority)

    def read_key(self) -> bytes:
        """The private key as PEM.

        Raises:
            CertificateError: it is not there any more, or others may read it.
        """
        return issuing.key_bytes(certificates.read_key(self.folder / KEY))

    def check_name(self, name: str) -> None:
        """Refuse to act under a name that the certificate does not have.

        Raises:
            CertificateError: it has another one.
        """
        if name != self.name:
            raise CertificateError(f"{self.folder / CERTIFICATE}: is of {self.party}, so its name is not {name}")

    def check_lapse(self) -> None:
        """Refuse to go on with a certificate that is not valid now.

        Raises:
            CertificateError: it expired, or is not valid yet.
        """
        for certificate, of in ((self.certificate, "certificate"), (self.authority, "authority's certificate")):
            if lapse := certificates.find_lapse(certificate):
                advice = "; renew it" if "expired" in lapse and certificate is self.certificate else ""
                raise CertificateError(f"{self.folder / CERTIFICATE}: the {of} {lapse}{advice}")

    def remark(self) -> str | None:
        """What the owner should see to soon, in words."""
        end = min(self.certificate.not_valid_after_utc, self.authority.not_valid_after_utc)
        if end - datetime.now(UTC) > SOON:
            return None
        return f"the certificate in {self.folder} ends on {certificates.moment(end)}: renew it"


def request_identity(folder: Path, party: Party, *, force: bool = False) -> Path:
    """Make a private key and a signing request for it.

    Args:
        force: replace a key that is there, which makes its certificate useless.

    Returns:
        The request's file, which is no secret.

    Raises:
        CertificateError: there is a key, or the folder cannot be written to.
    """
    make_folder(folder, PRIVATE_FOLDER)
    if (folder / KEY).exists() and not force:
        raise CertificateError(f"{folder / KEY}: is there already; renew keeps it, --force replaces it for good")
    key = issuing.make_key()
    write_bytes(folder / KEY, issuing.key_bytes(key), PRIVATE)
    return _write_request(folder, party, key)


def renew_request(folder: Path) -> Path:
    """Make a new signing request for the key and the name of a certificate, expired or not.

    Returns:
        The request's file.

    Raises:
        CertificateError: the folder holds no certificate of its key.
    """
    return _write_request(folder, read_identity(folder).party, certificates.read_key(folder / KEY))


def _write_request(folder: Path, party: Party, key: certificates.Key) -> Path:
    path = folder / REQUEST
    write_bytes(path, issuing.make_request(party, key).public_bytes(Encoding.PEM), PUBLIC)
    return path


def load_identity(folder: Path, role: Role) -> Identity:
    """The identity in a TLS folder.

    Raises:
        CertificateError: something is lacking, does not belong together, is another role's, or is not valid now.
    """
    identity = read_identity(folder)
    path = folder / CERTIFICATE
    if identity.party.role is not role:
        raise CertificateError(f"{path}: is of {identity.party}, where a {role.value}'s is needed")
    identity.check_lapse()
    return identity


def read_identity(folder: Path) -> Identity:
    """The identity in a TLS folder, of either role, and valid now or not.

    Raises:
        CertificateError: something is lacking, or does not belong together.
    """
    if not folder.is_dir():
        raise CertificateError(f"{folder}: is not a folder; `certificates request --tls {folder}` makes one")
    key, path = certificates.read_key(folder / KEY), folder / CERTIFICATE
    if not path.exists():
        raise CertificateError(f"{path}: is not there yet: the authority's answer to {REQUEST} belongs there")
    leaf, *others = certificates.read_certificates(path)
    if len(others) != 1 or not certificates.is_authority(others[0]):
        raise CertificateError(f"{path}: expected a certificate and then its authority's, as `sign` writes them")
    if not certificates.is_issued_by(leaf, others[0]):
        raise CertificateError(f"{path}: its first certificate was not signed by its second, the authority's")
    if leaf.public_key() != key.public_key():
        raise CertificateError(f"{path}: is of another key than {KEY}: the answer to another request")
    try:
        party = certificates.party_of(leaf)
    except CertificateError as error:
        raise CertificateError(f"{path}: {error}") from None
    return Identity(folder, party, leaf, others[0])
