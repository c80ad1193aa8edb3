"""The subcommands of `task`: draft, check and show."""

import argparse
import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from federated_health.cli import parsing
from federated_health.cli.console import console, print_lines
from federated_health.cli.output import check_output, write_output
from federated_health.data.columns import Category, Column, Measurement, write_number
from federated_health.data.labels import ClassLabel
from federated_health.data.subgroups import subgroups_of
from federated_health.data.task_files import TASKS, get_task, read_task_file, task_name
from federated_health.data.tasks import Task
from federated_health.errors import DataError, SettingsError
from federated_health.files import path_exists
from federated_health.names import is_hospital_name

DESCRIPTION = "Drafts, checks and shows task files, which declare the columns of a table and the label to predict."

EXAMPLES = (
    "draft patients.csv --target died_30d > stroke.toml",
    "check stroke.toml --data patients.csv",
    "show heart-disease",
)


def make_parser() -> parsing.CommandParser:
    """The parser of `task`; a subcommand's function is its `run`."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    help_text = "writes a draft of a task file, made from one hospital's export, to standard output"
    examples = (
        "patients.csv --target died_30d > stroke.toml",
        "export.xlsx --target verstorben --name stroke > stroke.toml",
    )
    draft = parsing.add_subcommand(subcommands, "draft", _draft, help_text, examples)
    draft.add_argument(
        "export", type=parsing.path, metavar="EXPORT", help="the export: a CSV, .csv.gz, .xlsx or .parquet"
    )
    help_text = "header of the column to predict"
    draft.add_argument("--target", required=True, metavar="COLUMN", help=help_text)
    help_text = "name of the task: lower-case letters, digits and hyphens (default: derived from the file's name)"
    draft.add_argument("--name", metavar="NAME", help=help_text)

    help_text = "lists the errors of a task file, or notes on a valid one"
    check = parsing.add_subcommand(
        subcommands, "check", _check, help_text, ("stroke.toml", "stroke.toml --data patients.csv")
    )
    check.add_argument("file", type=parsing.path, metavar="FILE", help="the task file")
    help_text = "also check this CSV of a hospital against the task (default: none)"
    check.add_argument("--data", type=parsing.path, metavar="CSV", help=help_text)
    help_text = "mapping file that states how CSV writes the task's columns (default: none)"
    check.add_argument("--mapping", type=parsing.path, metavar="FILE", help=help_text)

    help_text = "prints the columns of a task as a table"
    show = parsing.add_subcommand(subcommands, "show", _show, help_text, ("stroke.toml", "readmission --markdown"))
    help_text = f"a task file, or a task of the package: {', '.join(TASKS)}"
    show.add_argument("task", type=task_name, metavar="TASK", help=help_text)
    show.add_argument("--markdown", action="store_true", help="print the table in Markdown (default: no)")
    return parser


def main() -> None:
    """The command `task`: parse the subcommand and its flags, and run it."""
    flags = make_parser().parse_args()
    flags.run(flags)
    check_output()


def _draft(flags: argparse.Namespace) -> None:
    """Print a draft, and on standard error how many of its lines are open."""
    from federated_health.data.exports.task_draft import draft_task  # noqa: PLC0415  # the other subcommands do not need it

    if flags.name is not None and not is_hospital_name(flags.name):
        raise SettingsError(f"--name: expected lower-case letters, digits and hyphens, got {flags.name!r}")
    draft = draft_task(flags.export, flags.target, flags.name)
    write_output(draft.text)
    print(f"{draft.request}, then run federated-health task check", file=sys.stderr)


def _check(flags: argparse.Namespace) -> None:
    """Show the errors of a task file, or notes on it; then check a CSV against it."""
    from federated_health.data.task_review import find_mistakes, review_task  # noqa: PLC0415  # as above

    if mistakes := find_mistakes(flags.file):
        if len(mistakes) == 1:
            raise DataError(mistakes[0])
        print_lines(f"{flags.file}: {len(mistakes)} errors", mistakes)
        raise DataError(f"{flags.file}: is not a valid task file")
    if flags.mapping is not None and flags.data is None:
        raise SettingsError("--mapping: expected --data CSV, too")
    task = read_task_file(flags.file)
    columns = "1 column" if len(task.columns) == 1 else f"{len(task.columns)} columns"
    notes = [_describe_training(task)] if task.training else []
    notes += [f"note: {note}" for note in review_task(task)]
    print_lines(f"{flags.file}: valid: task {task.name}, {columns}, label {task.label.name}", notes)
    if flags.data is not None:
        from federated_health.cli.inspection import show_data  # noqa: PLC0415  # as above

        show_data(flags.data, task, flags.mapping)


def _show(flags: argparse.Namespace) -> None:
    """Show the columns of a task."""
    is_name = flags.task in TASKS or not path_exists(Path(flags.task))
    task = get_task(flags.task) if is_name else read_task_file(Path(flags.task))
    rows = [(column.name, column.meaning, describe_values(column)) for column in task.labelled_columns]
    if task.patient is not None:
        rows.append((task.patient, "identifies the patient of a row", "any text, never missing; not an input"))
    if flags.markdown:
        print(
            "\n".join(
                ["| column | what | unit or codes |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
            )
        )
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for head in ("column", "what", "unit or codes"):
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(f"\n[bold]{escape(_title(task))}[/bold]", soft_wrap=True)
    console.print(Padding(table, (1, 0, 1, 1), expand=False))
    if task.subgroups:
        groups = "; ".join(f"{group.column} {group.name}" for group in subgroups_of(task))
        console.print(f"{escape(f'subgroups: {groups}')}\n")
    if task.training:
        console.print(f"{escape(_describe_training(task))}\n")


def _title(task: Task) -> str:
    return f"{task.name}: {len(task.columns)} columns and the label {task.label.name}"


def _describe_training(task: Task) -> str:
    return f"training: {', '.join(f'{name} {value}' for name, value in task.training.items())}"


def describe_values(column: Column) -> str:
    """What a column may hold, as in docs/own-data.md."""
    match column:
        case Measurement():
            zero = "; 0 is read as missing" if column.zero_is_missing else ""
            return f"{column.unit}, {write_number(column.low)} to {write_number(column.high)}{zero}"
        case Category() | ClassLabel():
            codes = ", ".join(f"{code} {word}" for code, word in column.codes.items())
            return codes if isinstance(column, Category) else f"{codes}; never missing"
        case _:
            return f"{column.rule}, never missing"
