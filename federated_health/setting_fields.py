"""What a setting may be: its type and its range, as code that checks it and as words that --help and pages show."""

from dataclasses import MISSING, Field, field
from typing import Any

from federated_health.errors import SettingsError

LARGEST = 2**31 - 1
"""Of any whole number."""

MAX_WAIT = 1e7
"""Seconds of any wait; some clocks end before their numbers do."""


def setting(
    group: str,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass's field for a setting, with its rules as metadata.

    Args:
        group: under which --help shows it.
        help: what it is for, for somebody who meets it for the first time.
        unit: of which its values are, as --help shows a flag's value; empty for yes and no, and where the
            few choices stand in its place.
        minimum, above: the least value, or what is too little.
        maximum: the greatest value.
    """
    low = f"above {above:g}" if above is not None else f"at least {minimum:g}" if minimum is not None else ""
    high = f"at most {plain(maximum)}" if maximum is not None else ""
    rules = {"minimum": minimum, "above": above, "maximum": maximum, "choices": choices}
    words = {"range": ", ".join(part for part in (low, high) if part), "group": group, "help": help, "unit": unit}
    return field(metadata={**words, **rules})


def plain(value: float) -> str:
    """A number as people write it: 10,000,000, and not 1e+07."""
    return f"{value:,.0f}" if value >= 1e5 else f"{value:g}"


def flag_of(setting: "Field[Any]") -> str:
    """A setting's name with dashes, as flags and the run config spell it."""
    return setting.name.replace("_", "-")


def is_whole_for(setting: "Field[Any]", value: object) -> bool:
    """Whether a whole number was given where a float is meant, as in TOML's `wait = 300`."""
    return setting.type is float and type(value) is int and abs(value) <= LARGEST


def check(setting: "Field[Any]", value: object) -> None:
    """Refuse what breaks a setting's rules.

    Raises:
        SettingsError: the value is of another type, or out of range; says what was expected and what came.
    """
    name, rules = flag_of(setting), setting.metadata
    assert setting.default is MISSING  # every default stands in pyproject.toml
    if type(value) is not setting.type:
        raise SettingsError(f"{name}: expected {_words[setting.type]}, got {value!r}")
    if rules["choices"] and value not in rules["choices"]:
        raise SettingsError(f"{name}: expected one of {', '.join(rules['choices'])}, got {value!r}")
    if isinstance(value, int | float):
        if rules["minimum"] is not None and not rules["minimum"] <= value < float("inf"):
            raise SettingsError(f"{name}: expected at least {rules['minimum']}, got {value!r}")
        if type(value) is int and value > LARGEST:
            raise SettingsError(f"{name}: expected at most {LARGEST}, got {value!r}")
        if rules["maximum"] is not None and value > rules["maximum"]:
            raise SettingsError(f"{name}: expected at most {plain(rules['maximum'])}, got {value!r}")
        if rules["above"] is not None and not rules["above"] < value < float("inf"):
            raise SettingsError(f"{name}: expected more than {rules['above']}, got {value!r}")


_words: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
