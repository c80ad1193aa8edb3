"""Privacy plans in messages: an invalid plan is rejected with the name of the key and without its value."""

import json
import math
from typing import Any

import pytest
from flwr.app import ConfigRecord

from federated_health.messages.records import MalformedMessageError
from federated_health.messages.server_messages import read_privacy_plan
from federated_health.ml.privacy_plan import GUARANTEE, PrivacyPlan
from federated_health.privacy.accounting import calibrate

PLAN = PrivacyPlan(
    epsilon=2.0,
    delta=1e-5,
    clip=0.75,
    sampling_rate=0.5,
    steps=4,
    learning_rate=0.1,
    rounds=8,
    run="0123456789abcdef",
)
CONFIG = {
    "dp-epsilon": 2.0,
    "dp-delta": 1e-5,
    "dp-clip": 0.75,
    "dp-sampling-rate": 0.5,
    "dp-steps": 4,
    "dp-learning-rate": 0.1,
    "dp-rounds": 8,
    "dp-run": "0123456789abcdef",
}


def test_a_plan_is_read_from_the_config_of_a_message() -> None:
    assert PLAN.to_config() == CONFIG
    record = ConfigRecord({**PLAN.to_config(), "server-round": 3})
    assert PrivacyPlan.from_config(record) == PLAN


def test_a_config_without_a_plan_gives_none() -> None:
    assert PrivacyPlan.from_config({"server-round": 3}) is None


@pytest.mark.parametrize("key", CONFIG)
def test_a_plan_that_lacks_a_key_is_rejected(key: str) -> None:
    with pytest.raises(ValueError, match="missing or unknown keys"):
        PrivacyPlan.from_config({name: value for name, value in CONFIG.items() if name != key})


def test_a_plan_with_an_unknown_key_is_rejected() -> None:
    with pytest.raises(ValueError, match="missing or unknown keys"):
        PrivacyPlan.from_config({**CONFIG, "dp-noise": 1.0})


def test_an_invalid_plan_makes_a_malformed_message() -> None:
    assert read_privacy_plan(CONFIG) == PLAN
    assert read_privacy_plan({"server-round": 3}) is None
    with pytest.raises(MalformedMessageError, match="dp-epsilon"):
        read_privacy_plan({**CONFIG, "dp-epsilon": -1.0})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dp-epsilon", 2, "float"),
        ("dp-epsilon", "2.0", "float"),
        ("dp-delta", None, "float"),
        ("dp-clip", True, "float"),
        ("dp-sampling-rate", [0.5], "float"),
        ("dp-steps", 4.0, "int"),
        ("dp-steps", True, "int"),
        ("dp-rounds", b"8", "int"),
        ("dp-run", 0, "str"),
        ("dp-run", b"0123456789abcdef", "str"),
    ],
)
def test_a_value_of_another_type_is_rejected(key: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"{key} .*expected {expected}, got {type(value).__name__}"):
        PrivacyPlan.from_config({**CONFIG, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in list(CONFIG)[:4] for value in (0.0, -0.5, math.nan, math.inf, -math.inf)),
        ("dp-epsilon", 0.0099),
        ("dp-epsilon", 100.1),
        ("dp-delta", 1e-13),
        ("dp-delta", 1.0),
        ("dp-clip", 9e-7),
        ("dp-clip", 1.1e6),
        ("dp-sampling-rate", 1.01),
        ("dp-sampling-rate", 1e-7),
        ("dp-learning-rate", 0.0),
        ("dp-learning-rate", math.nan),
        ("dp-learning-rate", math.inf),
        ("dp-steps", 0),
        ("dp-steps", -4),
        ("dp-rounds", 0),
        ("dp-rounds", 25_001),  # of 4 steps: above 100,000
        ("dp-run", ""),
        ("dp-run", "0123456789ABCDEF"),
        ("dp-run", "0123456789abcde"),
        ("dp-run", "0123456789abcdef\n"),
        ("dp-run", "../../etc/passwd"),
    ],
)
def test_a_value_out_of_range_is_rejected_without_the_value(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key} is out of range") as caught:
        PrivacyPlan.from_config({**CONFIG, key: value})
    assert str(value) == "" or str(value) not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dp-epsilon", 0.01),
        ("dp-epsilon", 100.0),
        ("dp-delta", 1e-12),
        ("dp-clip", 1e-6),
        ("dp-clip", 1e6),
        ("dp-sampling-rate", 1.0),
        ("dp-steps", 12_500),
        ("dp-rounds", 25_000),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(key: str, value: Any) -> None:
    plan = PrivacyPlan.from_config({**CONFIG, key: value})
    assert plan is not None
    assert plan.to_config()[key] == value


def test_the_noise_is_calibrated_for_all_steps_of_all_rounds() -> None:
    assert PLAN.noise_multiplier == calibrate(2.0, 1e-5, 0.5, 32) == pytest.approx(5.810, rel=1e-3)


def test_the_entry_of_metrics_json() -> None:
    entry = PLAN.to_json()
    assert json.loads(json.dumps(entry)) == entry
    exchanged = {"epsilon_exchange_training": 0, "epsilon_exchange_held_out": 0, "epsilon_exchange_both": 0}
    assert entry | {"noise_multiplier": 0, "accountant": "", "evaluation_noise": 0, **exchanged} == {
        "epsilon": 2.0,
        "delta": 1e-5,
        "clip": 0.75,
        "sampling_rate": 0.5,
        "steps": 4,
        "noise_multiplier": 0,
        "rounds": 8,
        "promise": GUARANTEE,
        "accountant": "",
        "neighbours": "zero-out of one patient",
        "evaluation_noise": 0,
        **exchanged,
    }
    assert entry["evaluation_noise"] == PLAN.evaluation_noise
    assert [entry[f"epsilon_exchange_{side}"] for side in ("training", "held_out", "both")] == pytest.approx(
        [4.226, 2.953, 5.423], abs=1e-3
    )
    assert entry["noise_multiplier"] == PLAN.noise_multiplier
