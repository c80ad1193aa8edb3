"""Declaration of a setting: its type, default, range, group and help text."""

from collections.abc import Callable, Mapping
from dataclasses import Field, field
from typing import Any

from federated_health import names
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
    shown: str = "",
    limits: Mapping[str, Any] | None = None,
    **own_limits: Any,
) -> Any:
    """A dataclass field for a setting, with its default, and with its constraints as metadata.

    Args:
        unit: placeholder of its value in --help; empty for a boolean, and where --help lists the choices.
        shown: text of the default, instead of its value.
        limits: one of TRAINING, for a setting that a task may state; others have `own_limits`, arguments of `limit`.
    """
    if limits:
        shown = f"the task's, or {f'{default:g}' if isinstance(default, float) else default}"
    limits = limits or limit(type(default), **own_limits)
    return field(default=default, metadata={"group": group, "help": help, "unit": unit, "shown": shown, **limits})


def limit(
    kind: type,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    read: Callable[[str], object] | None = None,
    allowed: str = "",
) -> dict[str, Any]:
    """Limits of a setting's values, for `find_problem`.

    Args:
        minimum, maximum: inclusive bounds; above and below are exclusive ones.
        read: a function that raises a ValueError for a text that is not valid.
        allowed: text of the range, instead of that of the bounds.
    """
    low = f"above {above:g}" if above is not None else f"at least {minimum:g}" if minimum is not None else ""
    high = f"at most {plain(maximum)}" if maximum is not None else f"below {below:g}" if below is not None else ""
    allowed = allowed or ", ".join(part for part in (low, high) if part)
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    return {"type": kind, "range": allowed, **bounds, "choices": choices, "read": read}


def plain(value: float) -> str:
    """A number without an exponent, such as 10,000,000 instead of 1e+07."""
    return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"


TRAINING: Mapping[str, Mapping[str, Any]] = {
    "rounds": limit(int, minimum=1, maximum=names.MAX_ROUNDS),
    "local_epochs": limit(int, minimum=1, maximum=names.MAX_LOCAL_EPOCHS),
    "batch_size": limit(int, minimum=0, maximum=names.MAX_BATCH_SIZE),
    "learning_rate": limit(float, above=0, maximum=names.MAX_RATE),
    "optimizer": limit(str, choices=names.OPTIMIZERS),
    "l2": limit(float, minimum=0, maximum=names.MAX_PENALTY),
    "model": limit(str, choices=names.MODELS),
    "hidden": limit(
        str, read=names.read_hidden, allowed=f"1 to {names.MAX_UNITS:,} each, at most {names.MAX_LAYERS} layers"
    ),
    "activation": limit(str, choices=names.ACTIVATIONS),
    "dropout": limit(float, minimum=0, below=1),
    "dp_rounds": limit(int, minimum=1, maximum=names.MAX_ROUNDS),
    "dp_clip": limit(float, minimum=MIN_CLIP, maximum=MAX_CLIP),
    "dp_sampling_rate": limit(float, minimum=MIN_RATE, maximum=1),
    "dp_steps": limit(int, minimum=1, maximum=MAX_STEPS),
    "dp_learning_rate": limit(float, above=0, maximum=names.MAX_RATE),
}
"""Training settings that a task file may state, with their limits; dp_rounds is `rounds` with differential privacy."""

OF_TASK = "default"
"""Value of a TRAINING setting in a run config that stands for the task's, or else for the project's default."""


def flag_of(setting: "Field[Any]") -> str:
    """A setting's name with dashes, as flags and the run config spell it."""
    return setting.name.replace("_", "-")


def coerce(kind: type, value: Value) -> Value:
    """The value; an integer for a float setting, such as TOML's `wait = 300`, becomes a float."""
    is_whole = kind is float and type(value) is int and abs(value) <= LARGEST
    return float(value) if is_whole else value


def check(setting: "Field[Any]", value: object) -> None:
    """Raise SettingsError if a value has the wrong type for a setting, or is out of its range."""
    if problem := find_problem(setting.metadata, value):
        raise SettingsError(f"{flag_of(setting)}: {problem}")


def find_problem(limits: Mapping[str, Any], value: object) -> str:
    """What is wrong with a value, by the limits of its setting; empty if nothing is."""
    if type(value) is not limits["type"]:
        return f"expected {_words[limits['type']]}, got {_show(value)}"
    if limits["choices"] and value not in limits["choices"]:
        return f"expected one of {', '.join(limits['choices'])}, got {_show(value)}"
    if isinstance(value, int | float):
        if limits["minimum"] is not None and not limits["minimum"] <= value < float("inf"):
            return f"expected at least {limits['minimum']}, got {_show(value)}"
        if limits["maximum"] is not None and value > limits["maximum"]:
            return f"expected at most {plain(limits['maximum'])}, got {_show(value)}"
        if type(value) is int and value > LARGEST:
            return f"expected at most {LARGEST}, got {_show(value)}"
        if limits["above"] is not None and not limits["above"] < value < float("inf"):
            return f"expected more than {limits['above']}, got {_show(value)}"
        if limits["below"] is not None and value >= limits["below"]:
            return f"expected less than {limits['below']}, got {_show(value)}"
    if limits["read"] is not None:
        try:
            limits["read"](value)
        except ValueError as error:
            return f"{error}, got {_show(value)}"
    return ""


def _show(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python's limit on the digits of a whole number
        return "a number with too many digits"


_words: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
