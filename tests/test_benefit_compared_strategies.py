"""Labels of the strategies that a study compares."""

import pytest

from federated_health.errors import SettingsError
from federated_health.ml.strategies import STRATEGIES, read_arguments
from federated_health.studies.benefit.compared_strategies import choose_strategies, settings_of, without_defaults


def test_a_sweep_names_each_model_by_its_own_arguments() -> None:
    entries = ["fedavg", "fedprox:proximal-mu=0.01", "fedprox:proximal-mu=0.1"]

    labels = choose_strategies(entries, "", "")

    assert labels == ("fedavg", "fedprox:proximal-mu=0.01", "fedprox:proximal-mu=0.1")
    assert [settings_of(label) for label in labels] == [
        ("fedavg", ""),
        ("fedprox", "proximal-mu=0.01"),
        ("fedprox", "proximal-mu=0.1"),
    ]


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        (" fedprox : proximal-mu = 1e-2 ", "fedprox:proximal-mu=0.01"),
        ("fedadam:tau=0.01:eta=.5", "fedadam:eta=0.5:tau=0.01"),
        ("fedprox:proximal-mu=1", "fedprox:proximal-mu=1.0"),
        ("multikrum:num-nodes-to-select=2", "multikrum:num-nodes-to-select=2"),
    ],
)
def test_one_label_stands_for_all_spellings(entry: str, label: str) -> None:
    assert choose_strategies([entry], "", "") == (label,)
    assert choose_strategies([label], "", "") == (label,)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_without_arguments_has_its_defaults(name: str) -> None:
    assert choose_strategies([name], "", "") == (name,)
    assert read_arguments(*settings_of(name)) == read_arguments(name, "")


@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("fedprox", "fedprox"),
        ("fedprox:proximal-mu=0.1", "fedprox"),
        ("fedprox:proximal-mu=0.2", "fedprox:proximal-mu=0.2"),
        ("fedadam:eta=0.5:tau=0.001", "fedadam:eta=0.5"),
    ],
)
def test_labels_of_one_model_have_one_key(label: str, key: str) -> None:
    assert without_defaults(label) == key


def test_the_flag_for_arguments_is_for_the_first_strategy() -> None:
    assert choose_strategies(None, "fedadam", "tau=0.01,eta=0.5") == ("fedadam:eta=0.5:tau=0.01",)
    assert choose_strategies(["fedprox", "fedavg"], "", "proximal-mu=1") == ("fedprox:proximal-mu=1.0", "fedavg")
    assert choose_strategies(["fedprox", "fedprox:proximal-mu=2"], "fedprox", "proximal-mu=1") == (
        "fedprox:proximal-mu=1.0",
        "fedprox:proximal-mu=2.0",
    )
    assert choose_strategies(None, "", "") == ("fedavg",)


@pytest.mark.parametrize("entry", ["", "proximal-mu=1", "fedprox:", "fedprox::proximal-mu=1", "FedAvg", ":"])
def test_a_malformed_entry_is_refused(entry: str) -> None:
    with pytest.raises(SettingsError, match="strategies: expected"):
        choose_strategies(["fedavg", entry], "", "")
