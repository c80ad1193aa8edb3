"""Runs in which hospitals fail, come and go, and servers die between rounds: with light hospitals, in process."""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message

from federated_health.errors import RunError
from federated_health.messages.content import Update
from federated_health.ml.networks import Weights
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import node_id_of
from federated_health.server import participants, run
from federated_health.server.checkpoint import CheckpointFolder
from federated_health.server.plain_run import PlainRun
from federated_health.settings import Settings
from federated_health.transport import backoff
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import ReplyFutures
from tests.support.light_hospitals import LightHospital, app_of, settings_of, shift_of, three, three_with_scores

Hook = Callable[[str, str], None]
"""Called with a hospital's name and the kind of a message before it is answered; may raise."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(run, "REJOIN_SECONDS", 0.05)


class ComingAndGoing(ReplyFutures):
    """Hospitals in process, of which those in `gone` are not connected."""

    def __init__(self, hospitals: list[LightHospital], hook: Hook = lambda *_: None) -> None:
        super().__init__()
        self.gone: set[str] = set()
        self.hospitals = [hospital.name for hospital in hospitals]
        app = app_of({hospital.name: hospital for hospital in hospitals})

        def answer(message: Message, context: Context) -> Message:
            hook(str(context.node_config["name"]), message.metadata.message_type)
            return app(message, context)

        self.app = answer

    def names(self) -> dict[int, str]:
        return {node_id_of(name): name for name in self.hospitals if name not in self.gone}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        contexts = {name: hospital_context(name, {}) for name in self.names().values()}
        return InProcessTransport(self.app, contexts).send(messages)


class Failing:
    """A hook with which a hospital fails at one kind of message, so many times."""

    def __init__(self, name: str, kind: str, times: int, after: int = 0) -> None:
        self.name, self.kind, self.times, self.after = name, kind, times, after
        self.received: Counter[tuple[str, str]] = Counter()

    def __call__(self, name: str, kind: str) -> None:
        self.received[name, kind] += 1
        if (name, kind) == (self.name, self.kind) and self.after < self.received[name, kind] <= self.after + self.times:
            raise OSError


def settings(**changed: object) -> Settings:
    return replace(settings_of("fedavg"), **{"min_hospitals": 3, "wait": 5.0, "appraisal": False, **changed})  # type: ignore[arg-type]


def equal(left: Weights, right: Weights) -> bool:
    return list(left) == list(right) and all(np.array_equal(left[name], right[name]) for name in left)


def undisturbed(chosen: Settings) -> PlainRun:
    federated_run = PlainRun(ComingAndGoing(three_with_scores()), chosen)
    federated_run.run()
    return federated_run


# Rounds that are repeated


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_repeated_round_leaves_no_trace_in_the_weights(strategy: str) -> None:
    chosen = settings(strategy=strategy)
    failing = Failing("c", "train", 4, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), chosen)
    federated_run.run()
    assert equal(federated_run.weights, undisturbed(chosen).weights)
    assert [list(completed.hospitals) for completed in federated_run.history] == [["a", "b", "c"]] * 3
    assert federated_run.problems.repeated_rounds == 4
    assert federated_run.problems.to_json()["unanswered"] == {"c": {"OSError at the hospital": 4}}
    assert failing.received["a", "train"] == 3 + 4


def test_a_round_with_enough_updates_continues_without_the_others_and_logs_each_change_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing = Failing("c", "train", 2, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(min_hospitals=2, rounds=5))
    federated_run.run()
    trained = [
        [hospital.train_loss is not None for hospital in completed.hospitals.values()]
        for completed in federated_run.history
    ]
    assert trained == [
        [True, True, True],
        [True, True],  # evaluated by the messages of round 3, to which c did not answer, either
        [True, True, False],
        [True, True, True],
        [True, True, True],
    ]
    evaluated = [
        sum(hospital.counts is not None for hospital in completed.hospitals.values())
        for completed in federated_run.history
    ]
    assert evaluated == [2, 2, 3, 3, 3]
    assert federated_run.problems.to_json()["absent"] == {"c": 2}
    assert federated_run.problems.repeated_rounds == 0
    lines = [record.getMessage() for record in caplog.records]
    assert [line[:8] for line in lines if re.match(r"round \d: (without|all)", line)] == ["round 2:", "round 4:"]


def test_by_default_a_round_needs_more_than_half_of_the_hospitals() -> None:
    minimums = [settings(min_hospitals=0, hospitals=number).min_updates for number in (1, 2, 3, 4, 5)]
    assert minimums == [1, 2, 2, 3, 3]
    assert settings(min_hospitals=1).min_updates == 1
    assert settings(min_hospitals=1, strategy="krum").min_updates == 3


def test_repeating_a_round_ends_with_the_wait_and_names_the_absent_hospital() -> None:
    failing = Failing("b", "train", 10**6, after=1)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(wait=0.1))
    federated_run.gather()
    rounds = federated_run.rounds()
    next(rounds)
    with pytest.raises(RunError, match=r"round 2: 2 of 3 .*--min-hospitals.*\bb$"):
        next(rounds)
    assert len(federated_run.history) == 1


@pytest.mark.parametrize("kind", ["evaluate.threshold", "evaluate.final"])
def test_a_final_message_is_sent_again_if_too_few_hospitals_answer(kind: str) -> None:
    failing = Failing("b", kind, 2)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings())
    figures = federated_run.run()
    expected = undisturbed(settings())
    assert federated_run.threshold == expected.threshold != 0.5
    assert list(figures["hospitals"]) == ["a", "b", "c"]
    assert failing.received["a", kind] == 1
    assert failing.received["b", kind] == 3


def test_a_final_message_is_sent_three_times_to_a_hospital_that_fails() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    figures = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(wait=10.0**7)).run()
    assert list(figures["hospitals"]) == ["a", "c"]
    assert failing.received["b", "evaluate.final"] == 3


def test_a_failing_hospital_gets_no_fourth_final_message_while_an_absent_one_is_awaited() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    grid = ComingAndGoing(three_with_scores(), failing)
    federated_run = PlainRun(grid, settings(wait=0.2))
    federated_run.gather()
    list(federated_run.rounds())
    grid.gone = {"c"}
    assert list(federated_run.evaluate()["hospitals"]) == ["a"]
    assert failing.received["b", "evaluate.final"] == 3


def test_a_final_message_is_sent_once_if_enough_hospitals_answer() -> None:
    failing = Failing("b", "evaluate.final", 10**6)
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), failing), settings(min_hospitals=2, wait=10.0**7))
    assert list(federated_run.run()["hospitals"]) == ["a", "c"]
    assert failing.received["b", "evaluate.final"] == 1


def test_the_final_evaluation_waits_for_an_absent_hospital(caplog: pytest.LogCaptureFixture) -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings(wait=0.1))
    federated_run.gather()
    list(federated_run.rounds())
    grid.gone = {"b"}
    assert list(federated_run.evaluate()["hospitals"]) == ["a", "c"]
    assert "evaluate.final: 2 of 3" in caplog.text


def test_a_missing_evaluation_changes_no_weights() -> None:
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), Failing("b", "evaluate", 10**6)), settings())
    federated_run.run()
    assert equal(federated_run.weights, undisturbed(settings()).weights)
    assert [completed.hospitals["b"].counts is None for completed in federated_run.history] == [False, False, True]


def test_a_round_is_one_message_per_hospital_and_the_last_is_evaluated_separately() -> None:
    kinds: list[str] = []
    grid = ComingAndGoing(three_with_scores(), lambda name, kind: kinds.append(kind) if name == "a" else None)
    PlainRun(grid, settings()).run()
    at_the_end = ["evaluate", "evaluate.threshold", "evaluate.final"]
    assert kinds == ["query.statistics", "train", "train", "train", *at_the_end]


def test_every_round_has_the_counts_of_its_own_weights() -> None:
    def counted(rounds: int) -> list[float]:
        hospitals = three_with_scores()
        federated_run = PlainRun(ComingAndGoing(hospitals), settings(rounds=rounds))
        federated_run.run()
        merged = [completed.federation.counts for completed in federated_run.history]
        return [counts.loss_sum for counts in merged if counts]

    assert counted(3) == [counted(1)[-1], counted(2)[-1], counted(3)[-1]]
    assert len(set(counted(3))) == 3


def test_ctrl_c_keeps_the_last_evaluated_round() -> None:
    def interrupt(name: str, kind: str) -> None:
        received[name, kind] += 1
        if received["a", "train"] == 3:
            raise KeyboardInterrupt

    received: Counter[tuple[str, str]] = Counter()
    federated_run = PlainRun(ComingAndGoing(three_with_scores(), interrupt), settings(rounds=5))
    federated_run.gather()
    rounds = federated_run.rounds()
    assert next(rounds).number == 1
    with pytest.raises(KeyboardInterrupt):
        next(rounds)
    assert equal(federated_run.weights, undisturbed(settings(rounds=1)).weights)
    assert federated_run.figures_of_last_round()["federation"]["test_examples"] == 90


def test_a_round_that_some_evaluated_is_completed_if_too_few_train_in_the_next() -> None:
    federated_run = PlainRun(
        ComingAndGoing(three_with_scores(), Failing("b", "train", 10**6, after=2)), settings(wait=0.1)
    )
    federated_run.gather()
    rounds = federated_run.rounds()
    next(rounds)
    assert [name for name, hospital in next(rounds).hospitals.items() if hospital.counts] == ["a", "c"]
    with pytest.raises(RunError, match="round 3: 2 of 3"):
        next(rounds)
    assert equal(federated_run.weights, undisturbed(settings(rounds=2)).weights)


# Coming and going


def test_hospitals_join_late_and_leave_between_rounds() -> None:
    grid = ComingAndGoing(three_with_scores())
    grid.gone = {"c"}
    federated_run = PlainRun(grid, settings(hospitals=2, min_hospitals=1, rounds=4))
    federated_run.gather()
    trained, evaluated = [], []
    for completed in federated_run.rounds():  # a round is completed when the hospitals have trained in the next
        trained.append([name for name, hospital in completed.hospitals.items() if hospital.train_loss])
        evaluated.append([name for name, hospital in completed.hospitals.items() if hospital.counts])
        grid.gone = {1: set(), 2: {"a"}, 3: set()}.get(completed.number, set())
    assert trained == [["a", "b"], ["a", "b"], ["a", "b", "c"], ["b", "c"]]
    assert evaluated == [["a", "b"], ["a", "b", "c"], ["b", "c"], ["a", "b", "c"]]
    assert federated_run.problems.to_json()["absent"] == {"a": 1}
    assert list(federated_run.registrations) == ["a", "b", "c"]


def test_a_round_waits_for_an_absent_hospital_and_names_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings())
    federated_run.gather()
    grid.gone = {"b"}
    pauses = iter(range(100))
    monkeypatch.setattr(time, "sleep", lambda _: grid.gone.clear() if next(pauses) == 5 else None)
    assert list(next(federated_run.rounds()).hospitals) == ["a", "b", "c"]
    assert re.search(r"round 1: 2 of 3 .*absent: b$", caplog.text, re.MULTILINE)
    assert federated_run.problems.repeated_rounds == 0


def test_a_wait_that_ends_names_the_absent_hospitals() -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = PlainRun(grid, settings(wait=0.05))
    federated_run.gather()
    grid.gone = {"b", "c"}
    with pytest.raises(RunError, match=r"round 1: 1 of 3 .*0\.05 s.*absent: b, c"):
        next(federated_run.rounds())


def test_a_round_that_no_hospital_evaluates_has_no_counts() -> None:
    grid = ComingAndGoing(three_with_scores(), lambda _, kind: grid.gone.update("abc") if kind == "train" else None)
    federated_run = PlainRun(grid, settings(rounds=1, wait=0.05))
    federated_run.gather()
    (only,) = federated_run.rounds()
    assert only.federation.counts is None


# Updates with an outsized norm


def scaled(factor: float) -> Callable[[Update], Update]:
    return lambda update: replace(
        update, weights={name: (array * np.float32(factor)) for name, array in update.weights.items()}
    )


def test_an_outsized_update_is_rejected_and_counted() -> None:
    hospitals = three()
    hospitals[2].shift = 7.0  # 35 times the median of 0.1, 0.2 and 7
    federated_run = PlainRun(ComingAndGoing(hospitals), settings(min_hospitals=2, max_update_norm=30.0, rounds=1))
    federated_run.gather()
    next(federated_run.rounds())
    assert shift_of(federated_run) == pytest.approx((30 * 0.1 + 10 * 0.2) / 40, abs=1e-5)
    (reason,) = federated_run.problems.rejected["c"]
    assert "30 times" in reason
    assert federated_run.problems.to_json()["rejected"] == {"c": {reason: 1}}


@pytest.mark.parametrize("factor", [0.0, 36.0])
def test_every_update_is_accepted_if_the_limit_is_0_or_not_reached(factor: float) -> None:
    hospitals = three()
    hospitals[2].shift = 7.0
    federated_run = PlainRun(ComingAndGoing(hospitals), settings(max_update_norm=factor))
    federated_run.gather()
    assert list(next(federated_run.rounds()).hospitals) == ["a", "b", "c"]
    assert federated_run.problems.to_json()["rejected"] == {}


# Resuming after the server died


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("finished", [0, 1, 3, 5])
def test_a_resumed_run_ends_as_an_uninterrupted_one_to_the_bit(strategy: str, finished: int, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ended", ["finished", "stopped"])
def test_an_extended_run_ends_as_a_longer_one_to_the_bit(strategy: str, ended: str, tmp_path: Path) -> None:
    whole = undisturbed(settings(strategy=strategy, rounds=5))
    first = PlainRun(ComingAndGoing(three_with_scores()), settings(strategy=strategy, rounds=3))
    first.gather()
    for completed in first.rounds():
        if ended == "stopped" and completed.number == 2:
            break
    else:
        first.evaluate()
    CheckpointFolder(tmp_path / "checkpoints").save(first.checkpoint())

    second = PlainRun(ComingAndGoing(three_with_scores()), settings(strategy=strategy, rounds=5))
    second.resume(CheckpointFolder(tmp_path / "checkpoints").load())
    second.run()
    assert equal(second.weights, whole.weights)
    assert list(second.history) == list(whole.history)
    assert second.threshold == whole.threshold


def cut_off_after_a_round(grid: ComingAndGoing, chosen: Settings) -> PlainRun:
    """A run that resumes after the first round of another."""
    first = PlainRun(grid, chosen)
    first.gather()
    next(first.rounds())
    first.problems.count("b", "a reason")
    second = PlainRun(grid, chosen)
    second.resume(first.checkpoint())
    return second


def test_a_resumed_run_keeps_its_problem_log() -> None:
    federated_run = cut_off_after_a_round(ComingAndGoing(three_with_scores()), settings())
    federated_run.run()
    content = federated_run.problems.to_json()
    assert list(content.pop("data_warnings")) == ["a"]  # which has two thirds of the rows
    assert content == {
        "rejected": {"b": {"a reason": 1}},
        "unanswered": {},
        "absent": {},
        "repeated_rounds": 0,
        "resumed_after": [1],
        "opposed_updates": {},
    }


def test_a_resumed_run_starts_with_the_hospitals_that_a_round_needs_and_names_the_others() -> None:
    grid = ComingAndGoing(three_with_scores())
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    grid.gone = {"b"}
    lines: list[str] = []
    federated_run.gather(lines.append)
    waiting, resuming, suspicious = lines
    assert waiting.endswith(" b")
    assert resuming.endswith("round 1 with a, c")
    assert suspicious.startswith("a: ")
    grid.gone = set()
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2, wait=0.2))
    grid.gone = {"b", "c"}
    with pytest.raises(RunError, match="absent: b, c"):
        federated_run.gather(lines.append)
    assert "1 of 2" in lines[3]
    assert lines[3].endswith("absent: b, c")


def test_a_resumed_run_waits_a_while_for_late_hospitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "REJOIN_SECONDS", 4.0)
    grid = ComingAndGoing(three_with_scores())
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    grid.gone = {"b"}
    pauses = iter(range(100))
    monkeypatch.setattr(time, "sleep", lambda _: grid.gone.clear() if next(pauses) == 5 else None)
    lines: list[str] = []
    federated_run.gather(lines.append)
    assert "4 s" in lines[0]
    assert lines[1].endswith("round 1 with a, b, c")


def test_a_hospital_that_returns_with_other_rows_is_rejected() -> None:
    hospitals = three_with_scores()
    grid = ComingAndGoing(hospitals)
    federated_run = cut_off_after_a_round(grid, settings(min_hospitals=2))
    hospitals[1].shift += 0.1  # which changes its sums, too
    federated_run.gather()
    assert [list(completed.hospitals) for completed in federated_run.rounds()] == [["a", "c"]] * 2
    rows = [reason for reason in federated_run.problems.rejected["b"] if "rows" in reason]
    assert [federated_run.problems.rejected["b"][reason] for reason in rows] == [1]
