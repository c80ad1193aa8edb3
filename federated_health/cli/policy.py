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
from federated_health.data.task_files import DEFAULT_TASK, TASKS, find_task
from federated_health.errors import SettingsError
from federated_health.files import path_exists, write_text
from federated_health.hospital.policy_draft import draft_policy
from federated_health.hospital.policy_file import RULES, read_policy
from federated_health.messages.run_terms import RunTerms
from federated_health.settings import Settings

DESCRIPTION = "Drafts and checks policy files, in which a hospital states the runs that it joins and what may leave it."

EXAMPLES = ("draft --data patients.csv --out policy.toml", "check policy.toml")


def make_parser() -> parsing.CommandParser:
    """The parser of `policy`; a subcommand's function is its `run`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    help_text = "writes a commented policy file that allows a run with the server's default settings"
    examples = ("--out policy.toml", "--data patients.csv --task-file stroke.toml --out policy.toml")
    draft = parsing.add_subcommand(subcommands, "draft", _draft, help_text, examples)
    help_text = "file to write (default: standard output)"
    draft.add_argument("--out", type=parsing.path, metavar="FILE", help=help_text)
    draft.add_argument("--force", action="store_true", help="overwrite the file of --out (default: no)")
    _add_hospital(draft)

    help_text = "lists the error of a policy file, or what a valid one allows"
    check = parsing.add_subcommand(subcommands, "check", _check, help_text, ("policy.toml",))
    check.add_argument("file", type=parsing.path, metavar="FILE", help="the policy file")
    return parser


def _add_hospital(parser: Any) -> None:
    """Add the flags that name the hospital's CSV and its task, as in client.py."""
    help_text = "this hospital's own CSV, to state its number of training rows (default: none)"
    parser.add_argument("--data", type=parsing.path, metavar="FILE", help=help_text)
    help_text = "what to predict (default: the task in the manifest beside the CSV, "
    help_text += f"else {DEFAULT_TASK})"
    parser.add_argument("--task", choices=tuple(TASKS), help=help_text)
    help_text = "task file of your own, instead of --task (default: the one in the manifest beside the CSV, if any)"
    parser.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    add_mapping(parser)


def main() -> None:
    """The command `policy`: parse the flags, and run the subcommand that they name."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _draft(flags: argparse.Namespace) -> None:
    """Write a draft to a file or to standard output."""
    if flags.out is not None and not flags.force and path_exists(flags.out):
        raise SettingsError(f"{flags.out}: exists; name another file, or overwrite it with --force")
    if flags.task and flags.task_file:
        raise SettingsError("expected --task or --task-file, got both")
    task, train_rows = find_task(flags.task or DEFAULT_TASK, flags.task_file), None
    if flags.data is not None:
        own = find_own_hospital(
            Path(),
            None,
            flags.data,
            "unnamed",  # nothing is sent
            task=flags.task,
            task_file=flags.task_file,
            mapping=flags.mapping,
        )
        task = own.task
        train_rows = len(load_hospital(own.data, task, own.name, DEFAULT_SPLIT_SEED, own.mapping).train)
    elif flags.mapping is not None:
        raise SettingsError("--mapping: expected --data FILE, too")
    text = draft_policy(RunTerms.of(Settings(declared_task=task)), task, train_rows=train_rows)
    if flags.out is None:
        write_output(text)
    else:
        write_text(flags.out, text)
        print_lines(f"wrote {flags.out}", [f"Edit it, then run: federated-health policy check {flags.out}"])


def _check(flags: argparse.Namespace) -> None:
    """Show what a policy file allows; DataError if it is not valid."""
    policy = read_policy(flags.file)
    print_lines(f"{flags.file}: valid", [f"{key}: {describe(key, getattr(policy, key))}" for key in RULES])
    check_output()


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
