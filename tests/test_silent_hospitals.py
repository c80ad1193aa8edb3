"""Hospitals that are connected and do not answer: waited for once, pinged, and taking part again once they answer."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import pytest
from flwr.app import Message

from federated_health.errors import RunError
from federated_health.names import node_id_of
from federated_health.processes import free_port
from federated_health.server import lasting_failures, participants
from federated_health.server.plain_run import PlainRun
from federated_health.server.problem_log import ProblemLog
from federated_health.server.replies import ReplyCollector
from federated_health.transport import backoff, interface
from federated_health.transport.app_calls import hospital_context
from federated_health.transport.flower_engines import EngineTransport
from federated_health.transport.interface import ReplyFutures
from federated_health.transport.stream_server import serve_streams
from tests.support import streams
from tests.support.light_hospitals import LightHospital, app_of, three, three_with_scores
from tests.support.streams import question as question_to
from tests.support.streams import wait_until
from tests.test_faults import ComingAndGoing, Failing, equal, settings, undisturbed

TIMEOUT = 0.05
REGISTRATION = "query.statistics"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(participants, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(participants, "RETRY_INTERVAL", 0.0)


class Hanging(ComingAndGoing):
    """Hospitals in process; one in `hung` answers nothing until it is released, and then everything that waited.

    Attributes:
        hung: names, and the kind of message at which each begins to hang; empty for any.
        received: number of messages by hospital and kind, including unanswered ones.
    """

    def __init__(self, hospitals: list[LightHospital], hung: dict[str, str], hook: Any = lambda *_: None) -> None:
        super().__init__(hospitals, hook)
        self.hung, self.received = hung, Counter[tuple[str, str]]()
        self._waiting: dict[str, list[tuple[Future[Message], Message]]] = {}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        sent = {}
        for key, message in messages.items():
            name, kind = self.names()[message.metadata.dst_node_id], message.metadata.message_type
            self.received[name, kind] += 1
            if self.hung.get(name) in ("", kind):
                self.hung[name] = ""
                sent[key] = Future[Message]()
                self._waiting.setdefault(name, []).append((sent[key], message))
            else:
                sent |= super().send({key: message})
        return sent

    def release(self, name: str) -> None:
        del self.hung[name]
        for future, message in self._waiting.pop(name):
            (reply,) = super().send({"key": message}).values()
            if not future.cancelled():
                future.set_result(reply.result())


def run_with(grid: Any, **changed: object) -> PlainRun:
    run = PlainRun(grid, settings(**{"round_timeout": TIMEOUT, "min_hospitals": 2, **changed}))
    run.gather()
    return run


def test_a_hospital_that_does_not_answer_costs_one_wait_and_is_pinged_once(caplog: pytest.LogCaptureFixture) -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    run = run_with(grid, rounds=6)
    assert [sorted(completed.hospitals) for completed in run.rounds()] == [["a", "c"]] * 6
    assert grid.received["b", "train"] == 1
    assert grid.received["b", REGISTRATION] == 2
    assert run.participants.absent() == ["b"]
    assert run.problems.to_json()["unanswered"] == {"b": {"it did not answer within 0.05 s": 1}}
    assert run.problems.to_json()["absent"] == {"b": 6}
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum("b has not answered" in line for line in lines) == 1


def test_a_hospital_that_answers_the_ping_takes_part_again(caplog: pytest.LogCaptureFixture) -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    run = run_with(grid, rounds=6)
    trained = []
    for completed in run.rounds():
        trained.append([name for name, part in completed.hospitals.items() if part.train_loss is not None])
        if completed.number == 2:
            grid.release("b")
    assert trained == [["a", "c"]] * 3 + [["a", "b", "c"]] * 3
    assert "b answers again" in caplog.text
    assert run.problems.to_json()["rejected"] == {}
    assert list(run.evaluate()["hospitals"]) == ["a", "b", "c"]


def test_a_ping_changes_neither_the_registration_nor_the_entry_of_the_process() -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    run = run_with(grid)
    registration, entry = run.registrations["b"], run.participants.entry_of(node_id_of("b"))
    rounds = run.rounds()
    next(rounds)
    grid.release("b")
    assert run.participants.absent() == []
    assert run.registrations["b"] is registration
    assert run.participants.entry_of(node_id_of("b")) == entry


def test_a_hospital_that_answers_the_ping_with_other_rows_is_left_out() -> None:
    hospitals = three_with_scores()
    grid = Hanging(hospitals, {"b": "train"})
    run = run_with(grid)
    next(run.rounds())
    hospitals[1].shift = 0.9
    grid.release("b")
    assert run.participants.absent() == ["b"]
    assert ["its rows are not" in reason for reason in run.problems.rejected["b"]] == [True]


def test_a_hospital_that_answers_the_ping_with_an_error_is_asked_again() -> None:
    failing = Failing("b", REGISTRATION, 10**6, after=1)
    grid = Hanging(three_with_scores(), {"b": "train"}, failing)
    run = run_with(grid)
    next(run.rounds())
    grid.release("b")
    assert run.participants.absent() == []


def test_a_hospital_that_leaves_and_returns_while_it_is_silent_is_pinged_again() -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    grid.processes = lambda: {node: f"process of {name}" for node, name in grid.names().items()}  # type: ignore[method-assign]
    run = run_with(grid)
    next(run.rounds())
    assert run.participants.absent() == ["b"]
    grid.gone = {"b"}
    ((future, ping),) = [waiting for waiting in grid._waiting["b"] if not waiting[0].cancelled()]
    future.set_result(interface.error_reply(ping, "its connection was lost"))
    assert run.participants.absent() == ["b"]
    grid.hung, grid.gone = {}, set()
    assert run.participants.absent() == []
    assert grid.received["b", REGISTRATION] == 3


def test_the_run_ends_after_the_wait_if_every_hospital_hangs() -> None:
    grid = Hanging(three_with_scores(), dict.fromkeys("abc", "train"))
    run = run_with(grid, wait=0.1)
    with pytest.raises(RunError, match=r"3 of 2 .* 0 could take part .*without an answer: a, b, c"):
        next(run.rounds())
    assert [grid.received[name, "train"] for name in "abc"] == [1, 1, 1]
    grid.gone = {"c"}
    with pytest.raises(RunError, match=r"absent: c; without an answer: a, b;"):
        run.participants.wait_for(2, "a wait", lambda _: None, 0.0)


def test_a_hospital_that_is_needed_is_awaited_and_the_weights_are_those_of_an_undisturbed_run() -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    run = run_with(grid, min_hospitals=3, wait=20.0)
    threading.Timer(4 * TIMEOUT, lambda: grid.release("b")).start()
    list(run.rounds())
    assert equal(run.weights, undisturbed(settings()).weights)
    assert run.problems.repeated_rounds == 1
    assert grid.received["b", "train"] == 4


@pytest.mark.parametrize("kind", ["evaluate", "evaluate.threshold", "evaluate.final"])
def test_the_final_evaluation_waits_once_for_a_hospital_that_hangs(kind: str) -> None:
    grid = Hanging(three_with_scores(), {"b": kind})
    run = run_with(grid)
    list(run.rounds())
    assert list(run.evaluate()["hospitals"]) == ["a", "c"]
    later = {"evaluate": ["evaluate.threshold", "evaluate.final"], "evaluate.threshold": ["evaluate.final"]}
    assert [grid.received["b", other] for other in later.get(kind, [])] == [0] * len(later.get(kind, []))
    assert grid.received["b", kind] == 1


def test_a_resumed_run_pings_a_hospital_that_hangs() -> None:
    chosen = settings(round_timeout=TIMEOUT, min_hospitals=2)
    first = PlainRun(ComingAndGoing(three_with_scores()), chosen)
    first.gather()
    next(first.rounds())
    grid = Hanging(three_with_scores(), {"b": "train"})
    second = PlainRun(grid, chosen)
    second.resume(first.checkpoint())
    second.gather()
    list(second.rounds())
    assert (grid.received["b", "train"], grid.received["b", REGISTRATION]) == (1, 2)


# How long the server waits


def patience(longest_round: float, timeout: float = 600.0, trained: str = "ab", asked: str = "ab") -> float:
    collector = ReplyCollector(ComingAndGoing(three()), timeout, ProblemLog())
    collector.longest_round = longest_round
    collector._trained = set(map(node_id_of, trained))
    return collector.patience(set(map(node_id_of, asked)))


def test_the_server_waits_a_minute_or_ten_of_the_longest_round_and_never_longer_than_the_timeout() -> None:
    assert patience(0.2) == 60
    assert patience(8.0) == 80
    assert patience(59.0) == 590
    assert patience(61.0) == 600
    assert patience(0.2, timeout=5.0) == 5


def test_it_waits_the_whole_timeout_before_the_first_round_and_for_a_process_that_has_not_trained_yet() -> None:
    assert patience(0.0) == 600
    assert patience(0.2, asked="abc") == 600
    assert patience(0.2, asked="a") == 60


def test_only_rounds_in_which_every_hospital_answered_set_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    duration = iter([7.0, 9.0, 1.0])

    def pass_time(name: str, kind: str) -> None:
        now[0] += next(duration, 0.0) if (name, kind) == ("a", "train") else 0.0

    grid = ComingAndGoing(three_with_scores(), pass_time)
    run = run_with(grid, round_timeout=600.0)
    rounds, longest = run.rounds(), [run.collector.longest_round]
    for _ in range(3):
        next(rounds)
        longest.append(run.collector.longest_round)
    assert longest == [0.0, 9.0, 9.0, 9.0]  # a round is completed by the messages of the next


def test_a_round_in_which_the_server_waited_in_vain_does_not_prolong_its_patience() -> None:
    run = run_with(Hanging(three_with_scores(), {"b": "train"}))
    attempts = []

    def attempt(nodes: list[int]) -> Any:
        attempts.append(run._train(run.train_config(), None, nodes))
        return attempts[-1]

    run.participants.repeat_until_enough(1, attempt)
    assert [reply.hospital for reply in attempts[0]] == ["a", "c"]
    assert run.collector.longest_round == 0.0


def test_the_server_waits_twice_as_long_as_a_silence_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = ReplyCollector(ComingAndGoing(three()), 600.0, ProblemLog())
    collector.longest_round, collector._trained, collector.silent = 0.2, {1, 2}, {1: 100.0, 2: 150.0}
    monkeypatch.setattr(time, "monotonic", lambda: 200.0)
    collector.end_silence(2, "b")
    assert collector.patience({2}) == 100
    collector.end_silence(1, "a")
    assert collector.patience({1, 2}) == 200
    collector.end_silence(1, "a")  # it is not silent
    collector.silent = {1: 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: 5000.0)
    collector.end_silence(1, "a")
    assert collector.patience({1}) == 600


def test_a_restarted_process_has_the_whole_timeout_again() -> None:
    collector = ReplyCollector(ComingAndGoing(three()), 600.0, ProblemLog())
    collector.longest_round, collector._trained, collector.silent = 0.2, {1, 2}, {1: 0.0}
    collector.forget(1)
    assert (collector.patience({1, 2}), collector.patience({2}), collector.silent) == (600, 60, {})


class Stopping(ReplyFutures):
    """A transport whose process is stopped while it waits; the replies arrive as it continues."""

    def names(self) -> dict[int, str]:
        return {1: "a"}

    def send(self, messages: Mapping[str, Message]) -> dict[str, "Future[Message]"]:
        self.future = Future[Message]()
        return dict.fromkeys(messages, self.future)


def test_a_server_that_was_stopped_reads_the_replies_before_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, grid = [100.0], Stopping()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    waits = []

    def wait(futures: set[Future[Message]], timeout: float) -> tuple[set[Future[Message]], set[Future[Message]]]:
        waits.append(timeout)
        now[0] += 1000.0 if len(waits) == 1 else timeout
        if len(waits) == 2:
            grid.future.set_result(interface.error_reply(question, "it has arrived"))
        return set(), {future for future in futures if not future.done()}

    question = question_to("a")
    monkeypatch.setattr(interface, "wait", wait)
    (reply,) = grid.send_and_receive([question], timeout=60.0)
    assert reply.error.reason == "it has arrived"
    assert waits[0] == 15.0


# Other transports


class Engine:
    """One of Flower's grids, in which a node that hangs returns no reply, and pings are answered later."""

    def __init__(self, hospitals: list[LightHospital]) -> None:
        self.names = {number: hospital.name for number, hospital in enumerate(hospitals, 1)}
        self.app = app_of({hospital.name: hospital for hospital in hospitals})
        self.hangs, self.pushed = False, Counter[tuple[str, str]]()
        self.replies: dict[str, Message] = {}

    def get_nodes(self) -> list[Any]:
        return []

    def get_node_ids(self) -> list[int]:
        return list(self.names)

    def push_messages(self, messages: Any) -> list[str]:
        keys = []
        for message in messages:
            name = self.names[message.metadata.dst_node_id]
            key = f"key {self.pushed.total()}"
            self.pushed[name, message.metadata.message_type] += 1
            keys.append(key)
            if not (self.hangs and name == "b"):
                message.metadata.__dict__["_message_id"] = key
                self.replies[key] = self.app(message, hospital_context(name, {}))
                self.replies[key].metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
        return keys

    def pull_messages(self, keys: Any) -> list[Message]:
        return [self.replies.pop(key) for key in list(keys) if key in self.replies]


def test_over_flower_s_engines_a_node_that_hangs_is_asked_to_train_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated_health.transport.flower_engines.PULL_INTERVAL", 0.001)
    engine: Any = Engine(three_with_scores())
    run = run_with(EngineTransport(engine), rounds=4)
    engine.hangs = True
    list(run.rounds())
    assert engine.pushed["b", "train"] == 1
    assert engine.pushed["b", REGISTRATION] == 2
    assert run.problems.to_json()["absent"] == {"b": 4}


def test_over_streams_a_handler_that_never_returns_costs_one_wait_and_the_hospital_rejoins_when_it_does() -> None:
    chosen = settings(min_hospitals=2, round_timeout=0.5, wait=20.0, rounds=8)
    agreement, address = chosen.task_declaration.agreement, f"127.0.0.1:{free_port()}"
    released, hung = threading.Event(), threading.Event()
    app = app_of({hospital.name: hospital for hospital in three_with_scores()})

    def answer(message: Message, context: Any) -> Message:
        if context.node_config["name"] == "b" and message.metadata.message_type == "train" and not hung.is_set():
            hung.set()
            released.wait(30.0)
        return app(message, context)

    with serve_streams(address, agreement, lambda _: None) as grid:
        hospitals = [streams.LightHospital(name, address, agreement=agreement, wait=20.0, app=answer) for name in "abc"]
        run = PlainRun(grid, chosen)
        run.gather()
        trained = []
        for completed in run.rounds():
            trained.append([name for name, part in completed.hospitals.items() if part.train_loss is not None])
            if completed.number == 3:
                released.set()
                wait_until(lambda: run.participants.absent() == [])
        assert list(run.evaluate()["hospitals"]) == ["a", "b", "c"]
    assert [hospital.end() for hospital in hospitals] == [None] * 3
    assert trained == [["a", "c"]] * 4 + [["a", "b", "c"]] * 4
    assert run.problems.to_json()["unanswered"] == {"b": {"it did not answer within 0.5 s": 1}}
    assert run.problems.to_json()["rejected"] == {"b": {"sent its reply too late": 1}}


# A failure that repeats itself


def test_a_needed_hospital_that_fails_three_times_in_the_same_way_ends_the_run_with_the_cause() -> None:
    class Broken(Failing):
        def __call__(self, name: str, kind: str) -> None:
            try:
                super().__call__(name, kind)
            except OSError:
                raise ZeroDivisionError from None

    broken = Broken("b", "train", 10**6, after=1)
    run = run_with(ComingAndGoing(three_with_scores(), broken), min_hospitals=3, wait=10.0**6)
    rounds = run.rounds()
    with pytest.raises(RunError, match="b: ZeroDivisionError at the hospital"):
        list(rounds)
    assert broken.received["b", "train"] == 1 + lasting_failures.MAX_SAME_FAILURES
    assert run.last_round is not None


@pytest.mark.parametrize(
    ("repeats", "spare", "expected"),
    [
        ({"b": 3}, 0, "b: its weights are of another shape"),
        ({"b": 2}, 0, None),
        ({"b": 3}, 1, None),
        ({"b": 3, "c": 3}, 1, "b, c: its weights are of another shape"),
        ({"b": 3, "d": 99}, 0, "b: its weights are of another shape"),
        ({"b": 1, "d": 99}, 0, None),  # a full disk may have room again
    ],
)
def test_a_failure_of_single_hospitals_is_lasting_if_it_repeats_and_too_few_others_are_left(
    repeats: dict[str, int], spare: int, expected: str | None
) -> None:
    failures = dict.fromkeys("bc", "its weights are of another shape") | {"d": "PermissionError at the hospital"}
    failures = {name: failures[name] for name in repeats}
    cause = lasting_failures.find_lasting_cause(set("abcd"), failures, failures, spare=spare, repeats=repeats)
    assert cause is None if expected is None else str(cause).endswith(expected)


def test_a_ping_that_was_lost_on_its_way_does_not_count_as_an_answer() -> None:
    grid = Hanging(three_with_scores(), {"b": "train"})
    run = run_with(grid)
    next(run.rounds())
    assert run.participants.absent() == ["b"]
    ((future, ping),) = [waiting for waiting in grid._waiting["b"] if not waiting[0].cancelled()]
    future.set_result(interface.error_reply(ping, "the message has expired", interface.LATE))
    assert run.participants.absent() == ["b"]
    assert run.participants.absent() == ["b"]
    assert grid.received["b", REGISTRATION] == 3


def test_no_message_of_any_kind_is_sent_to_a_hospital_that_has_not_answered() -> None:
    grid = Hanging(three(), {"b": "train"})
    run = run_with(grid)
    nodes = run.participants.present()
    run._train(run.train_config(), None, nodes)
    run._train(run.train_config(), None, nodes)
    assert [grid.received[name, "train"] for name in "abc"] == [2, 1, 2]


def test_a_hospital_that_hung_and_restarts_takes_part_again_as_a_new_process() -> None:
    grid, processes = Hanging(three_with_scores(), {"b": "train"}), {"a": "1", "b": "1", "c": "1"}
    grid.processes = lambda: {node: processes[name] for node, name in grid.names().items()}  # type: ignore[method-assign]
    run = run_with(grid)
    rounds = run.rounds()
    next(rounds)
    processes["b"], grid.hung = "2", {}
    assert run.participants.absent() == []
    next(rounds)
    assert run.collector.patience({node_id_of("a")}) == TIMEOUT
    run.collector.longest_round, run.collector._timeout = 1.0, 600.0
    assert run.collector.patience({node_id_of("b")}) == 60
    processes["b"] = "3"
    assert run.participants.absent() == []
    assert run.collector.patience({node_id_of("b")}) == 600


def test_only_messages_of_rounds_are_waited_for_less_than_the_whole_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federated_health.server.replies.MIN_PATIENCE", 2.0)
    monkeypatch.setattr("federated_health.server.replies.PATIENCE_FACTOR", 0.0)
    grid, waits = ComingAndGoing(three_with_scores()), list[tuple[str, float | None]]()
    answer = grid.send_and_receive

    def record(messages: Any, *, timeout: float | None = None) -> list[Message]:
        waits.append((messages[0].metadata.message_type, timeout))
        return answer(messages, timeout=timeout)

    monkeypatch.setattr(grid, "send_and_receive", record)
    run_with(grid, rounds=3, round_timeout=9.0).run()
    assert waits == [
        ("train", 9.0),
        ("train", 2.0),
        ("train", 2.0),
        ("evaluate", 2.0),
        ("evaluate.threshold", 9.0),
        ("evaluate.final", 9.0),
    ]
