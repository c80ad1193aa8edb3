"""Run terms over streams: asked for before anything leaves, asked for again, and binding for the server."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from flwr.app import Context, Message, RecordDict

from federated_health import files
from federated_health.errors import AnswerError, ConsentError, JoinError, LedgerError, StorageError, TermsError
from federated_health.hospital.ledger import Ledger
from federated_health.messages.run_terms import MAX_TERMS_CHARACTERS, RunTerms, hash_of
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.security.certificates import fingerprint, public_key_of
from federated_health.security.identity import REVOKED
from federated_health.settings import Settings
from federated_health.transport import obstacles
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.channels import ACCEPTED_TERMS_KEY
from federated_health.transport.stream_client import Consent, join_run
from federated_health.transport.stream_server import serve_streams
from federated_health.transport.unfit import report_unfit
from tests.support.identities import DemoIdentities
from tests.support.streams import (
    AGREEMENT,
    LightHospital,
    RawHospital,
    TermsServer,
    answer_of,
    echo,
    question,
    wait_for_hospitals,
    wait_until,
)
from tests.support.wire import UNWRITTEN, read_lines

TERMS = RunTerms.of(Settings())
OTHER = replace(TERMS, rounds=60)


class InterruptedServerError(StorageError):
    """Ends a server so that its hospitals wait for another."""


class Accepting:
    """Accepts all terms, or those that a test allows, and remembers the others."""

    def __init__(self, *allowed: RunTerms) -> None:
        self.texts: list[str] = []
        self.servers: list[str] = []
        self._allowed = [terms.text for terms in allowed]

    def __call__(self, text: str, server: str) -> None:
        self.texts.append(text)
        self.servers.append(server)
        if self._allowed and text not in self._allowed:
            raise ConsentError("not joined")


def join(address: str, consent: Consent, ledger: Any = UNWRITTEN, **more: Any) -> None:
    join_run(
        lambda message, _: Message(RecordDict(), reply_to=message),
        hospital_context("a", {}),
        name="a",
        address=address,
        agreement=AGREEMENT,
        wait=5.0,
        announce=lambda _: None,
        prepare=lambda: None,
        ledger=ledger,
        consent=consent,
        **more,
    )


def test_before_consent_the_server_receives_a_question_for_its_terms_and_nothing_else() -> None:
    with TermsServer(TERMS.text.encode()) as server, pytest.raises(ConsentError):
        join(server.address, Accepting(OTHER))
    assert server.received == [("Terms", {})]


def test_after_consent_the_hospital_joins_with_the_hash_that_it_accepted() -> None:
    consent = Accepting()
    with TermsServer(TERMS.text.encode()) as server:
        join(server.address, consent)
    assert consent.texts == [TERMS.text]
    assert server.methods == ["Terms", "Terms", "Join"]  # again once somebody has decided, which may take long
    assert server.received[-1][1][ACCEPTED_TERMS_KEY] == TERMS.hash


def test_a_server_that_states_other_terms_the_second_time_is_decided_anew() -> None:
    consent = Accepting()
    with TermsServer(TERMS.text.encode(), OTHER.text.encode()) as server:
        join(server.address, consent)
    assert consent.texts == [TERMS.text, OTHER.text]
    assert server.received[-1][1][ACCEPTED_TERMS_KEY] == OTHER.hash


def test_a_server_that_states_other_terms_each_time_is_left() -> None:
    consent = Accepting()
    texts = [replace(TERMS, rounds=number).text.encode() for number in range(1, 20)]
    with TermsServer(*texts) as server, pytest.raises(JoinError, match="each time"):
        join(server.address, consent)
    assert len(consent.texts) == 3
    assert set(server.methods) == {"Terms"}


def test_a_server_s_refusal_is_one_line_on_the_terminal() -> None:
    class RefusingServer(TermsServer):
        def _terms(self, _: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "\x1b[2Jjoined\njoin? [y/N] " + 5_000 * "a")
            raise AssertionError("abort raises")

    with RefusingServer(b"") as server, pytest.raises(JoinError) as raised:
        join(server.address, Accepting())
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1_100


@pytest.mark.parametrize("size", [MAX_TERMS_CHARACTERS + 1, 2**24])
def test_huge_terms_are_not_read(size: int) -> None:
    with TermsServer(b"x" * size) as server, pytest.raises(JoinError, match="at most 65,536 bytes"):
        join(server.address, Accepting())
    assert server.methods == ["Terms"]


def test_bytes_that_are_no_text_are_shown_to_nobody_as_such() -> None:
    consent = Accepting(TERMS)
    with TermsServer(b"\xff\xfe\x00") as server, pytest.raises(ConsentError):
        join(server.address, consent)
    assert consent.texts == ["\ufffd\ufffd\x00"]


def test_a_server_without_terms_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, AGREEMENT, lambda _: None), pytest.raises(JoinError, match="UNIMPLEMENTED"):
        join(address, Accepting())


@pytest.mark.parametrize("metadata", [{}, {ACCEPTED_TERMS_KEY: OTHER.hash}, {ACCEPTED_TERMS_KEY: ""}])
def test_a_server_admits_nobody_with_other_terms(metadata: dict[str, str]) -> None:
    address, lines = f"127.0.0.1:{free_port()}", list[str]()
    with serve_streams(address, AGREEMENT, lines.append, terms=TERMS.text) as grid:
        with RawHospital("a", address, **metadata) as hospital:
            hospital.leave()
            assert hospital.end() is grpc.StatusCode.UNAVAILABLE
        assert grid.names() == {}
    assert [line.startswith("rejected a: the run's terms have changed") for line in lines] == [True]


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated_health.transport.backoff.MAX_DELAY", 0.2)
    monkeypatch.setattr(obstacles, "PREFLIGHT_SECONDS", 0.2)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(("second", "asked"), [(TERMS, [TERMS.text]), (OTHER, [TERMS.text, OTHER.text])])
def test_a_reconnecting_hospital_is_asked_again_if_the_terms_have_changed(second: RunTerms, asked: list[str]) -> None:
    """A server that is resumed, or one whose run is extended."""
    port, consent = free_port(), Accepting()
    hospital = LightHospital("a", f"127.0.0.1:{port}", wait=20.0, consent=consent)
    servers: list[object] = []
    for terms in (TERMS, second):
        with (
            suppress(InterruptedServerError),
            serve_streams(f"127.0.0.1:{port}", AGREEMENT, lambda _: None, terms=terms.text) as grid,
        ):
            wait_for_hospitals(grid)
            (reply,) = grid.send_and_receive([question("a", 7)], timeout=10)
            assert answer_of(reply) == ("a", 7)
            if not servers:
                servers.append(grid)
                raise InterruptedServerError("as a full disk ends a server")
    assert hospital.end() is None
    assert consent.texts == asked


@pytest.mark.usefixtures("_soon")
def test_a_hospital_that_does_not_accept_changed_terms_leaves() -> None:
    port = free_port()
    hospital = LightHospital("a", f"127.0.0.1:{port}", wait=20.0, consent=Accepting(TERMS))
    with (
        suppress(InterruptedServerError),
        serve_streams(f"127.0.0.1:{port}", AGREEMENT, lambda _: None, terms=TERMS.text) as grid,
    ):
        wait_for_hospitals(grid)
        raise InterruptedServerError("as a full disk ends a server")
    with serve_streams(f"127.0.0.1:{port}", AGREEMENT, lambda _: None, terms=OTHER.text) as grid:
        assert isinstance(hospital.end(), ConsentError)
        assert grid.names() == {}


def test_over_tls_the_server_proves_itself_before_it_is_asked_and_consent_gets_its_fingerprint(tmp_path: Path) -> None:
    federation, consent = DemoIdentities(tmp_path / "tls"), Accepting()
    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, AGREEMENT, lambda _: None, tls=federation.server, terms=TERMS.text) as grid:
        hospital = LightHospital("a", address, tls=federation.hospitals["a"], consent=consent)
        wait_for_hospitals(grid)
    assert hospital.end() is None
    assert consent.servers == [fingerprint(public_key_of(federation.server.certificate))]


def test_a_revoked_server_is_not_even_asked(tmp_path: Path) -> None:
    federation, consent = DemoIdentities(tmp_path / "tls"), Accepting()
    own, address = federation.hospitals["a"], f"127.0.0.1:{free_port()}"
    federation.authority.revoke(federation.server.name)
    files.write_bytes(own.folder / REVOKED, (federation.authority.folder / REVOKED).read_bytes())
    with (
        serve_streams(address, AGREEMENT, lambda _: None, tls=federation.server, terms=TERMS.text),
        pytest.raises(JoinError, match="revoked"),
    ):
        join(address, consent, tls=own)
    assert consent.texts == []


def test_the_accepted_terms_are_in_the_ledger_before_the_hospital_joins(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "egress-a.jsonl", "a")

    def consent(text: str, _server: str) -> None:
        ledger.record_terms(text, "asked")

    with TermsServer(TERMS.text.encode()) as server:
        join(server.address, consent, ledger)
    accepted, joined = read_lines(ledger.path)
    assert (accepted["kind"], joined["kind"]) == ("terms", "join")
    assert RunTerms(**accepted["terms"]).text == TERMS.text
    assert (accepted["accepted"], accepted["bytes"], accepted["records"]) == ("asked", 0, [])
    assert accepted["sha256"].startswith(TERMS.hash)
    assert hash_of(TERMS.text) == TERMS.hash


def test_terms_that_the_ledger_cannot_record_are_not_accepted(tmp_path: Path) -> None:
    full = tmp_path / "egress-a.jsonl"
    full.symlink_to("/dev/full")
    with TermsServer(TERMS.text.encode()) as server, pytest.raises(LedgerError):
        join(server.address, lambda text, _: Ledger(full, "a").record_terms(text, "asked"))
    assert server.methods == ["Terms"]


def test_a_message_outside_the_terms_ends_the_stream_with_its_reason_on_both_sides() -> None:
    reason = "seed: expected 42, by the terms of the run, got 43"

    def refuse(message: Message, context: Context) -> Message:
        if message.content["question"]["number"] == 1:
            raise AnswerError(TermsError(reason))
        return echo(message, context)

    address = f"127.0.0.1:{free_port()}"
    with serve_streams(address, AGREEMENT, lambda _: None, terms=TERMS.text) as grid:
        hospital = LightHospital("a", address, consent=Accepting(), app=refuse)
        wait_for_hospitals(grid)
        replies = [grid.send_and_receive([question("a", number)], timeout=10)[0] for number in (0, 1)]
        assert answer_of(replies[0]) == ("a", 0)
        assert replies[1].error.reason == reason
        wait_until(lambda: node_id_of("a") not in grid.names())
    error = hospital.end()
    assert isinstance(error, TermsError)
    assert str(error) == reason


@pytest.mark.parametrize("accepts", [True, False])
def test_an_unfit_hospital_says_why_only_to_a_server_whose_terms_it_accepts(accepts: bool, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "egress-a.jsonl", "a")
    consent = Accepting(TERMS if accepts else OTHER)
    with TermsServer(TERMS.text.encode()) as server:
        report_unfit("a", server.address, AGREEMENT, "its CSV cannot be used", ledger, consent=consent)
    assert server.methods == (["Terms", "Join"] if accepts else ["Terms"])
    assert ledger.path.exists() == accepts
