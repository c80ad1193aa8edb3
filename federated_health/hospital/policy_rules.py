"""The rules of a hospital's policy: why a run is refused, with the line of the policy file that says so."""

import math
from collections.abc import Iterator

from federated_health.data.tasks import Task
from federated_health.data.toml_errors import find_line
from federated_health.hospital.policy import Policy
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.networks import FILE, Network, number_of_weights
from federated_health.names import printable

REFUSE = "refuse"
"""Value of `above_max_parameters` with which a run is refused; the other one, warn, only warns."""


def find_refusals(policy: Policy, terms: RunTerms, train_rows: int, server: str, task: Task | None) -> list[str]:
    """Why the hospital does not join a run with these terms: one text per key that refuses it; empty if it may.

    Args:
        train_rows: number of this hospital's training rows; 0 if it is not known, and then not judged.
        server: fingerprint of the server's key, 64 hex digits, with or without spaces; empty without TLS.
        task: the hospital's own task, to name the size of a smaller network.
    """
    refusals = [refusal] if (refusal := find_server_refusal(policy, server)) else []
    refusals += [f"{_place(policy, key)}{problem}" for key, problem in _problems(policy, terms)]
    if policy.above_max_parameters == REFUSE:
        refusals += _large_network(policy, terms, train_rows, task)
    return refusals


def find_warnings(policy: Policy, terms: RunTerms, train_rows: int, task: Task | None) -> list[str]:
    """What the policy says of a run with these terms without refusing it; see `find_refusals`."""
    return [] if policy.above_max_parameters == REFUSE else _large_network(policy, terms, train_rows, task)


def find_server_refusal(policy: Policy, server: str) -> str | None:
    """Why the hospital joins no run of a server; see `find_refusals`."""
    if not policy.servers or (key := "".join(server.split())) in policy.servers:
        return None
    return f"{_place(policy, 'servers')}expected {_one_of(policy.servers)}, got {key or 'none: a server without TLS'}"


def _place(policy: Policy, key: str) -> str:
    """A key with the place where it was set, such as `policy.toml, line 3: max_rounds: `."""
    if key in policy.flags:
        return f"{policy.flags[key]}: {key}: "
    line = find_line(policy.text, (key,))
    return f"{policy.file}, line {line}: {key}: " if line else f"{key}: "


def _problems(policy: Policy, terms: RunTerms) -> Iterator[tuple[str, str]]:
    """Each key that refuses the terms, with the reason; server and size of the network apart."""
    for name, allowed, value in (
        ("tasks", policy.tasks, terms.task),
        ("strategies", policy.strategies, terms.strategy),
    ):
        if allowed and value not in allowed:
            yield name, f"expected {_one_of(allowed)}, got {printable(value)}"
    model = str(terms.network["model"])
    if policy.networks and {model, terms.network_hash}.isdisjoint(policy.networks):
        got = f"{'a network file' if model == FILE else model} with the hash {terms.network_hash}"
        yield "networks", f"expected {_one_of(policy.networks)}, got {got}"
    for name, least, number in (
        ("min_hospitals", policy.min_hospitals, terms.min_updates),
        ("min_batch_size", policy.min_batch_size, terms.batch_size or math.inf),  # 0: all rows of a hospital
    ):
        if number < least:
            yield name, f"expected at least {least:,}, got {number:,}"
    for name, most, number in (
        ("max_rounds", policy.max_rounds, terms.rounds),
        ("max_local_epochs", policy.max_local_epochs, terms.local_epochs),
    ):
        if number > most:
            yield name, f"expected at most {most:,}, got {number:,}"
    if policy.max_epsilon < math.inf and not 0 < terms.epsilon <= policy.max_epsilon:
        got = f"epsilon {terms.epsilon:g}" if terms.epsilon else "none"
        yield (
            "max_epsilon",
            f"expected differential privacy with an epsilon of at most {policy.max_epsilon:g}, got {got}",
        )
    if terms.epsilon and terms.delta > policy.max_delta:
        yield "max_delta", f"expected at most {policy.max_delta:g}, got {terms.delta:g}"
    if policy.require_secure_aggregation and not terms.secure_aggregation:
        yield "require_secure_aggregation", "expected a run with secure aggregation, got one without"


def _large_network(policy: Policy, terms: RunTerms, train_rows: int, task: Task | None) -> list[str]:
    """That the network has too many weights for the training rows, with what to ask the server's operator for."""
    key = "max_parameters_per_row"
    parameters = terms.parameters
    if task is not None and terms.network["model"] != FILE:  # a server may state fewer, and is refused only later
        parameters = max(parameters, number_of_weights(task, Network.from_config(terms.network)))
    if not train_rows or (ratio := parameters / train_rows) <= policy.max_parameters_per_row:
        return []
    remedy = "server.py --model logistic trains a smaller network"
    if task is not None:
        weights = number_of_weights(task, Network("logistic"))
        remedy = f"server.py --model logistic trains {weights:,}, which is {weights / train_rows:.3g} per row"
    offer = "" if terms.network["model"] == "logistic" else f"; {remedy}"
    got = f"{ratio:.3g} ({parameters:,} weights, {train_rows:,} training rows)"
    return [f"{_place(policy, key)}expected at most {policy.max_parameters_per_row:g}, got {got}{offer}"]


def _one_of(allowed: tuple[str, ...]) -> str:
    return allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}"
