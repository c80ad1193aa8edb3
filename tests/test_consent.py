"""What decides whether a hospital accepts the terms of a run."""

import logging
from dataclasses import replace

import pytest

from federated_health.errors import ConsentError
from federated_health.hospital.consent import decide
from federated_health.messages.accepted_terms import ASKED_PERSON, HASH, LOOPBACK, POLICY
from federated_health.messages.run_terms import RunTerms
from federated_health.settings import Settings

TERMS = RunTerms.of(Settings())
OTHER = replace(TERMS, rounds=31)


@pytest.mark.parametrize("accept", [TERMS.hash, TERMS.hash.upper()])
def test_the_hash_accepts_the_terms(accept: str) -> None:
    assert decide(TERMS, accept=accept, ask=lambda: pytest.fail("asked")) == HASH


@pytest.mark.parametrize("accept", [OTHER.hash, TERMS.hash[:12], TERMS.hash[:31], "", TERMS.hash + "0", TERMS.hash[1:]])
@pytest.mark.parametrize("others", [{}, {"is_local": True}, {"policy": "policy.toml"}, {"ask": lambda: True}])
def test_another_or_a_shorter_hash_does_not_and_the_right_one_is_named(accept: str, others: dict[str, object]) -> None:
    with pytest.raises(ConsentError, match=TERMS.hash):
        decide(TERMS, accept=accept, **others)  # type: ignore[arg-type]


def test_a_person_accepts_or_not() -> None:
    assert decide(TERMS, ask=lambda: True) == ASKED_PERSON
    with pytest.raises(ConsentError, match="not joined"):
        decide(TERMS, ask=lambda: False)


def test_without_a_terminal_nothing_is_accepted_and_the_line_says_how() -> None:
    with pytest.raises(ConsentError, match=f"--accept {TERMS.hash}"):
        decide(TERMS)


def test_a_policy_accepts_without_a_question_and_so_does_one_machine() -> None:
    assert decide(TERMS, policy="policy.toml", ask=lambda: pytest.fail("asked")) == POLICY
    assert decide(TERMS, is_local=True, ask=lambda: pytest.fail("asked")) == LOOPBACK


@pytest.mark.parametrize("others", [{"accept": TERMS.hash}, {"is_local": True}, {"ask": lambda: True}, {}])
def test_nothing_overrules_a_policy_that_refuses(others: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    refusals = ["policy.toml, line 3: max_rounds: expected at most 20, got 30", "policy.toml, line 5: tasks: ..."]
    with caplog.at_level(logging.ERROR), pytest.raises(ConsentError, match="line 5"):
        decide(TERMS, policy="policy.toml", refusals=refusals, **others)  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == refusals[:1]
