"""`python -m federated_health certificates`: from a new authority to a renewal, and one line per mistake."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from federated_health.security import certificates, issuing
from federated_health.security.authority import Authority, make_demo_identities
from federated_health.security.identity import load_identity, request_identity
from federated_health.security.parties import Party, Role, hospital, server
from tests.support.identities import Signer, expired, not_yet, now, write_identity
from tests.support.script_calls import RunScript

Certificates = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(run_script: RunScript) -> Certificates:
    """Runs a subcommand as typed, in a folder of its own; returns its exit code, stdout and stderr."""
    return lambda arguments: run_script("federated-health", "certificates", *arguments.split())


@pytest.fixture
def succeed(run: Certificates) -> Callable[[str], str]:
    """Runs a subcommand that must succeed; returns its stdout."""

    def call(arguments: str) -> str:
        code, output, errors = run(arguments)
        assert (code, errors) == (0, "")
        return output

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_a_new_authority_to_renewal_and_revocation(succeed: Callable[[str], str], run: Certificates) -> None:
    assert "created Federated Health in ca" in succeed("init --authority ca")
    requested = succeed("request --tls hospital --name cleveland")
    assert "hospital/key.pem, which stays here" in requested
    succeed("request --tls server --server --host fl.example.org --host 192.0.2.7")
    signed = succeed("sign hospital/request.pem --authority ca --out hospital/certificate.pem")
    succeed("sign server/request.pem --authority ca --days 30")
    (answer,) = Path("ca/issued").glob("fl.example.org-*.pem")
    Path("server/certificate.pem").write_bytes(answer.read_bytes())

    identity = load_identity(Path("hospital"), Role.HOSPITAL)
    server_identity = load_identity(Path("server"), Role.SERVER)
    assert identity.name == "cleveland"
    assert server_identity.party == server(["fl.example.org", "192.0.2.7"])
    assert identity.authority == server_identity.authority
    assert (
        server_identity.certificate.not_valid_after_utc - server_identity.certificate.not_valid_before_utc
    ).days == 30
    shown = f"fingerprint  {certificates.fingerprint(certificates.public_key_of(identity.certificate))}"
    above = certificates.fingerprint(certificates.public_key_of(identity.authority))
    for output in (
        requested,
        signed,
        succeed("show hospital"),
        succeed("show ca"),
        succeed("show hospital/request.pem"),
    ):
        assert shown in output
    assert above in signed
    assert above in succeed("show hospital")
    assert "365 days left" in succeed("show hospital")
    assert "hosts        fl.example.org, 192.0.2.7, localhost, 127.0.0.1, ::1" in succeed("show server")
    assert "revoked      unknown" in succeed("show hospital")
    assert succeed("show ca/revoked.pem").endswith("\n  no certificate\n")
    assert succeed("show hospital/key.pem") == f"private key\n  {shown}\n"
    both = succeed("show hospital/certificate.pem")
    assert both.index("hospital cleveland") < both.index("authority Federated Health")

    before = Path("hospital/key.pem").read_bytes()
    succeed("renew --tls hospital")
    succeed("sign hospital/request.pem --authority ca --out hospital/certificate.pem")
    renewed = load_identity(Path("hospital"), Role.HOSPITAL)
    assert renewed.certificate.serial_number != identity.certificate.serial_number
    assert Path("hospital/key.pem").read_bytes() == before

    assert "revoked hospital cleveland: 2 certificates" in succeed("revoke cleveland --authority ca")
    revocations = x509.load_pem_x509_crl(Path("ca/revoked.pem").read_bytes())
    serials = {entry.serial_number for entry in revocations}
    assert serials == {member.certificate.serial_number for member in (identity, renewed)}
    assert succeed("show ca").count("revoked      on ") == 2
    assert f"serial {renewed.certificate.serial_number:040x} on " in succeed("show ca/revoked.pem")
    Path("hospital/revoked.pem").write_bytes(Path("ca/revoked.pem").read_bytes())
    code, output, errors = run("show hospital")
    assert (code, output.splitlines()[0]) == (1, "hospital cleveland")
    assert errors.startswith("error: hospital: the hospital's certificate was revoked on ")
    Path("server/revoked.pem").write_bytes(Path("ca/revoked.pem").read_bytes())
    assert "revoked      no\n" in succeed("show server")

    succeed("request --tls hospital --name cleveland --force")
    Path("hospital/revoked.pem").unlink()
    code, _, errors = run("show hospital")
    assert (code, "is for another key than key.pem" in errors) == (1, True)
    succeed("sign hospital/request.pem --authority ca --out hospital/certificate.pem")
    succeed("show hospital")


def test_show_of_an_unanswered_request_is_an_error(run: Certificates) -> None:
    run("request --tls hospital --name cleveland")
    code, output, errors = run("show hospital")
    assert code == 1
    assert output.startswith("request of hospital cleveland\n")
    assert errors.startswith("error: hospital/certificate.pem: does not exist yet")


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority `ca` with a hospital `a` and a server, another authority `other`, and folders with mistakes."""
    folder = tmp_path_factory.mktemp("mistakes")
    ours, theirs = Authority.create(folder / "ca", "Ours"), Authority.create(folder / "other", "Theirs")

    def certify(name: str, party: Party, authority: Authority = ours) -> None:
        issued = authority.sign(request_identity(folder / name, party))
        (folder / name / "certificate.pem").write_bytes(issued.path.read_bytes())

    certify("a", hospital("a"))
    certify("server", server(()))
    request_identity(folder / "new-a", hospital("a"))
    request_identity(folder / "waiting", hospital("waiting"))
    request_identity(folder / "mixed", hospital("a"))
    (folder / "mixed" / "certificate.pem").write_bytes((folder / "a" / "certificate.pem").read_bytes())
    certify("foreign", hospital("f"), theirs)
    (folder / "foreign" / "revoked.pem").write_bytes((folder / "ca" / "revoked.pem").read_bytes())
    (folder / "garbage").write_bytes(b"\xff\0garbage")
    signer = Signer.of(folder / "ca")
    write_identity(folder / "expired", hospital("x"), signer, expired())
    write_identity(folder / "early", hospital("y"), signer, not_yet())
    certify("open", hospital("o"))
    (folder / "open" / "key.pem").chmod(0o644)
    Authority.create(folder / "old", "Old")
    key = certificates.read_key(folder / "old" / "key.pem")
    (folder / "old" / "authority.pem").write_bytes(
        issuing.pem(issuing.make_authority_certificate(key, "Old", expired()))
    )
    (folder / "old" / "revoked.pem").write_bytes(Signer("Old", key=key).revocations())
    return folder


@pytest.fixture
def prepared(mistakes: Path, in_folder: Path) -> None:
    """A copy of the folders with mistakes, in the test's own folder."""
    shutil.copytree(mistakes, in_folder, dirs_exist_ok=True)


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 2, "the following arguments are required: SUBCOMMAND"),
        ("sing a/request.pem", 2, "invalid choice: 'sing'"),
        ("init", 2, "required: --authority"),
        ("init --auth new", 2, "required: --authority"),
        ("init --authority ca", 1, "ca: already holds authority.pem; an authority is never replaced"),
        ("init --authority garbage/x", 1, "garbage/x: cannot be written to (Not a directory)"),
        ("init --authority new --days 0", 1, "days: expected 1 to 36500, got 0"),
        ("init --authority new --days ten", 2, "argument --days: expected a whole number, got 'ten'"),
        ("request --tls new", 2, "one of the arguments --name --server is required"),
        ("request --tls new --name b --server", 2, "argument --server: not allowed with argument --name"),
        ("request --tls new --name B", 1, "lower-case letters, digits and hyphens, got 'B'"),
        ("request --tls new --name federation", 1, "the name federation is reserved: it stands for all hospitals"),
        ("request --tls new --name b --host c", 1, "--host: needs --server"),
        ("request --tls new --server --host c:80", 1, "host 'c:80': expected a DNS name or an address"),
        ("request --tls new --server --host 0.0.0.0", 1, "host 0.0.0.0: "),
        ("request --tls a --name a", 1, "a/key.pem: exists already; renew keeps it, --force replaces it"),
        ("request --tls garbage --name a", 1, "garbage: cannot be written to (File exists)"),
        ("sign none.pem --authority ca", 1, "none.pem: cannot be read (No such file or directory)"),
        ("sign a --authority ca", 1, "a: is not a regular file"),
        ("sign garbage --authority ca", 1, "garbage: is not a signing request (PEM)"),
        ("sign a/certificate.pem --authority ca", 1, "a/certificate.pem: is not a signing request (PEM)"),
        ("sign waiting/request.pem --authority a", 1, "a: is not an authority's folder: it has no authority.pem"),
        ("sign waiting/request.pem --authority none", 1, "none: is not an authority's folder"),
        ("sign waiting/request.pem --authority old", 1, "old: this authority expired on "),
        ("sign waiting/request.pem --authority ca --days 0", 1, "days: expected 1 to 36500, got 0"),
        ("sign new-a/request.pem --authority ca", 1, "hospital a: hospital a has a certificate for another key"),
        ("revoke b --authority ca", 1, "ca: nothing was issued to b; see show"),
        ("revoke a --authority other", 1, "other: nothing was issued to a; see show"),
        ("revoke a --authority old", 1, "old: this authority expired on "),
        ("revoke a --authority a", 1, "a: is not an authority's folder"),
        ("renew --tls none", 1, "none: is not a folder; `certificates request --tls none` makes one"),
        ("renew --tls waiting", 1, "waiting/certificate.pem: does not exist yet"),
        ("renew --tls ca", 1, "ca/certificate.pem: does not exist yet"),
        ("renew --tls mixed", 1, "mixed/certificate.pem: is for another key than key.pem"),
        ("renew --tls open", 1, "open/key.pem: others on this machine may read this key (mode 644); chmod 600"),
        ("show none", 1, "none: cannot be read (No such file or directory)"),
        ("show garbage", 1, "garbage: is not a certificate (PEM)"),
        ("show mixed", 1, "mixed/certificate.pem: is for another key than key.pem"),
        ("show expired", 1, "expired/certificate.pem: the certificate expired on "),
        ("show early", 1, "early/certificate.pem: the certificate is not valid before "),
        ("show foreign", 1, "foreign/revoked.pem: was not signed by this authority, Theirs"),
        ("show open", 1, "open/key.pem: others on this machine may read this key"),
        ("show open/key.pem", 1, "open/key.pem: others on this machine may read this key"),
    ],
)
def test_each_mistake_is_one_line_and_changes_nothing(
    run: Certificates, in_folder: Path, arguments: str, code: int, words: str
) -> None:
    before = contents(in_folder)
    exit_code, _, errors = run(arguments)
    assert exit_code == code
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert words in errors
    assert contents(in_folder) == before
    assert not Path("new").exists()


def test_a_certificate_that_cannot_be_written_elsewhere_is_kept_by_the_authority(
    run: Certificates, succeed: Callable[[str], str]
) -> None:
    succeed("init --authority ca")
    succeed("request --tls a --name a")
    code, _, errors = run("sign a/request.pem --authority ca --out none/c.pem")
    (issued,) = Path("ca/issued").glob("a-*.pem")
    assert code == 1
    assert errors.startswith("error: none/c.pem: cannot be written")
    assert str(issued) in errors


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (timedelta(days=-9), timedelta(days=365), "365 days left"),
        (timedelta(days=-9), timedelta(hours=25), "2 days left"),
        (timedelta(days=-9), timedelta(hours=3), "1 day left"),
        (timedelta(days=-9), timedelta(hours=-1), "expired on "),
        (timedelta(days=1), timedelta(days=2), "is not valid before "),
    ],
)
def test_show_rounds_the_days_left_up(
    start: timedelta, end: timedelta, words: str, succeed: Callable[[str], str]
) -> None:
    certificate = Signer().sign(hospital("a"), issuing.make_key(), (now() + start, now() + end))
    Path("a.pem").write_bytes(issuing.pem(certificate))
    assert f"UTC: {words}" in succeed("show a.pem")


def test_a_tls_folder_with_the_authority_s_certificate_is_shown_as_its_party(
    succeed: Callable[[str], str],
) -> None:
    """The folder is as `superlink` leaves it."""
    folder, _ = make_demo_identities(Path("tls"), ())
    (folder / "authority.pem").write_bytes(Path("tls/authority/authority.pem").read_bytes())
    assert succeed(f"show {folder}").startswith("server localhost\n")


def test_every_subcommand_has_a_help_page(succeed: Callable[[str], str]) -> None:
    page = succeed("--help")
    for subcommand in ("init", "request", "sign", "revoke", "renew", "show"):
        assert subcommand in page
        assert "example" in succeed(f"{subcommand} --help").lower()
