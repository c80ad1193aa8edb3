"""A hospital judges its server on the connection that it uses: before joining, on the stream, with each message."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from flwr.app import Context, Message

from federated_health import files
from federated_health.errors import JoinError
from federated_health.security import certificates, handshake
from federated_health.security.handshake import ConnectionProblem
from federated_health.security.identity import REVOKED, Identity
from federated_health.security.parties import Party, hospital, server
from federated_health.security.proof import CHALLENGE_KEY, Metadata, Prover, ServerCheck
from federated_health.transport import backoff, stream_client
from federated_health.transport.stream_server import _Servicer
from federated_health.transport.unfit import report_unfit
from tests.support import streams
from tests.support.identities import DemoIdentities, Signer, expired, not_yet, write_identity
from tests.support.streams import (
    AGREEMENT,
    LightHospital,
    answer_of,
    await_reply,
    echo,
    question,
    wait_for_hospitals,
)
from tests.support.wire import UNWRITTEN

ADDRESS = "127.0.0.1:8080"


@pytest.fixture
def federation(tmp_path: Path) -> DemoIdentities:
    return DemoIdentities(tmp_path / "tls")


@pytest.fixture
def own(federation: DemoIdentities) -> Identity:
    """The identity of the hospital a."""
    return federation.hospitals["a"]


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection that only checks is refused, as by a server that tells them from gRPC's."""
    problem = ConnectionProblem("it cannot be reached (Connection refused)", is_final=False)
    monkeypatch.setattr(handshake, "find_connection_problem", lambda *_: problem)
    monkeypatch.setattr(backoff, "MAX_DELAY", 0.1)


@pytest.fixture
def joins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams that the server has begun, by the name in their metadata."""
    begun: list[str] = []
    join = _Servicer.Join

    async def noting_join(self: _Servicer, requests: object, context: object) -> None:
        begun.append(str(dict(context.invocation_metadata())["hospital"]))  # type: ignore[attr-defined]
        await join(self, requests, context)

    monkeypatch.setattr(_Servicer, "Join", noting_join)
    return begun


def revoke_server(federation: DemoIdentities, own: Identity) -> None:
    """Copy a list that revokes the server into a hospital's folder."""
    files.write_bytes(own.folder / REVOKED, federation.signer.revocations(federation.server.certificate))


def assert_rejected(member: LightHospital, word: str) -> None:
    error = member.end()
    assert isinstance(error, JoinError)
    assert word in str(error)


# Before anything leaves


@pytest.mark.usefixtures("_unchecked")
def test_nothing_leaves_for_a_revoked_server_that_refuses_connections_that_only_check(
    federation: DemoIdentities, own: Identity, joins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr(stream_client.HospitalStream, "begin", lambda *_, **__: left.append("metadata"))
    revoke_server(federation, own)
    with streams.server(tls=federation.server) as (_, address):
        assert_rejected(LightHospital("a", address, tls=own), "the server's certificate was revoked")
        report_unfit("a", address, AGREEMENT, "its CSV is gone", UNWRITTEN, tls=own)
    assert left == []
    assert joins == []


@pytest.mark.usefixtures("_unchecked")
def test_nothing_leaves_for_a_server_that_proves_nothing(
    federation: DemoIdentities, own: Identity, joins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prover, "prove", lambda *_: ())
    with streams.server(tls=federation.server) as (_, address):
        assert_rejected(LightHospital("a", address, tls=own), "does not prove its certificate")
    assert joins == []


# On the stream


def test_a_server_that_proves_itself_only_before_the_stream_gets_no_answer(
    federation: DemoIdentities, own: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where gRPC connects once more between the two."""
    answered: list[Message] = []
    proofs: list[Metadata] = []
    prove = Prover.prove

    def prove_once(self: Prover, *given: object) -> Metadata:
        proofs.append(prove(self, *given) if not proofs else ())  # type: ignore[arg-type]
        return proofs[-1]

    monkeypatch.setattr(Prover, "prove", prove_once)
    with streams.server(tls=federation.server) as (_, address):
        member = LightHospital("a", address, lambda message, _: answered.append(message), tls=own)  # type: ignore[arg-type,return-value]
        assert_rejected(member, "does not prove its certificate")
    assert len(proofs) == 2
    assert answered == []


def test_a_list_that_arrives_during_a_run_ends_the_stream_before_the_next_answer(
    federation: DemoIdentities, own: Identity
) -> None:
    answered: list[int] = []

    def answer(message: Message, context: Context) -> Message:
        answered.append(1)
        return echo(message, context)

    with streams.server(tls=federation.server) as (grid, address):
        member = LightHospital("a", address, answer, tls=own)
        wait_for_hospitals(grid)
        assert answer_of(grid.send_and_receive([question("a", 1)], timeout=10)[0]) == ("a", 1)
        revoke_server(federation, own)
        (reply,) = grid.send_and_receive([question("a", 2)], timeout=10)
        assert reply.has_error()
        assert_rejected(member, "the server's certificate was revoked")
    assert answered == [1]


@pytest.mark.parametrize("reason", ["revoked", "expired"])
def test_a_server_rejected_while_the_hospital_trains_gets_no_reply(
    reason: str, federation: DemoIdentities, own: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, go_on = threading.Event(), threading.Event()
    judge = certificates.validity_problem

    def judge_late(certificate: x509.Certificate, *revocations: x509.CertificateRevocationList | None) -> str | None:
        is_late = go_on.is_set() and reason == "expired" and certificate == federation.server.certificate
        return "expired on 2000-01-01" if is_late else judge(certificate, *revocations)

    def train(message: Message, context: Context) -> Message:
        training.set()
        go_on.wait(10)
        return echo(message, context)

    monkeypatch.setattr(certificates, "validity_problem", judge_late)
    with streams.server(tls=federation.server) as (grid, address):
        member = LightHospital("a", address, train, tls=own)
        wait_for_hospitals(grid)
        (key,) = grid.push_messages([question("a", 1)])
        assert training.wait(10)
        if reason == "revoked":
            revoke_server(federation, own)
        go_on.set()
        assert await_reply(grid, key).has_error()
        assert_rejected(member, f"the server's certificate {'was revoked' if reason == 'revoked' else 'expired'}")


# The proof


@contextmanager
def answered(own: Identity, forge: Callable[[str], Metadata], address: str = ADDRESS) -> Iterator[str | None]:
    """Why a hospital rejects the answer to its challenge; None if it accepts."""
    check = ServerCheck(own, address, lambda _: None)
    ((key, challenge),) = check.challenge()
    assert key == CHALLENGE_KEY
    reason = check.rejection_reason(forge(challenge))
    assert (check.expiry_reason() is None) is (reason is None)  # who is rejected stays rejected
    yield reason


def test_a_valid_server_proves_itself(federation: DemoIdentities, own: Identity) -> None:
    prover = Prover(federation.server)
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        with answered(own, lambda challenge: prover.prove(challenge, own.certificate), f"{host}:8080") as reason:
            assert reason is None


def test_an_answer_counts_for_one_challenge_of_one_hospital(federation: DemoIdentities, own: Identity) -> None:
    prover, other = Prover(federation.server), federation.hospitals["b"]
    with answered(own, lambda _: prover.prove("0" * 32, own.certificate)) as reason:
        assert reason is not None  # an older answer
    # A revoked server can have the challenge signed only over a connection of its own, with another certificate.
    with answered(own, lambda challenge: prover.prove(challenge, other.certificate)) as reason:
        assert reason is not None
        assert "passes another server's answers on" in reason


def test_the_certificate_in_an_answer_is_checked(federation: DemoIdentities, own: Identity, tmp_path: Path) -> None:
    def prove_as(party: Party, signer: Signer = federation.signer, **given: object) -> Metadata:
        identity = write_identity(tmp_path / "other", party, signer, **given)  # type: ignore[arg-type]
        return Prover(identity).prove(challenge, own.certificate)

    check = ServerCheck(own, "fl.example.org:8080", lambda _: None)
    for forge, word in (
        (lambda: prove_as(hospital("b")), "is for hospital b"),
        (lambda: prove_as(server(["fl.example.org"]), Signer()), "signed by another authority"),
        (lambda: prove_as(server(["fl.example.org"]), valid=expired()), "expired"),
        (lambda: prove_as(server(["fl.example.org"]), valid=not_yet()), "not valid before"),
        (lambda: prove_as(server(["other.example.org"])), "is not for fl.example.org"),
        (lambda: (), "does not prove"),
        (lambda: (("server-certificate-bin", b"no certificate"),), "does not prove"),
        (lambda: (("server-certificate-bin", "text"), ("server-signature-bin", 7)), "does not prove"),
        (lambda: prove_as(server(["fl.example.org"]))[:1], "does not hold the key"),
        (lambda: (*prove_as(server(["fl.example.org"]))[:1], ("server-signature-bin", b"x")), "does not hold the key"),
    ):
        ((_, challenge),) = check.challenge()
        reason = check.rejection_reason(forge())  # type: ignore[arg-type]
        assert reason is not None
        assert word in reason
        assert check.expiry_reason() is not None
    ((_, challenge),) = check.challenge()
    assert check.rejection_reason(prove_as(server(["fl.example.org"]))) is None
    files.write_bytes(own.folder / REVOKED, b"garbage")
    assert check.expiry_reason() is None  # a damaged list changes nothing


def test_a_challenge_without_a_certificate_or_of_any_length_is_not_signed(federation: DemoIdentities) -> None:
    prover = Prover(federation.server)
    certificate = federation.hospitals["a"].certificate
    assert prover.prove("0" * 32, None) == ()
    assert prover.prove("", certificate) == ()
    assert prover.prove("0" * 65, certificate) == ()
