"""The strategies that a study compares, each with arguments of its own: `fedavg,fedprox:proximal-mu=0.01`.

A label names one of them in flags, files and tables: the strategy, then the arguments that were given, in the order of
their declaration, as `fedadam:eta=0.02:tau=0.01`.
"""

from collections.abc import Sequence

from federated_health.errors import SettingsError
from federated_health.ml.strategies import STRATEGIES, read_arguments, write_arguments
from federated_health.settings import Settings

SEPARATOR = ":"
"""Stands before each argument, since a comma stands between strategies."""


def choose_strategies(entries: Sequence[str] | None, strategy: str, arguments: str) -> tuple[str, ...]:
    """Labels of the strategies that flags name.

    Args:
        entries: those of `--strategies`; None for `--strategy` alone.
        strategy: `--strategy`, empty if it was not given.
        arguments: `--strategy-args`, which are those of the first entry; empty if they were not given.

    Raises:
        SettingsError: an entry is not valid, two are the same model, or the flags contradict each other.
    """
    first, *further = entries or [strategy or Settings.strategy]
    name, given = _split(first)
    if strategy not in ("", name):
        raise SettingsError(f"strategy: expected {name}, the first of --strategies, or no --strategy, got {strategy}")
    if arguments and given:
        raise SettingsError(f"strategy-args: expected none, since --strategies has those of {name}, got {arguments!r}")
    if arguments:
        read_arguments(name, arguments)  # an error about them names --strategy-args
        first = _join(name, arguments)
    labels = tuple(_normalise(entry) for entry in (first, *further))
    for place, label in enumerate(labels):
        if same := [other for other in labels[:place] if without_defaults(other) == without_defaults(label)]:
            raise SettingsError(f"strategies: expected different models, got {same[0]} and {label}, which are the same")
    return labels


def settings_of(label: str) -> tuple[str, str]:
    """A strategy and its arguments as the settings `strategy` and `strategy_args` spell them."""
    name, given = _split(label)
    return name, ",".join(given)


def without_defaults(label: str) -> str:
    """The label without arguments that have their default value: equal for labels of the same model."""
    if SEPARATOR not in label:
        return label
    name, given = _split(label)
    defaults = {parameter.name: parameter.default for parameter in STRATEGIES[name].parameters}
    arguments = read_arguments(name, ",".join(given))
    return _join(name, write_arguments({key: arguments[key] for key in arguments if arguments[key] != defaults[key]}))


def _normalise(entry: str) -> str:
    name, given = _split(entry)
    try:
        arguments = read_arguments(name, ",".join(given))
    except SettingsError as error:
        raise SettingsError(f"strategies: {entry}: {str(error).removeprefix('strategy-args: ')}") from None
    names = {part.partition("=")[0].strip() for part in given}
    return _join(name, write_arguments({key: value for key, value in arguments.items() if key in names}))


def _split(entry: str) -> tuple[str, list[str]]:
    """The strategy and its arguments as text; SettingsError if there is no such strategy, or an argument is empty."""
    name, *given = (part.strip() for part in entry.split(SEPARATOR))
    if "=" in name or not all(given):
        raise SettingsError(f"strategies: expected STRATEGY or STRATEGY:NAME=VALUE:NAME=VALUE, got {entry!r}")
    if name not in STRATEGIES:
        raise SettingsError(f"strategies: expected one of {', '.join(STRATEGIES)}, got {name!r}")
    return name, given


def _join(name: str, arguments: str) -> str:
    return SEPARATOR.join([name, *arguments.split(",")] if arguments else [name])
