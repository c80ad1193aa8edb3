"""The command `federated-health`: one subcommand per task. Only the module of the chosen subcommand is loaded."""

import sys
from importlib import import_module

from federated_health import __version__
from federated_health.cli import parsing

SUBCOMMANDS = {
    "server": ("server:main", "the server of a run: gathers hospitals, averages their weights, saves one model"),
    "client": ("client:main", "one hospital: trains on its own CSV, and sends weights, sums and counts"),
    "create-dataset": ("create_dataset:main", "turn a data set into one CSV per hospital"),
    "predict": ("predict:main", "score patients with a saved model"),
    "demo": ("demo:main", "a server and its hospitals as processes on this machine"),
    "evidence": (
        "studies:evidence",
        "is joining worth it? own, federated, pooled and left-out models, cross-validated",
    ),
    "audit": ("studies:audit", "attacks on models and updates, with and without privacy"),
    "certificates": ("certificates:main", "mutual TLS: create an authority, make keys, sign, revoke, renew and show"),
    "superlink": (
        "deployment.superlink:main",
        "Flower's server for long-lived nodes, with this project's certificates",
    ),
    "supernode": ("deployment.supernode:main", "a hospital as a node of Flower's own deployment"),
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
    sys.argv = [f"{parser.prog} {name}", *sys.argv[2:]]  # its parser takes its name from here
    module, function = SUBCOMMANDS[name][0].split(":")
    getattr(import_module(f"federated_health.cli.{module}"), function)()
