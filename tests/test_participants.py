"""Who takes part: hospitals that come, go, start anew and introduce themselves at any moment. In process."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict

from federated_health.errors import JoinError, RunError
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.server import participants
from federated_health.server.history import ProblemLog
from federated_health.server.participants import Participants
from federated_health.server.plain_run import PlainRun
from federated_health.server.replies import ReplyCollector
from federated_health.settings import Settings
from federated_health.transport.interface import Problem, error_reply, hospital_context
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from tests.support.streams import wait_until
from tests.support.wire import UNWRITTEN, Wire
from tests.test_faults import ComingAndGoing, Failing, settings
from tests.test_plain_run import LightHospital, app_of, three, three_with_scores

OTHER_ROWS = "its rows are not those that it registered when the run began"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(participants, "RETRY_INTERVAL", 0.0)


class Streams(ComingAndGoing):
    """Hospitals whose processes the grid tells apart, as over gRPC; what is asked is counted by name.

    Attributes:
        tokens: by name; of others it is not known.
        held: hospitals whose introductions are under way, and the replies that they will be.
    """

    def __init__(self, hospitals: list[LightHospital], hook: Any = lambda *_: None) -> None:
        self.asked: Counter[str] = Counter()
        self.hook = hook
        super().__init__(hospitals, self._count)
        self.tokens = {one.name: f"first {one.name}" for one in hospitals}
        self.held: dict[str, list[tuple[Future[Message], Message]]] = {}

    def _count(self, name: str, kind: str) -> None:
        self.asked[name] += kind == "query.statistics"
        self.hook(name, kind)

    def processes(self) -> dict[int, str]:
        return {node: self.tokens[name] for node, name in self.names().items() if name in self.tokens}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        replies = super().send(messages)
        for key, message in messages.items():
            name = dict(super().names()).get(message.metadata.dst_node_id, "")
            if name in self.held and message.metadata.message_type == "query.statistics":
                self.held[name].append((Future(), replies[key].result()))
                replies[key] = self.held[name][-1][0]
        return replies

    def release(self, name: str) -> None:
        for future, reply in self.held.pop(name):
            future.set_result(reply)


def participants_of(grid: Any, chosen: Settings | None = None) -> tuple[Participants, ProblemLog]:
    chosen, problems = chosen or settings(), ProblemLog()
    return Participants(grid, chosen, ReplyCollector(grid, chosen.round_timeout, problems)), problems


def present(one: Participants) -> list[str]:
    return sorted(one.names()[node] for node in one.present())


def test_each_process_is_asked_once() -> None:
    grid = Streams(three())
    one, problems = participants_of(grid)
    assert [present(one) for _ in range(3)] == [["a", "b", "c"]] * 3
    assert grid.asked == {"a": 1, "b": 1, "c": 1}
    assert (problems.rejected, problems.unanswered) == ({}, {})


def test_a_process_that_was_cut_off_and_is_back_is_not_asked_again() -> None:
    grid = Streams(three())
    one, _ = participants_of(grid)
    present(one)
    grid.gone = {"b"}
    assert present(one) == ["a", "c"]
    assert one.absent() == ["b"]
    grid.gone = set()
    assert present(one) == ["a", "b", "c"]
    assert grid.asked["b"] == 1


@pytest.mark.parametrize("seen_away", [True, False])
def test_a_process_that_was_started_anew_with_the_same_rows_takes_part_again(seen_away: bool) -> None:
    grid = Streams(three())
    one, problems = participants_of(grid)
    present(one)
    one.begin(one.present())
    declared = one.registrations["b"]
    if seen_away:
        grid.gone = {"b"}
        present(one)
    grid.gone, grid.tokens["b"] = set(), "second b"
    assert present(one) == ["a", "b", "c"]
    assert one.registrations["b"] is declared
    assert grid.asked == {"a": 1, "b": 2, "c": 1}
    assert problems.rejected == {}


@pytest.mark.parametrize("seen_away", [True, False])
def test_a_process_that_was_started_anew_with_other_rows_is_left_out(seen_away: bool) -> None:
    hospitals = three()
    grid = Streams(hospitals)
    one, problems = participants_of(grid)
    present(one)
    one.begin(one.present())
    declared = one.registrations["b"]
    if seen_away:
        grid.gone = {"b"}
        present(one)
    grid.gone, grid.tokens["b"], hospitals[1].shift = set(), "second b", 0.9
    assert [present(one) for _ in range(3)] == [["a", "c"]] * 3
    assert grid.asked["b"] == 2
    assert problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}
    assert one.registrations["b"] is declared
    grid.tokens["b"], hospitals[1].shift = "third b", 0.2
    assert present(one) == ["a", "b", "c"]


def test_where_processes_cannot_be_told_apart_who_was_away_is_asked_again() -> None:
    hospitals = three()
    grid = Streams(hospitals)
    grid.tokens.clear()
    one, problems = participants_of(grid)
    present(one)
    one.begin(one.present())
    present(one)
    assert grid.asked["b"] == 1
    grid.gone = {"b"}
    present(one)
    grid.gone, hospitals[1].shift = set(), 0.9
    assert present(one) == ["a", "c"]
    assert problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}


def test_who_declined_is_asked_again_when_its_process_is_another_one() -> None:
    grid = Streams(three(), Failing("b", "query.statistics", 1))
    one, problems = participants_of(grid)
    assert [present(one) for _ in range(3)] == [["a", "c"]] * 3
    assert problems.to_json()["unanswered"] == {"b": {"OSError at the hospital": 1}}
    grid.tokens["b"] = "second b"
    assert present(one) == ["a", "b", "c"]
    assert grid.asked["b"] == 2


def test_who_declined_is_asked_again_when_it_comes_back() -> None:
    grid = Streams(three(), Failing("b", "query.statistics", 1))
    one, _ = participants_of(grid)
    assert present(one) == ["a", "c"]
    grid.gone = {"b"}
    assert present(one) == ["a", "c"]
    grid.gone = set()
    assert present(one) == ["a", "b", "c"]


def test_what_an_ended_process_said_is_not_believed_of_the_next() -> None:
    hospitals = three()
    grid = Streams(hospitals)
    grid.held["b"] = []
    one, _ = participants_of(grid)
    assert present(one) == ["a", "c"]
    hospitals[1].shift, grid.tokens["b"] = 0.9, "second b"
    grid.release("b")
    assert present(one) == ["a", "b", "c"]
    assert one.registrations["b"].sums.total[0] == pytest.approx(10 * 60.9)


def test_until_the_run_begins_a_hospital_may_come_back_with_other_rows_or_stay_away() -> None:
    hospitals = three()
    hospitals[1].shift = 0.9  # by mistake
    grid = Streams(hospitals)
    grid.gone = {"c"}
    run = PlainRun(grid, settings(hospitals=2, min_hospitals=1))
    assert len(run.participants.present()) == 2
    hospitals[1].shift, grid.tokens["b"], grid.gone = 0.2, "second b", {"a"}
    run.gather()
    assert run.normalisation is not None
    assert run.normalisation.mean[0] == pytest.approx(60 + (10 * 0.2 + 5 * 0.7) / 15)
    assert sorted(run.registrations) == ["b", "c"]
    grid.gone = set()
    records = list(run.rounds())
    assert [list(one.hospitals) for one in records] == [["a", "b", "c"]] * 3
    assert grid.asked == {"a": 2, "b": 2, "c": 1}
    assert run.problems.to_json()["absent"] == {}


def test_a_hospital_whose_connection_breaks_off_while_it_introduces_itself_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(participants, "RETRY_INTERVAL", 1.0)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid = Streams(three())
    one, problems = participants_of(grid)
    grid.held["b"] = []
    assert present(one) == ["a", "c"]
    ((future, reply),) = grid.held.pop("b")
    future.set_result(error_reply(Message(reply.content, node_id_of("b"), "query.statistics"), "it was cut"))
    assert present(one) == ["a", "c"]
    assert problems.to_json()["unanswered"] == {"b": {"it was cut": 1}}
    now += 0.9
    assert present(one) == ["a", "c"]
    assert grid.asked["b"] == 1
    now += 0.2
    assert present(one) == ["a", "b", "c"]
    assert grid.asked["b"] == 2


def test_a_hospital_that_does_not_introduce_itself_is_told_again_and_again_and_may_still_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid = Streams(three())
    grid.held["b"] = []
    one, problems = participants_of(grid, settings(round_timeout=5.0))
    for _ in range(3):
        assert present(one) == ["a", "c"]
        now += 5.1
    assert problems.to_json()["unanswered"] == {"b": {"it did not register within 5 s": 2}}
    grid.release("b")
    assert present(one) == ["a", "b", "c"]
    assert grid.asked["b"] == 1


def test_a_second_hospital_of_a_name_is_left_out_while_the_first_is_there() -> None:
    ids = {1: "a", 2: "a"}
    one, problems = participants_of(Nameless(ids))
    assert one.present() == [1]
    assert problems.to_json()["rejected"] == {"a": {"a second hospital of this name": 1}}
    assert one.present() == [1]
    assert problems.to_json()["rejected"] == {"a": {"a second hospital of this name": 1}}
    del ids[1]  # it was the same hospital, and Flower is slow to notice that its old node is gone
    assert one.present() == [2]
    del ids[2]
    ids[3] = "a"
    assert one.present() == [3]
    assert dict(one.names()) == {3: "a"}


class Nameless:
    """A transport of Flower's own engines: it knows node ids alone, and may fail to deliver.

    Args:
        ids: node id -> hospital.
    """

    def __init__(self, ids: dict[int, str]) -> None:
        self.hospitals, self.ids = Streams(three()), ids
        self.undelivered: Any = None
        self.pushed = 0
        self.replies: dict[str, Message] = {}

    def names(self) -> dict[int, str]:
        return {}

    def processes(self) -> dict[int, str]:
        return {}

    def get_node_ids(self) -> list[int]:
        return list(self.ids)

    def push_messages(self, messages: list[Message]) -> list[Any]:
        self.pushed += len(messages)
        if self.undelivered is not None:
            return list(self.undelivered)
        keys = []
        for message in messages:
            context = hospital_context(self.ids[message.metadata.dst_node_id], {})
            keys.append(f"key {self.pushed}")
            self.replies[keys[-1]] = self.hospitals.app(message, context)
        return keys

    def pull_messages(self, keys: Any) -> list[Message]:
        return [self.replies.pop(key) for key in list(keys) if key in self.replies]


@pytest.mark.parametrize("undelivered", [[], [None], [""]])
def test_a_question_that_flower_cannot_deliver_is_put_again(undelivered: list[Any]) -> None:
    grid = Nameless({7: "a"})
    grid.undelivered = undelivered
    one, _ = participants_of(grid)
    assert one.present() == []
    grid.undelivered = None
    assert one.present() == [7]
    assert grid.pushed == 2


def test_an_error_in_flower_s_own_name_ends_the_wait_for_the_answer_that_it_stands_for() -> None:
    grid = Nameless({7: "a"})
    one, problems = participants_of(grid)
    question = Message(RecordDict(), 1, "query.statistics")
    question.metadata.__dict__["_message_id"] = "key 1"
    lost = Message(Error(2, "it is lost"), reply_to=question)
    grid.pull_messages = lambda keys: [lost] if "key 1" in keys else []  # type: ignore[method-assign]
    assert one.present() == []
    assert one.present() == []
    assert grid.pushed == 1
    assert problems.to_json()["unanswered"] == {"node 1": {"it is lost": 1}}


def test_over_streams_a_hospital_that_was_started_anew_with_other_rows_is_left_out() -> None:
    hospitals = three()
    chosen = settings(min_hospitals=2, round_timeout=30.0, wait=30.0)
    agreement, address = chosen.task_declaration.agreement, f"127.0.0.1:{free_port()}"
    app = app_of({one.name: one for one in hospitals})
    threads = []

    def end_when_lost(words: str) -> None:
        if "waiting" in words:
            raise JoinError(words)

    def start(name: str, towards: str) -> None:
        def join() -> None:
            with suppress(JoinError):
                join_run(
                    app,
                    hospital_context(name, {}),
                    name=name,
                    address=towards,
                    agreement=agreement,
                    wait=30.0,
                    announce=end_when_lost if towards != address else lambda _: None,
                    prepare=lambda: None,
                    ledger=UNWRITTEN,
                )

        threads.append(threading.Thread(target=join, daemon=True))
        threads[-1].start()

    with serve_streams(address, agreement, lambda _: None) as grid:
        run = PlainRun(grid, chosen)
        with Wire(address) as wire:
            start("a", address)
            start("b", wire.address)
            start("c", address)
            run.gather()
        rounds = run.rounds()
        wait_until(lambda: len(grid.get_node_ids()) == 2)
        hospitals[1].shift = 0.9
        start("b", address)
        wait_until(lambda: len(grid.get_node_ids()) == 3)
        assert [list(one.hospitals) for one in rounds] == [["a", "c"]] * 3
        wait_until(lambda: "b" not in {run.participants.names()[node] for node in run.participants.present()})
        wait_until(lambda: bool(run.participants.present()) and "b" in run.problems.rejected)
        assert run.problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()


def test_what_no_round_gets_is_counted_with_the_next_question() -> None:
    grid = Streams(three())
    grid.take_problems = lambda: [Problem("b", "sent its reply too late")]  # type: ignore[method-assign]
    run = PlainRun(grid, settings())
    run.gather()
    next(run.rounds())
    assert run.problems.to_json()["rejected"] == {"b": {"sent its reply too late": 2}}  # to train, to evaluate


# Waiting


def test_enough_hospitals_are_not_waited_for_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("slept"))
    one, _ = participants_of(Streams(three()))
    words: list[str] = []
    nodes = one.wait_for(2, "a wait", words.append, time.monotonic() - 1)
    assert nodes == sorted(map(node_id_of, "abc"))
    assert words == []


def test_a_wait_says_every_so_often_how_long_it_still_lasts_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    grid = Streams(three())
    one, _ = participants_of(grid, settings(wait=31.0))
    one.present()
    grid.gone = {"a", "c"}
    words: list[str] = []
    with pytest.raises(RunError) as caught:
        one.wait_for(3, "round 4", words.append, now + 31)
    assert words == [f"round 4: 1 of 3 are connected, {left} s left; absent: a, c" for left in (31, 16, 1)]
    assert str(caught.value) == (
        "round 4: 1 of 3 hospitals were connected and 1 could take part within 31 s; absent: a, c; see --wait"
    )
    assert now == 1031.0


def test_a_final_question_that_waits_says_for_whom(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    grid = Streams(three_with_scores())
    run = PlainRun(grid, settings(wait=40.0))
    run.gather()
    list(run.rounds())
    grid.gone = {"b"}
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    assert list(run.evaluate()["hospitals"]) == ["a", "c"]
    said = [one.getMessage() for one in caplog.records if "evaluate.final" in one.getMessage()]
    waits = "evaluate.final: 2 of 3 hospitals answered, and 3 are needed; waiting up to 40 s for b"
    assert said == [waits] * 3 + ["evaluate.final: 2 of 3 hospitals answered"]
    assert now == 1000 + 2 * 40  # for the threshold, too


def test_a_run_that_is_stopped_at_the_end_of_a_round_keeps_the_weights_of_its_last_round() -> None:
    run = PlainRun(Streams(three()), replace(settings(), rounds=2))
    run.gather()
    rounds = run.rounds()
    next(rounds)
    kept = run.weights
    with pytest.MonkeyPatch.context() as patched:

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr("federated_health.server.plain_run.summarise_round", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(rounds)
    assert run.weights is kept
    assert len(run.history) == 1
