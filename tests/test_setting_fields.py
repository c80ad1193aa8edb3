"""Rules of a setting: the words for a range say what the check does."""

from dataclasses import Field, dataclass, fields
from typing import Any

import pytest

from federated_health.errors import SettingsError
from federated_health.setting_fields import LARGEST, Value, check, coerce, flag_of, plain, setting


@dataclass(frozen=True, kw_only=True)
class Example:
    step_size: float = setting("a group", 0.1, "words", above=0, maximum=0.5)
    rounds: int = setting("a group", 3, "words", unit="N", minimum=1)
    kind: str = setting("a group", "a", "words", choices=("a", "b"))


STEP_SIZE, ROUNDS, KIND = fields(Example)


def test_words_say_the_range() -> None:
    assert STEP_SIZE.metadata["range"] == "above 0, at most 0.5"
    assert ROUNDS.metadata["range"] == "at least 1"
    assert KIND.metadata["range"] == ""
    assert (ROUNDS.metadata["group"], ROUNDS.metadata["help"], ROUNDS.metadata["unit"]) == ("a group", "words", "N")


def test_a_large_number_is_written_out() -> None:
    assert [plain(value) for value in (1e7, 1e5, 0.5, 1e-6, 30.0)] == ["10,000,000", "100,000", "0.5", "1e-06", "30"]


def test_a_flag_has_dashes() -> None:
    assert flag_of(STEP_SIZE) == "step-size"


def test_the_ends_of_a_range() -> None:
    check(STEP_SIZE, 0.5)
    check(ROUNDS, 1)
    check(ROUNDS, LARGEST)
    check(KIND, "b")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "step-size: expected more than 0, got 0.0"),
        (0.6, "step-size: expected at most 0.5, got 0.6"),
        (float("nan"), "step-size: expected more than 0, got nan"),
        (1, "step-size: expected a number, got 1"),
    ],
)
def test_what_is_out_of_range_is_told(value: object, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check(STEP_SIZE, value)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("value", "end"), [(0, "at least 1, got 0"), (LARGEST + 1, f"at most {LARGEST}, got 2147483648")]
)
def test_a_whole_number_out_of_range_is_told(value: int, end: str) -> None:
    with pytest.raises(SettingsError, match=end):
        check(ROUNDS, value)


def test_another_word_than_a_choice_is_told() -> None:
    with pytest.raises(SettingsError, match="kind: expected one of a, b, got 'c'"):
        check(KIND, "c")


def test_a_whole_number_will_do_for_a_number_and_not_otherwise() -> None:
    assert type(coerce(STEP_SIZE, 3)) is float
    given: list[tuple[Field[Any], Value]] = [(STEP_SIZE, True), (STEP_SIZE, LARGEST + 1), (ROUNDS, 3)]
    assert all(coerce(field, value) is value for field, value in given)
