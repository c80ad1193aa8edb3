"""Declaration of a setting: its type, default, range, group and help text."""

from dataclasses import Field, field
from typing import Any

from federated_health.errors import SettingsError
from federated_health.names import LARGEST

Value = str | int | float | bool

MIN_EPSILON = 0.01
MIN_DELTA = 1e-12
"""Smallest delta; below it, the accountant's rounding errors matter."""

MIN_CLIP, MAX_CLIP = 1e-6, 1e6
"""Range of the clipping norm; noise of this size is far from underflow and overflow."""

MAX_STEPS = 100_000
"""Largest number of training steps of a run with differential privacy, over all rounds."""

MIN_RATE = 1e-6
"""Smallest sampling rate: one patient of a million."""


def setting(
    group: str,
    default: Value,
    help: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    allowed: str = "",
    shown: str = "",
) -> Any:
    """A dataclass field for a setting, with its default, and with its constraints as metadata.

    Args:
        unit: placeholder of its value in --help; empty for a boolean, and where --help lists the choices.
        minimum, above: inclusive or exclusive lower bound.
        maximum: inclusive upper bound.
        allowed: text of the range, instead of that of the bounds.
        shown: text of the default, instead of its value.
    """
    low = f"above {above:g}" if above is not None else f"at least {minimum:g}" if minimum is not None else ""
    high = f"at most {plain(maximum)}" if maximum is not None else ""
    allowed = allowed or ", ".join(part for part in (low, high) if part)
    description = {"group": group, "help": help, "unit": unit, "range": allowed, "shown": shown}
    return field(
        default=default,
        metadata={**description, "minimum": minimum, "above": above, "maximum": maximum, "choices": choices},
    )


def plain(value: float) -> str:
    """A number without an exponent, such as 10,000,000 instead of 1e+07."""
    return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"


def flag_of(setting: "Field[Any]") -> str:
    """A setting's name with dashes, as flags and the run config spell it."""
    return setting.name.replace("_", "-")


def coerce(setting: "Field[Any]", value: Value) -> Value:
    """The value; an integer for a float setting, such as TOML's `wait = 300`, becomes a float."""
    is_whole = setting.type is float and type(value) is int and abs(value) <= LARGEST
    return float(value) if is_whole else value


def check(setting: "Field[Any]", value: object) -> None:
    """Raise SettingsError if a value has the wrong type for a setting, or is out of its range."""
    name, rules = flag_of(setting), setting.metadata
    if type(value) is not setting.type:
        raise SettingsError(f"{name}: expected {_words[setting.type]}, got {value!r}")
    if rules["choices"] and value not in rules["choices"]:
        raise SettingsError(f"{name}: expected one of {', '.join(rules['choices'])}, got {value!r}")
    if isinstance(value, int | float):
        if rules["minimum"] is not None and not rules["minimum"] <= value < float("inf"):
            raise SettingsError(f"{name}: expected at least {rules['minimum']}, got {value!r}")
        if rules["maximum"] is not None and value > rules["maximum"]:
            raise SettingsError(f"{name}: expected at most {plain(rules['maximum'])}, got {value!r}")
        if type(value) is int and value > LARGEST:
            raise SettingsError(f"{name}: expected at most {LARGEST}, got {value!r}")
        if rules["above"] is not None and not rules["above"] < value < float("inf"):
            raise SettingsError(f"{name}: expected more than {rules['above']}, got {value!r}")


_words: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
