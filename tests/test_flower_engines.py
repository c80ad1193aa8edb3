"""Flower's own engines as transports: fetching replies, names, and the checks before a simulation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.errors import DataError, SettingsError
from federated_health.settings import Settings
from federated_health.transport import flower_engines
from federated_health.transport.flower_engines import EngineTransport, SimulationTransport, wrap_engine
from federated_health.transport.in_process import InProcessTransport
from federated_health.transport.interface import transport_of

pytestmark = pytest.mark.usefixtures("server_identity")


@dataclass
class Node:
    node_id: int
    name: str


class Deployment(HttpGrid):
    """Flower's grid of a deployment, with the replies that each pull finds."""

    def __init__(self, replies: Sequence[set[str]] = (), nodes: Sequence[Node] = ()) -> None:
        self.replies, self.nodes, self.pulls = list(replies), nodes, list[set[str]]()

    def get_nodes(self) -> Iterable[Node]:  # type: ignore[override]  # two fields of a node's description
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [f"to {message.metadata.dst_node_id}" if message.metadata.dst_node_id else None for message in messages]  # type: ignore[misc]  # as Flower's does for one that it cannot deliver

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls.append(set(message_ids))
        found = self.replies.pop(0) if self.replies else set()
        return [reply_to(key) for key in sorted(found & self.pulls[-1])]

    def send_and_receive(self, *_: object, **__: object) -> Iterable[Message]:
        raise AssertionError("Flower's own pulls only every 3 seconds")

    def close(self) -> None: ...


class Simulation(InMemoryGrid):
    """Flower's grid of a simulation, with a number of virtual nodes."""

    def __init__(self, nodes: int = 4) -> None:
        self._nodes = nodes
        self.state = cast(object, None)  # type: ignore[assignment]  # by which the simulation is recognised

    def get_node_ids(self) -> Iterable[int]:
        return range(self._nodes)

    def get_nodes(self) -> Iterable[object]:  # type: ignore[override]
        return [Node(node, "") for node in range(self._nodes)]


def reply_to(key: str) -> Message:
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    message.metadata.__dict__["_reply_to_message_id"] = key
    return message


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_engines, "PULL_INTERVAL", 0.0)


def questions(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]


# Replies of a deployment


def test_only_outstanding_replies_are_pulled_from_a_deployment() -> None:
    grid = Deployment([set(), {"to 2"}, set(), {"to 1", "to 3"}])

    replies = wrap_engine(grid).send_and_receive(questions(1, 2, 3), timeout=60)

    assert [reply.metadata.reply_to_message_id for reply in replies] == ["to 2", "to 1", "to 3"]
    everyone = {"to 1", "to 2", "to 3"}
    assert grid.pulls == [everyone, everyone, {"to 1", "to 3"}, {"to 1", "to 3"}]


def test_a_reply_that_misses_the_timeout_is_left_out() -> None:
    grid = Deployment([{"to 2"}])

    assert len(list(wrap_engine(grid).send_and_receive(questions(1, 2), timeout=0.05))) == 1
    assert grid.pulls[-1] == {"to 1"}


def test_an_undeliverable_message_is_not_waited_for() -> None:
    undeliverable = Message(RecordDict(), dst_node_id=0, message_type="train")

    assert wrap_engine(grid := Deployment()).send_and_receive([undeliverable], timeout=0.05) == []
    assert grid.pulls == []


# Names and kinds


def test_only_a_deployment_has_registered_names() -> None:
    assert wrap_engine(Deployment(nodes=[Node(5, "cleveland"), Node(6, "")])).names() == {5: "cleveland"}
    assert wrap_engine(Simulation()).names() == {}
    assert InProcessTransport(ClientApp(), {}).names() == {}


def test_each_engine_is_recognised_by_its_grid() -> None:
    assert type(transport_of(Simulation())) is SimulationTransport
    assert type(transport_of(Deployment())) is EngineTransport


def test_flower_s_own_grids_differ_as_the_recognition_expects() -> None:
    """Flower has no public way to tell them apart, so a new version may break it."""
    simulation = InMemoryGrid(state_factory=_StateFactory())  # type: ignore[arg-type]
    assert type(wrap_engine(simulation)) is SimulationTransport
    deployment = HttpGrid.__new__(HttpGrid)
    assert type(wrap_engine(deployment)) is EngineTransport
    deployment._client = None  # which its end asks for


class _StateFactory:
    def state(self) -> object:
        return object()


def test_a_transport_of_this_project_is_not_wrapped() -> None:
    transport = InProcessTransport(ClientApp(), {})
    assert transport_of(transport) is transport


def test_only_the_transport_in_process_keeps_processes() -> None:
    assert not wrap_engine(Deployment()).keeps_processes
    assert not wrap_engine(Simulation()).keeps_processes
    assert InProcessTransport(ClientApp(), {}).keeps_processes


# Checks of a simulation before its run


@pytest.fixture
def settings(hospitals_folder: Path) -> Settings:
    return replace(Settings(), data=str(hospitals_folder))


def test_as_many_nodes_as_hospitals_are_accepted(settings: Settings) -> None:
    wrap_engine(Simulation(4)).check(settings)


def test_other_transports_do_not_check_the_folder(settings: Settings) -> None:
    elsewhere = replace(settings, data="/nowhere", hospitals=7)

    InProcessTransport(ClientApp(), {}).check(elsewhere)
    wrap_engine(Deployment()).check(elsewhere)


@pytest.mark.parametrize(("nodes", "hospitals"), [(2, 4), (4, 5), (10, 10)])
def test_other_numbers_of_nodes_or_hospitals_are_refused(settings: Settings, nodes: int, hospitals: int) -> None:
    pattern = rf"\b4 hospitals.*\b{nodes} nodes.*\b{hospitals}\b.*num-supernodes=4"
    with pytest.raises(SettingsError, match=pattern):
        wrap_engine(Simulation(nodes)).check(replace(settings, hospitals=hospitals))


def test_hospitals_too_small_to_join_are_not_waited_for(uci: Source, settings: Settings, tmp_path: Path) -> None:
    partition = Partition(by="dirichlet", seed=1, hospitals=40, alpha=1.0)
    manifest = write_hospitals(tmp_path, uci, divide(uci, partition), partition=partition.describe())
    fit = sum(entry["rows"] >= 8 for entry in manifest["hospitals"])
    assert 1 < fit < 40

    transport = wrap_engine(Simulation(40))
    transport.check(replace(settings, data=str(tmp_path), hospitals=fit))
    with pytest.raises(SettingsError, match=f"{40 - fit} .*8 rows.* hospitals={fit}$"):
        transport.check(replace(settings, data=str(tmp_path), hospitals=40))


def test_a_missing_folder_is_named_in_full(settings: Settings, in_folder: Path) -> None:
    with pytest.raises(DataError) as refusal:
        wrap_engine(Simulation(4)).check(replace(settings, data="data"))

    assert str(in_folder / "data" / "manifest.json") in str(refusal.value)
    assert "create-dataset" in str(refusal.value)
    assert "--run-config" in str(refusal.value)


def test_another_task_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"task: .*heart-disease.*readmission"):
        wrap_engine(Simulation(4)).check(replace(settings, task="readmission"))
