"""Run terms on a hospital's terminal: in plain words, with the question whether it joins."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from federated_health.cli.console import print_lines
from federated_health.cli.output import check_output
from federated_health.data.manifest import OwnHospital
from federated_health.data.task_files import TASKS, find_task
from federated_health.data.tasks import Task
from federated_health.errors import SettingsError
from federated_health.hospital.consent import decide
from federated_health.hospital.ledger import Ledger
from federated_health.hospital.policy import policy_of
from federated_health.messages.accepted_terms import MAX_TRAININGS_PER_ROUND, read_terms
from federated_health.messages.releases import RELEASES, size_of
from federated_health.messages.run_terms import RunTerms
from federated_health.transport.app_calls import failed_reply, hospital_context
from federated_health.transport.channels import check_address
from federated_health.transport.stream_client import join_run

if TYPE_CHECKING:
    from federated_health.security.identity import Identity

logger = logging.getLogger(__name__)


def decide_on_terms(
    terms: RunTerms,
    node_config: Mapping[str, Any],
    task: Task,
    accept: str | None,
    server: str,
    authority: str,
    *,
    is_local: bool,
    train_rows: int,
    may_ask: bool,
) -> str:
    """What accepts the terms (see `consent.decide`), after a person has read them, if one has to be asked.

    Args:
        node_config, task: the hospital's.
        server: fingerprint of the server's key; empty without TLS.
        authority: see `describe`.
        may_ask: whether a person may be asked, if there is a terminal.
    """
    policy = policy_of(node_config)
    ask: Callable[[], bool] | None = None
    if may_ask and sys.stdin is not None and sys.stdin.isatty():
        ask = partial(_ask, describe(terms, task, authority))
    accepted_by = decide(
        terms,
        accept=accept,
        policy=policy.file,
        refusals=policy.refusals(terms, train_rows=train_rows, server=server, task=task),
        is_local=is_local,
        ask=ask,
    )
    for warning in policy.warnings(terms, train_rows=train_rows, task=task):
        logger.warning("warning: %s", warning)
    return accepted_by


def show_terms(flags: argparse.Namespace, own: OwnHospital | None, identity: "Identity | None") -> None:
    """Print the terms that the server states; nobody joins.

    Args:
        own: the hospital; None if the flags name none, so that sizes are those of the task that the terms name.
    """
    check_address(flags.server, encrypted=identity is not None, insecure=flags.insecure)
    name = own.name if own else identity.name if identity else "unnamed"
    terms, _ = ask_terms(name, flags.server, flags.wait, identity)
    if own is None and flags.task_file is None and terms.task not in TASKS:
        raise SettingsError(f"--show-terms: the run's task is {terms.task}: expected --task-file or --data, got none")
    task = own.task if own else find_task(flags.task or terms.task, flags.task_file)
    print_lines("The terms of the run", describe(terms, task, identity.authority_hash if identity else ""))
    check_output()


class _StatedError(Exception):
    """Ends joining once the server has stated its terms."""


def ask_terms(name: str, address: str, wait: float, identity: "Identity | None") -> tuple[RunTerms, str]:
    """The terms that a server states, and the fingerprint of its key, empty without TLS; the hospital does not join."""

    def stop(text: str, server: str) -> NoReturn:
        raise _StatedError(text, server)

    try:
        join_run(
            lambda message, _: failed_reply(message, "it only reads the terms"),
            hospital_context(name, {}),
            name=name,
            address=address,
            agreement={},
            wait=wait,
            announce=lambda line: print(line, file=sys.stderr),
            prepare=lambda: None,
            ledger=Ledger(Path(), name),  # nothing leaves that it would record
            tls=identity,
            consent=stop,
        )
    except _StatedError as stated:
        text, server = stated.args
        return read_terms(text), server
    raise AssertionError("the server's terms come before the hospital joins")


def describe(terms: RunTerms, task: Task, authority: str) -> list[str]:
    """The terms in plain words, one line each.

    Args:
        task: this hospital's, by which the sizes are computed.
        authority: SHA-256, in hex, of the certificate of this hospital's authority; empty without TLS.
    """
    network = terms.network
    hidden = f", hidden layers {network['hidden']} ({network['activation']})" if network["hidden"] else ""
    batch = f"batches of {terms.batch_size}" if terms.batch_size else "all rows at once"
    is_same = terms.schema == task.schema_hash
    balanced = ", classes balanced" if terms.class_weight != "none" else ""
    lines = {
        "task": terms.task if is_same else f"{terms.task}, with other columns than this hospital's {task.name}",
        "network": f"{network['model']}{hidden}, {terms.parameters:,} weights",
        "strategy": terms.strategy + (f" ({terms.strategy_args})" if terms.strategy_args else ""),
        "rounds": f"{terms.rounds}; if rounds are repeated, at most {MAX_TRAININGS_PER_ROUND * terms.rounds} trainings",
        "training": f"{terms.local_epochs} epochs per round, {batch}, {terms.optimizer}, learning rate "
        f"{terms.learning_rate:g}, l2 {terms.l2:g}{balanced}",
        "who may join": _describe_participants(terms, authority),
        "privacy": describe_privacy(terms),
        "weights": "the server sees only sums over at least three hospitals (secure aggregation)"
        if terms.secure_aggregation
        else "the server sees this hospital's own (no secure aggregation)",
        "server keeps": terms.retention,
    }
    leaves = [_describe_release(name, terms, task) for name in terms.releases]
    return [
        *(f"{name + ':':<14}{text}" for name, text in lines.items()),
        "what leaves:",
        *(f"  {line}" for line in leaves),
        f"{'hash:':<14}{terms.hash}",
    ]


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
        return "no differential privacy: what leaves may reveal something about patients"
    factor = f"e^{terms.epsilon:g} = {math.exp(terms.epsilon):.2g}"
    return (
        f"differential privacy, epsilon {terms.epsilon:g}: anyone's odds of being right about whether a patient is in "
        f"the hospital's data change by at most a factor of {factor}, except with probability {terms.delta:g}"
    )


def _describe_release(name: str, terms: RunTerms, task: Task) -> str:
    """What a release is, and the size of its values in one message; 0 for texts."""
    size = size_of(name, task, terms)
    return f"{name}{f' ({size:,} bytes)' if size else ''}: {RELEASES[name].words}"


def _ask(lines: list[str]) -> bool:
    print_lines("The server states the terms of its run", lines)
    try:
        return input("join? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt, UnicodeError):
        print()
        return False
