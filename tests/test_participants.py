"""Which hospitals take part: they join, leave, restart and register at any moment. In process."""

import re
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
from federated_health.server import participants as participants_module
from federated_health.server.participants import Participants
from federated_health.server.plain_run import PlainRun
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import ReplyCollector
from federated_health.settings import Settings
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.interface import Problem, error_reply
from federated_health.transport.stream_client import join_run
from federated_health.transport.stream_server import serve_streams
from tests.support.light_hospitals import LightHospital, app_of, three, three_with_scores
from tests.support.streams import wait_until
from tests.support.wire import UNWRITTEN, Wire
from tests.test_faults import ComingAndGoing, Failing, settings

OTHER_ROWS = "its rows are not those that it registered when the run began"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants_module, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(participants_module, "RETRY_INTERVAL", 0.0)


class Streams(ComingAndGoing):
    """Hospitals whose processes the transport tells apart, as over gRPC.

    Attributes:
        requests: number of requests to register, by name.
        tokens: tokens of processes by name; of other hospitals none is known.
        held: hospitals whose registrations are on their way, with the replies.
    """

    def __init__(self, hospitals: list[LightHospital], hook: Any = lambda *_: None) -> None:
        self.requests: Counter[str] = Counter()
        self.hook = hook
        super().__init__(hospitals, self._count)
        self.tokens = {hospital.name: f"first {hospital.name}" for hospital in hospitals}
        self.held: dict[str, list[tuple[Future[Message], Message]]] = {}

    def _count(self, name: str, kind: str) -> None:
        self.requests[name] += kind == "query.statistics"
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


def present_names(participants: Participants) -> list[str]:
    return sorted(participants.names()[node] for node in participants.present())


def test_each_process_is_asked_once_to_register() -> None:
    grid = Streams(three())
    participants, problems = participants_of(grid)
    assert [present_names(participants) for _ in range(3)] == [["a", "b", "c"]] * 3
    assert grid.requests == {"a": 1, "b": 1, "c": 1}
    assert (problems.rejected, problems.unanswered) == ({}, {})


def test_a_process_that_reconnects_is_not_asked_again() -> None:
    grid = Streams(three())
    participants, _ = participants_of(grid)
    present_names(participants)
    grid.gone = {"b"}
    assert present_names(participants) == ["a", "c"]
    assert participants.absent() == ["b"]
    grid.gone = set()
    assert present_names(participants) == ["a", "b", "c"]
    assert grid.requests["b"] == 1


@pytest.mark.parametrize("seen_away", [True, False])
def test_a_restarted_process_with_the_same_rows_takes_part_again(seen_away: bool) -> None:
    grid = Streams(three())
    participants, problems = participants_of(grid)
    present_names(participants)
    participants.begin(participants.present())
    registration = participants.registrations["b"]
    if seen_away:
        grid.gone = {"b"}
        present_names(participants)
    grid.gone, grid.tokens["b"] = set(), "second b"
    assert present_names(participants) == ["a", "b", "c"]
    assert participants.registrations["b"] is registration
    assert grid.requests == {"a": 1, "b": 2, "c": 1}
    assert problems.rejected == {}


@pytest.mark.parametrize("seen_away", [True, False])
def test_a_restarted_process_with_other_rows_is_left_out(seen_away: bool) -> None:
    hospitals = three()
    grid = Streams(hospitals)
    participants, problems = participants_of(grid)
    present_names(participants)
    participants.begin(participants.present())
    registration = participants.registrations["b"]
    if seen_away:
        grid.gone = {"b"}
        present_names(participants)
    grid.gone, grid.tokens["b"], hospitals[1].shift = set(), "second b", 0.9
    assert [present_names(participants) for _ in range(3)] == [["a", "c"]] * 3
    assert grid.requests["b"] == 2
    assert problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}
    assert participants.registrations["b"] is registration
    grid.tokens["b"], hospitals[1].shift = "third b", 0.2
    assert present_names(participants) == ["a", "b", "c"]


def test_a_hospital_that_was_away_registers_again_where_processes_have_no_tokens() -> None:
    hospitals = three()
    grid = Streams(hospitals)
    grid.tokens.clear()
    participants, problems = participants_of(grid)
    present_names(participants)
    participants.begin(participants.present())
    present_names(participants)
    assert grid.requests["b"] == 1
    grid.gone = {"b"}
    present_names(participants)
    grid.gone, hospitals[1].shift = set(), 0.9
    assert present_names(participants) == ["a", "c"]
    assert problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}


def test_a_hospital_that_failed_to_register_is_asked_again_when_it_restarts() -> None:
    grid = Streams(three(), Failing("b", "query.statistics", 1))
    participants, problems = participants_of(grid)
    assert [present_names(participants) for _ in range(3)] == [["a", "c"]] * 3
    assert problems.to_json()["unanswered"] == {"b": {"OSError at the hospital": 1}}
    grid.tokens["b"] = "second b"
    assert present_names(participants) == ["a", "b", "c"]
    assert grid.requests["b"] == 2


def test_a_hospital_that_failed_to_register_is_asked_again_when_it_reconnects() -> None:
    grid = Streams(three(), Failing("b", "query.statistics", 1))
    participants, _ = participants_of(grid)
    assert present_names(participants) == ["a", "c"]
    grid.gone = {"b"}
    assert present_names(participants) == ["a", "c"]
    grid.gone = set()
    assert present_names(participants) == ["a", "b", "c"]


def test_a_late_registration_of_an_ended_process_does_not_count_for_the_next() -> None:
    hospitals = three()
    grid = Streams(hospitals)
    grid.held["b"] = []
    participants, _ = participants_of(grid)
    assert present_names(participants) == ["a", "c"]
    hospitals[1].shift, grid.tokens["b"] = 0.9, "second b"
    grid.release("b")
    assert present_names(participants) == ["a", "b", "c"]
    assert participants.registrations["b"].sums.total[0] == pytest.approx(10 * 60.9)


def test_before_the_run_begins_a_hospital_may_return_with_other_rows_or_leave() -> None:
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
    assert [list(record.hospitals) for record in records] == [["a", "b", "c"]] * 3
    assert grid.requests == {"a": 2, "b": 2, "c": 1}
    assert run.problems.to_json()["absent"] == {}


def test_a_hospital_whose_connection_breaks_while_it_registers_is_asked_again_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(participants_module, "RETRY_INTERVAL", 1.0)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid = Streams(three())
    participants, problems = participants_of(grid)
    grid.held["b"] = []
    assert present_names(participants) == ["a", "c"]
    ((future, reply),) = grid.held.pop("b")
    grid.gone = {"b"}
    future.set_result(error_reply(Message(reply.content, node_id_of("b"), "query.statistics"), "it was cut"))
    assert present_names(participants) == ["a", "c"]
    grid.gone = set()
    assert present_names(participants) == ["a", "c"]
    assert problems.to_json()["unanswered"] == {"b": {"it was cut": 1}}
    now += 0.9
    assert present_names(participants) == ["a", "c"]
    assert grid.requests["b"] == 1
    now += 0.2
    assert present_names(participants) == ["a", "b", "c"]
    assert grid.requests["b"] == 2


def test_a_hospital_slow_to_register_is_reported_at_every_timeout_and_may_still_take_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    grid = Streams(three())
    grid.held["b"] = []
    participants, problems = participants_of(grid, settings(round_timeout=5.0))
    for _ in range(3):
        assert present_names(participants) == ["a", "c"]
        now += 5.1
    assert problems.to_json()["unanswered"] == {"b": {"it did not register within 5 s": 2}}
    grid.release("b")
    assert present_names(participants) == ["a", "b", "c"]
    assert grid.requests["b"] == 1


def test_a_second_hospital_of_a_name_is_left_out_while_the_first_is_connected() -> None:
    ids = {1: "a", 2: "a"}
    participants, problems = participants_of(Nameless(ids))
    assert participants.present() == [1]
    assert participants.present() == [1]
    ((reason, times),) = problems.to_json()["rejected"]["a"].items()
    assert "another connected hospital" in reason
    assert times == 1
    del ids[1]  # it was the same hospital, and Flower is slow to notice that its old node is gone
    assert participants.present() == [2]
    del ids[2]
    ids[3] = "a"
    assert participants.present() == [3]
    assert dict(participants.names()) == {3: "a"}


class Nameless:
    """A transport like those over Flower's engines: it knows only node ids, and may fail to deliver.

    Args:
        ids: node id -> hospital.
    """

    terms = ""

    def __init__(self, ids: dict[int, str]) -> None:
        self.app, self.ids = app_of({hospital.name: hospital for hospital in three()}), ids
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
            self.replies[keys[-1]] = self.app(message, context)
        return keys

    def pull_messages(self, keys: Any) -> list[Message]:
        return [self.replies.pop(key) for key in list(keys) if key in self.replies]


@pytest.mark.parametrize("undelivered", [[], [None], [""]])
def test_a_request_that_flower_cannot_deliver_is_sent_again(undelivered: list[Any]) -> None:
    grid = Nameless({7: "a"})
    grid.undelivered = undelivered
    participants, _ = participants_of(grid)
    assert participants.present() == []
    grid.undelivered = None
    assert participants.present() == [7]
    assert grid.pushed == 2


def test_an_error_from_flower_s_own_node_ends_the_wait_for_the_lost_reply() -> None:
    grid = Nameless({7: "a"})
    participants, problems = participants_of(grid)
    request = Message(RecordDict(), 1, "query.statistics")
    request.metadata.__dict__["_message_id"] = "key 1"
    lost = Message(Error(2, "it is lost"), reply_to=request)
    grid.pull_messages = lambda keys: [lost] if "key 1" in keys else []  # type: ignore[method-assign]
    assert participants.present() == []
    assert participants.present() == []
    assert grid.pushed == 1
    assert problems.to_json()["unanswered"] == {"node 1": {"it is lost": 1}}


def test_over_streams_a_restarted_hospital_with_other_rows_is_left_out() -> None:
    hospitals = three()
    chosen = settings(min_hospitals=2, round_timeout=30.0, wait=30.0)
    agreement, address = chosen.task_declaration.agreement, f"127.0.0.1:{free_port()}"
    app = app_of({hospital.name: hospital for hospital in hospitals})
    threads = []

    def end_when_lost(line: str) -> None:
        if "waiting" in line:
            raise JoinError(line)

    def start(name: str, server: str) -> None:
        def join() -> None:
            with suppress(JoinError):
                join_run(
                    app,
                    hospital_context(name, {}),
                    name=name,
                    address=server,
                    agreement=agreement,
                    wait=30.0,
                    announce=end_when_lost if server != address else lambda _: None,
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
        assert [list(record.hospitals) for record in rounds] == [["a", "c"]] * 3
        wait_until(lambda: "b" not in {run.participants.names()[node] for node in run.participants.present()})
        wait_until(lambda: bool(run.participants.present()) and "b" in run.problems.rejected)
        assert run.problems.to_json()["rejected"] == {"b": {OTHER_ROWS: 1}}
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()


def test_problems_of_the_transport_are_counted_after_each_exchange() -> None:
    grid = Streams(three())
    grid.take_problems = lambda: [Problem("b", "sent its reply too late")]  # type: ignore[method-assign]
    run = PlainRun(grid, settings())
    run.gather()
    next(run.rounds())
    assert run.problems.to_json()["rejected"] == {"b": {"sent its reply too late": 2}}  # to train, to evaluate


# Waiting


def test_enough_present_hospitals_cause_no_wait_and_no_announcement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("slept"))
    participants, _ = participants_of(Streams(three()))
    lines: list[str] = []
    nodes = participants.wait_for(2, "a wait", lines.append, time.monotonic() - 1)
    assert nodes == sorted(map(node_id_of, "abc"))
    assert lines == []


def test_a_wait_announces_the_time_left_at_intervals_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(participants_module, "POLL_INTERVAL", 0.5)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    grid = Streams(three())
    participants, _ = participants_of(grid, settings(wait=31.0))
    participants.present()
    grid.gone = {"a", "c"}
    lines: list[str] = []
    with pytest.raises(RunError, match=r"^round 4: 1 of 3 .* 31 s; absent: a, c; see --wait"):
        participants.wait_for(3, "round 4", lines.append, now + 31)
    assert [re.findall(r"(\d+) s left", line) for line in lines] == [["31"], ["16"], ["1"]]
    assert all("1 of 3" in line and "absent: a, c" in line for line in lines)
    assert now == 1031.0


def test_a_wait_in_the_final_evaluation_is_logged_with_the_absent_hospital(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
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
    lines = [line for line in caplog.messages if line.startswith("evaluate.final: 2 of 3")]
    assert [line.endswith("waiting up to 40 s for b") for line in lines] == [True, True, True, False]
    assert now == 1000 + 2 * 40  # for the threshold, too


def test_a_run_interrupted_at_the_end_of_a_round_keeps_the_weights_of_its_last_round() -> None:
    run = PlainRun(Streams(three()), replace(settings(), rounds=2))
    run.gather()
    rounds = run.rounds()
    next(rounds)
    weights = run.weights
    with pytest.MonkeyPatch.context() as patched:

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr("federated_health.server.plain_run.summarise_round", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(rounds)
    assert run.weights is weights
    assert len(run.history) == 1
