"""Intruders, against a server with mutual TLS in the middle of a round: none gets in, and the round is as without them.

Each goes around this project's own client, which would refuse to try: what is tested is what the server guarantees.
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
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from flwr.app import Context, Message
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from federated_health import files
from federated_health.data.tasks import write_agreement
from federated_health.errors import JoinError
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security import admission, certificates, handshake, issuing
from federated_health.security.admission import Admission
from federated_health.security.certificates import peer_certificate
from federated_health.security.identity import Identity
from federated_health.security.parties import Party, Role, hospital, server
from federated_health.transport import stream_server
from federated_health.transport.channels import CHANNEL_OPTIONS, PROTOCOL
from federated_health.transport.stream_client import report_unfit
from federated_health.transport.stream_server import StreamTransport, serve_streams
from tests import test_streaming as streams
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, now, write_identity
from tests.support.wire import UNWRITTEN
from tests.test_streaming import TERMS, LightHospital, answer_of, echo, question, wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
"""What a client of HTTP/2 says first (RFC 9113, 3.4)."""


@dataclass
class Site:
    """A server, the hospitals a and b in a round, and what is needed to intrude.

    Attributes:
        words: what the server said.
        may_answer: until it is set, the hospitals train.
    """

    federation: DemoIdentities
    grid: StreamTransport
    address: str
    words: list[str]
    may_answer: threading.Event = field(default_factory=threading.Event)

    @property
    def where(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def refusals(self) -> list[str]:
        return [line for line in self.words if line.startswith(("refused", "cut"))]


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


@pytest.fixture
def site(
    federation: DemoIdentities, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Iterator[Site]:
    """A round of a and b that lasts as long as the test; at the end, both answer as if nobody else had been there."""
    caplog.set_level(logging.INFO)
    words: list[str] = []
    with streams.server(words, tls=federation.server) as (grid, address):
        site = Site(federation, grid, address, words)

        def train(message: Message, context: Context) -> Message:
            site.may_answer.wait(60)
            return echo(message, context)

        hospitals = [LightHospital(name, address, train, tls=own) for name, own in federation.hospitals.items()]
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        asked = grid.push_messages([question("a", 1), question("b", 2)])
        yield site
        assert set(grid.names().values()) == {"a", "b"}
        assert grid.pull_messages(asked) == []
        site.may_answer.set()
        replies = [grid._replies[key].result(20) for key in asked]
        assert [answer_of(reply) for reply in replies] == [("a", 1), ("b", 2)]
        following = grid.send_and_receive([question("b", 3), question("a", 4)], timeout=20)
        assert [answer_of(reply) for reply in following] == [("b", 3), ("a", 4)]
        late = LightHospital("late", address, tls=federation.add("late"))  # the door is open to who may come in
        wait_until(lambda: "late" in grid.names().values())
    assert [one.end() for one in (*hospitals, late)] == [None, None, None]
    said = capfd.readouterr()
    for text in (said.out, said.err, caplog.text, *words):
        assert "Traceback" not in text
    assert said.err == ""


def knock(
    site: Site,
    name: str = "a",
    *,
    pair: tuple[certificates.Key, x509.Certificate] | None = None,
    more: tuple[x509.Certificate, ...] = (),
    said: tuple[tuple[str, str], ...] = (),
) -> tuple[grpc.StatusCode, str]:
    """Join as gRPC lets one, with any key and certificate or none, and say how that was answered."""
    key, chain = (issuing.key_bytes(pair[0]), issuing.pem(pair[1], *more)) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(site.federation.server.authority_bytes, key, chain)
    metadata = (("hospital", name), ("terms", write_agreement({"protocol": PROTOCOL, **TERMS})), *said)
    with grpc.secure_channel(site.address, credentials, options=CHANNEL_OPTIONS) as channel:
        call = FlowerServiceStub(channel).Join(iter(()), metadata=metadata, timeout=10)
        return call.code(), call.details()


def pair_of(identity: Identity) -> tuple[certificates.Key, x509.Certificate]:
    return certificates.read_key(identity.folder / "key.pem"), identity.certificate


# Refused by the handshake, of which Python's side of the server learns nothing

Forged = tuple[tuple[certificates.Key, x509.Certificate] | None, tuple[x509.Certificate, ...]]


def no_certificate(_: DemoIdentities) -> Forged:
    return None, ()


def other_authority(_: DemoIdentities) -> Forged:
    key = issuing.make_key()
    return (key, Signer(name="Demo").sign(hospital("a"), key)), ()  # of the same name as ours


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
def test_a_certificate_that_will_not_do_ends_the_handshake(
    forge: Callable[[DemoIdentities], Forged], site: Site
) -> None:
    pair, more = forge(site.federation)
    before = list(site.words)
    code, _ = knock(site, pair=pair, more=more)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert site.words == before


# Refused by the server's own judgement, which it tells


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
        (other_hospital, "a", "the hospital's certificate is for hospital b, but it gave another name"),
        (other_hospital, "c", "the hospital's certificate is for hospital b, but it gave another name"),
        (other_hospital, "", "the hospital's certificate is for hospital b, but it gave another name"),
        (other_hospital, "B", "the hospital's certificate is for hospital b, but it gave another name"),
        (revoked, "c", "the hospital's certificate was revoked on "),
        (free("c"), "c", "the hospital's certificate is not a hospital's: it does not say"),
        (
            free("c", Purpose.CLIENT_AUTH, Purpose.SERVER_AUTH),
            "c",
            "is not a hospital's: its purpose is neither",
        ),
        (free("federation", Purpose.CLIENT_AUTH), "federation", "the name federation is reserved"),
    ],
    ids=["b as a", "b as c", "b as nobody", "b as B", "revoked", "no purpose", "both purposes", "federation"],
)
def test_a_certificate_of_somebody_else_is_refused_and_told_with_its_address(
    forge: Callable[[DemoIdentities], Forged], name: str, words: str, site: Site
) -> None:
    pair, more = forge(site.federation)
    for _ in range(3):
        code, details = knock(site, name, pair=pair, more=more)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert words in details
    assert site.refusals() == [f"refused {name or 'a stranger'}: {details} (from 127.0.0.1)"]


def test_a_second_connection_under_a_connected_name_is_refused_with_the_right_certificate_too(site: Site) -> None:
    """Such as a copy of the hospital's folder on another machine."""
    own = pair_of(site.federation.hospitals["a"])
    for said in ((), (("process", ""),), (("process", "0" * 32),)):
        code, details = knock(site, pair=own, said=said)
        assert (code, details) == (grpc.StatusCode.ALREADY_EXISTS, "a hospital called a is connected already")
    error = LightHospital("a", site.address, tls=site.federation.hospitals["a"]).end()
    assert isinstance(error, JoinError)
    assert site.refusals() == ["refused a: a hospital called a is connected already (from 127.0.0.1)"]


def test_a_report_in_another_s_name_is_refused_as_an_intruder_s(site: Site) -> None:
    report_unfit("a", site.address, TERMS, "its CSV is gone", UNWRITTEN, tls=site.federation.hospitals["b"])
    words = "the hospital's certificate is for hospital b, but it gave another name"
    assert site.refusals() == [f"refused a: {words} (from 127.0.0.1)"]


def test_a_stranger_learns_neither_who_is_there_nor_what_was_agreed(site: Site) -> None:
    """The certificate is judged before anything else is."""
    pair = pair_of(site.federation.add("c", signer=site.federation.signer))
    for said in ((), (("terms", "{"),), (("unfit", "x"),)):
        code, details = knock(site, "a", pair=pair, said=said)
        assert code == grpc.StatusCode.PERMISSION_DENIED
        assert "hospital c" in details


def test_who_has_no_certificate_is_nobody_even_if_a_handshake_let_it_through(federation: DemoIdentities) -> None:
    reason = Admission(federation.server).rejection_reason(peer_certificate({}), Role.HOSPITAL, "a")
    assert reason == "it has no certificate that can be read"


def test_a_refusal_is_told_again_once_somebody_joined(federation: DemoIdentities) -> None:
    words: list[str] = []
    with streams.server(words, tls=federation.server) as (_, address):
        for _ in range(2):
            report_unfit("c", address, TERMS, "none", UNWRITTEN, tls=federation.hospitals["b"])
        there = LightHospital("a", address, tls=federation.hospitals["a"])
        wait_until(lambda: words[-1] == "a joined")
        report_unfit("c", address, TERMS, "none", UNWRITTEN, tls=federation.hospitals["b"])
    assert there.end() is None
    assert [line.split(":")[0] for line in words] == ["refused c", "a joined", "refused c"]


def test_refusals_do_not_fill_the_log(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "MAX_REFUSALS", 3)
    pair = pair_of(site.federation.hospitals["b"])
    for name in ("a", "c", "a", "d", "c", "e", "f"):
        knock(site, name, pair=pair)
    assert [line.split(":")[0] for line in site.refusals()] == ["refused a", "refused c", "refused d"]


# Below TLS 1.2, without TLS, and without a word


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
def test_new_tls_is_taken(version: ssl.TLSVersion, name: str, site: Site) -> None:
    """Which proves that the refusals below are not the test's own fault."""
    assert offer(site, version, site.federation.hospitals["a"]) == (name, b"\0")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(version: ssl.TLSVersion, site: Site) -> None:
    with pytest.raises(ssl.SSLError):
        offer(site, version, site.federation.hospitals["a"])


def test_plain_grpc_on_the_tls_port_is_refused(site: Site) -> None:
    metadata = (("hospital", "c"), ("terms", write_agreement({"protocol": PROTOCOL, **TERMS})))
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


def test_bytes_that_are_no_http2_after_a_proper_handshake_end_the_connection(site: Site) -> None:
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


def test_the_authority_s_own_certificate_does_not_get_through_a_handshake(site: Site, tmp_path: Path) -> None:
    """It may sign others, and by its key usage nothing else."""
    signer = site.federation.signer
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    files.write_bytes(key, issuing.key_bytes(signer.key), files.PRIVATE)
    files.write_bytes(chain, issuing.pem(signer.certificate, signer.certificate))
    there = Identity(tmp_path, hospital("demo"), signer.certificate, signer.certificate)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with suppress(ssl.SSLError, ConnectionResetError):
            assert offer(site, version, there)[1] == b""


def client_hello() -> bytes:
    """The first message of a handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    half = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["half a message", "half a handshake"])
def test_a_handshake_that_is_left_open_holds_nobody_up(share: float, site: Site) -> None:
    hello = client_hello()
    with socket.create_connection(site.where, timeout=10) as connection:
        connection.sendall(hello[: int(len(hello) * share)])
        late = LightHospital("c", site.address, tls=site.federation.add("c"))
        wait_until(lambda: "c joined" in site.words)
        reply = site.grid.send_and_receive([question("c", 9)], timeout=20)[0]
        assert answer_of(reply) == ("c", 9)
        expel(site, late, "c")


def expel(site: Site, hospital_there: LightHospital, name: str, *others: x509.Certificate) -> None:
    """Revoke a hospital that is connected, so that the site is again as it was."""
    leaf = certificates.read_certificates(site.federation.folder.parent / f"more-{name}" / "certificate.pem")[0]
    listed = site.federation.signer.revocations(leaf, *others, number=3)
    files.write_bytes(site.federation.server.folder / "revoked.pem", listed)
    site.grid.send_and_receive([question(name)], timeout=20)
    assert isinstance(hospital_there.end(), JoinError)
    wait_until(lambda: name not in site.grid.names().values())


def test_a_hundred_connections_that_say_nothing_hold_nobody_up(site: Site) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(site.where, timeout=10))
        hospital_there = LightHospital("c", site.address, tls=site.federation.add("c"))
        wait_until(lambda: "c joined" in site.words)
        assert answer_of(site.grid.send_and_receive([question("c", 9)], timeout=20)[0]) == ("c", 9)
        expel(site, hospital_there, "c")


# While connected


def test_a_hospital_that_is_revoked_while_it_trains_is_cut_off_and_its_reply_is_none(site: Site) -> None:
    may_answer = threading.Event()

    def train(message: Message, context: Context) -> Message:
        may_answer.wait(60)
        return echo(message, context)

    bad = site.federation.add("c")
    hospital_there = LightHospital("c", site.address, train, tls=bad)
    wait_until(lambda: "c joined" in site.words)
    (key,) = site.grid.push_messages([question("c", 1)])
    files.write_bytes(
        site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(bad.certificate)
    )
    may_answer.set()
    reply = site.grid._replies[key].result(20)
    words = "the hospital's certificate was revoked on "
    assert str(reply.error.reason).startswith(words)
    error = hospital_there.end()
    assert isinstance(error, JoinError)
    assert str(error).startswith(f"{site.address}: {words}")
    wait_until(lambda: bool(site.refusals()))
    (line,) = site.refusals()
    assert re.fullmatch(rf"cut c off: {words}[-0-9: ]+ UTC \(from 127\.0\.0\.1\)", line)
    assert "c left" not in site.words
    again = LightHospital("c", site.address, tls=bad).end()
    assert isinstance(again, JoinError)
    assert words in str(again)


def test_a_hospital_that_is_revoked_while_it_waits_gets_no_more_messages(site: Site) -> None:
    got: list[object] = []

    def train(message: Message, context: Context) -> Message:
        got.append(message.content.config_records["question"]["number"])
        return echo(message, context)

    bad = site.federation.add("c")
    hospital_there = LightHospital("c", site.address, train, tls=bad)
    wait_until(lambda: "c joined" in site.words)
    assert answer_of(site.grid.send_and_receive([question("c", 1)], timeout=20)[0]) == ("c", 1)
    files.write_bytes(
        site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(bad.certificate)
    )
    for number in (2, 3):
        reply = site.grid.send_and_receive([question("c", number)], timeout=20)[0]
        assert reply.has_error()
    assert isinstance(hospital_there.end(), JoinError)
    assert got == [1]


def test_who_was_revoked_does_not_keep_the_name_from_the_hospital_s_new_key(site: Site) -> None:
    """Such as a thief who waits with the stolen key: no message needs to come by before the hospital is back."""
    thief = LightHospital("c", site.address, tls=site.federation.add("c"))
    wait_until(lambda: "c joined" in site.words)
    stolen = certificates.read_certificates(site.federation.folder.parent / "more-c" / "certificate.pem")[0]
    files.write_bytes(site.federation.server.folder / "revoked.pem", site.federation.signer.revocations(stolen))
    anew = LightHospital("c", site.address, tls=site.federation.add("c"))
    wait_until(lambda: site.words.count("c joined") == 2)
    assert answer_of(site.grid.send_and_receive([question("c", 7)], timeout=20)[0]) == ("c", 7)
    assert isinstance(thief.end(), JoinError)
    wait_until(lambda: bool(site.refusals()))
    assert [line.split(":")[0] for line in site.refusals()] == ["cut c off"]
    assert "c left" not in site.words
    expel(site, anew, "c", stolen)


def test_a_hospital_whose_certificate_ends_is_cut_off(site: Site) -> None:
    short = site.federation.add("c", (now() - timedelta(days=1), now() + timedelta(seconds=3)))
    hospital_there = LightHospital("c", site.address, tls=short)
    wait_until(lambda: "c joined" in site.words)
    wait_until(lambda: certificates.validity_problem(short.certificate) is not None)
    reply = site.grid.send_and_receive([question("c", 1)], timeout=20)[0]
    assert str(reply.error.reason).startswith("the hospital's certificate expired on ")
    error = hospital_there.end()
    assert isinstance(error, JoinError)
    assert "the hospital's certificate expired on " in str(error)
    wait_until(lambda: bool(site.refusals()))
    assert site.refusals()[0].startswith("cut c off: the hospital's certificate expired on ")


def test_a_reply_in_another_hospital_s_name_is_dropped(site: Site) -> None:
    def pretend(message: Message, context: Context) -> Message:
        reply = echo(message, context)
        reply.metadata.__dict__["_src_node_id"] = node_id_of("a")
        return reply

    hospital_there = LightHospital("c", site.address, pretend, tls=site.federation.add("c"))
    wait_until(lambda: "c joined" in site.words)
    assert site.grid.send_and_receive([question("c", 1)], timeout=0.5)[0].has_error()
    expel(site, hospital_there, "c")


def test_a_list_that_is_spoiled_is_told_and_keeps_out_who_was_revoked(site: Site) -> None:
    (pair, _) = revoked(site.federation)
    assert knock(site, "c", pair=pair)[0] == grpc.StatusCode.PERMISSION_DENIED
    files.write_bytes(site.federation.server.folder / "revoked.pem", b"garbage")
    assert knock(site, "c", pair=pair)[0] == grpc.StatusCode.PERMISSION_DENIED
    (line,) = [line for line in site.words if "revoked.pem" in line]
    assert line.endswith("is not a list of revoked certificates (PEM); revoked certificates stay revoked")


# Intruders in the server's place


@contextmanager
def false_server(identity: Identity | None, host: str = "127.0.0.1") -> Iterator[tuple[str, list[str]]]:
    """A server that would take anybody."""
    words: list[str] = []
    address = f"{host}:{free_port()}"
    with serve_streams(address, TERMS, words.append, tls=identity):
        yield address, words


def posing(party: Party, signer: Signer, folder: Path, trusts: Identity, **more: object) -> Identity:
    """A server's identity of any kind, that takes hospitals of our authority."""
    identity = write_identity(folder, party, signer, **more)  # type: ignore[arg-type]
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
        (as_hospital, "the certificate shown there is not a server's, but for hospital b"),
        (of_another_authority, "was signed by another authority, 'Theirs'; expected this hospital's, 'Demo'"),
        (self_signed_server, "was signed by another authority, 'localhost'; expected this hospital's, 'Demo'"),
        (expired_server, "the server's certificate expired on "),
        (early_server, "the server's certificate is not valid before "),
    ],
)
def test_a_false_server_gets_nothing_and_the_hospital_says_why(
    pose: Callable[[DemoIdentities, Path], Identity],
    words: str,
    federation: DemoIdentities,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "Admission", lambda *_: None)  # a false server admits everyone
    monkeypatch.setattr(Identity, "expiry_warning", lambda _: None)
    with false_server(pose(federation, tmp_path / "false")) as (address, heard):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert words in str(error)
        # The explanation is advice: without it the channel refuses by itself.
        monkeypatch.setattr(handshake, "find_connection_problem", lambda *_: None)
        error = LightHospital("a", address, tls=federation.hospitals["a"], wait=1.0).end()
        assert isinstance(error, JoinError)
        assert "no server within 1 s" in str(error)
        report_unfit("a", address, TERMS, "its CSV is gone", UNWRITTEN, tls=federation.hospitals["a"])
        assert heard == []


def test_a_server_under_another_name_than_its_own_gets_nothing(
    federation: DemoIdentities, monkeypatch: pytest.MonkeyPatch
) -> None:
    with false_server(federation.server, "127.0.0.2") as (address, heard):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert "is not for 127.0.0.2, but for localhost, 127.0.0.1, ::1" in str(error)
        monkeypatch.setattr(handshake, "find_connection_problem", lambda *_: None)
        error = LightHospital("a", address, tls=federation.hospitals["a"], wait=1.0).end()
        assert "no server within 1 s" in str(error)
        assert heard == []


def test_a_server_that_was_revoked_gets_nothing(federation: DemoIdentities) -> None:
    own = federation.hospitals["a"]
    with false_server(federation.server) as (address, heard):
        files.write_bytes(own.folder / "revoked.pem", federation.signer.revocations(federation.server.certificate))
        error = LightHospital("a", address, tls=own).end()
        assert isinstance(error, JoinError)
        assert "the server's certificate was revoked on " in str(error)
        assert heard == []


def test_a_server_without_encryption_gets_nothing_from_a_hospital_with_it(federation: DemoIdentities) -> None:
    with false_server(None) as (address, heard):
        error = LightHospital("a", address, tls=federation.hospitals["a"]).end()
        assert isinstance(error, JoinError)
        assert "the server there does not encrypt: it runs without --tls" in str(error)
        assert heard == []


def test_a_hospital_without_encryption_is_told_that_the_server_has_it(site: Site) -> None:
    error = LightHospital("c", site.address).end()
    assert isinstance(error, JoinError)
    assert str(error).startswith(f"{site.address}: the server speaks TLS: ")
    assert "--tls" in str(error)


def test_a_hospital_of_another_authority_is_told_so(site: Site, tmp_path: Path) -> None:
    stranger = write_identity(tmp_path / "stranger", hospital("c"), Signer(name="Theirs"))
    error = LightHospital("c", site.address, tls=stranger).end()
    assert isinstance(error, JoinError)
    assert "was signed by another authority, 'Demo'; expected this hospital's, 'Theirs'" in str(error)


def test_a_hospital_that_is_not_taken_for_no_reason_that_it_can_see_waits_and_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a clock that differs: here nobody but gRPC looks at the time."""
    late = write_identity(tmp_path / "late", hospital("c"), site.federation.signer, expired())
    monkeypatch.setattr(certificates, "validity_problem", lambda *_: None)
    there = LightHospital("c", site.address, tls=late, wait=1.0)
    error = there.end()
    assert isinstance(error, JoinError)
    assert f"{site.address}: no server within 1 s: the server ended the handshake without a reason: it is" in str(error)
    assert "the server ended the handshake without a reason" in there.words[-1]


# In order


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_loopback_s_names_are_all_in_a_server_s_certificate(host: str, federation: DemoIdentities) -> None:
    words: list[str] = []
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    address = f"{host}:{free_port()}"
    with serve_streams(address, TERMS, words.append, tls=federation.server) as grid:
        there = LightHospital("a", address, tls=federation.hospitals["a"])
        wait_until(lambda: words == ["a joined"])
        assert answer_of(grid.send_and_receive([question("a", 5)], timeout=10)[0]) == ("a", 5)
    assert there.end() is None


def test_a_hospital_waits_for_a_server_with_tls_and_comes_back_to_it(federation: DemoIdentities) -> None:
    words: list[str] = []
    port = free_port()
    there = LightHospital("a", f"127.0.0.1:{port}", tls=federation.hospitals["a"], wait=30)
    wait_until(lambda: bool(there.words))
    assert there.words == [
        f"waiting up to 30 s for the server at 127.0.0.1:{port}: it cannot be reached (Connection refused)"
    ]
    with (
        streams.Proxy(f"127.0.0.1:{port}") as proxy,
        streams.server(words, port, federation.server) as (grid, _),
    ):
        wait_until(lambda: words == ["a joined"])
        other = LightHospital("b", proxy.address, tls=federation.hospitals["b"], wait=30)
        wait_until(lambda: "b joined" in words)
        proxy.cut(tell_server=False)
        wait_until(lambda: "b came back" in words)
        assert answer_of(grid.send_and_receive([question("b", 9)], timeout=10)[0]) == ("b", 9)
    assert (there.end(), other.end()) == (None, None)


def test_both_sides_say_so_when_a_certificate_ends_soon(federation: DemoIdentities, tmp_path: Path) -> None:
    words: list[str] = []
    soon = write_identity(tmp_path / "server", server(()), federation.signer)
    with streams.server(words, tls=soon) as (_, address):
        there = LightHospital("c", address, tls=federation.add("c"))
        wait_until(lambda: "c joined" in words)
    assert there.end() is None
    end = r"the certificate in .*%s ends on [-0-9]+ [:0-9]+ UTC: renew it"
    assert re.fullmatch(end % "server", words[0])
    assert re.fullmatch(end % "more-c", there.words[0])


def test_a_name_that_is_not_the_certificate_s_is_not_even_sent(federation: DemoIdentities) -> None:
    error = LightHospital("c", "127.0.0.1:1", tls=federation.hospitals["a"]).end()
    assert "is for hospital a, so its name is not c" in str(error)
