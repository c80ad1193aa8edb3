"""Why a TLS connection fails: servers of every kind on loopback, and the reason that a hospital finds for each."""

import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from federated_health.security.handshake import ConnectionProblem, find_connection_problem
from federated_health.security.identity import Identity
from federated_health.security.parties import hospital, server
from federated_health.transport.obstacles import speaks_tls
from tests.support.identities import Signer, expired, not_yet, usual, write_identity

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""First bytes of an HTTP/2 server: empty settings (RFC 9113, 6.5)."""

Serve = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(name="Ours")


@pytest.fixture
def own(signer: Signer, tmp_path: Path) -> Identity:
    return write_identity(tmp_path / "a", hospital("a"), signer)


@contextmanager
def listener(serve: Serve) -> Iterator[int]:
    """A port whose connections are served one after the other; errors of the server are ignored."""
    opened = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = opened.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield opened.getsockname()[1]
    finally:
        opened.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        opened.close()


def tls_server(identity: Identity, *, alpn: str | None = "h2", newest: ssl.TLSVersion | None = None) -> Serve:
    """Mutual TLS by Python's ssl. It sends HTTP/2 settings to a trusted peer and, like gRPC, nothing to others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.folder / "certificate.pem", identity.folder / "key.pem")
    context.load_verify_locations(cadata=identity.authority_bytes.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    if alpn:
        context.set_alpn_protocols([alpn])
    if newest:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is tested
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        context.set_ciphers("ALL:@SECLEVEL=0")

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            if encrypted.getpeercert():
                encrypted.sendall(SETTINGS)
                encrypted.recv(1)

    return serve


def look(port: int, own: Identity, host: str = "127.0.0.1") -> ConnectionProblem | None:
    return find_connection_problem(host, port, own, timeout=2.0)


def assert_problem(problem: ConnectionProblem | None, *words: str, is_final: bool) -> None:
    assert problem is not None
    for word in words:
        assert word in problem.reason
    assert problem.is_final is is_final


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_accepts_the_certificate_is_no_problem(
    newest: ssl.TLSVersion, host: str, own: Identity, signer: Signer, tmp_path: Path
) -> None:
    with listener(tls_server(write_identity(tmp_path / "s", server(()), signer), newest=newest)) as port:
        assert look(port, own, host) is None
        assert speaks_tls("127.0.0.1", port, 2.0)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_server_with_old_tls_is_a_final_problem(
    newest: ssl.TLSVersion, own: Identity, signer: Signer, tmp_path: Path
) -> None:
    with listener(tls_server(write_identity(tmp_path / "s", server(()), signer), newest=newest)) as port:
        assert_problem(look(port, own), "TLS is too old", is_final=True)


@pytest.mark.parametrize(
    ("valid", "words"),
    [(expired, "the server's certificate expired"), (not_yet, "the server's certificate is not valid before")],
)
def test_a_server_with_an_expired_or_future_certificate_is_a_final_problem(
    valid: Callable[[], object], words: str, own: Identity, signer: Signer, tmp_path: Path
) -> None:
    late = write_identity(tmp_path / "s", server(()), signer, valid())  # type: ignore[arg-type]  # parametrised
    with listener(tls_server(late)) as port:
        assert_problem(look(port, own), words, is_final=True)


def test_a_server_s_certificate_is_checked_against_the_host(
    own: Identity, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = "fl.example.org, 192.0.2.7, localhost, 127.0.0.1, ::1"
    resolve = socket.getaddrinfo
    identity = write_identity(tmp_path / "s", server(["fl.example.org", "192.0.2.7"]), signer)
    with listener(tls_server(identity)) as port:
        addresses = resolve("127.0.0.1", port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
        for host in ("other.example.org", "192.0.2.8", "example.org"):
            problem = find_connection_problem(host, 1, own, 2.0)
            assert_problem(problem, f"expected one for {host}", f"got one for {hosts}", is_final=True)
        for host in ("fl.example.org", "192.0.2.7", "FL.example.org", "::1"):
            assert find_connection_problem(host, 1, own, 2.0) is None


def test_a_server_of_another_authority_is_a_final_problem(own: Identity, tmp_path: Path) -> None:
    theirs = write_identity(tmp_path / "s", server(()), Signer(name="Theirs"))
    with listener(tls_server(theirs)) as port:
        assert_problem(look(port, own), "another authority, 'Theirs'", "expected", "'Ours'", is_final=True)


def test_another_authority_of_the_same_name_is_not_trusted(own: Identity, tmp_path: Path) -> None:
    with listener(tls_server(write_identity(tmp_path / "s", server(()), Signer(name="Ours")))) as port:
        assert_problem(look(port, own), "another authority", is_final=True)


def test_a_hospital_in_the_server_s_place_is_a_final_problem(own: Identity, signer: Signer, tmp_path: Path) -> None:
    with listener(tls_server(write_identity(tmp_path / "s", hospital("b"), signer))) as port:
        assert_problem(look(port, own), "certificate of hospital b", is_final=True)


def test_a_revoked_server_is_a_final_problem(own: Identity, signer: Signer, tmp_path: Path) -> None:
    identity = write_identity(tmp_path / "s", server(()), signer)
    (own.folder / "revoked.pem").write_bytes(signer.revocations(identity.certificate))
    with listener(tls_server(identity)) as port:
        assert_problem(look(port, own), "the server's certificate was revoked", is_final=True)


@pytest.mark.parametrize("alpn", [None, "http/1.1"])
def test_a_server_of_another_protocol_is_a_final_problem(
    alpn: str | None, own: Identity, signer: Signer, tmp_path: Path
) -> None:
    with listener(tls_server(write_identity(tmp_path / "s", server(()), signer), alpn=alpn)) as port:
        assert_problem(look(port, own), "not HTTP/2", is_final=True)


@pytest.mark.parametrize(
    "greeting",
    [SETTINGS, b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 9000, b"\xff" * 9000],
)
def test_a_server_without_encryption_is_a_final_problem(greeting: bytes, own: Identity) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(greeting)
        connection.recv(65536)

    with listener(greet) as port:
        assert_problem(look(port, own), "does not use TLS", is_final=True)
        assert not speaks_tls("127.0.0.1", port, 2.0)


def test_a_handshake_ended_without_a_reason_is_not_final(signer: Signer, tmp_path: Path) -> None:
    """The server may be stopping, so waiting may help."""
    own = write_identity(tmp_path / "a", hospital("a"), signer)
    proper = tls_server(write_identity(tmp_path / "s", server(()), signer))

    def refuse(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "s" / "certificate.pem", tmp_path / "s" / "key.pem")
        context.set_alpn_protocols(["h2"])
        context.wrap_socket(connection, server_side=True).close()

    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    for serve in (refuse, reset, lambda connection: connection.close()):
        with listener(serve) as port:
            assert_problem(look(port, own), "ended the handshake without a reason", is_final=False)
    with listener(proper) as port:
        assert look(port, own) is None


def test_an_absent_or_silent_server_is_not_final(own: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        problem = find_connection_problem("127.0.0.1", port, own, 0.2)
        assert_problem(problem, "does not answer", is_final=False)
        assert not speaks_tls("127.0.0.1", port, 0.2)
    assert_problem(look(port, own), "Connection refused", is_final=False)
    assert not speaks_tls("127.0.0.1", port, 2.0)
    too_long = "a" * 70 + ".example"  # no DNS can hold it
    assert_problem(look(port, own, too_long), "cannot be reached", is_final=False)


def test_an_unknown_host_is_not_final(own: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert_problem(look(1, own, "a.invalid"), "Name or service not known", is_final=False)


def test_a_problem_of_the_hospital_s_own_files_is_found_without_a_connection(
    own: Identity, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = write_identity(tmp_path / "late", hospital("a"), signer, expired())
    early = write_identity(tmp_path / "early", hospital("a"), signer, not_yet())
    monkeypatch.setattr(socket, "create_connection", None)
    for identity, words in ((late, "the certificate expired"), (early, "the certificate is not valid before")):
        assert_problem(look(1, identity), words, is_final=True)
    (own.folder / "revoked.pem").write_bytes(signer.revocations(own.certificate))
    assert_problem(look(1, own), "the hospital's certificate was revoked", is_final=True)
    (own.folder / "revoked.pem").unlink()
    (own.folder / "key.pem").chmod(0o644)
    assert_problem(look(1, own), "key.pem", "mode 644", is_final=True)
    (own.folder / "key.pem").unlink()
    assert_problem(look(1, own), "key.pem: cannot be read", is_final=True)


def test_a_key_that_does_not_match_the_certificate_is_final(own: Identity, signer: Signer, tmp_path: Path) -> None:
    other = write_identity(tmp_path / "other", hospital("a"), signer, usual())
    (own.folder / "key.pem").write_bytes((other.folder / "key.pem").read_bytes())
    assert_problem(look(1, own), f"{own.folder}: cannot be used", is_final=True)
