"""Runs in which hospitals fail, come and go, and servers die between rounds: with light hospitals, in process."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from federated_health.errors import RunError
from federated_health.messages.content import Update
from federated_health.ml.networks import Weights
from federated_health.ml.strategies import STRATEGIES
from federated_health.server import participants, run
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport import backoff
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import hospital_context
from tests.support.light_hospitals import LightHospital, app_of, settings_of, shift_of, three, three_with_scores

Hook = Callable[[str, str], None]
"""Called with a hospital's name and the kind of a message before it is answered; may raise."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(run, "REJOIN_SECONDS", 0.05)


class ComingAndGoing(InProcessTransport):
    """Hospitals in process, of which those in `gone` are not connected."""

    def __init__(self, hospitals: list[LightHospital], hook: Hook = lambda *_: None) -> None:
        self.gone: set[str] = set()
        app = app_of({hospital.name: hospital for hospital in hospitals})

        def answer(message: Message, context: Context) -> Message:
            hook(str(context.node_config["name"]), message.metadata.message_type)
            return app(message, context)

        super().__init__(cast(ClientApp, answer), {one.name: hospital_context(one.name, {}) for one in hospitals})

    def names(self) -> dict[int, str]:
        return {node: name for node, name in super().names().items() if name not in self.gone}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        there = self.names()
        self._contexts = {node: hospital_context(name, {}) for node, name in super().names().items() if node in there}
        return super().send(messages)


class Failing:
    """A hook with which a hospital fails at one kind of message, so many times."""

    def __init__(self, name: str, kind: str, times: int, after: int = 0) -> None:
        self.name, self.kind, self.times, self.after = name, kind, times, after
        self.asked: Counter[tuple[str, str]] = Counter()

    def __call__(self, name: str, kind: str) -> None:
        self.asked[name, kind] += 1
        if (name, kind) == (self.name, self.kind) and self.after < self.asked[name, kind] <= self.after + self.times:
            raise OSError


def settings(**changed: object) -> Settings:
    return replace(settings_of("fedavg"), **{"min_hospitals": 3, "wait": 5.0, "appraisal": False, **changed})  # type: ignore[arg-type]


def equal(one: Weights, other: Weights) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def undisturbed(chosen: Settings) -> PlainRun:
    federated_run = PlainRun(ComingAndGoing(three_with_scores()), chosen)
    federated_run.run()
    return federated_run


# Rounds that are repeated


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_round_that_lacks_a_hospital_is_repeated_and_leaves_no_trace_in_the_weights(strategy: str) -> None:
    chosen = settings(strategy=strategy)
    failing = Failing("c", "train", 4, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), chosen)
    federated_run.run()
    assert equal(federated_run.weights, undisturbed(chosen).weights)
    assert [list(one.hospitals) for one in federated_run.history] == [["a", "b", "c"]] * 3
    assert federated_run.problems.repeated_rounds == 4
    assert federated_run.problems.to_json()["unanswered"] == {"c": {"OSError at the hospital": 4}}
    assert failing.asked["a", "train"] == 3 + 4


def test_a_round_with_enough_updates_goes_on_without_the_others_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing("c", "train", 2, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(min_hospitals=2, rounds=5))
    federated_run.run()
    trained = [[one.train_loss is not None for one in record.hospitals.values()] for record in federated_run.history]
    assert trained == [
        [True, True, True],
        [True, True],  # evaluated by the messages of round 3, to which c did not answer, either
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    assert [len([one for one in record.hospitals.values() if one.counts]) for record in federated_run.history] == [
        2,
        2,
        3,
        3,
        3,
    ]
    assert federated_run.problems.to_json()["absent"] == {"c": 2}
    assert federated_run.problems.repeated_rounds == 0
    said = [
        record.getMessage() for record in caplog.records if re.match(r"round \d: (without|no)", record.getMessage())
    ]
    assert said == ["round 2: without c", "round 4: no hospital is absent"]


def test_by_default_a_round_needs_more_than_half_of_the_hospitals() -> None:
    needed = [settings(min_hospitals=0, hospitals=number).min_updates for number in (1, 2, 3, 4, 5)]
    assert needed == [1, 2, 2, 3, 3]
    assert settings(min_hospitals=1).min_updates == 1
    assert settings(min_hospitals=1, strategy="krum").min_updates == 3


def test_repeating_ends_with_the_wait_in_one_line_that_names_who_is_lacking() -> None:
    failing = Failing("b", "train", 10**6, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(wait=0.1))
    federated_run.gather()
    rounds = federated_run.rounds()
    next(rounds)
    with pytest.raises(RunError) as caught:
        next(rounds)
    assert re.match(r"round 2: 2 of 3 hospitals .* 3 are needed \(--min-hospitals\); .*\bb$", str(caught.value))
    assert len(federated_run.history) == 1


@pytest.mark.parametrize("kind", ["evaluate.threshold", "evaluate.final"])
def test_what_is_asked_at_the_end_is_asked_again_where_too_few_answer(kind: str) -> None:
    failing = Failing("b", kind, 2)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings())
    figures = federated_run.run()
    expected = undisturbed(settings())
    assert federated_run.threshold == expected.threshold != 0.5
    assert list(figures["hospitals"]) == ["a", "b", "c"]
    assert failing.asked["a", kind] == 1
    assert failing.asked["b", kind] == 3


def test_at_the_end_a_hospital_that_answers_nothing_is_asked_three_times() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    figures = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(wait=10.0**7)).run()
    assert list(figures["hospitals"]) == ["a", "c"]
    assert failing.asked["b", "evaluate.final"] == 3


def test_at_the_end_one_that_answers_nothing_is_asked_no_more_while_another_is_waited_for() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    grid = ComingAndGoing(three_with_scores(), failing)
    federated_run = PlainRun(grid, settings(wait=0.5))
    federated_run.gather()
    list(federated_run.rounds())
    grid.gone = {"c"}
    assert list(federated_run.evaluate()["hospitals"]) == ["a"]
    assert failing.asked["b", "evaluate.final"] == 3


def test_at_the_end_enough_answers_are_enough() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(min_hospitals=2, wait=10.0**7))
    assert list(federated_run.run()["hospitals"]) == ["a", "c"]
    assert failing.asked["b", "evaluate.final"] == 1


def test_at_the_end_a_hospital_that_is_away_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings(wait=0.1))
    federated_run.gather()
    list(federated_run.rounds())
    grid.gone = {"b"}
    assert list(federated_run.evaluate()["hospitals"]) == ["a", "c"]
    assert "evaluate.final: 2 of 3 hospitals answered" in caplog.text


def test_an_evaluation_that_is_lacking_costs_its_counts_alone() -> None:
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), Failing("b", "evaluate", 10**6)), settings())
    federated_run.run()
    assert equal(federated_run.weights, undisturbed(settings()).weights)
    assert [one.hospitals["b"].counts is None for one in federated_run.history] == [False, False, True]


def kinds_asked(**changed: object) -> list[str]:
    """Kinds of message that hospital a gets in a run, in their order."""
    asked: list[str] = []
    grid = ComingAndGoing(three_with_scores(), lambda name, kind: asked.append(kind) if name == "a" else None)
    PlainRun(grid, settings(**changed)).run()
    return asked


def test_a_round_is_one_message_and_the_last_is_evaluated_apart() -> None:
    finally_asked = ["evaluate", "evaluate.threshold", "evaluate.final"]
    assert kinds_asked() == ["query.statistics", "train", "train", "train", *finally_asked]


def test_every_round_has_the_counts_that_its_own_weights_give() -> None:
    def counted(rounds: int) -> list[float]:
        hospitals = three_with_scores()
        federated_run = PlainRun(ComingAndGoing(hospitals), settings(rounds=rounds))
        federated_run.run()
        return [one.federation.counts.loss_sum for one in federated_run.history if one.federation.counts]

    assert counted(3) == [counted(1)[-1], counted(2)[-1], counted(3)[-1]]
    assert len(set(counted(3))) == 3


def test_ctrl_c_keeps_the_last_round_that_was_evaluated() -> None:
    def interrupt(name: str, kind: str) -> None:
        asked[name, kind] += 1
        if asked["a", "train"] == 3:
            raise KeyboardInterrupt

    asked: Counter[tuple[str, str]] = Counter()
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), interrupt), settings(rounds=5))
    federated_run.gather()
    rounds = federated_run.rounds()
    assert next(rounds).number == 1
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
    assert equal(federated_run.weights, undisturbed(settings(rounds=1)).weights)
    assert federated_run.figures_of_last_round()["federation"]["test_examples"] == 90


def test_a_round_is_finished_where_some_evaluate_it_and_too_few_train_in_the_next() -> None:
    federated_run = PlainRun(
        ComingAndGoing(three_with_scores(), Failing("b", "train", 10**6, after=2)), settings(wait=0.1)
    )
    federated_run.gather()
    rounds = federated_run.rounds()
    next(rounds)
    assert [name for name, hospital in next(rounds).hospitals.items() if hospital.counts] == ["a", "c"]
    with pytest.raises(RunError, match="round 3: 2 of 3 hospitals"):
        next(rounds)
    assert equal(federated_run.weights, undisturbed(settings(rounds=2)).weights)


# Coming and going


def test_hospitals_join_late_and_leave_between_rounds() -> None:
    grid = ComingAndGoing(three_with_scores())
    grid.gone = {"c"}
    federated_run = PlainRun(grid, settings(hospitals=2, min_hospitals=1, rounds=4))
    federated_run.gather()
    trained, evaluated = [], []
    for one in federated_run.rounds():  # each of which is told when the hospitals have trained in the next
        trained.append([name for name, hospital in one.hospitals.items() if hospital.train_loss])
        evaluated.append([name for name, hospital in one.hospitals.items() if hospital.counts])
        grid.gone = {1: set(), 2: {"a"}, 3: set()}.get(one.number, set())
    assert trained == [["a", "b"], ["a", "b"], ["a", "b", "c"], ["b", "c"]]
    assert evaluated == [["a", "b"], ["a", "b", "c"], ["b", "c"], ["a", "b", "c"]]
    assert federated_run.problems.to_json()["absent"] == {"a": 1}
    assert list(federated_run.registrations) == ["a", "b", "c"]


def test_a_round_waits_for_a_hospital_that_is_away_and_names_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings())
    federated_run.gather()
    grid.gone = {"b"}
    looks = iter(range(100))
    monkeypatch.setattr(time, "sleep", lambda _: grid.gone.clear() if next(looks) == 5 else None)
    assert list(next(federated_run.rounds()).hospitals) == ["a", "b", "c"]
    assert "round 1: 2 of 3 are connected, 5 s left; absent: b" in caplog.text
    assert federated_run.problems.repeated_rounds == 0


def test_a_wait_for_a_hospital_ends_and_names_it() -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings(wait=0.05))
    federated_run.gather()
    grid.gone = {"b", "c"}
    with pytest.raises(RunError, match=r"round 1: 1 of 3 hospitals were connected .* within 0.05 s; absent: b, c;"):
        next(federated_run.rounds())


def test_nobody_to_evaluate_is_no_endless_wait() -> None:
    grid = ComingAndGoing(three_with_scores(), lambda _, kind: grid.gone.update("abc") if kind == "train" else None)
    federated_run = PlainRun(grid, settings(rounds=1, wait=0.05))
    federated_run.gather()
    (only,) = federated_run.rounds()
    assert only.federation.counts is None


# Updates out of all proportion


def scaled(factor: float) -> Callable[[Update], Update]:
    return lambda update: replace(
        update, weights={name: (array * np.float32(factor)) for name, array in update.weights.items()}
    )


def test_an_update_out_of_all_proportion_is_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three()
    hospitals[2].shift = 7.0  # 35 times the median of 0.1, 0.2 and 7
    federated_run = PlainRun(ComingAndGoing(hospitals), settings(min_hospitals=2, max_update_norm=30.0, rounds=1))
    federated_run.gather()
    next(federated_run.rounds())
    assert shift_of(federated_run) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40, abs=1e-5)
    reason = "its update moves the weights more than 30 times as far as the median update"
    assert federated_run.problems.to_json()["rejected"] == {"c": {reason: 1}}
    assert f"c is left out: {reason}" in caplog.text


@pytest.mark.parametrize("factor", [0.0, 36.0])
def test_any_update_is_taken_where_the_factor_is_0_or_larger(factor: float) -> None:
    hospitals = three()
    hospitals[2].shift = 7.0
    federated_run = PlainRun(ComingAndGoing(hospitals), settings(max_update_norm=factor))
    federated_run.gather()
    assert list(next(federated_run.rounds()).hospitals) == ["a", "b", "c"]
    assert federated_run.problems.to_json()["rejected"] == {}


# Going on after the server died


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("finished", [0, 1, 3, 5])
def test_a_run_that_goes_on_ends_to_the_bit_as_if_it_had_not_been_cut_off(
    strategy: str, finished: int, tmp_path: Path
) -> None:
    chosen = settings(strategy=strategy, rounds=5)
    whole = undisturbed(chosen)
    first = PlainRun(ComingAndGoing(three_with_scores()), chosen)
    first.gather()
    rounds = first.rounds()
    for _ in range(finished):
        next(rounds)
    CheckpointFolder(tmp_path / "checkpoints").save(first.checkpoint())

    second = PlainRun(ComingAndGoing(three_with_scores()), chosen)
    second.resume(CheckpointFolder(tmp_path / "checkpoints").load())
    figures = second.run()
    assert equal(second.weights, whole.weights)
    assert list(second.history) == list(whole.history)
    assert second.normalisation == whole.normalisation
    assert second.threshold == whole.threshold
    assert list(figures["hospitals"]) == ["a", "b", "c"]
    assert second.problems.resumed_after == [finished]


def cut_off_after_a_round(grid: ComingAndGoing, chosen: Settings) -> PlainRun:
    """A federation that goes on from another one's first round."""
    first = PlainRun(grid, chosen)
    first.gather()
    next(first.rounds())
    first.problems.count("b", "a reason")
    second = PlainRun(grid, chosen)
    second.resume(first.checkpoint())
    return second


def test_counts_of_what_went_wrong_go_on() -> None:
    federated_run = cut_off_after_a_round(ComingAndGoing(three_with_scores()), settings())
    federated_run.run()
    assert federated_run.problems.to_json() == {
        "rejected": {"b": {"a reason": 1}},
        "unanswered": {},
        "absent": {},
        "repeated_rounds": 0,
        "resumed_after": [1],
    }


def test_a_run_goes_on_with_as_many_hospitals_as_a_round_needs_and_names_the_others() -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    grid.gone = {"b"}
    words: list[str] = []
    federated_run.gather(words.append)
    assert words == ["waiting 0 s more for b", "resuming after round 1 with a, c"]
    grid.gone = {"b", "c"}
    grid.gone = set()
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2, wait=1.0))
    grid.gone = {"b", "c"}
    with pytest.raises(RunError, match="absent: b, c"):
        federated_run.gather(words.append)
    assert words[2].startswith("waiting for hospitals: 1 of 2 are connected")
    assert words[2].endswith("absent: b, c")


def test_a_run_that_goes_on_waits_a_little_for_those_who_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "REJOIN_SECONDS", 4.0)
    grid = ComingAndGoing(three_with_scores())
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    grid.gone = {"b"}
    looks = iter(range(100))
    monkeypatch.setattr(time, "sleep", lambda _: grid.gone.clear() if next(looks) == 5 else None)
    words: list[str] = []
    federated_run.gather(words.append)
    assert words == ["waiting 4 s more for b", "resuming after round 1 with a, b, c"]


def test_a_hospital_that_comes_back_with_other_rows_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    hospitals = three_with_scores()
    grid = ComingAndGoing(hospitals)
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    hospitals[1].shift += 0.1  # its sums are others, too
    federated_run.gather()
    assert [list(one.hospitals) for one in federated_run.rounds()] == [["a", "c"]] * 2
    reason = "its rows are not those that it registered when the run began"
    assert f"b is left out: {reason}" in caplog.text
    assert federated_run.problems.to_json()["rejected"]["b"][reason] == 1
