"""Who takes part in a run: hospitals that are connected and have introduced themselves. They may come and go."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federated_health.errors import RunError
from federated_health.messages import content
from federated_health.messages.content import Registration
from federated_health.messages.task_agreement import write_agreement
from federated_health.messages.weights import MalformedMessageError
from federated_health.ml.privacy_plan import PrivacyPlan
from federated_health.server.replies import AcceptedReply, RejectedReply, ReplyCollector
from federated_health.settings import Settings
from federated_health.transport.grids import is_cut_off

logger = logging.getLogger(__name__)

WORDS_INTERVAL = 15.0
"""Seconds after which a server that waits says so again."""

LOOK_INTERVAL = 0.1
"""Seconds between looks at who is connected."""

AGAIN_INTERVAL = 1.0
"""Seconds between two questions to one process that has not answered the first, as its connection broke off."""


class Participants:
    """Hospitals of one run over a grid.

    Nobody is waited for while a hospital introduces itself, so one that is slow to do so holds nobody up.

    Attributes:
        registrations: by name, of all who have taken part since the run began (see `settle`).
        privacy: what hospitals are told, before they say anything, that the run promises their patients.
    """

    def __init__(self, grid: Grid, settings: Settings, correspondence: ReplyCollector) -> None:
        self.registrations: dict[str, Registration] = {}
        self.privacy: PrivacyPlan | None = None
        self._grid = grid
        self._settings = settings
        self._collector = correspondence
        self._names: dict[int, str] = {}
        self._asked: dict[int, tuple[str, float]] = {}  # node -> the question's id, and until when it may be answered
        self._next_asking: dict[int, float] = {}  # node -> when it may be asked again
        self._answered: set[int] = set()  # also those that may not take part
        self._namesakes: dict[int, int] = {}  # node -> the one that has its name
        self._processes: dict[int, str] = {}
        self._entered = 0
        self._entries: dict[int, int] = {}
        self._is_settled = False

    def names(self) -> Mapping[int, str]:
        """Node id -> hospital, of those who have introduced themselves to this server."""
        return self._names

    def registration_of(self, node: int) -> Registration:
        return self.registrations[self._names[node]]

    def entry_of(self, node: int) -> int:
        """A number that is another one whenever a hospital was started anew, and so may have forgotten what it knew."""
        return self._entries[node]

    def present(self) -> list[int]:
        """Nodes that are connected and have introduced themselves, in the order of their ids; others are asked to."""
        connected = sorted(self._grid.get_node_ids())
        self._register(connected)
        return [node for node in connected if node in self._names]

    def forget_others(self, nodes: Iterable[int]) -> None:
        """Forget who introduced himself, and left again before the run began."""
        for node in set(self._names) - set(nodes):
            self.registrations.pop(self._names.pop(node), None)

    def settle(self) -> None:
        """The run begins: what hospitals have declared holds from now on.

        Until then a hospital may leave, and come back with other rows; one that does so later is left out.
        """
        self._is_settled = True

    def absent(self) -> list[str]:
        """Hospitals that took part and are not connected."""
        present = {self._names[node] for node in self.present()}
        return sorted(set(self.registrations) - present)

    def wait_for(self, least: int, what: str, announce: Callable[[str], None], deadline: float) -> list[int]:
        """Wait until so many hospitals are present, and return all that are.

        Args:
            what: waits, in a word or two.
            announce: told, in words and every now and then, how many are there and who is not.
            deadline: of `time.monotonic`.

        Raises:
            RunError: fewer were there at the deadline.
        """
        next_words = 0.0
        while len(present := self.present()) < least:
            now = time.monotonic()
            connected = len(list(self._grid.get_node_ids()))
            if now >= deadline:
                raise RunError(
                    f"{what}: {connected} of {least} hospitals were connected and {len(present)} could take part "
                    f"within {self._settings.wait:g} s{self._name_absent()}; see --wait"
                )
            if now >= next_words:
                ready = f", {len(present)} ready" if connected >= least else ""
                left = f"{deadline - now:.0f} s left"
                announce(f"{what}: {connected} of {least} are connected{ready}, {left}{self._name_absent()}")
                next_words = now + WORDS_INTERVAL
            time.sleep(LOOK_INTERVAL)
        return present

    def wait_for_others(self, seconds: float, announce: Callable[[str], None]) -> list[int]:
        """Wait so long for those who took part and are not connected, and return all that are present."""
        deadline = time.monotonic() + seconds
        if absent := self.absent():
            announce(f"waiting {seconds:.0f} s more for {', '.join(absent)}")
        while self.absent() and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
        return self.present()

    def _name_absent(self) -> str:
        absent = self.absent()
        return f"; not there: {', '.join(absent)}" if absent else ""

    def _register(self, connected: list[int]) -> None:
        """Ask hospitals that are new for name, row counts and statistics, and read what has come of it.

        Each process of theirs is asked once while it is connected, and again where the connection was lost before it
        could answer. An answer that is late is said to be, and still counts.
        """
        self._forget_ended(connected)
        self._answered &= set(connected)
        now = time.monotonic()
        for node in connected:
            is_known = node in self._names or node in self._asked or node in self._answered
            if not is_known and now >= self._next_asking.get(node, now):
                self._ask(node)
        if not self._asked:
            return
        nodes = {key: node for node, (key, _) in self._asked.items()}
        replies = list(self._grid.pull_messages(nodes))
        for reply in replies:
            # Flower's own grids answer in their own name where a reply is lost.
            node = nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
            self._asked.pop(node, None)
            if not is_cut_off(reply):
                self._answered.add(node)
        for introduced in self._collector.accept(replies, self._names, self._read):
            self._enter(introduced)
        for node in [node for node, (_, until) in self._asked.items() if time.monotonic() > until]:
            key, _ = self._asked.pop(node)
            if node in connected:  # its answer may still come: after a cut that neither side noticed, it does
                self._asked[node] = key, time.monotonic() + self._settings.round_timeout
            name = self._collector.names().get(node, f"node {node}")
            reason = f"it did not introduce itself within {self._settings.round_timeout:g} s"
            self._collector.leave_out(RejectedReply(name, reason, answered=False))

    def _forget_ended(self, connected: list[int]) -> None:
        """What was started anew may have other rows, and has to introduce itself again.

        So has what was away, where the grid does not tell whether it was started anew.
        """
        processes = self._collector.processes()
        there = {node: processes.get(node, "") for node in connected}
        for node, process in list(self._processes.items()):
            if there.get(node) != process and (node in there or not process):
                del self._processes[node]
                self._names.pop(node, None)
                self._next_asking.pop(node, None)
                freed = {other for other, holder in self._namesakes.items() if node in (other, holder)}
                self._answered -= {node, *freed}
                self._namesakes = {one: holder for one, holder in self._namesakes.items() if one not in freed}
                if node in self._asked:  # what was answered before counts no longer
                    list(self._grid.pull_messages([self._asked.pop(node)[0]]))
        self._processes.update(there)

    def _ask(self, node: int) -> None:
        self._next_asking[node] = time.monotonic() + AGAIN_INTERVAL
        task, until = self._settings.task_declaration, time.monotonic() + self._settings.round_timeout
        promises = self.privacy.to_config() if self.privacy else {}
        agreement = {"task": task.name, "schema": task.schema_hash, "terms": write_agreement(task.agreement)}
        withheld = {content.SUMS_WITHHELD: True} if self._settings.encrypt else {}
        config = ConfigRecord({**agreement, **promises, **withheld})
        question = Message(RecordDict({content.CONFIG: config}), node, content.REGISTRATION)
        for key in self._grid.push_messages([question]):
            if key:  # none where Flower's own grids cannot deliver
                self._asked[node] = key, until

    def _enter(self, introduced: AcceptedReply[Registration]) -> None:
        """Let a hospital in, unless another one, or other rows, go by its name."""
        node, one = introduced.message.metadata.src_node_id, introduced.content
        known = self.registrations.get(one.name)
        namesake = next((other for other, name in self._names.items() if name == one.name), None)
        if namesake is not None:
            self._namesakes[node] = namesake  # Flower gives a hospital that comes back another id, and may be slow
            self._collector.leave_out(RejectedReply(one.name, "a second hospital of this name"))
        elif self._is_settled and known is not None and not known.is_of_same_rows(one):
            reason = "its rows are not those that it declared when the run began"
            self._collector.leave_out(RejectedReply(one.name, reason))
        else:
            self._names[node] = one.name
            self._entered += 1
            self._entries[node] = self._entered
            if known is None or not self._is_settled:
                self.registrations[one.name] = one

    def _read(self, node: int, content: RecordDict) -> Registration:
        registration = Registration.from_content(content, self._settings.task_declaration.measurements)
        if self._collector.names().get(node, registration.name) != registration.name:
            raise MalformedMessageError("it introduces itself under another name than it joined with")
        return registration
