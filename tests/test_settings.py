"""Settings of a run: the defaults of pyproject.toml are valid, and an error names the setting that is not."""

import math
import re
import tomllib
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from federated_health.data.task_files import HEART_DISEASE
from federated_health.data.tasks import Task
from federated_health.errors import NetworkError, SettingsError
from federated_health.ml.networks import Network
from federated_health.setting_fields import OF_TASK, TRAINING, Value
from federated_health.settings import Settings
from federated_health.task_settings import settings_from_task
from tests.conftest import PROJECT


@pytest.fixture
def defaults() -> dict[str, Value]:
    return Settings().to_config()


def error_of(config: dict[str, Value]) -> str:
    """Message of the error that a config raises."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_config(config)
    return str(caught.value)


def test_the_defaults_of_the_project_are_valid(defaults: dict[str, Value]) -> None:
    loaded = Settings.from_config(defaults)

    assert (loaded.task, loaded.model, loaded.strategy, loaded.hospitals) == ("heart-disease", "mlp", "fedavg", 4)
    assert loaded.task_declaration is HEART_DISEASE
    assert loaded.local_epochs == defaults["local-epochs"]


def test_to_config_is_the_inverse_of_from_config(defaults: dict[str, Value]) -> None:
    changed: dict[str, Value] = {**defaults, "rounds": 7, "learning-rate": 0.125, "insecure": True, "out": "runs/x"}

    for config in (defaults, changed):
        assert Settings.from_config(config).to_config() == config
    loaded = Settings.from_config(changed)
    assert Settings.from_config(loaded.to_config()) == loaded


@pytest.mark.parametrize("names", [("bach-size", "epochs"), ("batch_size",)])
def test_unknown_settings_are_named_beside_the_known_ones(defaults: dict[str, Value], names: tuple[str, ...]) -> None:
    unknown, known = error_of({**defaults, **dict.fromkeys(names, 3)}).split(";")

    assert unknown.endswith(f" {', '.join(names)}")
    assert known.endswith(f": {', '.join(defaults)}")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rounds", True, "a whole number"),
        ("rounds", 3.0, "a whole number"),
        ("rounds", "3", "a whole number"),
        ("seed", False, "a whole number"),
        ("wait", True, "a number"),
        ("wait", "300", "a number"),
        ("learning-rate", False, "a number"),
        ("force", 1, "true or false"),
        ("verbose", "true", "true or false"),
        ("out", False, "text"),
        ("address", 8080, "text"),
        ("task", 1, "text"),
    ],
)
def test_a_value_of_the_wrong_type_is_rejected(
    defaults: dict[str, Value], name: str, value: Value, expected: str
) -> None:
    assert error_of({**defaults, name: value}) == f"{name}: expected {expected}, got {value!r}"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hospitals", 0, "at least 1"),
        ("rounds", 0, "at least 1"),
        ("rounds", -1, "at least 1"),
        ("local-epochs", 0, "at least 1"),
        ("batch-size", -1, "at least 0"),
        ("seed", -1, "at least 0"),
        ("learning-rate", 0.0, "more than 0"),
        ("learning-rate", -0.1, "more than 0"),
        ("learning-rate", math.nan, "more than 0"),
        ("learning-rate", math.inf, "at most 1,000,000"),
        ("l2", -0.001, "at least 0"),
        ("l2", math.nan, "at least 0"),
        ("l2", math.inf, "at least 0"),
        ("l2", 1.1e6, "at most 1,000,000"),
        ("wait", 0, "more than 0"),
        ("wait", math.nan, "more than 0"),
        ("wait", math.inf, "at most 10,000,000"),
        ("round-timeout", 1.1e7, "at most 10,000,000"),
        ("rounds", 100_001, "at most 100,000"),
        ("batch-size", 2**31, "at most 1,000,000"),
        ("seed", 2**31, "at most 2147483647"),
        ("seed", 10**400, "at most 2147483647"),
    ],
)
def test_a_value_out_of_range_is_rejected(defaults: dict[str, Value], name: str, value: Value, expected: str) -> None:
    assert error_of({**defaults, name: value}).startswith(f"{name}: expected {expected}, got ")


def test_a_network_too_large_for_a_message_is_rejected(defaults: dict[str, Value]) -> None:
    assert error_of({**defaults, "hidden": "65536,2048"}).startswith("hidden: expected at most 134,217,728 weights")
    assert Settings.from_config({**defaults, "hidden": "65536,1024"}).network_declaration.hidden == (65536, 1024)


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [
        ("model", "MLP", "mlp, logistic"),
        ("model", "", "mlp, logistic"),
        ("strategy", "fedsgd", "fedavg, average, fedprox"),
    ],
)
def test_a_value_that_is_not_among_the_choices_is_rejected(
    defaults: dict[str, Value], name: str, value: str, choices: str
) -> None:
    message = error_of({**defaults, name: value})

    assert message.startswith(f"{name}: expected one of {choices}")
    assert message.endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hospitals", 1),
        ("batch-size", 0),
        ("seed", 0),
        ("l2", 0.0),
        ("learning-rate", 1e-9),
        ("rounds", 1),
        ("rounds", 100_000),
        ("seed", 2**31 - 1),
        ("wait", 1e7),
    ],
)
def test_the_bounds_themselves_are_allowed(defaults: dict[str, Value], name: str, value: Value) -> None:
    assert Settings.from_config({**defaults, name: value}).to_config()[name] == value


def test_a_whole_number_is_accepted_for_a_number(defaults: dict[str, Value]) -> None:
    loaded = Settings.from_config({**defaults, "wait": 300, "l2": 0})

    assert (loaded.wait, loaded.l2) == (300.0, 0.0)
    assert (type(loaded.wait), type(loaded.l2)) == (float, float)


@pytest.mark.parametrize("value", [2**31, 10**400, -(10**400)])
def test_a_whole_number_beyond_the_range_of_numbers_is_rejected(defaults: dict[str, Value], value: int) -> None:
    assert error_of({**defaults, "wait": value}) == f"wait: expected a number, got {value!r}"


def test_strategy_arguments_are_read(defaults: dict[str, Value]) -> None:
    loaded = Settings.from_config({**defaults, "strategy": "fedadam", "strategy-args": "eta=0.05,tau=0.01"})

    assert loaded.strategy_arguments["eta"] == 0.05
    assert list(loaded.strategy_arguments) == ["eta", "beta-1", "beta-2", "tau"]
    assert loaded.to_config()["strategy-args"] == "eta=0.05,tau=0.01"


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        (
            {"strategy": "fedadam", "strategy-args": "mu=0.05"},
            "strategy-args: fedadam .*'mu'.*eta, beta-1, beta-2, tau",
        ),
        ({"strategy-args": "eta=1"}, "strategy-args: fedavg .*'eta=1'"),
    ],
)
def test_unknown_strategy_arguments_are_rejected(
    defaults: dict[str, Value], changes: dict[str, Value], pattern: str
) -> None:
    assert re.match(pattern, error_of({**defaults, **changes}))


def test_a_strategy_needs_its_smallest_number_of_hospitals(defaults: dict[str, Value]) -> None:
    krum: dict[str, Value] = {**defaults, "strategy": "krum", "strategy-args": "num-malicious-nodes=1"}

    assert Settings.from_config({**krum, "hospitals": 5}).hospitals == 5
    assert re.match("hospitals: krum with num-malicious-nodes=1 .*at least 5.*got 4", error_of(krum))


def test_a_norm_limit_below_the_median_is_rejected(defaults: dict[str, Value]) -> None:
    for factor in (0.0, 1.0, 30.0):
        assert Settings.from_config({**defaults, "max-update-norm": factor}).max_update_norm == factor
    assert error_of({**defaults, "max-update-norm": 0.5}) == "max-update-norm: expected 0 or at least 1, got 0.5"


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"dp-epsilon": 0.001}, "dp-epsilon: expected 0 or at least 0.01, got 0.001"),
        ({"dp-epsilon": 101.0}, "dp-epsilon: expected at most 100, got 101.0"),
        ({"dp-delta": 1e-13}, "dp-delta: expected at least 1e-12, got 1e-13"),
        ({"dp-clip": 0.0}, "dp-clip: expected at least 1e-06, got 0.0"),
        ({"dp-clip": 1e7}, "dp-clip: expected at most 1,000,000, got 10000000.0"),
        ({"dp-sampling-rate": 1.1}, "dp-sampling-rate: expected at most 1, got 1.1"),
        ({"dp-steps": 10_000}, "dp-steps: expected at most 100000"),
        ({"strategy": "qfedavg"}, "qfedavg: .*--dp-epsilon"),
        ({"strategy": "fedprox", "strategy-args": "proximal-mu=1"}, "at most 1 / learning-rate = 0.333333"),
    ],
)
def test_an_invalid_setting_of_differential_privacy_is_rejected(
    defaults: dict[str, Value], changes: dict[str, Value], pattern: str
) -> None:
    Settings.from_config({**defaults, "dp-epsilon": 2.0})
    assert re.search(pattern, error_of({**defaults, "dp-epsilon": 2.0, **changes}))


def test_the_privacy_plan_includes_spare_rounds(defaults: dict[str, Value]) -> None:
    changes = {"dp-epsilon": 2.0, "dp-delta": 1e-6, "rounds": 7, "dp-spare-rounds": 3, "dp-steps": 2}
    plan = Settings.from_config({**defaults, **changes}).privacy_plan("0123456789abcdef")
    assert plan is not None
    assert (plan.epsilon, plan.delta, plan.rounds, plan.steps) == (2.0, 1e-6, 10, 2)
    assert (plan.clip, plan.sampling_rate, plan.learning_rate) == (0.25, 0.5, 3.0)
    assert plan.run == "0123456789abcdef"
    assert Settings.from_config(defaults).privacy_plan("0123456789abcdef") is None


def test_min_hospitals_is_at_most_the_number_of_hospitals(defaults: dict[str, Value]) -> None:
    assert Settings.from_config({**defaults, "min-hospitals": 4}).min_updates == 4
    assert error_of({**defaults, "min-hospitals": 5}) == "min-hospitals: expected at most --hospitals 4, got 5"
    assert error_of({**defaults, "min-hospitals": -1}) == "min-hospitals: expected at least 0, got -1"


def test_the_reason_for_the_smallest_number_of_updates_names_the_setting(defaults: dict[str, Value]) -> None:
    def reason(**given: Value) -> str:
        return Settings.from_config(
            {**defaults, **{name.replace("_", "-"): value for name, value in given.items()}}
        ).min_reason

    assert reason().startswith("more than half of --hospitals")
    assert reason(min_hospitals=2) == reason(min_hospitals=1) == "--min-hospitals"
    assert reason(hospitals=5, strategy="krum", strategy_args="num-malicious-nodes=1").startswith("krum: ")
    assert reason(hospitals=6, min_hospitals=6, strategy="krum") == "--min-hospitals"


def test_a_resumed_run_keeps_its_folder(defaults: dict[str, Value]) -> None:
    for out in ("", "runs/a", "./runs/a/"):
        assert Settings.from_config({**defaults, "resume": "runs/a", "out": out}).resume == "runs/a"
    assert re.match("out: expected .*--resume", error_of({**defaults, "resume": "runs/a", "out": "runs/b"}))


def test_settings_are_frozen_and_keyword_only(defaults: dict[str, Value]) -> None:
    loaded = Settings.from_config(defaults)

    with pytest.raises(FrozenInstanceError):
        loaded.rounds = 3  # type: ignore[misc]
    build: Any = Settings
    with pytest.raises(TypeError):
        build("heart-disease", 4, 30)


def test_pyproject_has_the_same_defaults() -> None:
    app = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]

    of_task = {name.replace("_", "-") for name in TRAINING}
    expected = {name: OF_TASK if name in of_task else value for name, value in Settings().to_config().items()}
    assert app["config"] == expected
    assert all(type(value) is type(expected[name]) for name, value in app["config"].items())
    assert Settings.from_config(app["config"]) == Settings()


def test_a_setting_missing_from_a_config_has_its_default() -> None:
    assert Settings.from_config({"rounds": 3}) == Settings(rounds=3)


# Networks and optimizers


def test_hidden_layers_are_the_network() -> None:
    settings = Settings.from_config({"hidden": "32, 16", "activation": "tanh", "dropout": 0.25})
    assert settings.network_declaration == Network(hidden=(32, 16), activation="tanh", dropout=0.25)
    assert Settings().network_declaration == Network()
    assert Settings(model="logistic").network_declaration == Network("logistic")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"hidden": ""}, "hidden"),
        ({"hidden": "32,0"}, "hidden"),
        ({"hidden": "-3"}, "hidden"),
        ({"hidden": "32;16"}, "hidden"),
        ({"hidden": "99999999"}, "hidden"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"activation": "swishy"}, "activation"),
        ({"optimizer": "sgdd"}, "optimizer"),
        ({"model": "logistic", "hidden": "8"}, "hidden"),
        ({"model": "logistic", "activation": "tanh"}, "activation"),
        ({"model": "logistic", "dropout": 0.5}, "dropout"),
        ({"dp-epsilon": 4.0, "dropout": 0.5}, "dropout"),
        ({"dp-epsilon": 4.0, "optimizer": "adam"}, "optimizer"),
        ({"strategy": "qfedavg", "optimizer": "adam"}, "optimizer"),
    ],
)
def test_networks_and_optimizers_that_contradict_each_other_are_refused(config: dict[str, Value], name: str) -> None:
    assert error_of(config).startswith(f"{name}: ")


def test_a_network_file_that_is_missing_is_refused_with_the_other_settings() -> None:
    with pytest.raises(NetworkError, match=r"missing\.py"):
        Settings.from_config({"network": "missing.py"})


# Settings that a task states

STATED: dict[str, str | int | float] = {
    "rounds": 20,
    "local_epochs": 2,
    "batch_size": 256,
    "learning_rate": 0.1,
    "l2": 0,
    "hidden": "32",
    "dp_rounds": 60,
    "dp_clip": 0.5,
}


def task_with(**training: str | int | float) -> Task:
    """The heart disease task with training settings."""
    return replace(HEART_DISEASE, training=training)


def changed_by(config: dict[str, Value], **training: str | int | float) -> dict[str, Value]:
    """Settings that differ from the project's defaults, by flag."""
    chosen, project = Settings.from_config(config, task_with(**training)).to_config(), Settings().to_config()
    return {name: value for name, value in chosen.items() if value != project[name]}


PLAIN: dict[str, Value] = {
    "rounds": 20,
    "local-epochs": 2,
    "batch-size": 256,
    "learning-rate": 0.1,
    "l2": 0.0,
    "hidden": "32",
}


def test_a_value_that_the_task_states_replaces_the_default() -> None:
    assert changed_by({}, **STATED) == PLAIN
    assert type(Settings.from_config({}, task_with(**STATED)).l2) is float


def test_a_given_value_wins_over_the_task_even_if_it_is_the_default() -> None:
    given: dict[str, Value] = {"rounds": 30, "hidden": "16", "l2": 0.5}
    rest = {name: value for name, value in PLAIN.items() if name not in given}
    assert changed_by(given, **STATED) == {**rest, "l2": 0.5}


def test_default_in_a_run_config_is_the_value_of_the_task() -> None:
    app = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]
    assert changed_by(app["config"], **STATED) == PLAIN
    assert changed_by({**app["config"], "rounds": 30}, **STATED) == {k: v for k, v in PLAIN.items() if k != "rounds"}
    assert "seed" in error_of({"seed": OF_TASK})


def test_resolved_settings_do_not_depend_on_the_task_any_more() -> None:
    resolved = Settings.from_config({}, task_with(**STATED)).to_config()
    assert Settings.from_config(resolved, task_with(rounds=7, optimizer="adam")).to_config() == resolved


def test_with_differential_privacy_the_task_states_other_rounds() -> None:
    private: dict[str, Value] = {"dp-epsilon": 2.0}
    stated = {"optimizer": "adam", "dropout": 0.5, **STATED}
    expected = {"dp-epsilon": 2.0, "rounds": 60, "l2": 0.0, "hidden": "32", "dp-clip": 0.5}
    assert changed_by(private, **stated) == expected
    assert changed_by({**private, "rounds": 30}, **stated) == {k: v for k, v in expected.items() if k != "rounds"}
    assert changed_by(private, rounds=20) == private


def test_settings_of_the_mlp_that_a_task_states_are_those_of_the_mlp_only() -> None:
    stated: dict[str, str | int | float] = {"hidden": "32", "dropout": 0.5, "activation": "tanh"}
    assert changed_by({"model": "logistic"}, **stated) == {"model": "logistic"}
    assert changed_by({}, model="logistic", **stated) == {"model": "logistic"}
    assert changed_by({"model": "mlp"}, model="logistic", **stated) == stated


def test_a_learning_rate_that_a_task_states_is_that_of_its_optimizer() -> None:
    assert changed_by({"optimizer": "adam"}, learning_rate=0.1) == {"optimizer": "adam"}
    assert changed_by({"optimizer": "sgd"}, learning_rate=0.1) == {"learning-rate": 0.1}
    assert changed_by({"optimizer": "sgd"}, learning_rate=0.001, optimizer="adam") == {}
    both = {"optimizer": "adam", "learning-rate": 0.001}
    assert changed_by({"optimizer": "adam"}, learning_rate=0.001, optimizer="adam") == both


def test_what_a_run_takes_from_the_task_is_listed() -> None:
    def listed(config: dict[str, Value]) -> dict[str, Value]:
        return settings_from_task(Settings.from_config(config, task_with(**STATED)))

    assert listed({}) == PLAIN
    assert listed({"l2": 0.5}) == {name: value for name, value in PLAIN.items() if name != "l2"}
    assert listed({"dp-epsilon": 2.0}) == {"rounds": 60, "l2": 0.0, "hidden": "32", "dp-clip": 0.5}


@pytest.mark.parametrize(
    ("training", "name"), [({"epochs": 3}, "epochs"), ({"rounds": 0}, "rounds"), ({"dp_clip": "a"}, "dp-clip")]
)
def test_a_task_built_in_python_is_checked_like_a_file(training: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_config({"dp-epsilon": float(name == "dp-clip")}, task_with(**training))
