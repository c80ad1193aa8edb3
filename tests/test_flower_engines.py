"""What is particular to the grids of Flower's own engines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from federated_health.transport import flower_engines
from federated_health.transport.flower_engines import exchange, is_deployment, is_simulation, registered_names
from federated_health.transport.in_process import InProcessTransport

pytestmark = pytest.mark.usefixtures("server_identity")


@dataclass
class Node:
    node_id: int
    name: str


class Deployment(HttpGrid):
    """Flower's grid of a deployment, whose nodes answer at the looks that are listed."""

    def __init__(self, answers: Sequence[set[str]] = (), nodes: Sequence[Node] = ()) -> None:
        self.answers, self.nodes, self.looks = list(answers), nodes, list[set[str]]()

    def get_nodes(self) -> Iterable[Node]:  # type: ignore[override]  # of a node's description two fields
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [f"to {message.metadata.dst_node_id}" if message.metadata.dst_node_id else None for message in messages]  # type: ignore[misc]  # as Flower's does for one that it cannot deliver

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.looks.append(set(message_ids))
        found = self.answers.pop(0) if self.answers else set()
        return [reply_to(key) for key in sorted(found & self.looks[-1])]

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise AssertionError("it looks every three seconds only")

    def close(self) -> None: ...


Deployment.__name__ = HttpGrid.__name__


def reply_to(key: str) -> Message:
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_reply_to_message_id"] = key
    return message


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_engines, "PULL_INTERVAL", 0.0)


def questions(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]


def test_a_deployment_is_asked_for_what_has_not_come_yet() -> None:
    grid = Deployment([set(), {"to 2"}, set(), {"to 1", "to 3"}])

    replies = exchange(grid, questions(1, 2, 3), 60)

    assert [reply.metadata.reply_to_message_id for reply in replies] == ["to 2", "to 1", "to 3"]
    everyone = {"to 1", "to 2", "to 3"}
    assert grid.looks == [everyone, everyone, {"to 1", "to 3"}, {"to 1", "to 3"}]


def test_what_does_not_come_in_time_is_not_waited_for() -> None:
    grid = Deployment([{"to 2"}])

    assert len(exchange(grid, questions(1, 2), 0.05)) == 1
    assert grid.looks[-1] == {"to 1"}


def test_what_cannot_be_delivered_is_not_waited_for() -> None:
    undeliverable = Message(RecordDict(), dst_node_id=0, message_type="train")

    assert exchange(grid := Deployment(), [undeliverable], 0.05) == []
    assert grid.looks == []


def test_only_a_deployment_has_registered_names() -> None:
    grid = Deployment(nodes=[Node(5, "cleveland"), Node(6, "")])

    assert registered_names(grid) == {5: "cleveland"}
    assert registered_names(InProcessTransport(ClientApp(), {})) == {}


@pytest.mark.parametrize(
    ("kind", "simulated", "deployed"),
    [(InMemoryGrid, True, False), (HttpGrid, False, True), (InProcessTransport, False, False)],
)
def test_each_engine_is_known_by_its_grid(kind: type[Grid], simulated: bool, deployed: bool) -> None:
    grid = kind.__new__(kind)

    assert (is_simulation(grid), is_deployment(grid)) == (simulated, deployed)
    if isinstance(grid, HttpGrid):
        grid._client = None  # which its end asks for
