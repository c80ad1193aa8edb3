"""The subcommands of `mapping`: draft."""

import argparse
import sys

from federated_health.cli import parsing
from federated_health.cli.output import write_output
from federated_health.data.exports.mapping_draft import draft_mapping
from federated_health.data.task_files import DEFAULT_TASK, TASKS, find_task, task_name
from federated_health.errors import SettingsError

DESCRIPTION = "Drafts mapping files, which state how a hospital's own export writes the columns of a task."

EXAMPLES = (
    "draft export.csv --task-file stroke.toml > mapping.toml",
    "draft export.xlsx --task readmission > mapping.toml",
)


def make_parser() -> parsing.CommandParser:
    """The parser of `mapping`; a subcommand's function is its `run`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    examples = tuple(example.removeprefix("draft ") for example in EXAMPLES)
    help_text = "writes a draft of a mapping file, made from an export, to standard output"
    draft = parsing.add_subcommand(subcommands, "draft", _draft, help_text, examples)
    draft.add_argument(
        "export", type=parsing.path, metavar="EXPORT", help="the export: a CSV, .csv.gz, .xlsx or .parquet"
    )
    help_text = f"the task to whose columns the export is mapped: {', '.join(TASKS)} (default: {DEFAULT_TASK})"
    draft.add_argument("--task", type=task_name, choices=tuple(TASKS), metavar="TASK", help=help_text)
    help_text = "task file of your own, instead of --task (default: none)"
    draft.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    return parser


def main() -> None:
    """The command `mapping`: parse the flags, and run the subcommand that they name."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _draft(flags: argparse.Namespace) -> None:
    """Print a draft, and on standard error how many of its lines are open."""
    if flags.task and flags.task_file:
        raise SettingsError("expected --task or --task-file, got both")
    task = find_task(flags.task or DEFAULT_TASK, flags.task_file)
    draft = draft_mapping(flags.export, task)
    write_output(draft.text)
    print(draft.request, file=sys.stderr)
