"""A hospital survives any messages of a server, in any order; `benchmarks/decoder.py` tries many more."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from malformed_requests import Example, arithmetic_models, examine, examples, original_messages

from federated_health.hospital import handlers
from federated_health.messages.content import REGISTRATION

OUTCOMES = {"answered", "refused", "not a message", "incomplete"}


@pytest.fixture(autouse=True, scope="module")
def _arithmetic() -> Iterator[None]:
    with arithmetic_models():
        yield


def test_the_messages_of_a_run_are_answered_in_their_order() -> None:
    messages = original_messages()
    kinds = [kind for kind, _ in messages]
    second = kinds.index(REGISTRATION, 1)  # of a run with another network, whose hospital is a new process
    assert kinds[:second] == [
        *(REGISTRATION, "train", "train", "train", "evaluate"),
        *("evaluate.threshold", "evaluate.final", "evaluate.appraisal"),
    ]
    for run in (range(second), range(second, len(messages))):
        outcomes = examine((False, [(position, []) for position in run]))
        assert outcomes == [(kinds[position], "answered") for position in run]


def test_evaluations_come_after_a_registration_or_a_training() -> None:
    kinds = [kind for kind, _ in original_messages()]
    position = kinds.index("evaluate.final")
    assert examine((False, [(position, [])])) == [("evaluate.final", "refused")]
    assert examine((True, [(position, [])]))[-1] == ("evaluate.final", "answered")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(examples())
def test_a_malformed_message_has_one_of_the_known_outcomes(example: Example) -> None:
    assert {outcome for _, outcome in examine(example)} <= OUTCOMES


@pytest.mark.parametrize("fault", ["error", "order"])
def test_an_unexpected_error_or_answer_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    @contextmanager
    def answer_all(*_: Any) -> Iterator[None]:
        if fault == "error":
            raise RuntimeError
        yield

    monkeypatch.setattr(handlers, "answering", answer_all)
    position = [kind for kind, _ in original_messages()].index("evaluate.final")
    with pytest.raises((RuntimeError, AssertionError)):
        examine((False, [(position, [])]))
