"""Who takes part in a run: hospitals that are connected and have registered. They may leave and reconnect."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, RecordDict

from federated_health.data.label_direction import column_positions
from federated_health.data.tasks import write_agreement
from federated_health.errors import RunError
from federated_health.messages.content import CLASS_COUNTS, CONFIG, REGISTRATION, SUMS_WITHHELD, Registration
from federated_health.messages.records import MalformedMessageError
from federated_health.messages.run_terms import RUN_TERMS, RunTerms
from federated_health.messages.validation import read_registration
from federated_health.ml.targets import target_of
from federated_health.server.replies import AcceptedReply, Content, ReplyCollector
from federated_health.server.suspicious_hospitals import check_registrations, check_rows
from federated_health.settings import Settings
from federated_health.transport.backoff import Backoff
from federated_health.transport.interface import LOG_INTERVAL, Transport, has_failed, is_unavailable

if TYPE_CHECKING:
    from federated_health.ml.privacy_plan import PrivacyPlan

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.1
"""Seconds between two checks of which hospitals are connected."""

RETRY_INTERVAL = 1.0
"""Seconds until a process whose connection broke is asked again to register."""


@dataclass
class _Node:
    """State of a node whose process has not ended."""

    process: str = ""  # token of the process, where the transport tells processes apart
    name: str = ""  # with which it connected, also after its connection was lost
    registration_number: int = 0  # among all registrations of the run
    request: tuple[str, float] | None = None  # id of an unanswered request to register, and deadline of the reply
    next_request: float = 0.0  # earliest time at which it may be asked to register
    has_answered: bool = False  # since it connected, also with a reply that was rejected
    namesake: int | None = None  # node that already has the name under which this one registered


class Participants:
    """Hospitals of one run over a transport.

    The server never waits for a registration, so that a slow hospital does not delay the others.

    Attributes:
        registrations: registration of every hospital that has taken part since the run began, by name.
        privacy: differential-privacy guarantee of the run; sent with the request to register.
        has_begun: whether the run has begun: a hospital that reconnects must have the rows that it registered with.
    """

    def __init__(self, transport: Transport, settings: Settings, collector: ReplyCollector) -> None:
        self.registrations: dict[str, Registration] = {}
        self.privacy: PrivacyPlan | None = None
        self.has_begun = False
        self._transport = transport
        self._settings = settings
        self._collector = collector
        self._names: dict[int, str] = {}
        self._nodes: defaultdict[int, _Node] = defaultdict(_Node)
        self._entries = count(1)
        self._absent_last_round: list[str] = []
        self._terms = transport.terms or RunTerms.of(settings).text

    def names(self) -> Mapping[int, str]:
        """Name of each registered hospital by node id."""
        return self._names

    def registration_of(self, node: int) -> Registration:
        return self.registrations[self._names[node]]

    def entry_of(self, node: int) -> int:
        """A number that changes whenever the hospital's process is a new one, which has forgotten the run."""
        return self._nodes[node].registration_number

    def present(self) -> list[int]:
        """Nodes that are connected, have registered and answer, in the order of their ids.

        Asks new ones to register, and those that have not answered in time to register again.
        """
        connected = sorted(self._transport.get_node_ids())
        self._register(connected)
        return [node for node in connected if node in self._names and node not in self._collector.silent]

    def begin(self, present: Iterable[int]) -> None:
        """Begin the run with these nodes; hospitals that registered and left are forgotten."""
        for node in set(self._names) - set(present):
            self.registrations.pop(self._names.pop(node), None)
        self.has_begun = True

    def restore(self, registrations: Iterable[Registration]) -> None:
        """Begin with the registrations of a resumed run, whose hospitals have yet to reconnect."""
        self.registrations.update({registration.name: registration for registration in registrations})
        self.has_begun = True

    def check_registrations(self) -> None:
        """Record in the problem log what is suspicious in the registrations."""
        check_registrations(self.registrations, self._settings, self._collector.problems)

    def absent(self) -> list[str]:
        """Hospitals that have taken part, and are not connected or do not answer."""
        present = {self._names[node] for node in self.present()}
        return sorted(set(self.registrations) - present)

    def wait_for(self, needed: int, purpose: str, announce: Callable[[str], None], deadline: float) -> list[int]:
        """Wait until enough hospitals are present, and return the nodes of all that are.

        Args:
            purpose: what the server waits for, at the start of each line.
            announce: called every LOG_INTERVAL with a line that says how many are present and who is absent.
            deadline: of `time.monotonic`.

        Raises:
            RunError: too few were present at the deadline.
        """
        next_log = 0.0
        while len(present := self.present()) < needed:
            now = time.monotonic()
            connected = len(list(self._transport.get_node_ids()))
            if now >= deadline:
                raise RunError(
                    f"{purpose}: {connected} of {needed} hospitals were connected and {len(present)} could take part "
                    f"within {self._settings.wait:g} s{self._name_absent()}; see --wait"
                )
            if now >= next_log:
                ready = f", {len(present)} ready" if connected >= needed else ""
                left = f"{deadline - now:.0f} s left"
                announce(f"{purpose}: {connected} of {needed} are connected{ready}, {left}{self._name_absent()}")
                next_log = now + LOG_INTERVAL
            time.sleep(POLL_INTERVAL)
        return present

    def wait_for_absent(self, seconds: float, announce: Callable[[str], None]) -> list[int]:
        """Wait for absent hospitals, at most `seconds`, and return the nodes of all that are present."""
        deadline = time.monotonic() + seconds
        if absent := self.absent():
            announce(f"waiting {seconds:.0f} s more for {', '.join(absent)}")
        while self.absent() and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        return self.present()

    def repeat_until_enough(
        self, number: int, attempt: Callable[[list[int]], list[AcceptedReply[Content]]]
    ) -> list[AcceptedReply[Content]]:
        """The updates of a round, which is repeated until enough hospitals have sent a valid one.

        Args:
            attempt: one attempt at the round among these nodes; returns the valid updates.

        Raises:
            RunError: there were too few for longer than the settings' `wait`, or all failed as another attempt would.
        """
        needed, backoff = self._settings.min_updates, Backoff(self._settings.wait)
        failures: dict[str, str] = {}
        repeats: dict[str, int] = {}
        while True:
            nodes = self.wait_for(needed, f"round {number}", logger.warning, backoff.deadline)
            earlier, failures = failures, {}
            self._collector.failures = failures
            began = time.monotonic()
            updates = attempt(nodes)
            if len(updates) >= needed:
                if self._collector.silent.keys().isdisjoint(nodes):
                    self._collector.longest_round = max(self._collector.longest_round, time.monotonic() - began)
                return updates
            from federated_health.server.lasting_failures import find_lasting_cause  # noqa: PLC0415  # after a failure

            asked = {self._names[node] for node in nodes}
            spare = len(asked | self.registrations.keys()) - needed
            repeats = {
                name: 1 + (repeats[name] if earlier.get(name) == reason else 0) for name, reason in failures.items()
            }
            if cause := find_lasting_cause(
                asked, failures, earlier, spare=spare, repeats=repeats, suspicion=self.suspicion
            ):
                raise RunError(f"round {number}: {cause}")
            self._collector.problems.repeated_rounds += 1
            reason = (
                f"round {number}: {len(updates)} of {len(nodes)} hospitals sent a valid update, and {needed} are "
                f"needed ({self._settings.min_reason}); missing: {', '.join(self._without(updates))}"
            )
            if not backoff.pause():
                raise RunError(reason)
            logger.warning("%s; repeating the round", reason)

    def suspicion(self) -> str:
        """Which hospital may have caused that training diverged, as the end of a sentence; empty if none stands out."""
        if not self._collector.problems.opposed_updates:
            return ""
        from federated_health.server.opposed_updates import name_most_opposed  # noqa: PLC0415  # in failing runs only

        return f"; {name_most_opposed(self._collector.problems)}"

    def note_absent(self, number: int, updates: Iterable[AcceptedReply[Content]]) -> None:
        """Count the hospitals without an update in a round, and log them when they change."""
        absent = self._without(updates)
        self._collector.problems.absent.update(absent)
        if absent != self._absent_last_round and self._collector.lines.allows("rounds with other hospitals"):
            which = f"without {', '.join(absent)}" if absent else "all hospitals are back"
            logger.warning("round %d: %s", number, which)
        self._absent_last_round = absent

    def _without(self, updates: Iterable[AcceptedReply[Content]]) -> list[str]:
        return sorted(set(self.registrations) - {reply.hospital for reply in updates})

    def _name_absent(self) -> str:
        connected = self._names.keys() & set(self._transport.get_node_ids())
        silent = {self._names[node] for node in self._collector.silent if node in connected}
        absent = [name for name in self.absent() if name not in silent]
        parts = {"absent": absent, "without an answer": sorted(silent)}
        return "".join(f"; {what}: {', '.join(names)}" for what, names in parts.items() if names)

    def _register(self, connected: list[int]) -> None:
        """Ask new nodes to register, and read the replies that have arrived.

        Each process is asked once while it is connected, and again if its connection broke before it answered. A late
        reply is counted as a problem, and is accepted all the same. A process that has not answered another message in
        time is asked, too: its reply shows that it answers.
        """
        self._forget_ended(connected)
        now, timeout, silent = time.monotonic(), self._settings.round_timeout, self._collector.silent
        for node in connected:
            known = self._nodes[node]
            is_asked = node in silent or not (node in self._names or known.has_answered)
            if is_asked and not known.request and now >= known.next_request:
                self._request_registration(node)
        pending = {known.request[0]: node for node, known in self._nodes.items() if known.request}
        if not pending:
            return
        replies = list(self._transport.pull_messages(pending))
        for reply in replies:
            # Flower's own grids report a lost reply under their own node id.
            node = pending.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            known = self._nodes[node]
            known.request = None
            known.has_answered = known.has_answered or not is_unavailable(reply)
            if not reply.has_error() or has_failed(reply):
                self._collector.end_silence(node, known.name)
        asked_as = {node: known.name for node, known in self._nodes.items() if known.name}
        for registered in self._collector.accept(replies, asked_as | self._names, self._read):
            self._enter(registered)
        for node, known in self._nodes.items():
            if known.request and (now := time.monotonic()) > known.request[1]:
                # Its reply may still arrive, after a broken connection that neither side noticed.
                known.request = (known.request[0], now + timeout) if node in connected else None
                if node in silent:
                    continue
                self._collector.reject(known.name, f"it did not register within {timeout:g} s", has_answered=False)

    def _forget_ended(self, connected: list[int]) -> None:
        """Forget nodes with a new process, which may have other rows and must register again.

        A node that was away is forgotten, too, where the transport does not tell processes apart.
        """
        tokens = self._transport.processes()
        processes = {node: tokens.get(node, "") for node in connected}
        for node, known in list(self._nodes.items()):
            known.has_answered = known.has_answered and node in processes
            if processes.get(node) != known.process and (node in processes or not known.process):
                del self._nodes[node]
                self._names.pop(node, None)
                self._collector.forget(node)
                for other in self._nodes.values():
                    if other.namesake == node:
                        other.namesake, other.has_answered = None, False
                if known.request:  # a reply of the earlier process no longer counts
                    self._transport.forget([known.request[0]])
        for node, known in list(self._nodes.items()):
            is_pending = known.request or known.next_request > time.monotonic()
            if not is_pending and node not in processes and node not in self._names:
                del self._nodes[node]  # hospitals that left before they registered take no memory
        for node, process in processes.items():
            self._nodes[node].process = process

    def _request_registration(self, node: int) -> None:
        known, now, task = self._nodes[node], time.monotonic(), self._settings.task_declaration
        known.next_request, known.name = now + RETRY_INTERVAL, self._transport.names().get(node, f"node {node}")
        config = {"task": task.name, "schema": task.schema_hash, "terms": write_agreement(self._settings.agreement)}
        config[RUN_TERMS] = self._terms
        privacy = self.privacy.to_config() if self.privacy else {}
        withheld = {SUMS_WITHHELD: True} if self._settings.secure_aggregation else {}
        classes = {CLASS_COUNTS: True} if self._settings.class_weight == "balanced" else {}
        record = ConfigRecord({**config, **privacy, **withheld, **classes})
        message = Message(RecordDict({CONFIG: record}), node, REGISTRATION)
        for key in self._transport.push_messages([message]):
            if key:  # none where one of Flower's engines cannot deliver
                known.request = key, now + self._settings.round_timeout

    def _enter(self, registered: AcceptedReply[Registration]) -> None:
        """Add a participant, unless another node has its name, or it registered with other rows before."""
        node, registration = registered.message.metadata.src_node_id, registered.content
        name, known = registration.name, self.registrations.get(registration.name)
        namesake = next((other for other, taken in self._names.items() if taken == name and other != node), None)
        if namesake is not None:
            # Flower gives a reconnecting hospital a new node id, perhaps before it drops the old one.
            self._nodes[node].namesake = namesake
            self._collector.reject(name, "another connected hospital has its name")
        elif self.has_begun and known is not None and not known.is_of_same_rows(registration):
            self._names.pop(node, None)
            self._collector.reject(name, "its rows are not those that it registered when the run began")
        elif node not in self._names:
            self._names[node], self._nodes[node].registration_number = name, next(self._entries)
            if known is None or not self.has_begun:
                self.registrations[name] = registration
            if known is None and self.has_begun:
                check_rows(name, self.registrations, self._settings, self._collector.problems)
                for text in self._collector.problems.data_warnings.get(name, []):
                    logger.warning("%s: %s", name, text)

    def _read(self, node: int, content: RecordDict) -> Registration:
        task = self._settings.task_declaration
        classes = target_of(task).classes if self._settings.class_weight == "balanced" else 0
        registration = read_registration(content, task.measurements, len(column_positions(task)), classes)
        if self._transport.names().get(node, registration.name) != registration.name:
            raise MalformedMessageError("it registers under another name than it joined with")
        return registration
