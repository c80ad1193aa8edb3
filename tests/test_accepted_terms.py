"""A hospital holds its server to the run terms that it accepted, whichever transport they came over."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from malformed_requests import (
    BENEFIT,
    CONFIG,
    EVALUATE,
    FINAL,
    REGISTRATION,
    THRESHOLD,
    TRAIN,
    QuickModel,
    open_hospital,
    quick_models,
    request,
)

from federated_health.errors import AnswerError, TermsError
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages.accepted_terms import MAX_TRAININGS_PER_ROUND, accept
from federated_health.messages.run_terms import RUN_TERMS, RunTerms
from federated_health.ml.networks import Network
from federated_health.names import RUN_ID
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import call_app, failed_reply, hospital_context
from federated_health.transport.in_process import InProcessTransport

SETTINGS = Settings(model="logistic", local_epochs=2, batch_size=16, learning_rate=0.1, l2=0.01, rounds=30)
TERMS = RunTerms.of(SETTINGS)
KINDS = (TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT)


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with quick_models():
        yield


@pytest.fixture
def hospital() -> InMemoryHospital:
    """A hospital of which a person accepted the terms, and which has registered."""
    hospital = open_hospital()
    accept(hospital, TERMS.text, "asked")
    answer(hospital, registration())
    return hospital


def registration(terms: RunTerms = TERMS, **more: Any) -> Message:
    return request(REGISTRATION, run_terms=terms.text, **more)


def answer(hospital: Context, message: Message) -> Message:
    reply = call_app(handlers.answer, message, hospital)
    assert not reply.has_error(), reply.error.reason
    return reply


def refuses_for_good(hospital: Context, message: Message, word: str) -> None:
    """The message is refused, names what differs, and every later one is refused, too."""
    with pytest.raises(TermsError, match=word):
        call_app(handlers.answer, message, hospital)
    for later in (request(TRAIN), registration()):
        with pytest.raises(TermsError, match=word):
            call_app(handlers.answer, later, hospital)


def test_a_run_within_the_terms_is_answered_to_its_end(hospital: InMemoryHospital) -> None:
    for number in range(1, 31):
        answer(hospital, request(TRAIN, number, number, evaluate_first=number > 1))
    answer(hospital, request(EVALUATE, 30, 31))
    for kind in (THRESHOLD, FINAL, BENEFIT):
        answer(hospital, request(kind, 30, 31, replace(CONFIG, threshold=0.25)))


OUTSIDE: list[dict[str, Any]] = [
    {"strategy": "fedprox"},
    {"strategy_args": "proximal-mu=0.1"},
    {"local_epochs": 3},
    {"batch_size": 15},
    {"learning_rate": 0.2},
    {"optimizer": "adam"},
    {"l2": 0.0},
    {"seed": 43},
    {"class_weights": (1.0, 2.0)},
    {"network": Network("mlp", (16,))},
    {"network": Network("mlp", (1,), "tanh")},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", OUTSIDE, ids=lambda change: next(iter(change)))
def test_a_setting_outside_the_terms_ends_the_participation(
    hospital: InMemoryHospital, kind: str, change: dict[str, Any]
) -> None:
    answer(hospital, request(TRAIN, 1, 2))
    word = "model" if "network" in change else next(iter(change))
    refuses_for_good(hospital, request(kind, 2, config=replace(CONFIG, **change)), word)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [{"task": "readmission"}, {"schema": "0" * 64}])
def test_another_task_is_refused(hospital: InMemoryHospital, kind: str, change: dict[str, Any]) -> None:
    refuses_for_good(hospital, request(kind, 2, **change), next(iter(change)))


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (request(TRAIN, 31), "server-round"),
        (request(EVALUATE, 31), "server-round"),
        (request(TRAIN, 2, rounds=31), "rounds"),
        (request(FINAL, 31), "rounds"),
        (request(BENEFIT, 100_000), "rounds"),
        (request(TRAIN, 2, proximal_mu=0.1), "proximal-mu"),
        (request("train.masked", 2), "secure aggregation"),
        (request("query.offer"), "secure aggregation"),
    ],
)
def test_a_message_outside_the_terms_ends_the_participation(
    hospital: InMemoryHospital, message: Message, word: str
) -> None:
    refuses_for_good(hospital, message, word)


@pytest.mark.parametrize(
    ("settings", "kind", "more"),
    [
        (replace(SETTINGS, appraisal=False), BENEFIT, {}),
        (replace(SETTINGS, dp_epsilon=2.0), EVALUATE, {}),
        (replace(SETTINGS, dp_epsilon=2.0), THRESHOLD, {}),
        (replace(SETTINGS, dp_epsilon=2.0), BENEFIT, {}),
        (replace(SETTINGS, dp_epsilon=2.0), TRAIN, {"evaluate_first": True}),
    ],
)
def test_a_kind_of_message_whose_release_the_terms_do_not_list_is_refused(
    settings: Settings, kind: str, more: dict[str, Any]
) -> None:
    hospital = open_hospital()
    accept(hospital, RunTerms.of(settings).text, "asked")
    refuses_for_good(hospital, request(kind, 2, **more), "terms of the run")


@pytest.mark.parametrize("secure", [True, False])
def test_messages_without_secure_aggregation_need_terms_without(secure: bool) -> None:
    hospital = open_hospital()
    accept(hospital, replace(TERMS, secure_aggregation=secure).text, "asked")
    if secure:
        refuses_for_good(hospital, request(TRAIN), "secure aggregation")
    else:
        answer(hospital, request(TRAIN))


@pytest.mark.parametrize(
    ("change", "kind", "number"),
    [
        ({}, "train.masked", 61),
        ({}, "evaluate.masked", 61),
        ({}, "evaluate.masked_final", 31),
        ({"epsilon": 2.0, "delta": 1e-5}, "evaluate.masked", 2),
        ({"epsilon": 2.0, "delta": 1e-5}, "evaluate.masked_threshold", 2),
    ],
)
def test_with_secure_aggregation_the_same_is_outside_the_terms(change: dict[str, Any], kind: str, number: int) -> None:
    """But a round that is repeated gets the next number there."""
    hospital = open_hospital()
    accept(hospital, replace(TERMS, secure_aggregation=True, **change).text, "asked")
    in_rounds = kind in ("train.masked", "evaluate.masked")
    message = request(kind, number)
    if in_rounds:
        message.content.config_records["config"].update({"server-round": number, "rounds": 1})
    refuses_for_good(hospital, message, "terms of the run")


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"sums_withheld": True}, "sums-withheld"),
        ({"class_counts": True}, "class-counts"),
        ({"dp_epsilon": 2.0}, "dp-epsilon"),
        ({"dp_delta": 1e-5}, "dp-delta"),
    ],
)
def test_a_request_to_register_outside_the_terms_is_refused(more: dict[str, Any], word: str) -> None:
    hospital = open_hospital()
    accept(hospital, TERMS.text, "asked")
    refuses_for_good(hospital, registration(**more), word)


@pytest.mark.parametrize("change", [{"epsilon": 2.0, "delta": 1e-5}, {"secure_aggregation": True}])
def test_a_registration_without_the_protection_that_the_terms_promise_is_refused(change: dict[str, Any]) -> None:
    promised, hospital = replace(TERMS, **change), open_hospital()
    accept(hospital, promised.text, "asked")
    with pytest.raises(TermsError):
        call_app(handlers.answer, registration(promised), hospital)


def test_a_wrong_number_of_weights_in_the_terms_is_noticed() -> None:
    hospital, small = open_hospital(), replace(TERMS, parameters=1)
    accept(hospital, small.text, "policy")
    with pytest.raises(TermsError, match="parameters"):
        call_app(handlers.answer, request(TRAIN), hospital)


def test_a_request_with_other_terms_than_those_that_were_accepted_is_refused() -> None:
    hospital = open_hospital()
    accept(hospital, TERMS.text, "asked")
    refuses_for_good(hospital, registration(replace(TERMS, rounds=29)), "other run terms")


def test_a_request_without_terms_is_refused_if_some_were_accepted() -> None:
    hospital = open_hospital()
    accept(hospital, TERMS.text, "asked")
    refuses_for_good(hospital, request(REGISTRATION), "other run terms")


def test_the_trainings_are_at_most_twice_the_rounds(hospital: InMemoryHospital) -> None:
    for number in range(1, 31):
        for weights in (1, 2):
            answer(hospital, request(TRAIN, number, weights))
    assert hospital.state["asked"]["trained"] == MAX_TRAININGS_PER_ROUND * TERMS.rounds
    refuses_for_good(hospital, request(TRAIN, 30, 3), "60 trainings")


def test_terms_accepted_anew_allow_their_own_number_of_trainings(hospital: InMemoryHospital) -> None:
    for number in range(1, 31):
        for weights in (1, 2):
            answer(hospital, request(TRAIN, number, weights))
    extended = RunTerms.of(replace(SETTINGS, rounds=40))
    accept(hospital, extended.text, "asked")
    answer(hospital, registration(extended))
    for number in range(31, 41):
        answer(hospital, request(TRAIN, number))
    refuses_for_good(hospital, request(TRAIN, 41), "at most 40")


def test_the_normalisation_may_change_during_a_run(hospital: InMemoryHospital) -> None:
    answer(hospital, request(TRAIN, 1))
    other = replace(CONFIG, normalisation=replace(CONFIG.normalisation, mean=(51.0,) * 5))
    answer(hospital, request(TRAIN, 2, config=other))


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_rounds_are_evaluated_at_one_threshold(hospital: InMemoryHospital, kind: str) -> None:
    answer(hospital, request(TRAIN, 1))
    refuses_for_good(hospital, request(kind, 2, config=replace(CONFIG, threshold=0.3)), "threshold")


def test_a_refusal_is_logged_and_holds_in_the_state_that_flower_stores(
    hospital: InMemoryHospital, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(TermsError):
        call_app(handlers.answer, request(TRAIN, config=replace(CONFIG, seed=1)), hospital)
    assert "seed: expected 42" in caplog.text
    hospital.state = recorddict_from_proto(recorddict_to_proto(hospital.state))
    with pytest.raises(TermsError, match="seed"):
        call_app(handlers.answer, request(TRAIN), hospital)


# Transports without a question before the hospital joins


def test_a_hospital_in_process_accepts_by_itself_also_the_terms_of_another_run() -> None:
    hospital = open_hospital()
    answer(hospital, registration())
    answer(hospital, registration(replace(TERMS, rounds=5)))
    assert hospital.state[RUN_TERMS]["text"] == replace(TERMS, rounds=5).text
    refuses_for_good(hospital, request(TRAIN, 6), "at most 5")


def engine_context(data: Path, **node_config: Any) -> Context:
    """A hospital of Flower's deployment engine, whose runs have random numbers."""
    own = hospital_context("a", {"data": str(data), "name": "a", **node_config})
    return Context(RUN_ID + 12345, own.node_id, own.node_config, RecordDict(), {"rounds": 30})


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('max_rounds = 30\ntasks = ["heart-disease"]\n')
    return path


def test_under_flower_s_engine_a_policy_accepts_and_holds_the_server_to_its_terms(
    hospitals_folder: Path, policy: Path
) -> None:
    context = engine_context(hospitals_folder / "client_1.csv", policy=str(policy))
    assert not handlers.answer(registration(), context).has_error()
    assert context.state[RUN_TERMS]["by"] == "policy"
    for message in (request(TRAIN, 31), request(TRAIN)):
        with pytest.raises(AnswerError, match="at most 30"):
            handlers.answer(message, context)


def test_under_flower_s_engine_a_policy_refuses_with_its_line(
    hospitals_folder: Path, policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy.write_text("max_rounds = 29\n")
    context = engine_context(hospitals_folder / "client_1.csv", policy=str(policy))
    with caplog.at_level(logging.ERROR), pytest.raises(AnswerError, match="its policy does not allow") as raised:
        handlers.answer(registration(), context)
    assert "line 1: max_rounds: expected at most 29" in caplog.text
    assert "policy.toml" not in str(raised.value)


@pytest.mark.parametrize("message", [registration(), request(REGISTRATION), request(TRAIN), request(FINAL)])
def test_under_flower_s_engine_nothing_is_answered_without_a_policy(hospitals_folder: Path, message: Message) -> None:
    context = engine_context(hospitals_folder / "client_1.csv")
    with pytest.raises(AnswerError, match=r"policy|terms"):
        handlers.answer(message, context)


def test_under_flower_s_engine_a_server_without_terms_is_refused(hospitals_folder: Path, policy: Path) -> None:
    context = engine_context(hospitals_folder / "client_1.csv", policy=str(policy))
    with pytest.raises(AnswerError, match="no run terms"):
        handlers.answer(request(REGISTRATION), context)


def test_a_simulated_hospital_accepts_by_itself(hospitals_folder: Path) -> None:
    own = hospital_context("a", {"partition-id": 0})
    context = Context(99, own.node_id, {"partition-id": 0}, RecordDict(), {"data": str(hospitals_folder)})
    assert not handlers.answer(registration(), context).has_error()
    assert ConfigRecord({"text": TERMS.text}).items() <= context.state[RUN_TERMS].items()


def test_under_flower_s_engine_a_hospital_that_lost_its_state_is_asked_to_register_again(
    hospitals_folder: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federated_health.server.participants.RETRY_INTERVAL", 0.0)
    monkeypatch.setattr(QuickModel, "train_rows", property(lambda model: len(model.hospital.train)))
    contexts = {
        name: engine_context(hospitals_folder / f"client_{number}.csv", policy=str(policy), name=name)
        for number, name in enumerate("ab", 1)
    }

    def app(message: Message, context: Context) -> Message:
        try:
            return handlers.answer(message, context)
        except AnswerError as error:
            return failed_reply(message, str(error))

    run = PlainRun(InProcessTransport(app, contexts), replace(SETTINGS, hospitals=2, min_hospitals=1, rounds=4))
    run.gather()
    for completed in run.rounds():
        if completed.number == 1:
            contexts["b"].state = RecordDict()
    trained = [{name for name, part in record.hospitals.items() if part.train_examples} for record in run.history]
    assert trained[0] == trained[-1] == {"a", "b"}
    assert {"a"} in trained
