"""The command `federated-health`: one subcommand per task. Only the module of the chosen subcommand is loaded."""

import sys
from importlib import import_module

from federated_health import __version__, interrupts
from federated_health.cli import parsing

SUBCOMMANDS = {
    "server": ("server:main", "runs the server: gathers hospitals, averages their weights, saves one model"),
    "client": ("client:main", "runs one hospital: trains on its own CSV, sends weights, sums and counts"),
    "create-dataset": ("create_dataset:main", "turns a data set into one CSV per hospital"),
    "task": ("task:main", "drafts, checks and shows task files"),
    "mapping": ("mapping:main", "drafts a mapping file for a hospital's own export"),
    "policy": ("policy:main", "drafts and checks policy files: which runs a hospital joins, and what may leave"),
    "predict": ("predict:main", "scores patients with a saved model"),
    "demo": ("demo:main", "runs a server and its hospitals on this machine"),
    "evidence": ("studies:evidence", "measures the benefit of joining by cross-validation"),
    "audit": ("studies:audit", "attacks models and updates, with and without protection"),
    "certificates": ("certificates:main", "makes the keys and certificates for mutual TLS"),
    "superlink": (
        "deployment.superlink:main",
        "starts Flower's SuperLink, a server for many runs, with this project's certificates",
    ),
    "supernode": ("deployment.supernode:main", "starts Flower's SuperNode for one hospital"),
}
"""Subcommand -> the function that carries it out, and its help text."""

EXAMPLES = ("demo", "create-dataset --out data", "server --hospitals 4 --out runs/first", "client --hospital 1")


def make_parser() -> parsing.CommandParser:
    """The parser of the first argument, which names a subcommand."""
    prog = "python -m federated_health" if sys.argv[0].endswith("__main__.py") else "federated-health"
    description = "Federated learning for hospitals. Each subcommand has its own --help."
    parser = parsing.CommandParser(description, prog=prog, examples=EXAMPLES)
    parser.add_argument("--version", action="version", version=__version__, help="show the version and exit")
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, (_, help) in SUBCOMMANDS.items():
        subcommands.add_parser(name, help=help, description=help, add_help=False)
    return parser


def main() -> None:
    """Run the subcommand that the first argument names, which parses the other arguments."""
    parser = make_parser()
    name = parser.parse_args(sys.argv[1:2]).subcommand
    sys.argv = [f"{parser.prog} {name}", *sys.argv[2:]]  # argparse takes the command's name from here
    module, function = SUBCOMMANDS[name][0].split(":")
    with interrupts.ending_at_once():
        run = getattr(import_module(f"federated_health.cli.{module}"), function)
    run()
