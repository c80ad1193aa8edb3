"""Run terms on a hospital's terminal: in plain words, with the question whether it joins."""

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from federated_health.cli.console import print_lines
from federated_health.cli.output import check_output
from federated_health.data.label_direction import column_positions
from federated_health.data.manifest import OwnHospital
from federated_health.data.tasks import Task, write_agreement
from federated_health.hospital.consent import decide
from federated_health.hospital.ledger import Ledger
from federated_health.hospital.policy import policy_of
from federated_health.messages.accepted_terms import MAX_TRAININGS_PER_ROUND, read_terms
from federated_health.messages.releases import RELEASES
from federated_health.messages.run_terms import RunTerms
from federated_health.ml.targets import target_of
from federated_health.setting_fields import Value
from federated_health.transport.app_calls import failed_reply, hospital_context
from federated_health.transport.stream_client import join_run

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

GROUP_BYTES = 24
"""Size of one group of scores: a number of rows, a mean and a deviation."""


def decide_on_terms(
    terms: RunTerms,
    flags: argparse.Namespace,
    node_config: "Mapping[str, Value]",
    task: Task,
    *,
    train_rows: int,
    server: str,
    authority: str,
    is_local: bool,
    may_ask: bool,
) -> str:
    """What accepts the terms (see `consent.decide`), after a person has read them, if one has to be asked."""
    policy = policy_of(node_config)
    ask: Callable[[], bool] | None = None
    if may_ask and sys.stdin is not None and sys.stdin.isatty():
        lines = describe(terms, task, authority) + policy.warnings(terms, train_rows=train_rows, task=task)
        ask = partial(_ask, lines)
    return decide(
        terms,
        accept=flags.accept or "",
        policy=policy.file,
        refusals=policy.refusals(terms, train_rows=train_rows, server=server, task=task),
        is_local=is_local,
        ask=ask,
    )


def show_terms(flags: argparse.Namespace, own: OwnHospital, identity: "Identity | None") -> NoReturn:
    """Print the terms that the server states, and end the process; the hospital does not join."""

    def show(text: str, _server: str) -> NoReturn:
        terms = read_terms(text)
        print_lines("The terms of the run", describe(terms, own.task, identity.authority_hash if identity else ""))
        check_output()
        sys.exit(0)

    join_run(
        lambda message, _: failed_reply(message, "it only reads the terms"),
        hospital_context(own.name, {}),
        name=own.name,
        address=flags.server,
        agreement={},
        wait=flags.wait,
        announce=lambda line: print(line, file=sys.stderr),
        prepare=lambda: None,
        ledger=Ledger.beside(own.data, own.name, flags.ledger),
        tls=identity,
        consent=show,
    )
    raise AssertionError("the server's terms are shown before the hospital joins")


def describe(terms: RunTerms, task: Task, authority: str) -> list[str]:
    """The terms in plain words, one line each.

    Args:
        task: this hospital's, by which the sizes are computed.
        authority: SHA-256 of the certificate of this hospital's authority; empty without TLS.
    """
    network = terms.network
    hidden = f", hidden layers {network['hidden']} ({network['activation']})" if network["hidden"] else ""
    batch = f"batches of {terms.batch_size}" if terms.batch_size else "all rows at once"
    lines = {
        "task": terms.task
        if terms.schema == task.schema_hash
        else f"{terms.task}, whose columns are not {task.name}'s",
        "network": f"{network['model']}{hidden}, {terms.parameters:,} weights",
        "strategy": terms.strategy + (f" ({terms.strategy_args})" if terms.strategy_args else ""),
        "rounds": f"{terms.rounds}; if rounds are repeated, at most {MAX_TRAININGS_PER_ROUND * terms.rounds} trainings",
        "training": f"{terms.local_epochs} epochs per round, {batch}, {terms.optimizer}, rate {terms.learning_rate:g}, "
        f"l2 {terms.l2:g}" + (", classes balanced" if terms.class_weight != "none" else ""),
        "who may join": _describe_participants(terms, authority),
        "privacy": describe_privacy(terms),
        "secure sum": "the server sees sums of at least three hospitals' weights"
        if terms.secure_aggregation
        else "none: the server sees this hospital's own weights",
        "server keeps": terms.retention,
    }
    sizes = sizes_of(terms, task)
    leaves = [f"leaves: {name} ({sizes[name]}): {RELEASES[name].words}" for name in terms.releases]
    return [*(f"{name + ':':<14}{text}" for name, text in lines.items()), *leaves, f"hash:         {terms.hash}"]


def _describe_participants(terms: RunTerms, authority: str) -> str:
    if not terms.authority:
        who = "anyone who reaches the server, since there is no TLS"
    elif terms.authority == authority:
        who = "hospitals with a certificate of this hospital's authority"
    else:
        who = f"hospitals of the authority {terms.authority}, which is not this hospital's"
    return f"{who}; the server waits for {terms.hospitals}, and averages at least {terms.min_updates}"


def describe_privacy(terms: RunTerms) -> str:
    """Differential privacy in a sentence, after the definition: a factor on the odds, but for a small probability."""
    if not terms.epsilon:
        return "no differential privacy: weights and sums may reveal something about patients"
    return (
        f"differential privacy, epsilon {terms.epsilon:g}: anyone's odds of being right about whether a row is "
        f"among the training rows change by at most a factor of e^{terms.epsilon:g} = {math.exp(terms.epsilon):.2g}, except with "
        f"probability {terms.delta:g}"
    )


def sizes_of(terms: RunTerms, task: Task) -> dict[str, str]:
    """Size of each release, in words; numbers have 8 bytes, and weights 4."""
    target, columns = target_of(task), len(task.columns)
    sums = [getattr(target.no_sums, field.name) for field in fields(target.sums)]
    numbers = {
        "row-counts": 2,
        "column-sums": 3 * len(task.measurements),
        "associations": len(column_positions(task)),
        "class-counts": target.classes,
        "weights": terms.parameters / 2,
        "training-loss": 1,
        "round-evaluation": 1 + sum(len(value) if isinstance(value, tuple) else 1 for value in sums),
        "roc-auc": 1,
        "appraisal": 7 + 2 * columns,
    }
    numbers["final-evaluation"] = numbers["round-evaluation"]
    in_rounds = ("weights", "training-loss", "round-evaluation")
    sizes = {
        name: f"{8 * number:,.0f} bytes" + (" per round" if name in in_rounds else "")
        for name, number in numbers.items()
    }
    groups = f"{GROUP_BYTES} bytes per group"
    agreement = len(write_agreement(task.agreement).encode())
    return sizes | {"scores": groups, "threshold-scores": groups, "name": f"{agreement:,} bytes", "error": "a line"}


def _ask(lines: list[str]) -> bool:
    print_lines("The server states the terms of its run", lines)
    try:
        return input("join? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt, UnicodeError):
        print()
        return False
