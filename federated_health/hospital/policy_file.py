"""Reads policy files: TOML files in which a hospital states what it allows. `docs/policy.md` explains every key."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from federated_health.data.toml_reading import is_number, is_text, read_content, read_toml
from federated_health.hospital.policy import Policy
from federated_health.hospital.policy_rules import REFUSE
from federated_health.messages.content import SECURE_AGGREGATION_ONLY
from federated_health.messages.releases import RELEASES
from federated_health.ml.strategies import STRATEGIES
from federated_health.names import (
    ALLOWED_EPSILON,
    MAX_BATCH_SIZE,
    MAX_LOCAL_EPOCHS,
    MAX_ROUNDS,
    MODELS,
    POLICY,
    is_hospital_name,
)

MAX_CELL, MAX_HOSPITALS = 1_000, 10_000
"""Largest values of `min_cell` and `min_hospitals`: larger ones are mistakes."""

OFF = tuple(name for name, release in RELEASES.items() if release.may_be_off)
"""Names of the releases that a policy may switch off."""

Rule = tuple[str, Callable[[Any], bool]]
"""What a key expects, in words, and whether a value is such."""


def _whole(low: int, high: int) -> Rule:
    return f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high


def _number(high: float, *, below: bool = False) -> Rule:
    def allows(value: Any) -> bool:
        return is_number(value) and 0 < value <= high and not (below and value == high)

    return f"a number above 0, {'below' if below else 'at most'} {high:,g}", allows


def _list_of(expected: str, allows: Callable[[str], bool]) -> Rule:
    def allow_all(values: Any) -> bool:
        return isinstance(values, list) and all(is_text(value) and allows(value) for value in values)

    return f"a list of {expected}", allow_all


def _is_hash(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", _plain_hex(text)) is not None


def _plain_hex(text: str) -> str:
    """A hash as written by `certificates show` or openssl, without spaces and colons, in lower case."""
    return re.sub("[ :]", "", text).lower()


RULES: Mapping[str, Rule] = {
    "min_cell": _whole(1, MAX_CELL),
    "servers": _list_of('fingerprints, each 64 hexadecimal digits, such as ["7f19 7671 ..."]', _is_hash),
    "tasks": _list_of('names of tasks, such as ["heart-disease"]', is_hospital_name),
    "strategies": _list_of(f"some of {', '.join(STRATEGIES)}", STRATEGIES.__contains__),
    "networks": _list_of(
        f"{', '.join(MODELS)} or hashes of 64 hexadecimal digits", lambda text: text in MODELS or _is_hash(text)
    ),
    "min_hospitals": _whole(1, MAX_HOSPITALS),
    "max_rounds": _whole(1, MAX_ROUNDS),
    "max_local_epochs": _whole(1, MAX_LOCAL_EPOCHS),
    "min_batch_size": _whole(1, MAX_BATCH_SIZE),
    "max_parameters_per_row": _number(1e9),
    "above_max_parameters": (f'"warn" or "{REFUSE}"', lambda value: value in ("warn", REFUSE)),
    "max_epsilon": _number(1000),
    "max_delta": _number(1, below=True),
    "require_secure_aggregation": ("true or false", lambda value: isinstance(value, bool)),
    "releases_off": _list_of(f"some of {', '.join(OFF)}", OFF.__contains__),
}
"""The keys of a policy file."""

NEEDED = {"above_max_parameters": "max_parameters_per_row", "max_delta": "max_epsilon"}
"""Key -> the key without which it has no effect."""


def read_policy(path: Path) -> Policy:
    """The policy that a file states; a DataError if it is not a policy file."""
    content = read_content(path)
    top = read_toml(content, str(path))
    values = {key: top.take(key, *rule) for key, rule in RULES.items() if key in top.names()}
    top.end(", ".join(RULES))
    for key, needed in NEEDED.items():
        if key in values and needed not in values:
            raise top.error(f"expected {needed}, too, got none", key)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key in ("servers", "networks"):
        if key in values:
            values[key] = tuple(text if text in MODELS else _plain_hex(text) for text in values[key])
    return Policy(**values, file=str(path), text=content.decode("utf-8-sig"))


def read_node_policy(config: Mapping[str, Any]) -> Policy:
    """The policy of a node's config, the same object for the same values; a DataError if its file cannot be used."""
    return _read_once(
        str(config.get(POLICY, "")), config.get(ALLOWED_EPSILON), bool(config.get(SECURE_AGGREGATION_ONLY))
    )


@lru_cache(maxsize=64)
def _read_once(file: str, budget: float | None, secure_aggregation: bool) -> Policy:
    """The policy of a file, with what the flags of `client.py` require besides."""
    policy = read_policy(Path(file)) if file else Policy()
    if budget is not None and budget < policy.max_epsilon:
        policy = replace(policy, max_epsilon=budget, flags={"max_epsilon": "--dp-budget"})
    if secure_aggregation and not policy.require_secure_aggregation:
        flags = {**policy.flags, "require_secure_aggregation": "--secure-aggregation-only"}
        policy = replace(policy, require_secure_aggregation=True, flags=flags)
    return policy
