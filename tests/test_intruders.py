"""Intruders against a server with mutual TLS during a round: none gets in, and the round is not affected.

The intruders bypass this project's client, which would refuse to try: the tests show what the server guarantees.
"""

import logging
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from flwr.app import Context, Message
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from federated_health import files
from federated_health.errors import JoinError
from federated_health.processes import free_port
from federated_health.security import certificates, handshake, issuing, server_checks
from federated_health.security.admission import Admission
from federated_health.security.certificates import peer_certificate
from federated_health.security.identity import ExpiryReminders, Identity
from federated_health.security.parties import Party, Role, hospital, server
from federated_health.transport import backoff, reconnect, stream_server
from federated_health.transport.channels import CHANNEL_OPTIONS
from federated_health.transport.stream_server import StreamTransport, serve_streams
from federated_health.transport.unfit import report_unfit
from tests.support import streams
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, write_identity
from tests.support.streams import (
    AGREEMENT,
    GOOD_TERMS,
    LightHospital,
    answer_of,
    await_reply,
    echo,
    question,
    wait_for_hospitals,
    wait_until,
)
from tests.support.wire import UNWRITTEN

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
"""First bytes of an HTTP/2 client (RFC 9113, 3.4)."""


@dataclass
class Site:
    """A server, the hospitals a and b in a round, and what is needed to intrude.

    Attributes:
        announcements: the server's lines.
        may_answer: the hospitals train until it is set.
    """

    federation: DemoIdentities
    grid: StreamTransport
    address: str
    announcements: list[str]
    may_answer: threading.Event = field(default_factory=threading.Event)

    @property
    def where(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def refusals(self) -> list[str]:
        return [line for line in self.announcements if line.startswith(("rejected", "disconnected"))]


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


@pytest.fixture
def site(
    federation: DemoIdentities, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Site]:
    """A round of a and b that lasts as long as the test. At the end, both answer as if nobody had intruded."""
    caplog.set_level(logging.INFO)
    announcements: list[str] = []
    with streams.server(announcements, tls=federation.server) as (grid, address):
        site = Site(federation, grid, address, announcements)

        def train(message: Message, context: Context) -> Message:
            site.may_answer.wait(60)
            return echo(message, context)

        hospitals = [LightHospital(name, address, train, tls=own) for name, own in federation.hospitals.items()]
        wait_for_hospitals(grid, 2)
        keys = grid.push_messages([question("a", 1), question("b", 2)])
        yield site
        assert set(grid.names().values()) == {"a", "b"}
        assert grid.pull_messages(keys) == []
        site.may_answer.set()
        assert [answer_of(reply) for reply in (await_reply(grid, key) for key in keys)] == [("a", 1), ("b", 2)]
        following = grid.send_and_receive([question("b", 3), question("a", 4)], timeout=20)
        assert [answer_of(reply) for reply in following] == [("b", 3), ("a", 4)]
        late = LightHospital("late", address, tls=federation.add("late"))  # a proper hospital can still join
        wait_until(lambda: "late" in grid.names().values())
    assert [member.end() for member in (*hospitals, late)] == [None, None, None]
    output = capfd.readouterr()
    for text in (output.out, output.err, caplog.text, *announcements):
        assert "Traceback" not in text
    assert output.err == ""


def knock(
    site: Site,
    name: str = "a",
    *,
    pair: tuple[certificates.Key, x509.Certificate] | None = None,
    chain: tuple[x509.Certificate, ...] = (),
    metadata: tuple[tuple[str, str], ...] = (),
) -> tuple[grpc.StatusCode, str]:
    """Try to join with any key and certificate or none; returns the status and reason of the refusal."""
    key, certificate = (issuing.key_bytes(pair[0]), issuing.pem(pair[1], *chain)) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(site.federation.server.authority_bytes, key, certificate)
    metadata = (("hospital", name), ("terms", GOOD_TERMS), *metadata)
    with grpc.secure_channel(site.address, credentials, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=metadata, timeout=10)
        return call.code(), call.details()


def pair_of(identity: Identity) -> tuple[certificates.Key, x509.Certificate]:
    return certificates.read_key(identity.folder / "key.pem"), identity.certificate


# Refused by the handshake, which the server's Python code does not see

Forged = tuple[tuple[certificates.Key, x509.Certificate] | None, tuple[x509.Certificate, ...]]


def no_certificate(_: DemoIdentities) -> Forged:
    return None, ()


def other_authority(_: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, Signer(name="Demo").sign(hospital("a"), key)), ()  # of the same name as the federation's


def other_authority_with_its_certificate(_: DemoIdentities) -> Forged:
    key, stranger = issuing.make_key(), Signer(name="Demo")
    return (key, stranger.sign(hospital("a"), key)), (stranger.certificate,)


def out_of_date(federation: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, federation.signer.sign(hospital("a"), key, expired())), ()


def too_early(federation: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, federation.signer.sign(hospital("a"), key, not_yet())), ()


def self_signed(_: DemoIdentities) -> Forged:
    key = issuing.make_key()
    start, end = issuing.validity_of(1)
    subject = Signer(name="a", key=key)
    leaf = issuing.make_certificate(hospital("a"), key.public_key(), subject.certificate, key, (start, end))
    return (key, leaf), ()


def hospital_as_authority(federation: DemoIdentities) -> Forged:
    own_key, own = pair_of(federation.hospitals["b"])
    key = issuing.make_key()
    leaf = issuing.make_certificate(hospital("a"), key.public_key(), own, own_key, issuing.validity_of(1))
    return (key, leaf), (own,)


def server_as_hospital(federation: DemoIdentities) -> Forged:
    return pair_of(federation.server), ()


def server_of_a_hospital_s_name(federation: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, federation.signer.sign(server(["a"]), key)), ()


def for_signing_code(federation: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, federation.signer.sign_freely("a", key, Purpose.CODE_SIGNING)), ()


@pytest.mark.parametrize(
    "forge",
    [
        no_certificate,
        other_authority,
        other_authority_with_its_certificate,
        out_of_date,
        too_early,
        self_signed,
        hospital_as_authority,
        server_as_hospital,
        server_of_a_hospital_s_name,
        for_signing_code,
    ],
)
def test_an_unsuitable_certificate_ends_the_handshake(forge: Callable[[DemoIdentities], Forged], site: Site) -> None:
    pair, chain = forge(site.federation)
    before = list(site.announcements)
    code, _ = knock(site, pair=pair, chain=chain)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert site.announcements == before


# Refused by the server's own checks, and announced


def free(name: str, *purposes: x509.ObjectIdentifier) -> Callable[[DemoIdentities], Forged]:
    def forge(federation: DemoIdentities) -> Forged:
        key = issuing.make_key()
        return (key, federation.signer.sign_freely(name, key, *purposes)), ()

    return forge


def other_hospital(federation: DemoIdentities) -> Forged:
    return pair_of(federation.hospitals["b"]), ()


def revoked(federation: DemoIdentities) -> Forged:
    federation.add("c")
    key = issuing.make_key()
    leaf = federation.signer.sign(hospital("c"), key)
    files.write_bytes(federation.server.folder / "revoked.pem", federation.signer.revocations(leaf))
    return (key, leaf), ()


@pytest.mark.parametrize(
    ("forge", "name", "words"),
    [
        (other_hospital, "a", "is for hospital b"),
        (other_hospital, "c", "is for hospital b"),
        (other_hospital, "", "is for hospital b"),
        (other_hospital, "B", "is for hospital b"),
        (revoked, "c", "was revoked"),
        (free("c"), "c", "does not say whether"),
        (free("c", Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH), "c", "its purpose"),
        (free("federation", Purpose.CLIENT_AUTH), "federation", "is reserved"),
    ],
    ids=["b as a", "b as c", "b without a name", "b as B", "revoked", "no purpose", "both purposes", "federation"],
)
def test_a_certificate_of_another_party_is_refused_and_announced_once_with_its_address(
    forge: Callable[[DemoIdentities], Forged], name: str, words: str, site: Site
) -> None:
    pair, chain = forge(site.federation)
    for _ in range(3):
        code, details = knock(site, name, pair=pair, chain=chain)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert words in details
    assert site.refusals() == [f"rejected {name or 'an unknown peer'}: {details} (from 127.0.0.1)"]


def test_a_second_connection_under_a_connected_name_is_refused_despite_the_right_certificate(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example from a copy of the hospital's folder on another machine."""
    own = pair_of(site.federation.hospitals["a"])
    for metadata in ((), (("process", ""),), (("process", "0" * 32),)):
        code, _ = knock(site, pair=own, metadata=metadata)
        assert code == grpc.StatusCode.ALREADY_EXISTS
    monkeypatch.setattr(reconnect, "name_taken_seconds", lambda: 0.0)
    error = LightHospital("a", site.address, tls=site.federation.hospitals["a"]).end()
    assert isinstance(error, JoinError)
    (refusal,) = site.refusals()
    assert "a is connected already" in refusal


def test_a_report_in_another_hospital_s_name_is_refused(site: Site) -> None:
    report_unfit("a", site.address, AGREEMENT, "its CSV is gone", UNWRITTEN, tls=site.federation.hospitals["b"])
    (refusal,) = site.refusals()
    assert refusal.startswith("rejected a: ")
    assert "is for hospital b" in refusal


def test_a_stranger_learns_neither_who_is_connected_nor_the_agreement(site: Site) -> None:
    """The certificate is checked before anything else."""
    pair = pair_of(site.federation.add("c", signer=site.federation.signer))
    for metadata in ((), (("terms", "{"),), (("unfit", "x"),)):
        code, details = knock(site, "a", pair=pair, metadata=metadata)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert "hospital c" in details


def test_a_peer_without_a_certificate_is_rejected_even_if_a_handshake_accepted_it(federation: DemoIdentities) -> None:
    reason = Admission(federation.server).rejection_reason(peer_certificate({}), Role.HOSPITAL, "a")
    assert "no readable certificate" in str(reason)


# Old TLS, no TLS, and silence


def offer(site: Site, version: ssl.TLSVersion, identity: Identity) -> tuple[str | None, bytes]:
    """A handshake of one version with a hospital's own certificate: what was agreed on, and the server's first byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is tested
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "key.pem")
    context.load_verify_locations(cadata=identity.authority_bytes.decode())
    with (
        socket.create_connection(site.where, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        return encrypted.version(), encrypted.recv(1)


@pytest.mark.parametrize(
    ("version", "name"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
def test_current_tls_versions_are_accepted(version: ssl.TLSVersion, name: str, site: Site) -> None:
    """This shows that the refusals below have another cause than the test's own handshake."""
    assert offer(site, version, site.federation.hospitals["a"]) == (name, b"\0")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_versions_are_refused(version: ssl.TLSVersion, site: Site) -> None:
    with pytest.raises(ssl.SSLError):
        offer(site, version, site.federation.hospitals["a"])


def test_plain_grpc_on_the_tls_port_is_refused(site: Site) -> None:
    metadata = (("hospital", "c"), ("terms", GOOD_TERMS))
    with grpc.insecure_channel(site.address, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=metadata, timeout=10)
        assert call.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 70_000,
        b"\xff" * 70_000,
        bytes(range(256)) * 300,
        PREFACE,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\1" * 70_000,
        b"\x16\x03\x03\x00\x02\x01\x00",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
    ids=["zeros", "ones", "all bytes", "HTTP/2", "HTTP/1.1", "long record", "short record", "SSH"],
)
def test_bytes_that_are_no_handshake_end_the_connection(content: bytes, site: Site) -> None:
    with socket.create_connection(site.where, timeout=10) as connection:
        with suppress(OSError):
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while connection.recv(65536):
                pass  # an alert, at most


def test_bytes_that_are_not_http2_end_the_connection_after_a_proper_handshake(site: Site) -> None:
    own = site.federation.hospitals["a"]
    context = ssl.create_default_context(cadata=own.authority_bytes.decode())
    context.load_cert_chain(own.folder / "certificate.pem", own.folder / "key.pem")
    for protocols in (["h2"], ["http/1.1"], []):
        if protocols:
            context.set_alpn_protocols(protocols)
        for content in (b"\0" * 5000, b"GET / HTTP/1.1\r\n\r\n", PREFACE[:-1] + b"\xff" + b"\xff" * 5000):
            with (
                suppress(OSError),
                socket.create_connection(site.where, timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
            ):
                encrypted.sendall(content)
                while encrypted.recv(65536):
                    pass


def test_the_authority_s_own_certificate_is_refused(site: Site, tmp_path: Path) -> None:
    """Its key usage permits signing certificates and nothing else."""
    signer = site.federation.signer
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    files.write_bytes(key, issuing.key_bytes(signer.key), files.PRIVATE)
    files.write_bytes(chain, issuing.pem(signer.certificate, signer.certificate))
    identity = Identity(tmp_path, hospital("demo"), signer.certificate, signer.certificate)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with suppress(ssl.SSLError, ConnectionResetError):
            assert offer(site, version, identity)[1] == b""


def client_hello() -> bytes:
    """The first message of a handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    half = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["half a message", "half a handshake"])
def test_an_unfinished_handshake_delays_no_hospital(share: float, site: Site) -> None:
    hello = client_hello()
    with socket.create_connection(site.where, timeout=10) as connection:
        connection.sendall(hello[: int(len(hello) * share)])
        late = LightHospital("c", site.address, tls=site.federation.add("c"))
        wait_until(lambda: "c joined" in site.announcements)
        reply = site.grid.send_and_receive([question("c", 9)], timeout=20)[0]
        assert answer_of(reply) == ("c", 9)
        expel(site, late, "c")


def expel(site: Site, member: LightHospital, name: str, *others: x509.Certificate) -> None:
    """Revoke a connected hospital, so that only a and b are left."""
    leaf = certificates.read_certificates(site.federation.folder.parent / f"more-{name}" / "certificate.pem")[0]
    revocations = site.federation.signer.revocations(leaf, *others, number=3)
    files.write_bytes(site.federation.server.folder / "revoked.pem", revocations)
    site.grid.send_and_receive([question(name)], timeout=20)
    assert isinstance(member.end(), JoinError)
    wait_until(lambda: name not in site.grid.names().values())


def test_a_hundred_silent_connections_delay_no_hospital(site: Site) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(site.where, timeout=10))
        member = LightHospital("c", site.address, tls=site.federation.add("c"))
        wait_until(lambda: "c joined" in site.announcements)
        assert answer_of(site.grid.send_and_receive([question("c", 9)], timeout=20)[0]) == ("c", 9)
        expel(site, member, "c")


# While connected


def test_a_hospital_revoked_while_it_trains_is_disconnected_and_its_reply_dropped(site: Site) -> None:
    may_answer = threading.Event()

    def train(message: Message, context: Context) -> Message:
        may_answer.wait(60)
        return echo(message, context)

    bad = site.federation.add("c")
    member = LightHospital("c", site.address, train, tls=bad)
    wait_until(lambda: "c joined" in site.announcements)
    (key,) = site.grid.push_messages([question("c", 1)])
    files.write_bytes(
        site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(bad.certificate)
    )
    may_answer.set()
    reply = await_reply(site.grid, key)
    assert "was revoked" in str(reply.error.reason)
    error = member.end()
    assert isinstance(error, JoinError)
    assert "was revoked" in str(error)
    wait_until(lambda: bool(site.refusals()))
    (line,) = site.refusals()
    assert line.startswith("disconnected c: ")
    assert "was revoked" in line
    assert "c left" not in site.announcements
    error = LightHospital("c", site.address, tls=bad).end()
    assert isinstance(error, JoinError)
    assert "was revoked" in str(error)


def test_a_hospital_revoked_while_it_waits_receives_no_more_messages(site: Site) -> None:
    numbers: list[object] = []

    def train(message: Message, context: Context) -> Message:
        numbers.append(message.content.config_records["question"]["number"])
        return echo(message, context)

    bad = site.federation.add("c")
    member = LightHospital("c", site.address, train, tls=bad)
    wait_until(lambda: "c joined" in site.announcements)
    assert answer_of(site.grid.send_and_receive([question("c", 1)], timeout=20)[0]) == ("c", 1)
    files.write_bytes(
        site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(bad.certificate)
    )
    for number in (2, 3):
        reply = site.grid.send_and_receive([question("c", number)], timeout=20)[0]
        assert reply.has_error()
    assert isinstance(member.end(), JoinError)
    assert numbers == [1]


def test_a_revoked_connection_does_not_block_the_hospital_s_new_key(site: Site) -> None:
    """For example a thief's with the stolen key: no message needs to pass before the hospital can join."""
    thief = LightHospital("c", site.address, tls=site.federation.add("c"))
    wait_until(lambda: "c joined" in site.announcements)
    stolen = certificates.read_certificates(site.federation.folder.parent / "more-c" / "certificate.pem")[0]
    files.write_bytes(site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(stolen))
    owner = LightHospital("c", site.address, tls=site.federation.add("c"))
    wait_until(lambda: site.announcements.count("c joined") == 2)
    assert answer_of(site.grid.send_and_receive([question("c", 7)], timeout=20)[0]) == ("c", 7)
    assert isinstance(thief.end(), JoinError)
    wait_until(lambda: bool(site.refusals()))
    assert [line.split(":")[0] for line in site.refusals()] == ["disconnected c"]
    assert "c left" not in site.announcements
    expel(site, owner, "c", stolen)


def test_a_hospital_is_disconnected_when_its_certificate_expires(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = site.federation.add("c")
    member = LightHospital("c", site.address, tls=identity)
    wait_until(lambda: "c joined" in site.announcements)
    problem_of = certificates.validity_problem

    def expire(certificate: x509.Certificate, *revocations: object) -> str | None:
        is_expired = certificate.serial_number == identity.certificate.serial_number
        return "expired in this test" if is_expired else problem_of(certificate, *revocations)  # type: ignore[arg-type]

    monkeypatch.setattr(certificates, "validity_problem", expire)
    reply = site.grid.send_and_receive([question("c", 1)], timeout=20)[0]
    assert "certificate expired" in str(reply.error.reason)
    error = member.end()
    assert isinstance(error, JoinError)
    assert "certificate expired" in str(error)
    wait_until(lambda: bool(site.refusals()))
    assert site.refusals()[0].startswith("disconnected c: the hospital's certificate expired")


def test_a_damaged_revocation_list_is_announced_and_revoked_hospitals_stay_out(site: Site) -> None:
    (pair, _) = revoked(site.federation)
    assert knock(site, "c", pair=pair)[0] == grpc.StatusCode.PERMISSION_DENIED
    files.write_bytes(site.federation.server.folder / "revoked.pem", b"garbage")
    assert knock(site, "c", pair=pair)[0] == grpc.StatusCode.PERMISSION_DENIED
    (line,) = [line for line in site.announcements if "revoked.pem" in line]
    assert line.endswith("revoked certificates stay revoked")


# False servers


@contextmanager
def false_server(identity: Identity | None, host: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """A server that would accept every hospital."""
    announcements: list[str] = []
    address = f"{host}:{free_port()}"
    with serve_streams(address, AGREEMENT, announcements.append, tls=identity):
        yield address, announcements


def posing(party: Party, signer: Signer, folder: Path, trusts: Identity, **options: object) -> Identity:
    """A server's identity of any kind that accepts hospitals of the federation's authority."""
    identity = write_identity(folder, party, signer, **options)  # type: ignore[arg-type]
    return Identity(identity.folder, identity.party, identity.certificate, trusts.authority)


def as_hospital(federation: DemoIdentities, folder: Path) -> Identity:
    return posing(hospital("b"), federation.signer, folder, federation.server)


def of_another_authority(federation: DemoIdentities, folder: Path) -> Identity:
    return posing(server(()), Signer(name="Theirs"), folder, federation.server)


def expired_server(federation: DemoIdentities, folder: Path) -> Identity:
    return posing(server(()), federation.signer, folder, federation.server, valid=expired())


def early_server(federation: DemoIdentities, folder: Path) -> Identity:
    return posing(server(()), federation.signer, folder, federation.server, valid=not_yet())


def self_signed_server(federation: DemoIdentities, folder: Path) -> Identity:
    key = issuing.make_key()
    own = Signer(name="localhost", key=key)
    return posing(server(()), own, folder, federation.server, key=key)


@pytest.mark.parametrize(
    ("pose", "words"),
    [
        (as_hospital, "certificate of hospital b"),
        (of_another_authority, "another authority, 'Theirs'"),
        (self_signed_server, "another authority, 'localhost'"),
        (expired_server, "expired on"),
        (early_server, "not valid before"),
    ],
)
def test_a_false_server_receives_nothing_and_the_hospital_names_the_cause(
    pose: Callable[[DemoIdentities, Path], Identity],
    words: str,
    federation: DemoIdentities,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_checks, "Admission", lambda *_: None)  # a false server admits everyone
    monkeypatch.setattr(ExpiryReminders, "due", lambda _: [])
    with false_server(pose(federation, tmp_path / "false")) as (address, announcements):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert words in str(error)
        # The explanation is advice: the channel refuses without it, too.
        monkeypatch.setattr(handshake, "find_connection_problem", lambda *_: None)
        error = LightHospital("a", address, tls=federation.hospitals["a"], wait=0.5).end()
        assert isinstance(error, JoinError)
        assert "no server within 0.5 s" in str(error)
        report_unfit("a", address, AGREEMENT, "its CSV is gone", UNWRITTEN, tls=federation.hospitals["a"])
        assert announcements == []


def test_a_server_reached_under_another_name_receives_nothing(
    federation: DemoIdentities, monkeypatch: pytest.MonkeyPatch
) -> None:
    with false_server(federation.server, "127.0.0.2") as (address, announcements):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert "expected one for 127.0.0.2, got one for localhost, 127.0.0.1, ::1" in str(error)
        monkeypatch.setattr(handshake, "find_connection_problem", lambda *_: None)
        error = LightHospital("a", address, tls=federation.hospitals["a"], wait=0.5).end()
        assert "no server within 0.5 s" in str(error)
        assert announcements == []


def test_a_revoked_server_receives_nothing(federation: DemoIdentities) -> None:
    own = federation.hospitals["a"]
    with false_server(federation.server) as (address, announcements):
        files.write_bytes(own.folder / "revoked.pem", federation.signer.revocations(federation.server.certificate))
        error = LightHospital("a", address, tls=own).end()
        assert isinstance(error, JoinError)
        assert "the server's certificate was revoked" in str(error)
        assert announcements == []


def test_a_server_without_encryption_receives_nothing_from_a_hospital_with_it(federation: DemoIdentities) -> None:
    with false_server(None) as (address, announcements):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert "does not use TLS" in str(error)
        assert announcements == []


def test_a_hospital_without_encryption_is_asked_for_it_by_a_server_with_tls(site: Site) -> None:
    error = LightHospital("c", site.address).end()
    assert isinstance(error, JoinError)
    assert "the server speaks TLS: joining needs --tls" in str(error)


def test_a_hospital_of_another_authority_learns_the_cause(site: Site, tmp_path: Path) -> None:
    stranger = write_identity(tmp_path / "stranger", hospital("c"), Signer(name="Theirs"))
    error = LightHospital("c", site.address, tls=stranger).end()
    assert isinstance(error, JoinError)
    assert "another authority, 'Demo'; expected this hospital's, 'Theirs'" in str(error)


def test_a_hospital_rejected_without_a_visible_reason_waits_and_announces_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the clocks differ: here only gRPC checks the time."""
    late = write_identity(tmp_path / "late", hospital("c"), site.federation.signer, expired())
    monkeypatch.setattr(certificates, "validity_problem", lambda *_: None)
    member = LightHospital("c", site.address, tls=late, wait=0.5)
    error = member.end()
    assert isinstance(error, JoinError)
    assert "no server within 0.5 s: the server ended the handshake without a reason" in str(error)
    assert "the server ended the handshake without a reason" in member.announcements[-1]


# Proper servers and hospitals


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_server_s_certificate_is_valid_for_every_loopback_name(host: str, federation: DemoIdentities) -> None:
    announcements: list[str] = []
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    address = f"{host}:{free_port()}"
    with serve_streams(address, AGREEMENT, announcements.append, tls=federation.server) as grid:
        member = LightHospital("a", address, tls=federation.hospitals["a"])
        wait_until(lambda: announcements == ["a joined"])
        assert answer_of(grid.send_and_receive([question("a", 5)], timeout=10)[0]) == ("a", 5)
    assert member.end() is None


def test_a_hospital_waits_for_a_server_with_tls_and_reconnects_to_it(
    federation: DemoIdentities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.05)
    monkeypatch.setattr(stream_server, "GRACE_SECONDS", 0.1)
    announcements: list[str] = []
    port = free_port()
    member = LightHospital("a", f"127.0.0.1:{port}", tls=federation.hospitals["a"], wait=30)
    wait_until(lambda: bool(member.announcements))
    (line,) = member.announcements
    assert line.startswith("waiting")
    assert "Connection refused" in line
    with (
        streams.Proxy(f"127.0.0.1:{port}") as proxy,
        streams.server(announcements, port, federation.server) as (grid, _),
    ):
        wait_until(lambda: announcements == ["a joined"])
        other = LightHospital("b", proxy.address, tls=federation.hospitals["b"], wait=30)
        wait_until(lambda: "b joined" in announcements)
        proxy.cut(tell_server=False)
        wait_until(lambda: "b reconnected" in announcements)
        assert answer_of(grid.send_and_receive([question("b", 9)], timeout=10)[0]) == ("b", 9)
    assert (member.end(), other.end()) == (None, None)


def test_both_sides_warn_when_a_certificate_ends_soon(federation: DemoIdentities, tmp_path: Path) -> None:
    announcements: list[str] = []
    soon = write_identity(tmp_path / "server", server(()), federation.signer)
    with streams.server(announcements, tls=soon) as (_, address):
        member = LightHospital("c", address, tls=federation.add("c"))
        wait_until(lambda: "c joined" in announcements)
    assert member.end() is None
    assert re.search(r"server ends on [-0-9]+ .*: renew it", announcements[0])
    assert re.search(r"more-c ends on [-0-9]+ .*: renew it", member.announcements[0])


def contains(announcements: list[str], text: str, number: int) -> bool:
    """Whether this number of announcements contain a text."""
    return sum(text in line for line in list(announcements)) == number


def test_a_running_server_announces_that_its_certificate_ends(
    federation: DemoIdentities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_server, "CHECK_SECONDS", 0.01)
    announcements: list[str] = []
    end, left = federation.server.certificate.not_valid_after_utc, [timedelta(days=31)]
    monkeypatch.setattr(ExpiryReminders, "now", lambda _: end - left[0])
    with streams.server(announcements, tls=federation.server) as (grid, address):
        member = LightHospital("a", address, tls=federation.hospitals["a"])
        wait_until(lambda: announcements == ["a joined"])
        for days, verb in ((30, "ends"), (7, "ends"), (1, "ends"), (0, "ended")):
            left[0] = timedelta(days=days)
            line = f"server {verb} on {certificates.format_time(end)}"
            number = 1 + sum(line in announcement for announcement in announcements)
            wait_until(partial(contains, announcements, line, number))
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
    assert member.end() is None


def test_a_name_other_than_the_certificate_s_is_not_sent(federation: DemoIdentities) -> None:
    error = LightHospital("c", "127.0.0.1:1", tls=federation.hospitals["a"]).end()
    assert "is for hospital a, got the name c" in str(error)
