"""A TLS folder: its files, and the refusal of files that do not match."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from federated_health import files
from federated_health.errors import CertificateError, StorageError
from federated_health.security import certificates, issuing
from federated_health.security.authority import make_demo_identities
from federated_health.security.identity import (
    REVOKED,
    ExpiryReminders,
    Identity,
    load_identity,
    renew_request,
    request_identity,
)
from federated_health.security.parties import Party, Role, hospital, server
from tests.support.identities import DAY, Signer, Valid, expired, not_yet, now, write_identity


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


def test_a_key_and_its_request_are_made_in_the_given_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    path = request_identity(folder, hospital("a"))
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"key.pem": 0o600, "request.pem": 0o644}
    request = certificates.read_request(path)
    assert certificates.party_of(request) == hospital("a")
    assert request.public_key() == certificates.read_key(folder / "key.pem").public_key()


def test_a_key_is_replaced_only_with_force(tmp_path: Path) -> None:
    request_identity(tmp_path, hospital("a"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CertificateError, match=r"key\.pem: exists already"):
        request_identity(tmp_path, hospital("a"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    request_identity(tmp_path, hospital("a"), force=True)
    assert (tmp_path / "key.pem").read_bytes() != before["key.pem"]
    assert (
        certificates.read_request(tmp_path / "request.pem").public_key()
        == certificates.read_key(tmp_path / "key.pem").public_key()
    )


@pytest.mark.parametrize("valid", [None, expired()])
def test_a_renewal_requests_the_same_key_and_party(valid: Valid | None, signer: Signer, tmp_path: Path) -> None:
    identity = write_identity(tmp_path, server(["fl.example.org"]), signer, valid)
    before = (tmp_path / "key.pem").read_bytes()
    request = certificates.read_request(renew_request(tmp_path))
    assert certificates.party_of(request) == identity.party
    assert request.public_key() == identity.certificate.public_key()
    assert (tmp_path / "key.pem").read_bytes() == before


def test_an_identity_is_read_as_it_was_written(signer: Signer, tmp_path: Path) -> None:
    for party in (hospital("a"), server(["fl.example.org"])):
        written = write_identity(tmp_path / party.name, party, signer)
        identity = load_identity(tmp_path / party.name, party.role)
        assert identity == written
        assert identity.name == party.name
        content = identity.certificate_bytes + identity.authority_bytes
        assert content == (identity.folder / "certificate.pem").read_bytes()
        assert identity.read_key() == (identity.folder / "key.pem").read_bytes()


def test_a_name_other_than_the_certificate_s_is_refused(signer: Signer, tmp_path: Path) -> None:
    identity = write_identity(tmp_path, hospital("a"), signer)
    identity.check_name("a")
    with pytest.raises(CertificateError, match="is for hospital a, got the name b"):
        identity.check_name("b")


@pytest.mark.parametrize(("own", "wanted"), [(hospital("a"), Role.SERVER), (server(["a"]), Role.HOSPITAL)])
def test_a_certificate_of_the_other_role_is_refused(own: Party, wanted: Role, signer: Signer, tmp_path: Path) -> None:
    identity = write_identity(tmp_path, own, signer)
    with pytest.raises(CertificateError, match=f"is for {identity.party}; expected a {wanted.value}"):
        load_identity(tmp_path, wanted)


@pytest.mark.parametrize(
    ("valid", "words"),
    [(expired(), "expired on .*; renew it"), (not_yet(), "not valid before")],
)
def test_an_expired_or_future_certificate_is_refused(valid: Valid, words: str, signer: Signer, tmp_path: Path) -> None:
    write_identity(tmp_path, hospital("a"), signer, valid)
    with pytest.raises(CertificateError, match=words):
        load_identity(tmp_path, Role.HOSPITAL)


def test_an_expired_authority_is_refused(tmp_path: Path) -> None:
    write_identity(tmp_path, hospital("a"), Signer(valid=expired()))
    with pytest.raises(CertificateError, match="authority's certificate expired"):
        load_identity(tmp_path, Role.HOSPITAL)


def test_files_that_do_not_match_are_refused(signer: Signer, tmp_path: Path) -> None:
    write_identity(tmp_path, hospital("a"), signer)
    leaf, authority = certificates.read_certificates(tmp_path / "certificate.pem")
    stranger = Signer(name="stranger")
    other = signer.sign(hospital("a"), issuing.make_key())
    for content, words in (
        (issuing.pem(leaf), "and then its authority's"),
        (issuing.pem(authority, leaf), "and then its authority's"),
        (issuing.pem(leaf, authority, authority), "and then its authority's"),
        (issuing.pem(leaf, other), "and then its authority's"),
        (issuing.pem(leaf, stranger.certificate), "was not signed by its second"),
        (issuing.pem(leaf, Signer().certificate), "was not signed by its second"),
        (issuing.pem(other, authority), "is for another key than key.pem"),
        (issuing.pem(authority, authority), "is for another key than key.pem"),
        (b"", "is not a certificate"),
        (b"\xff\0garbage", "is not a certificate"),
        ((tmp_path / "key.pem").read_bytes(), "is not a certificate"),
    ):
        (tmp_path / "certificate.pem").write_bytes(content)
        with pytest.raises(CertificateError, match=words):
            load_identity(tmp_path, Role.HOSPITAL)
    (tmp_path / "certificate.pem").write_bytes(
        issuing.pem(signer.sign_freely("a", certificates.read_key(tmp_path / "key.pem")), authority)
    )
    with pytest.raises(CertificateError, match=r"certificate\.pem: .*does not say whether"):
        load_identity(tmp_path, Role.HOSPITAL)


def test_missing_files_are_named(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="none: is not a folder"):
        load_identity(tmp_path / "none", Role.HOSPITAL)
    with pytest.raises(CertificateError, match=r"key\.pem: cannot be read"):
        load_identity(tmp_path, Role.HOSPITAL)
    request_identity(tmp_path, hospital("a"))
    with pytest.raises(CertificateError, match=r"certificate\.pem: does not exist yet"):
        load_identity(tmp_path, Role.HOSPITAL)
    write_identity(tmp_path, hospital("a"), signer)
    (tmp_path / "key.pem").chmod(0o640)
    for action in (lambda: load_identity(tmp_path, Role.HOSPITAL), lambda: renew_request(tmp_path)):
        with pytest.raises(CertificateError, match="mode 640"):
            action()


def test_the_owner_of_a_certificate_that_ends_soon_is_warned(signer: Signer, tmp_path: Path) -> None:
    late = Signer(valid=(now() - DAY, now() + 90 * DAY))
    end = now() + 10 * DAY
    soon = write_identity(tmp_path / "soon", hospital("a"), late, (now(), end))
    assert f"{tmp_path}/soon ends on {certificates.format_time(end)}" in str(soon.expiry_warning())
    assert write_identity(tmp_path / "late", hospital("a"), late, (now(), now() + 31 * DAY)).expiry_warning() is None
    below = write_identity(tmp_path / "below", hospital("a"), signer, (now(), now() + 90 * DAY))
    assert below.expiry_warning() is not None  # its authority ends tomorrow


def test_demo_identities_are_complete_and_replace_only_earlier_ones(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    own, hospitals = make_demo_identities(folder, ("a", "b"))
    first = load_identity(own, Role.SERVER)
    assert first.party == server(())
    assert [load_identity(path, Role.HOSPITAL).name for path in hospitals.values()] == ["a", "b"]
    assert (own / "revoked.pem").exists()
    own, hospitals = make_demo_identities(folder, ("c",))
    assert list(hospitals) == ["c"]
    assert not (folder / "hospitals" / "a").exists()
    second: Identity = load_identity(own, Role.SERVER)
    assert second.authority != first.authority
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(CertificateError, match=r"holds mine\.txt"):
        make_demo_identities(folder, ("a",))
    assert (folder / "hospitals" / "c").exists()


def test_no_request_is_written_for_a_key_that_was_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = Path.replace

    def replace_once(self: Path, target: Path) -> Path:
        if written:
            raise OSError(28, "No space left on device")
        written.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_once)
    with pytest.raises(StorageError, match="No space left"):
        request_identity(tmp_path, hospital("a"))
    assert written == ["key.pem"]  # never a request for a key that is lost


class Clock:
    """The time of reminders, set by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = now()
        monkeypatch.setattr(ExpiryReminders, "now", lambda _: self.time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def lines_over(reminders: ExpiryReminders, clock: Clock, end: datetime, *days_before: float) -> list[list[str]]:
    """The lines that are due at each of some times before an end, asked twice each."""
    lines = []
    for days in days_before:
        clock.time = end - days * DAY
        lines.append(reminders.due())
        assert reminders.due() == []
    return lines


def test_the_end_of_a_certificate_is_announced_at_30_7_and_1_days_and_at_the_moment(
    tmp_path: Path, clock: Clock
) -> None:
    end = now() + 300 * DAY
    lasting = Signer(valid=(now() - DAY, end + 300 * DAY))
    reminders = ExpiryReminders(write_identity(tmp_path, server(()), lasting, (now() - DAY, end)))
    days = (200, 30.1, 30, 29, 7.1, 7, 1.1, 1, 0.1, 0, -0.1, -100)
    lines = lines_over(reminders, clock, end, *days)
    assert [day for day, due in zip(days, lines, strict=True) if due] == [30, 7, 1, 0]
    assert [len(due) for due in lines if due] == [1] * 4
    shown = certificates.format_time(end)
    assert lines[2] == [f"the certificate in {tmp_path} ends on {shown}: renew it and start again"]
    assert f"ended on {shown}: renew it" in lines[9][0]
    assert "nobody can connect" in lines[9][0]


def test_a_program_that_starts_late_announces_an_end_once(tmp_path: Path, clock: Clock) -> None:
    end = now() + 300 * DAY
    lasting = Signer(valid=(now() - DAY, end + 300 * DAY))
    reminders = ExpiryReminders(write_identity(tmp_path, server(()), lasting, (now() - DAY, end)))
    assert [len(due) for due in lines_over(reminders, clock, end, 3, 2.9, 0.5, 5, 0)] == [1, 0, 1, 0, 1]


def test_the_ends_of_the_authority_and_of_the_revocation_list_are_announced(tmp_path: Path, clock: Clock) -> None:
    end = now() + 300 * DAY
    lasting = Signer(valid=(now() - DAY, end))
    identity = write_identity(tmp_path, server(()), lasting, (now() - DAY, end + 300 * DAY))
    files.write_bytes(tmp_path / REVOKED, lasting.revocations())  # lasts as long as its authority
    lines = lines_over(ExpiryReminders(identity), clock, end, 31, 30, 7, 1, 0)
    assert [len(due) for due in lines] == [0, 2, 2, 2, 2]
    assert f"the authority in {tmp_path} ends" in lines[1][0]
    assert f"{tmp_path / REVOKED} ends" in lines[1][1]
    assert f"{tmp_path / REVOKED} ended" in lines[4][1]


def test_a_revocation_list_that_arrives_later_is_noticed_and_a_damaged_one_is_no_error(
    tmp_path: Path, clock: Clock
) -> None:
    end = now() + 10 * DAY
    lasting = Signer(valid=(now() - DAY, end))
    identity = write_identity(tmp_path, server(()), lasting, (now() - DAY, end + 300 * DAY))
    reminders = ExpiryReminders(identity)
    assert len(reminders.due()) == 1
    files.write_bytes(tmp_path / REVOKED, lasting.revocations())
    assert reminders.due() == []  # read once per hour
    clock.time += timedelta(hours=1)
    (line,) = reminders.due()
    assert line.startswith(str(tmp_path / REVOKED))
    files.write_bytes(tmp_path / REVOKED, b"garbage")
    clock.time -= timedelta(hours=2)  # the clock was set back
    assert reminders.due() == []
