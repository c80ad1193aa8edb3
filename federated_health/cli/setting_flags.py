"""A flag for every setting of a run."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any

from federated_health.cli.parsing import number, path_text, whole
from federated_health.setting_fields import flag_of

_readers: Mapping[Any, Callable[[str], Any]] = {str: str, int: whole, float: number}
"""Readers of a setting's value by its type; `Settings` checks the range, also of Flower's run config."""


def by_flag(flags: argparse.Namespace) -> dict[str, Any]:
    """Parsed values by flag, spelled with dashes as in the settings and the run config."""
    return {name.replace("_", "-"): value for name, value in vars(flags).items()}


def add_settings(parser: argparse.ArgumentParser, settings: type[Any], *, leave_out: Collection[str]) -> None:
    """Add a flag for every field of a settings dataclass, with its default and its metadata: group, help text, range.

    The parsed values hold only the flags that the user gave.
    """
    groups: dict[str, Any] = {}
    for setting in fields(settings):
        flag = flag_of(setting)
        if flag in leave_out:
            continue
        default, rules = setting.default, setting.metadata
        title = rules["group"]
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        value = ("no", "yes")[default] if isinstance(default, bool) else "none" if default == "" else f"{default}"
        shown = rules["shown"] or value
        listed = f"one of {', '.join(rules['choices'])}" if rules["choices"] and rules["unit"] else rules["range"]
        text = f"{rules['help']} ({'; '.join(part for part in (listed, f'default: {shown}') if part)})"
        keywords: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if setting.type is not bool:
            choices, unit = rules["choices"] or None, rules["unit"] or None
            reader = path_text if unit in ("DIR", "FILE") else _readers[setting.type]
            keywords = {"type": reader, "choices": choices, "metavar": unit}
        group.add_argument(f"--{flag}", default=argparse.SUPPRESS, help=text.replace("%", "%%"), **keywords)
