"""Rules of a setting: the described range is the one that is checked."""

import re
from dataclasses import Field, dataclass, fields
from typing import Any

import pytest

from federated_health.errors import SettingsError
from federated_health.names import LARGEST
from federated_health.setting_fields import Value, check, coerce, flag_of, plain, setting


@dataclass(frozen=True, kw_only=True)
class Example:
    step_size: float = setting("a group", 0.1, "words", above=0, maximum=0.5)
    rounds: int = setting("a group", 3, "words", unit="N", minimum=1)
    kind: str = setting("a group", "a", "words", choices=("a", "b"))


STEP_SIZE, ROUNDS, KIND = fields(Example)


def test_metadata_describe_the_range() -> None:
    assert STEP_SIZE.metadata["range"] == "above 0, at most 0.5"
    assert ROUNDS.metadata["range"] == "at least 1"
    assert KIND.metadata["range"] == ""
    assert (ROUNDS.metadata["group"], ROUNDS.metadata["help"], ROUNDS.metadata["unit"]) == ("a group", "words", "N")


def test_a_large_number_has_no_exponent() -> None:
    assert [plain(value) for value in (1e7, 1e5, 0.5, 1e-6, 30.0)] == ["10,000,000", "100,000", "0.5", "1e-06", "30"]


def test_a_flag_is_spelled_with_dashes() -> None:
    assert flag_of(STEP_SIZE) == "step-size"


def test_the_ends_of_a_range_are_allowed() -> None:
    check(STEP_SIZE, 0.5)
    check(ROUNDS, 1)
    check(ROUNDS, LARGEST)
    check(KIND, "b")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (STEP_SIZE, 0.0, "step-size: expected more than 0, got 0.0"),
        (STEP_SIZE, 0.6, "step-size: expected at most 0.5, got 0.6"),
        (STEP_SIZE, float("nan"), "step-size: expected more than 0, got nan"),
        (STEP_SIZE, 1, "step-size: expected a number, got 1"),
        (ROUNDS, 0, "rounds: expected at least 1, got 0"),
        (ROUNDS, LARGEST + 1, f"rounds: expected at most {LARGEST}, got 2147483648"),
        (KIND, "c", "kind: expected one of a, b, got 'c'"),
    ],
)
def test_an_invalid_value_is_rejected(field: "Field[Any]", value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        check(field, value)


def test_only_a_whole_number_for_a_float_setting_becomes_a_float() -> None:
    assert type(coerce(float, 3)) is float
    others: list[tuple[type, Value]] = [(float, True), (float, LARGEST + 1), (int, 3)]
    assert all(coerce(kind, value) is value for kind, value in others)
