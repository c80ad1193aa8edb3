"""What is checked before a simulation runs."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.superlink.grid.inmemory_grid import InMemoryGrid

from federated_health.data.dataset_folder import write_hospitals
from federated_health.data.partitions import Partition, divide
from federated_health.data.sources.source import Source
from federated_health.errors import DataError, SettingsError
from federated_health.settings import Settings, read_defaults
from federated_health.transport.flower_engines import check_simulation
from federated_health.transport.in_process import InProcessTransport


class Simulation(InMemoryGrid):
    """Flower's own grid of a simulation, with so many nodes."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> Iterable[int]:
        return range(self._nodes)


Simulation.__name__ = InMemoryGrid.__name__


@pytest.fixture
def settings(hospitals_folder: Path) -> Settings:
    return replace(Settings.from_config(read_defaults()), data=str(hospitals_folder))


def test_as_many_nodes_as_hospitals_are_accepted(settings: Settings) -> None:
    check_simulation(Simulation(4), settings)


def test_another_grid_is_not_looked_at(settings: Settings) -> None:
    grid = InProcessTransport(ClientApp(), {})

    check_simulation(grid, replace(settings, data="/nowhere", hospitals=7))


@pytest.mark.parametrize(("nodes", "hospitals"), [(2, 4), (4, 5), (10, 10)])
def test_another_number_is_refused_with_what_to_say(settings: Settings, nodes: int, hospitals: int) -> None:
    said = f"holds 4 hospitals; the simulation has {nodes} nodes, and hospitals is {hospitals}: .*num-supernodes=4"
    with pytest.raises(SettingsError, match=said):
        check_simulation(Simulation(nodes), replace(settings, hospitals=hospitals))


def test_hospitals_too_small_to_join_are_not_waited_for(uci: Source, settings: Settings, tmp_path: Path) -> None:
    partition = Partition(by="dirichlet", seed=1, hospitals=40, alpha=1.0)
    manifest = write_hospitals(tmp_path, uci, divide(uci, partition), partition=partition.describe())
    fit = sum(entry["rows"] >= 8 for entry in manifest["hospitals"])
    assert 1 < fit < 40

    check_simulation(Simulation(40), replace(settings, data=str(tmp_path), hospitals=fit))
    with pytest.raises(SettingsError, match=f"{40 - fit} of them with fewer than 8 patients.* hospitals={fit}$"):
        check_simulation(Simulation(40), replace(settings, data=str(tmp_path), hospitals=40))


def test_a_folder_that_is_not_there_is_named_in_full(settings: Settings, in_folder: Path) -> None:
    with pytest.raises(DataError) as refusal:
        check_simulation(Simulation(4), replace(settings, data="data"))

    assert str(in_folder / "data" / "manifest.json") in str(refusal.value)
    assert "create_dataset.py" in str(refusal.value)
    assert "--run-config" in str(refusal.value)


def test_another_task_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="expected a folder of the task readmission, got heart-disease"):
        check_simulation(Simulation(4), replace(settings, task="readmission"))
