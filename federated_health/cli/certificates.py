"""The verb `certificates`: what each of its own verbs does, and says, as titles with lines below them."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography import x509

from federated_health.cli import parsing
from federated_health.cli.examples import EXAMPLES
from federated_health.errors import CertificateError, UserError
from federated_health.files import PUBLIC, write_bytes
from federated_health.security import authority, certificates, files, identity, issuing
from federated_health.security.admission import Admission
from federated_health.security.parties import hospital, server

Pages = Iterator[tuple[str, list[str]]]

WORDS = (
    "Who is who: an authority signs the server and every hospital, whose keys are made on their own machines and stay "
    "there. Keys: ECDSA P-256, readable by their owner only. An authority lasts 10 years, a certificate one year, "
    "unless --days says otherwise, and no certificate outlives its authority; each is valid from five minutes before "
    "it was made, for clocks that are behind."
)


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The verbs below `certificates`; each sets `pages`, a function from the flags to what is to be shown."""
    verbs = parser.add_subparsers(dest="what", required=True, metavar="VERB")
    _add_authority_verbs(verbs)

    request = _add(verbs, "request", _request, "at a hospital or the server: make a key, and a request to be signed")
    request.add_argument("--tls", type=Path, required=True, metavar="DIR", help="folder of the key; it stays here")
    whose = request.add_mutually_exclusive_group(required=True)
    whose.add_argument(
        "--name",
        metavar="NAME",
        help="the hospital's: lower-case letters, digits and hyphens (default: none, which takes --server)",
    )
    whose.add_argument("--server", action="store_true", help="for the server, not a hospital (default: no)")
    words = "with --server: name or address by which they reach it; may be repeated (default: loopback's, always in)"
    request.add_argument("--host", action="append", default=[], metavar="HOST", help=words)
    request.add_argument("--force", action="store_true", help="replace a key that is there, for good (default: refuse)")

    renew = _add(
        verbs, "renew", _renew, "a new request for the same key and name; for a new key: revoke, request --force"
    )
    renew.add_argument("--tls", type=Path, required=True, metavar="DIR", help="folder of key and certificate")

    show = _add(verbs, "show", _show, "who, for how long, and with which key")
    show.add_argument("path", type=Path, metavar="PATH", help="a TLS folder, an authority's folder, or a file")


def _add_authority_verbs(verbs: Any) -> None:
    init = _add(verbs, "init", _init, "found a federation's authority")
    init.add_argument("--authority", type=Path, required=True, metavar="DIR", help="the authority's folder, a new one")
    init.add_argument(
        "--name", default="Federated Health", metavar="WORDS", help="what it is called (default: %(default)s)"
    )
    _add_days(init, issuing.AUTHORITY_DAYS)

    sign = _add(verbs, "sign", _sign, "at the authority: answer a request with a certificate")
    sign.add_argument("request", type=Path, metavar="REQUEST", help="the request.pem that came")
    sign.add_argument("--authority", type=Path, required=True, metavar="DIR", help="the authority's folder")
    sign.add_argument(
        "--out", type=Path, metavar="FILE", help="write the answer here, too (default: in the authority's folder alone)"
    )
    _add_days(sign, issuing.LEAF_DAYS)

    revoke = _add(verbs, "revoke", _revoke, "at the authority: take back the certificates of a name")
    revoke.add_argument("name", metavar="NAME", help="the name of a hospital or of the server, as show says it")
    revoke.add_argument("--authority", type=Path, required=True, metavar="DIR", help="the authority's folder")


def _add(verbs: Any, name: str, pages: Any, words: str) -> Any:
    parser = verbs.add_parser(
        name, help=words, description=f"{words[0].upper()}{words[1:]}.", examples=EXAMPLES[f"certificates {name}"]
    )
    parser.set_defaults(pages=pages)
    return parser


def _add_days(parser: argparse.ArgumentParser, default: int) -> None:
    words = "days that it lasts (1 to 36,500; default: %(default)s)"
    parser.add_argument("--days", type=parsing.whole, default=default, metavar="N", help=words)


def _init(flags: argparse.Namespace) -> Pages:
    founded = authority.Authority.found(flags.authority, flags.name, flags.days)
    yield (
        f"founded {certificates.name_of(founded.certificate.subject)} in {flags.authority}",
        [
            *_describe_certificate(founded.certificate),
            f"{authority.KEY} can sign anybody: keep this folder on a machine of its own, and a copy in a safe",
        ],
    )


def _request(flags: argparse.Namespace) -> Pages:
    if flags.host and not flags.server:
        raise CertificateError("--host: goes with --server; a hospital calls, and is not called")
    party = server(flags.host) if flags.server else hospital(flags.name)
    path = identity.request_identity(flags.tls, party, force=flags.force)
    yield f"wrote {flags.tls / identity.KEY}, which stays here, and {path}", _describe_request(path, flags.tls)


def _renew(flags: argparse.Namespace) -> Pages:
    path = identity.renew_request(flags.tls)
    yield f"wrote {path}, for the same key and name", _describe_request(path, flags.tls)


def _sign(flags: argparse.Namespace) -> Pages:
    signer = authority.Authority(flags.authority)
    issued = signer.sign(flags.request, flags.days)
    path = issued.path
    if flags.out is not None:
        try:
            write_bytes(path := flags.out, files.read_file(issued.path), PUBLIC)
        except UserError as error:
            raise CertificateError(f"{error}; {issued.party} was signed all the same: see {issued.path}") from None
    yield (
        f"signed {issued.party}",
        [
            *_describe_certificate(issued.certificate),
            f"authority    {certificates.fingerprint(certificates.public_key_of(signer.certificate))}",
            "Compare both fingerprints with the other side, by phone, before you send.",
            f"Send {path}, which is no secret: it is saved there as {identity.CERTIFICATE}, beside {identity.KEY}.",
        ],
    )
    if signer.certificate.not_valid_after_utc <= issued.certificate.not_valid_after_utc:
        yield "it ends with its authority, whose own end is near", []


def _revoke(flags: argparse.Namespace) -> Pages:
    signer = authority.Authority(flags.authority)
    taken = signer.revoke(flags.name)
    count = f"{len(taken)} certificate{'s' if len(taken) > 1 else ''}"
    yield (
        f"revoked {taken[0].party}: {count}",
        [
            f"Copy {flags.authority / authority.REVOKED} into the server's TLS folder, as {identity.REVOKED}.",
            "A server that runs reads it at once, and cuts off who is on it.",
        ],
    )


def _show(flags: argparse.Namespace) -> Pages:
    path: Path = flags.path
    if (path / authority.CERTIFICATE).exists():
        yield from _show_authority(path)
    elif path.is_dir():
        yield from _show_identity(path)
    else:
        yield from _show_file(path)


def _show_authority(folder: Path) -> Pages:
    signer = authority.Authority(folder)
    yield f"authority {certificates.name_of(signer.certificate.subject)}", _describe_certificate(signer.certificate)
    for one in signer.issued():
        state = [f"revoked      on {certificates.moment(one.revoked)}"] if one.revoked else []
        yield str(one.party), [*_describe_certificate(one.certificate), *state]


def _show_identity(folder: Path) -> Pages:
    """What is there, then, as an error, what is wrong with it."""
    if not (folder / identity.CERTIFICATE).exists() and (folder / identity.REQUEST).exists():
        yield from _show_file(folder / identity.REQUEST)
        raise CertificateError(f"{folder / identity.CERTIFICATE}: is not there yet: the request was not answered")
    found = identity.read_identity(folder)
    ours = certificates.public_key_of(found.authority)
    lines = [
        *_describe_certificate(found.certificate),
        *([f"hosts        {', '.join(found.party.hosts)}"] if found.party.hosts else []),
        f"authority    {certificates.name_of(found.authority.subject)}",
        f"             {certificates.fingerprint(ours)}",
    ]
    try:
        found.check_lapse()
        Admission(found)
    except CertificateError:
        yield str(found.party), lines
        raise
    state = "no" if (folder / identity.REVOKED).exists() else f"not known here, without {identity.REVOKED}"
    yield str(found.party), [*lines, f"revoked      {state}"]


def _show_file(path: Path) -> Pages:
    content = files.read_file(path)
    if b"CERTIFICATE REQUEST-" in content:
        party = certificates.party_of(certificates.read_request(path))
        yield f"request of {party}", _describe_request(path)
    elif b"PRIVATE KEY-" in content:
        key = certificates.read_key(path).public_key()
        yield "private key", [f"fingerprint  {certificates.fingerprint(key)}"]
    elif b"X509 CRL-" in content:
        listed = certificates.parse_revocations(content, path)
        when = certificates.moment(listed.last_update_utc)
        yield (
            f"revoked by {certificates.name_of(listed.issuer)}, {when}",
            [f"serial {one.serial_number:040x} on {certificates.moment(one.revocation_date_utc)}" for one in listed]
            or ["nobody"],
        )
    else:
        for certificate in certificates.read_certificates(path):
            if certificates.is_authority(certificate):
                title = f"authority {certificates.name_of(certificate.subject)}"
            else:
                title = str(certificates.party_of(certificate))
            yield title, _describe_certificate(certificate)


def _describe_request(path: Path, folder: Path | None = None) -> list[str]:
    request = certificates.read_request(path)
    party = certificates.party_of(request)
    lines = [
        f"for          {party}",
        f"fingerprint  {certificates.fingerprint(certificates.public_key_of(request))}",
        *([f"hosts        {', '.join(party.hosts)}"] if party.hosts else []),
    ]
    if folder is not None:
        lines.append(f"Send {path} to the authority, and save its answer as {folder / identity.CERTIFICATE}.")
    return lines


def _describe_certificate(certificate: x509.Certificate) -> list[str]:
    valid = [certificates.moment(time) for time in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)]
    return [
        f"fingerprint  {certificates.fingerprint(certificates.public_key_of(certificate))}",
        f"valid        {valid[0]} to {valid[1]}: {certificates.describe_rest(certificate)}",
    ]
