"""Which of a server's messages a hospital answers: their order, number and work, and the bounds of every value."""

import logging
import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import HealthCheck, given, settings
from malformed_requests import (
    BENEFIT,
    CONFIG,
    EVALUATE,
    FINAL,
    REGISTRATION,
    THRESHOLD,
    TRAIN,
    TRAIN_ROWS,
    Step,
    all_originals,
    open_hospital,
    play,
    quick_models,
    request,
    steps,
)

from federated_health.data.hospital import Hospital, load_hospital
from federated_health.data.task_files import HEART_DISEASE as TASK
from federated_health.hospital import handlers
from federated_health.hospital.handlers import InMemoryHospital
from federated_health.messages import server_messages
from federated_health.messages.server_messages import CONFIG_FIELDS, Field
from federated_health.ml.networks import Weights, initial_weights, number_of_weights
from federated_health.ml.normalisation import Normalisation
from federated_health.secure_aggregation import messages as masked
from federated_health.server.plain_run import PlainRun
from federated_health.setting_fields import flag_of
from federated_health.settings import Settings
from federated_health.transport.app_calls import call_app
from federated_health.transport.in_process import InProcessTransport

ORIGINALS = all_originals()


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest) -> Iterator[None]:
    if "slow" in request.keywords:  # with a hospital's own network
        yield
        return
    with quick_models():
        yield


@pytest.fixture
def hospital() -> InMemoryHospital:
    return open_hospital()


def answers(hospital: Context, message: Message) -> bool:
    """Whether the hospital answers a message, rather than to refuse it with a reason."""
    reply = call_app(handlers.answer, message, hospital)
    if reply.has_error():
        assert not str(reply.error.reason).endswith(" at the hospital"), reply.error.reason
    return not reply.has_error()


def reason_of(hospital: Context, message: Message) -> str:
    reply = call_app(handlers.answer, message, hospital)
    assert reply.has_error()
    return str(reply.error.reason)


# What an honest server does


def test_a_run_is_answered_and_may_be_extended_after_its_end(hospital: InMemoryHospital) -> None:
    assert answers(hospital, request(REGISTRATION))
    for first, last in ((1, 3), (4, 60)):
        for number in range(first, last + 1):
            more: dict[str, Any] = {} if number == first else {"evaluate_first": True}
            assert answers(hospital, request(TRAIN, number, number, **more))
        assert answers(hospital, request(EVALUATE, last, last + 1))
        for kind in (THRESHOLD, FINAL, BENEFIT):
            assert answers(hospital, request(kind, last, last + 1, replace(CONFIG, threshold=0.25)))


@pytest.mark.parametrize("kind", [REGISTRATION, TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT])
def test_the_same_message_is_answered_as_often_as_it_comes_with_the_same_content(
    hospital: InMemoryHospital, kind: str
) -> None:
    answers(hospital, request(REGISTRATION))
    answers(hospital, request(TRAIN))

    replies = [call_app(handlers.answer, request(kind), hospital) for _ in range(30)]

    assert {recorddict_to_proto(reply.content).SerializeToString() for reply in replies} == {
        recorddict_to_proto(replies[0].content).SerializeToString()
    }


def test_the_first_request_to_register_is_answered_again_during_a_run(hospital: InMemoryHospital) -> None:
    for number in range(1, 40):
        assert answers(hospital, request(REGISTRATION))
        assert answers(hospital, request(TRAIN, number, number))


def test_a_server_that_is_killed_in_the_same_round_twice_sends_it_with_other_weights(
    hospital: InMemoryHospital,
) -> None:
    answers(hospital, request(REGISTRATION))
    for number in (1, 2, 3):
        answers(hospital, request(TRAIN, number, number))
    for weights in (40, 41):
        assert answers(hospital, request(TRAIN, 3, 3))  # resumed from the checkpoint of round 2: without an evaluation
        assert answers(hospital, request(TRAIN, 4, weights, evaluate_first=True))
        assert answers(hospital, request(EVALUATE, 4, weights + 10))
    assert answers(hospital, request(FINAL, 4, 51))


def test_a_hospital_that_joins_late_takes_part_in_evaluations_at_once(hospital: InMemoryHospital) -> None:
    answers(hospital, request(REGISTRATION))
    assert answers(hospital, request(EVALUATE, 16, 1))  # it joined between the training and the evaluation
    assert answers(hospital, request(TRAIN, 17, 1))
    assert answers(hospital, request(FINAL, 17, 2))


def test_a_hospital_that_lost_its_state_trains_without_another_registration(hospital: InMemoryHospital) -> None:
    """A server of Flower's engines may not notice it."""
    assert answers(hospital, request(TRAIN, 5))
    assert answers(hospital, request(EVALUATE, 5, 2))


def test_what_was_asked_survives_in_the_state_that_flower_stores(hospital: InMemoryHospital) -> None:
    for message in (request(REGISTRATION), request(TRAIN), *(request(EVALUATE, 1, weights) for weights in (2, 3, 4))):
        assert answers(hospital, message)
    for weights in (5, 6):
        hospital.state = recorddict_from_proto(recorddict_to_proto(hospital.state))
        assert not answers(hospital, request(EVALUATE, 1, weights))


def test_what_is_remembered_does_not_grow_with_the_rounds(hospital: InMemoryHospital) -> None:
    def size_after(rounds: range) -> int:
        for number in rounds:
            assert answers(hospital, request(TRAIN, number))
        return len(recorddict_to_proto(hospital.state).SerializeToString())

    assert size_after(range(1, 200)) == pytest.approx(size_after(range(200, 400)), abs=200)


# What it does not


@pytest.mark.parametrize("kind", [EVALUATE, THRESHOLD, FINAL, BENEFIT])
def test_nothing_is_evaluated_before_a_registration_or_a_training(hospital: InMemoryHospital, kind: str) -> None:
    assert "first" in reason_of(hospital, request(kind))
    assert answers(hospital, request(REGISTRATION))
    assert answers(hospital, request(kind))


@pytest.mark.parametrize("kind", [REGISTRATION, TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT])
def test_few_different_messages_of_one_kind_and_round_are_answered(hospital: InMemoryHospital, kind: str) -> None:
    answers(hospital, request(REGISTRATION))
    for number in range(1, 30):
        answers(hospital, request(TRAIN, number))  # evaluations are allowed after it
    different = [request(kind, 30, weights) for weights in range(1, 30)]
    if kind == REGISTRATION:
        different = [request(kind, class_counts=True), request(kind, sums_withheld=True), request(kind, x=1.0)]

    answered = sum(answers(hospital, message) for message in different)

    assert answered == {TRAIN: 4, REGISTRATION: 2}.get(kind, 3)  # of registrations, one was answered before


def test_an_evaluation_needs_a_training(hospital: InMemoryHospital) -> None:
    answers(hospital, request(REGISTRATION))
    answered = [answers(hospital, request(EVALUATE, number, number)) for number in range(1, 81)]
    assert sum(answered) == 1

    for number in range(81, 101):
        answers(hospital, request(TRAIN, number, number, evaluate_first=True))
    more = [answers(hospital, request(EVALUATE, number, number)) for number in range(101, 181)]
    assert sum(more) == server_messages.SPARE_EVALUATIONS - 1


def test_the_same_training_again_does_not_allow_another_evaluation(hospital: InMemoryHospital) -> None:
    answers(hospital, request(REGISTRATION))
    for _ in range(20):
        assert answers(hospital, request(TRAIN))
    answered = sum(answers(hospital, request(EVALUATE, 1 + number // 3, number)) for number in range(12))
    assert answered <= 2 + server_messages.SPARE_EVALUATIONS  # the second is compared with the first from then on


def test_a_round_cannot_be_asked_again_once_its_messages_are_forgotten(hospital: InMemoryHospital) -> None:
    """A server goes through 40 rounds again and again, each time with other weights."""
    answers(hospital, request(REGISTRATION))
    answered = [
        sum(answers(hospital, request(TRAIN, number, 100 * turn + number)) for number in range(1, 41))
        for turn in range(8)
    ]
    assert answered[:4] == [40, 40, 40, 40]  # the run, and MAX_DIFFERENT that are begun anew
    assert answered[4:] == [4, 4, 4, 0]  # rounds 37 to 40, 4 different messages of each


def test_messages_of_rounds_in_reverse_order_are_few(hospital: InMemoryHospital) -> None:
    answers(hospital, request(REGISTRATION))
    assert sum(answers(hospital, request(TRAIN, number, number)) for number in range(400, 0, -1)) == 16


def test_few_configurations_are_answered(hospital: InMemoryHospital) -> None:
    answers(hospital, request(REGISTRATION))
    for number in range(1, 40):
        config = replace(CONFIG, normalisation=Normalisation(mean=(float(number),) * 5, variance=(1.0,) * 5))
        is_answered = answers(hospital, request(TRAIN, number, config=config))
        assert is_answered == (number <= 3)
    first = replace(config, normalisation=Normalisation(mean=(1.0,) * 5, variance=(1.0,) * 5))
    assert answers(hospital, request(TRAIN, 50, config=first))


@pytest.mark.parametrize(
    "change",
    [
        {"local_epochs": 10_000, "batch_size": 100_000},
        {"batch_size": 1_000_000, "local_epochs": 101},
        {"normalisation": Normalisation((1.0,) * 4, (1.0,) * 4)},
        {"class_weights": (1.0, 1.0, 1.0)},
    ],
)
def test_a_message_that_asks_for_too_much_or_does_not_fit_the_task_is_refused(
    hospital: InMemoryHospital, change: dict[str, Any]
) -> None:
    assert not answers(hospital, request(TRAIN, config=replace(CONFIG, **change)))


def test_the_benefit_of_joining_of_too_many_rounds_is_refused(
    hospital: InMemoryHospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(hospital, request(REGISTRATION))
    passes, weights = 2 * math.ceil(TRAIN_ROWS / 16) * 16, number_of_weights(TASK, CONFIG.network)
    monkeypatch.setattr(server_messages, "MAX_WORK", 10 * passes * weights)
    assert answers(hospital, request(BENEFIT, 10))
    assert not answers(hospital, request(BENEFIT, 11))


def test_a_small_message_cannot_ask_for_a_large_network(hospital: InMemoryHospital) -> None:
    with_units: dict[str, Any] = {"model": "mlp", "hidden": "65536,65536", "activation": "relu"}
    assert not answers(hospital, request(TRAIN, **with_units))
    assert "weights" in reason_of(hospital, request(TRAIN, **{**with_units, "hidden": "60000"}))


def test_a_refusal_is_logged_once_per_kind_and_says_what_was_asked(
    hospital: InMemoryHospital, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1, 50):
        answers(hospital, request(EVALUATE, number))
        answers(hospital, request(TRAIN, number, config=replace(CONFIG, learning_rate=math.nan)))

    shown = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]

    assert len(shown) == 2
    assert all("refused the server's" in line for line in shown)
    assert {"evaluate" in shown[0], "learning_rate" in shown[1]} == {True}


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(steps())
def test_malformed_and_unexpected_messages_are_refused(drawn: list[Step]) -> None:
    with quick_models():
        assert "failed" not in play(drawn, ORIGINALS).outcomes


# Bounds of every value

BAD: dict[type, list[Any]] = {
    int: [True, 1.0, "1", [1], math.nan, -(2**63), 2**63 - 1],
    float: [True, 1, "1", [0.5], math.nan, math.inf, -math.inf],
    str: [1, b"x", ["x"], "x" * 200_000],
    bool: [1, 0, "true", [True]],
}


def bad_values(name: str, field: Field) -> list[Any]:
    """Values of a wrong type, and beyond each bound."""
    if field.length:
        return [
            1.0,
            [],
            [math.nan] * 5,
            [math.inf] * 5,
            [1] * 5,
            [True] * 5,
            ["1"] * 5,
            [field.high * 10] * 5,
            [1.0] * 6,
        ]
    bad = list(BAD[field.type])
    if field.type in (int, float):
        bad += [field.type(field.high + max(1, field.high / 10)), field.type(-1)]
        if name != "rounds" and field.low > 0:
            bad.append(field.type(0))
    return bad


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_a_value_of_a_wrong_type_or_out_of_bounds_is_refused(hospital: InMemoryHospital, name: str) -> None:
    answers(hospital, request(REGISTRATION))
    kind = REGISTRATION if name in ("terms", "run-terms", "sums-withheld", "class-counts") else TRAIN
    for value in bad_values(name, CONFIG_FIELDS[name]):
        if name == "class_weights" and value == []:
            continue  # all rows count the same
        message = request(kind)
        message.content.config_records["config"].__dict__["_data"][name] = value  # Flower allows no NaN of an int
        assert not answers(hospital, message), value


def test_every_value_that_a_server_sends_has_bounds() -> None:
    sent: dict[str, set[str]] = {}

    def record(message: Message, context: Context) -> Message:
        sent.setdefault(message.metadata.message_type, set()).update(message.content.config_records["config"])
        return handlers.answer(message, context)

    contexts = {name: open_named(name) for name in "ab"}
    chosen = {"hospitals": 2, "rounds": 2, "model": "logistic", "class_weight": "balanced", "strategy": "fedprox"}
    PlainRun(InProcessTransport(record, contexts), Settings(**chosen)).run()  # type: ignore[arg-type]

    assert set(sent) == {REGISTRATION, TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT}
    assert set().union(*sent.values()) == set(CONFIG_FIELDS) - {"sums-withheld"}


def open_named(name: str) -> InMemoryHospital:
    rows = open_hospital().hospital
    return InMemoryHospital(Hospital(name, TASK, rows.train, rows.test))


def test_settings_allow_what_a_hospital_accepts() -> None:
    for setting in fields(Settings):
        field = CONFIG_FIELDS.get(setting.name)
        if field is None or field.type not in (int, float):
            continue
        maximum = setting.metadata["maximum"]
        if setting.name not in ("seed", "dropout"):  # any of its type, and below 1
            assert maximum == field.high, flag_of(setting)
        least = setting.metadata["minimum"] if setting.metadata["above"] is None else 5e-324
        assert least in (field.low, field.low + (setting.name == "rounds")), flag_of(setting)


def test_kinds_of_messages_of_secure_aggregation_are_known() -> None:
    kinds = {*server_messages.KEYS, server_messages.SUMS, *server_messages.TRAINING, *server_messages.EVALUATION}
    kinds |= set(server_messages.LAST)
    ours = {value for name, value in vars(masked).items() if name.isupper() and isinstance(value, str) and "." in value}
    assert ours == kinds - {TRAIN, EVALUATE, THRESHOLD, FINAL, BENEFIT}


def test_the_documented_bounds_are_those_of_the_code() -> None:
    rows = (Path(__file__).parent.parent / "docs" / "privacy.md").read_text().splitlines()
    documented = dict(row.strip("| ").split(" | ", 1) for row in rows if row.startswith("| `"))
    assert documented == {f"`{name}`": str(field) for name, field in CONFIG_FIELDS.items()}


# The attack

RAW = Normalisation(mean=(0.0,) * 5, variance=(1.0,) * 5)
"""A normalisation of a server that wants to see raw values."""


def weights_that_see(age: float, column: str = "", above: float = 0.0) -> Weights:
    """Weights with which the risk is at least 0.5 for patients of at least this age.

    Where a column is named, they are those of this age whose value is at least `above`; older ones have negative
    outputs, and there must be no younger ones.
    """
    weights = initial_weights(TASK, CONFIG.network, 1)
    kernel, bias = weights["logit/kernel"], weights["logit/bias"]
    kernel[:], bias[:] = 0.0, 0.0
    position = {name: TASK.feature_slices[TASK.column_names.index(name)].start for name in TASK.column_names}
    if not column:
        kernel[position["age"]], bias[:] = 1.0, 0.5 - age
    else:
        kernel[position["age"]], kernel[position[column]], bias[:] = -1e4, 1.0, age * 1e4 - above
    return weights


RANGES = (("trestbps", 60.0, 252.0), ("chol", 80.0, 592.0), ("thalach", 30.0, 222.0), ("oldpeak", -3.0, 9.0))


def attack(ask: Any) -> tuple[list[float], dict[str, float]]:
    """Ages of held-out patients, and values of the youngest one, as far as the hospital answers.

    Args:
        ask: the number of patients with a risk of at least 0.5 under these weights; None if it is refused.
    """
    counts = {age: ask(weights_that_see(age)) for age in range(20, 100)}
    ages: list[float] = []
    for age in range(20, 99):
        if counts[age] is not None and counts[age + 1] is not None:
            ages += [float(age)] * (counts[age] - counts[age + 1])
    values: dict[str, float] = {}
    if ages:
        for column, low, high in RANGES:
            for _ in range(7):
                middle = (low + high) / 2
                low, high = (middle, high) if ask(weights_that_see(min(ages), column, middle)) else (low, middle)
            values[column] = (low + high) / 2
    return ages, values


@pytest.fixture
def cleveland(hospitals_folder: Path) -> InMemoryHospital:
    return InMemoryHospital(load_hospital(hospitals_folder / "client_1.csv", TASK, "cleveland", 42))


def positives(evaluation: Any) -> int:
    return int(evaluation.counts.true_positives + evaluation.counts.false_positives)


@pytest.mark.slow
def test_a_server_that_only_evaluates_learns_no_age(cleveland: InMemoryHospital) -> None:
    config, held_out = replace(CONFIG, normalisation=RAW), cleveland.hospital.test.values
    questions = 0

    def unlimited(weights: Weights) -> int:
        nonlocal questions
        questions += 1
        return positives(handlers.evaluate(request(EVALUATE, questions, weights, config), cleveland))

    ages, values = attack(unlimited)  # as hospitals answered before they counted

    assert questions == 80 + 28
    assert ages == sorted(held_out[:, 0].tolist())
    youngest = held_out[held_out[:, 0] == min(ages)]
    assert len(youngest) == 1
    for column, steps_of in {"trestbps": 0.75, "chol": 2.0, "thalach": 0.75, "oldpeak": 0.05}.items():
        assert values[column] == pytest.approx(youngest[0, TASK.column_names.index(column)], abs=steps_of)

    answered: list[bool] = []

    def limited(weights: Weights) -> int | None:
        message = request(EVALUATE, len(answered) + 1, weights, config)
        reply = call_app(handlers.answer, message, cleveland)
        answered.append(not reply.has_error())
        if reply.has_error():
            return None
        metrics: Any = reply.content.metric_records["metrics"]
        return int(metrics["true_positives"] + metrics["false_positives"])

    assert attack(limited) == ([], {})
    assert sum(answered) == 0  # it asked for no statistics and no training
    answers(cleveland, request(REGISTRATION))
    assert attack(limited) == ([], {})
    assert sum(answered) == 1
