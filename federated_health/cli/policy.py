"""The subcommands of `policy`: draft and check."""

import argparse
import math
from pathlib import Path
from typing import Any

from federated_health.cli import parsing
from federated_health.cli.client import add_mapping
from federated_health.cli.console import print_lines
from federated_health.cli.output import check_output, write_output
from federated_health.data.hospital import load_hospital
from federated_health.data.manifest import find_own_hospital
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.task_files import DEFAULT_TASK, TASKS, find_task, task_name
from federated_health.data.tasks import Task
from federated_health.errors import ConsentError, SettingsError
from federated_health.files import path_exists, write_text
from federated_health.hospital.policy_draft import draft_policy
from federated_health.hospital.policy_file import RULES, read_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.names import DEFAULT_WAIT
from federated_health.security import load_tls
from federated_health.settings import Settings
from federated_health.transport.channels import check_address

DESCRIPTION = "Drafts and checks policy files, in which a hospital states the runs that it joins and what may leave it."

UNNAMED = "unnamed"
"""Name of a hospital that sends nothing."""

EXAMPLES = ("draft --data patients.csv --out policy.toml", "check policy.toml")


def make_parser() -> parsing.CommandParser:
    """The parser of `policy`; a subcommand's function is its `run`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    help_text = (
        "writes a commented policy file that allows a run of a server, or one with the server's default settings"
    )
    examples = (
        "--data patients.csv --task-file stroke.toml --out policy.toml",
        "--server fl.example.org:8080 --tls cleveland-tls --out policy.toml",
    )
    draft = parsing.add_subcommand(subcommands, "draft", _draft, help_text, examples)
    help_text = "file to write (default: standard output)"
    draft.add_argument("--out", type=parsing.path, metavar="FILE", help=help_text)
    draft.add_argument("--force", action="store_true", help="overwrite the file of --out (default: no)")
    _add_hospital(draft)
    _add_connection(draft)

    help_text = "lists the error of a policy file, or what a valid one allows"
    examples = ("policy.toml", "policy.toml --server fl.example.org:8080 --tls cleveland-tls --data patients.csv")
    check = parsing.add_subcommand(subcommands, "check", _check, help_text, examples)
    check.add_argument("file", type=parsing.path, metavar="FILE", help="the policy file")
    _add_hospital(check)
    _add_connection(check)
    return parser


def _add_hospital(parser: Any) -> None:
    """Add the flags that name the hospital's CSV and its task, as in client.py."""
    help_text = "this hospital's own CSV, for its number of training rows (default: none)"
    parser.add_argument("--data", type=parsing.path, metavar="FILE", help=help_text)
    help_text = f"what to predict: {', '.join(TASKS)} (default: the task in the manifest beside the CSV, "
    help_text += f"else {DEFAULT_TASK})"
    parser.add_argument("--task", type=task_name, choices=tuple(TASKS), metavar="TASK", help=help_text)
    help_text = "task file of your own, instead of --task (default: the one in the manifest beside the CSV, if any)"
    parser.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    add_mapping(parser)


def _add_connection(parser: Any) -> None:
    """Add the flags with which a server is asked for the terms of its run, as in client.py."""
    help_text = "server to ask for the terms of its run; the hospital does not join (default: none)"
    parser.add_argument("--server", metavar="HOST:PORT", help=help_text)
    help_text = "seconds to keep trying while the server cannot be reached"
    help_text += " (above 0, at most 10,000,000; default: %(default)s)"
    parser.add_argument("--wait", type=parsing.seconds, default=DEFAULT_WAIT, metavar="SECONDS", help=help_text)
    help_text = "folder of this hospital's key and certificate (default: none)"
    parser.add_argument("--tls", type=parsing.path, metavar="DIR", help=help_text)
    help_text = "allow a --server on another machine without --tls (default: no)"
    parser.add_argument("--insecure", action="store_true", help=help_text)


def main() -> None:
    """The command `policy`: parse the flags, and run the subcommand that they name."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _draft(flags: argparse.Namespace) -> None:
    """Write a draft to a file or to standard output."""
    if flags.out is not None and not flags.force and path_exists(flags.out):
        raise SettingsError(f"{flags.out}: exists; name another file, or overwrite it with --force")
    task, rows = _read_hospital(flags)
    terms, server = _ask_server(flags, task) if flags.server else (RunTerms.of(Settings.from_config({}, task)), None)
    text = draft_policy(terms, task, train_rows=rows, server=server)
    if flags.out is None:
        write_output(text)
    else:
        write_text(flags.out, text)
        print_lines(f"wrote {flags.out}", [f"Edit it, then run: federated-health policy check {flags.out}"])


def _check(flags: argparse.Namespace) -> None:
    """Show what a policy file allows; DataError if it is not valid, ConsentError if it refuses the server's run."""
    policy = read_policy(flags.file)
    print_lines(f"{flags.file}: valid", [f"{key}: {describe(key, getattr(policy, key))}" for key in RULES])
    if flags.server:
        task, rows = _read_hospital(flags)
        terms, server = _ask_server(flags, task)
        if refusals := policy.refusals(terms, train_rows=rows, server=server, task=task):
            print_lines(f"It refuses the run of {flags.server}:", refusals[:-1])
            raise ConsentError(refusals[-1])
        warnings = policy.warnings(terms, train_rows=rows, task=task)
        print_lines(f"It allows the run of {flags.server}", [f"warning: {warning}" for warning in warnings])
    check_output()


def _read_hospital(flags: argparse.Namespace) -> tuple[Task, int]:
    """This hospital's task, and its number of training rows; 0 without --data."""
    if flags.task and flags.task_file:
        raise SettingsError("expected --task or --task-file, got both")
    if flags.data is None:
        if flags.mapping is not None:
            raise SettingsError("--mapping: expected --data FILE, too")
        return find_task(flags.task or DEFAULT_TASK, flags.task_file), 0
    own = find_own_hospital(
        Path(), None, flags.data, UNNAMED, task=flags.task, task_file=flags.task_file, mapping=flags.mapping
    )
    return own.task, len(load_hospital(own.data, own.task, own.name, DEFAULT_SPLIT_SEED, own.mapping).train)


def _ask_server(flags: argparse.Namespace, task: Task) -> tuple[RunTerms, str]:
    """The terms that the server states, and the fingerprint of its key; SettingsError if they are for another task."""
    from federated_health.cli.terms import ask_terms  # noqa: PLC0415  # only with --server

    identity = load_tls(flags.tls, "hospital") if flags.tls else None
    check_address(flags.server, encrypted=identity is not None, insecure=flags.insecure)
    terms, server = ask_terms(identity.name if identity else UNNAMED, flags.server, flags.wait, identity)
    if terms.schema != task.schema_hash:
        raise SettingsError(
            f"--server: expected a run of {task.name} with this hospital's columns, got one of {terms.task}; name its "
            "task with --task or --task-file"
        )
    return terms, server


def describe(key: str, value: Any) -> str:
    """The value of a key in words; what it is without the key, if the file does not set it."""
    match value:
        case ():
            return "none" if key == "releases_off" else "any"
        case tuple():
            return ", ".join(value)
        case bool():
            return "true" if value else "false"
        case float() if math.isinf(value):
            return "not required" if key == "max_epsilon" else "no limit"
        case float():
            return f"{value:g}"
        case _:
            return f"{value:,}" if isinstance(value, int) else value
