"""The subcommands of `certificates`: init, request, sign, revoke, renew and show."""

import argparse
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from cryptography import x509

from federated_health.cli import parsing
from federated_health.cli.console import print_lines
from federated_health.cli.output import check_output
from federated_health.errors import CertificateError, UserError
from federated_health.files import PUBLIC, write_bytes
from federated_health.security import authority, certificates, identity, issuing
from federated_health.security.admission import Admission
from federated_health.security.authority import Authority
from federated_health.security.parties import Party, hospital, server

DESCRIPTION = (
    "Makes the keys and certificates of a federation. The server and each hospital make a key on their own machine, "
    "where it stays; an authority signs their certificates. Keys are ECDSA P-256, and only their owner can read them. "
    "An authority is valid for 10 years and a certificate for 1 year, unless --days says otherwise; no certificate "
    "outlives its authority. Validity begins 5 minutes before the signature, for clocks that are slow."
)


EXAMPLES = (
    'init --authority authority --name "Heart federation"',
    "request --tls cleveland-tls --name cleveland",
    "sign cleveland-tls/request.pem --authority authority",
)


def make_parser() -> parsing.CommandParser:
    """The parser of `certificates`; a subcommand's function is its `run`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    add = partial(parsing.add_subcommand, subcommands)

    examples = '--authority authority --name "Heart federation"', "--authority authority --days 1825"
    init = add("init", _init, "creates a federation's authority", examples)
    _add_authority(init, "folder to create for the authority")
    help_text = "name of the authority (default: %(default)s)"
    init.add_argument("--name", default="Federated Health", metavar="NAME", help=help_text)
    _add_days(init, issuing.AUTHORITY_DAYS)

    examples = "--tls server-tls --server --host fl.example.org", "--tls cleveland-tls --name cleveland"
    help_text = "at a hospital or the server: makes a key and a request for a certificate"
    request = add("request", _request, help_text, examples)
    request.add_argument(
        "--tls", type=parsing.path, required=True, metavar="DIR", help="folder for the key, which stays there"
    )
    party = request.add_mutually_exclusive_group(required=True)
    help_text = "name of the hospital: lower-case letters, digits and hyphens (default: none; then give --server)"
    party.add_argument("--name", metavar="NAME", help=help_text)
    party.add_argument(
        "--server", action="store_true", help="make the request for the server, not for a hospital (default: no)"
    )
    help_text = "with --server: host name or IP address where hospitals reach it; may be repeated"
    help_text += " (default: loopback, which is always included)"
    request.add_argument("--host", action="append", default=[], metavar="HOST", help=help_text)
    request.add_argument("--force", action="store_true", help="replace an existing key (default: stop with an error)")

    examples = (
        "cleveland-tls/request.pem --authority authority",
        "request.pem --authority authority --out answer.pem --days 90",
    )
    sign = add("sign", _sign, "at the authority: signs a request, which makes a certificate", examples)
    sign.add_argument(
        "request", type=parsing.path, metavar="REQUEST", help="the request.pem of a hospital or the server"
    )
    _add_authority(sign, "the authority's folder")
    help_text = "also write the certificate to this file (default: only to the authority's folder)"
    sign.add_argument("--out", type=parsing.path, metavar="FILE", help=help_text)
    _add_days(sign, issuing.CERTIFICATE_DAYS)

    help_text = "at the authority: revokes all certificates of a hospital or the server"
    revoke = add("revoke", _revoke, help_text, ["cleveland --authority authority"])
    revoke.add_argument("name", metavar="NAME", help="name of the hospital or the server, as show prints it")
    _add_authority(revoke, "the authority's folder")

    help_text = "makes a new request for the same key and name; for a new key: revoke, request --force, sign"
    renew = add("renew", _renew, help_text, ["--tls cleveland-tls"])
    renew.add_argument("--tls", type=parsing.path, required=True, metavar="DIR", help="folder of key and certificate")

    examples = "cleveland-tls", "cleveland-tls/request.pem"
    show = add("show", _show, "shows whose a certificate is, its validity and its key", examples)
    show.add_argument("path", type=parsing.path, metavar="PATH", help="a TLS folder, an authority's folder, or a file")
    return parser


def main() -> None:
    """The command `certificates`: parse the subcommand and its flags, and run it."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _add_authority(parser: Any, help_text: str) -> None:
    parser.add_argument("--authority", type=parsing.path, required=True, metavar="DIR", help=help_text)


def _add_days(parser: Any, default: int) -> None:
    help_text = "days of validity (1 to 36,500; default: %(default)s)"
    parser.add_argument("--days", type=parsing.whole, default=default, metavar="N", help=help_text)


def _init(flags: argparse.Namespace) -> None:
    certificate = Authority.create(flags.authority, flags.name, flags.days).certificate
    advice = f"{authority.KEY} can sign any party: keep this folder on a machine of its own, and a copy in a safe"
    title = f"created {certificates.name_of(certificate.subject)} in {flags.authority}"
    print_lines(title, [*_describe_certificate(certificate), advice])


def _request(flags: argparse.Namespace) -> None:
    if flags.host and not flags.server:
        raise CertificateError("--host: needs --server; a hospital accepts no connections")
    party = server(flags.host) if flags.server else hospital(flags.name)
    path = identity.request_identity(flags.tls, party, force=flags.force)
    _print_request(f"wrote {flags.tls / identity.KEY}, which stays here, and {path}", path, is_new=True)


def _renew(flags: argparse.Namespace) -> None:
    path = identity.renew_request(flags.tls)
    _print_request(f"wrote {path}, for the same key and name", path, is_new=True)


def _sign(flags: argparse.Namespace) -> None:
    signer = Authority(flags.authority)
    issued = signer.sign(flags.request, flags.days)
    if flags.out is not None:
        try:
            write_bytes(flags.out, certificates.read_file(issued.path), PUBLIC)
        except UserError as error:
            raise CertificateError(f"{error}; {issued.party} was signed: see {issued.path}") from None
    lines = [
        *_describe_certificate(issued.certificate),
        f"authority    {certificates.fingerprint(certificates.public_key_of(signer.certificate))}",
        "Compare both fingerprints with the other side, by phone, before you send.",
        f"Send {flags.out or issued.path} to its owner (not secret), who saves it as {identity.CERTIFICATE} "
        f"in the folder of {identity.KEY}.",
    ]
    print_lines(f"signed {issued.party}", lines)
    if signer.certificate.not_valid_after_utc <= issued.certificate.not_valid_after_utc:
        print_lines("it expires together with its authority", [])


def _revoke(flags: argparse.Namespace) -> None:
    revoked = Authority(flags.authority).revoke(flags.name)
    title = f"revoked {revoked[0].party}: {len(revoked)} certificate{'s' if len(revoked) > 1 else ''}"
    advice = f"Copy {flags.authority / authority.REVOKED} into the server's TLS folder, as {identity.REVOKED}."
    print_lines(title, [advice, "A running server reads it at once, and disconnects the revoked party."])


def _show(flags: argparse.Namespace) -> None:
    path: Path = flags.path
    if (path / authority.CERTIFICATE).exists() and not (path / identity.CERTIFICATE).exists():
        signer = Authority(path)
        _print_certificate(signer.certificate)
        for issued in signer.issued():
            state = [f"revoked      on {certificates.format_time(issued.revoked)}"] if issued.revoked else []
            _print_certificate(issued.certificate, *state)
    elif path.is_dir():
        _show_identity(path)
    else:
        _show_file(path)
    check_output()


def _show_identity(folder: Path) -> None:
    """Print what is in a TLS folder; CertificateError, after that, if it cannot be used."""
    if not (folder / identity.CERTIFICATE).exists() and (folder / identity.REQUEST).exists():
        _show_file(folder / identity.REQUEST)
        raise CertificateError(
            f"{folder / identity.CERTIFICATE}: does not exist yet; save the authority's answer to the request there"
        )
    own = identity.read_identity(folder)
    lines = [
        *_describe_hosts(own.party),
        f"authority    {certificates.name_of(own.authority.subject)}",
        f"             {certificates.fingerprint(certificates.public_key_of(own.authority))}",
    ]
    try:
        own.check_validity()
        Admission(own)
        state = (
            "no" if (folder / identity.REVOKED).exists() else f"unknown, since this folder has no {identity.REVOKED}"
        )
        lines.append(f"revoked      {state}")
    finally:
        _print_certificate(own.certificate, *lines)


def _show_file(path: Path) -> None:
    content = certificates.read_file(path)
    if b"CERTIFICATE REQUEST-" in content:
        _print_request(f"request of {certificates.party_of(certificates.read_request(path))}", path)
    elif b"PRIVATE KEY-" in content:
        key = certificates.read_key(path).public_key()
        print_lines("private key", [f"fingerprint  {certificates.fingerprint(key)}"])
    elif b"X509 CRL-" in content:
        revocations = certificates.read_revocations(path)
        made = certificates.format_time(revocations.last_update_utc)
        lines = [
            f"serial {entry.serial_number:040x} on {certificates.format_time(entry.revocation_date_utc)}"
            for entry in revocations
        ]
        print_lines(f"revoked by {certificates.name_of(revocations.issuer)}, {made}", lines or ["no certificate"])
    else:
        for certificate in certificates.read_certificates(path):
            _print_certificate(certificate)


def _print_request(title: str, path: Path, *, is_new: bool = False) -> None:
    request = certificates.read_request(path)
    party, fingerprint = certificates.party_of(request), certificates.fingerprint(certificates.public_key_of(request))
    lines = [f"for          {party}", f"fingerprint  {fingerprint}", *_describe_hosts(party)]
    if is_new:
        lines.append(f"Send {path} to the authority, and save its answer as {path.with_name(identity.CERTIFICATE)}.")
    print_lines(title, lines)


def _print_certificate(certificate: x509.Certificate, *more: str) -> None:
    is_authority = certificates.is_authority(certificate)
    party = (
        f"authority {certificates.name_of(certificate.subject)}" if is_authority else certificates.party_of(certificate)
    )
    print_lines(str(party), [*_describe_certificate(certificate), *more])


def _describe_certificate(certificate: x509.Certificate) -> list[str]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = ceil((end - datetime.now(UTC)) / timedelta(days=1))
    state = certificates.validity_problem(certificate) or f"{days} day{'s' if days > 1 else ''} left"
    return [
        f"fingerprint  {certificates.fingerprint(certificates.public_key_of(certificate))}",
        f"valid        {certificates.format_time(start)} to {certificates.format_time(end)}: {state}",
    ]


def _describe_hosts(party: Party) -> list[str]:
    return [f"hosts        {', '.join(party.hosts)}"] if party.hosts else []
