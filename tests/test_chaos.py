"""Fault injection: trials, light hospitals, invalid updates and the check of a run. Whole runs are in integration/."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from chaos_hospital import (
    ANOTHER_ROUND,
    HUGE,
    ON_THE_WAY,
    OVERSIZES,
    POISONS,
    Poison,
    PoisonedApp,
    light_app,
    train_lightly,
)
from chaos_trials import (
    CYCLE,
    HOSPITALS,
    KINDS,
    SLOW_KEEPALIVE,
    WITHOUT_ONE,
    Fault,
    Pace,
    plan_trials,
    undisturbed,
)
from chaos_verdict import read_contributions, replay
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto

from federated_health.data.hospital import load_hospital
from federated_health.data.task_files import HEART_DISEASE
from federated_health.messages.records import MalformedMessageError, weights_to_record
from federated_health.messages.validation import read_update
from federated_health.ml.networks import Network, initial_weights, weight_shapes, weights_hash
from federated_health.ml.normalisation import Normalisation
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport

NAMES = ["cleveland", "hungary", "switzerland", "va-long-beach"]
SHAPES = weight_shapes(HEART_DISEASE, Network())


@pytest.fixture(scope="module")
def data(hospitals_folder: Path) -> dict[str, Path]:
    return {name: hospitals_folder / f"client_{number}.csv" for number, name in enumerate(NAMES, start=1)}


def test_a_plan_depends_on_its_seed_only_and_a_longer_plan_begins_with_a_shorter_one() -> None:
    plan = plan_trials(1, 100, 10, 20.0)
    assert plan == plan_trials(1, 100, 10, 20.0)
    assert plan[:30] == plan_trials(1, 30, 10, 20.0)
    assert plan != plan_trials(2, 100, 10, 20.0)
    assert [trial.number for trial in plan] == list(range(1, 101))


def test_two_hundred_runs_cover_every_fault_every_kind_and_every_hospital() -> None:
    plan = plan_trials(1, 200, 10, 20.0)
    faults = Counter(trial.fault for trial in plan)
    twice = {Fault.SERVER_KILLED, Fault.POISONED, Fault.POWER_CUT}
    assert faults == {fault: 20 if fault in twice else 10 for fault in Fault}
    for fault, kinds in KINDS.items():
        assert {trial.kind for trial in plan if trial.fault is fault} == set(kinds)
    assert {trial.poison.kind for trial in plan if trial.poison is not None} == set(POISONS)
    assert {trial.victim for trial in plan} == set(range(HOSPITALS))
    assert {trial.fault for trial in plan[: len(Fault)]} == set(Fault)
    assert {trial.strategy for trial in plan if not trial.is_real} == {"fedavg", "fedavgm", "fedyogi"}


def test_hospitals_train_in_the_first_runs_and_where_a_light_one_would_not_do() -> None:
    for trial in plan_trials(1, 200, 10, 20.0):
        needs_training = trial.fault is Fault.HOSTILE_SERVER or (trial.fault is Fault.LIAR and "update" in trial.kind)
        assert trial.is_real == (trial.number <= 10 or needs_training)


def test_drawn_trials_are_within_their_ranges() -> None:
    for trial in plan_trials(3, 300, 50, 20.0):
        assert 0 <= trial.moment < 1
        assert (trial.poison is not None) == (trial.fault is Fault.POISONED)
        lacks_one = trial.fault in WITHOUT_ONE or (trial.fault is Fault.HANG and trial.kind.endswith("for ever"))
        assert trial.min_hospitals == (3 if lacks_one else 4)
        assert trial.is_complete == (trial.min_hospitals == 4 and trial.fault is not Fault.HOSTILE_SERVER)
        if trial.fault in (Fault.SILENT, Fault.CLOSED):
            assert 1 <= trial.seconds <= 20
        if trial.poison is not None:
            assert trial.poison.first >= 1
            assert trial.poison.first + trial.poison.times - 1 <= trial.rounds
            assert trial.round_timeout < 60  # a reply that the server does not wait for costs a whole timeout
        if trial.fault is Fault.HANG:
            assert 2 <= trial.first_round < trial.rounds
        if trial.slow_link is not None:
            assert 172 * trial.slow_link.hidden / trial.slow_link.rate > 2 * SLOW_KEEPALIVE  # 43 weights per unit
    cuts = [trial for trial in plan_trials(3, 300, 50, 20.0) if trial.fault is Fault.SILENT]
    assert any(trial.seconds > trial.round_timeout for trial in cuts)
    assert any(trial.seconds < trial.round_timeout for trial in cuts)


def test_runs_are_compared_with_the_undisturbed_run_of_their_kind() -> None:
    for trial in plan_trials(1, 40, 5, 20.0):
        reference = trial.reference
        assert (reference.fault, reference.poison) == (None, None)
        assert (reference.is_real, reference.strategy, reference.rounds, reference.hidden) == (
            trial.is_real,
            trial.strategy,
            trial.rounds,
            trial.hidden,
        )
    assert len(CYCLE) == len(Fault) + 3


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        (0.0, (0, 0.0)),
        (0.075, (0, 1.0)),  # half way to the first round
        (0.15, (1, 0.0)),
        (0.475, (2, 0.5)),  # half way from the first round, at 2 s, to the last, at 5 s
        (0.8, (3, 0.0)),
        (0.9, (5, 0.5)),  # half way from there to the end, at 10 s
    ],
)
def test_a_moment_is_counted_from_the_mark_before_it(moment: float, place: tuple[int, float]) -> None:
    pace = Pace((2.0, 3.0, 5.0, 6.0, 7.0, 9.0), 10.0)  # three rounds, and three files that are saved
    assert pace.place(moment) == pytest.approx(place)


def test_contributions_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    table = tmp_path / "rounds.csv"
    rows = [
        "round,hospital,train_examples,train_loss,test_examples,test_loss,test_accuracy",
        "1,a,5,0.1,2,0.1,0.5",
        "1,b,0,,2,0.1,0.5",
        "1,federation,5,0.1,4,0.1,0.5",
        "1,federation,0,,4,0.1,0.5",
        "2,a,5,0.1,2,0.1,0.5",
        "2,b,7,0.1,0,,",
        "2,federation,12,0.1,2,0.1,0.5",
    ]
    table.write_text("\n".join(rows) + "\n")
    assert read_contributions(table) == [(1, frozenset("a")), (1, frozenset()), (2, frozenset("ab"))]


# Light hospitals.


def federate(app: ClientApp, data: dict[str, Path], rounds: int = 4) -> PlainRun:
    contexts = {name: hospital_context(name, {"data": str(path)}) for name, path in data.items()}
    settings = replace(Settings(), rounds=rounds, strategy="fedavgm", wait=1.0)
    run = PlainRun(InProcessTransport(app, contexts), settings)
    figures = run.run()
    assert set(figures["hospitals"]) == set(figures["joining"]) == set(data)
    return run


def test_light_hospitals_reply_to_every_message_with_the_same_bits_each_time(data: dict[str, Path]) -> None:
    first, second = (weights_hash(federate(light_app(0.0), data).weights) for _ in range(2))
    assert first == second
    everyone = {number: frozenset(data) for number in range(1, 31)}
    full = undisturbed(False, "fedavgm")
    assert weights_hash(federate(light_app(0.0), data, rounds=30).weights) == replay(full, data, everyone)


@pytest.mark.parametrize("lacking", [1, 15, 30])
def test_a_replay_without_one_update_has_other_weights(data: dict[str, Path], lacking: int) -> None:
    everyone = {number: frozenset(data) for number in range(1, 31)}
    trial = undisturbed(False, "fedavgm")
    without = {**everyone, lacking: everyone[lacking] - {"hungary"}}
    assert replay(trial, data, without) != replay(trial, data, everyone)


def test_a_light_update_depends_on_name_round_seed_and_weights(data: dict[str, Path]) -> None:
    def update(name: str, number: int, seed: int, start: int) -> bytes:
        hospital = load_hospital(data[name], HEART_DISEASE, name, 0)
        message = train_message(hospital_context(name, {}), number, seed=seed, start=start)
        return b"".join(array.tobytes() for array in train_lightly(message, hospital).values())

    base = ("hungary", 3, 42, 1)
    others = [("cleveland", 3, 42, 1), ("hungary", 4, 42, 1), ("hungary", 3, 43, 1), ("hungary", 3, 42, 2)]
    assert update(*base) == update(*base)
    assert len({update(*arguments) for arguments in [base, *others]}) == 5


# Poison.


def train_message(context: Context, number: int, *, seed: int = 42, start: int = 1) -> Message:
    """A train message of a round, as the server sends it."""
    grid = InProcessTransport(ClientApp(), {"hungary": context})
    run = PlainRun(grid, replace(Settings(), seed=seed))
    run.weights = initial_weights(HEART_DISEASE, Network(), start)
    run.normalisation = Normalisation(mean=(0.0,) * 5, variance=(1.0,) * 5)
    config = ConfigRecord({**run.train_config().to_record(), "server-round": number})
    (node,) = grid.get_node_ids()
    content = RecordDict({"arrays": weights_to_record(run.weights), "config": config})
    proto = message_to_proto(Message(content, node, "train"))
    proto.metadata.message_id = f"question {number}"
    return message_from_proto(proto)


def replies_of(poison: Poison, path: Path, rounds: list[int]) -> list[Message]:
    context = hospital_context("hungary", {"data": str(path)})
    app = PoisonedApp(light_app(0.0), poison)
    return [app(train_message(context, number), context) for number in rounds]


@pytest.mark.parametrize("kind", sorted(set(POISONS) - set(ON_THE_WAY) - {"a huge norm"}))
def test_an_invalid_update_is_rejected_when_it_is_read(data: dict[str, Path], kind: str) -> None:
    (reply,) = replies_of(Poison(kind=kind, first=2, times=1), data["hungary"], [2])
    with pytest.raises(MalformedMessageError):
        read_update(reply.content, SHAPES, 220)


def test_a_huge_update_is_readable_and_moves_far(data: dict[str, Path]) -> None:
    poisoned, plain = replies_of(Poison(kind="a huge norm", first=2, times=1), data["hungary"], [2, 3])
    first = next(iter(SHAPES))
    moved = [read_update(reply.content, SHAPES, 220).weights[first] for reply in (poisoned, plain)]
    assert np.abs(moved[0]).min() > HUGE / 2
    assert np.abs(moved[1]).max() < 1


def test_only_the_given_number_of_updates_from_the_given_round_is_invalid(data: dict[str, Path]) -> None:
    replies = replies_of(Poison(kind="NaN", first=3, times=2), data["hungary"], [1, 2, 3, 3, 4])
    first = next(iter(SHAPES))
    invalid = [bool(np.isnan(reply.content.array_records["arrays"][first].numpy()).any()) for reply in replies]
    assert invalid == [False, False, True, True, False]


def test_a_reply_to_another_round_answers_the_message_before(data: dict[str, Path]) -> None:
    replies = replies_of(Poison(kind=ANOTHER_ROUND, first=2, times=1), data["hungary"], [1, 2, 3])
    answered = [reply.metadata.reply_to_message_id for reply in replies]
    assert answered == ["question 1", "question 1", "question 3"]


@pytest.mark.parametrize("kind", OVERSIZES)
def test_an_oversized_update_exceeds_its_stated_size(
    data: dict[str, Path], kind: str, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(patch.stopall)
    (reply,) = replies_of(Poison(kind=kind, first=2, times=1), data["hungary"], [2])
    assert sum(len(array.data) for array in reply.content.array_records["arrays"].values()) > OVERSIZES[kind]
