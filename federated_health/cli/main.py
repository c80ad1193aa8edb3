"""The command `python -m federated_health`: one parser with a subcommand for each task beside the four scripts."""

import argparse
from pathlib import Path
from typing import Any

from federated_health.cli import certificates, parsing, studies
from federated_health.cli.demo import SCENARIOS, run_demo
from federated_health.cli.deployment import superlink, supernode

DEFAULT_TASK = next(iter(SCENARIOS))

EXAMPLES = {
    "demo": ("", "--task readmission --rounds 10", "--encrypt --dp-epsilon 2"),
    "evidence": (
        "",
        "--strategies fedavg,fedprox,fedyogi",
        "--folds 3 --repeats 1 --no-tune --rounds 10 --out runs/quick",
    ),
    "audit": ("", "--shadows 8 --epsilons 2,8 --out runs/quick-audit"),
    "superlink": (
        "--tls server-tls --hospitals authority/issued --address 0.0.0.0:9092",
        "--tls server-tls --hospitals cleveland.pem hungary.pem --name heart",
    ),
    "supernode": (
        "--tls cleveland-tls --data patients.csv --superlink fl.example.org:9092",
        "--tls cleveland-tls --data patients.csv --dp-budget 4",
    ),
    "certificates": (
        'init --authority authority --name "Heart federation"',
        "request --tls cleveland-tls --name cleveland",
        "sign cleveland-tls/request.pem --authority authority",
    ),
}
"""Flags of the examples in each subcommand's --help."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `python -m federated_health`; a subcommand's function is its `run`."""
    examples = (
        "python -m federated_health demo",
        "python -m federated_health evidence --jobs 2",
        "python -m federated_health certificates show server-tls",
    )
    description = "Subcommands beside the four scripts. Each has its own --help."
    parser = parsing.CommandParser(description, prog="python -m federated_health", examples=examples)
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    def add(name: str, run: parsing.Command | None, help: str, description: str = "") -> Any:
        return parsing.add_subcommand(subcommands, name, run, help, EXAMPLES[name], description)

    description = "A server and its hospitals, as processes on this machine, train one model over mutual TLS."
    _add_demo_flags(add("demo", _run_demo, "a server and its hospitals as processes on this machine", description))
    studies.add_evidence_flags(add("evidence", studies.run_evidence, studies.EVIDENCE_HELP))
    studies.add_audit_flags(add("audit", studies.run_audit, studies.AUDIT_HELP))
    help = "mutual TLS: create an authority, make keys, sign, revoke, renew and show"
    certificates.add_subcommands(add("certificates", None, help, certificates.DESCRIPTION))
    help = "Flower's server for long-lived nodes, with this project's certificates"
    superlink.add_flags(add("superlink", superlink.run, help, superlink.DESCRIPTION))
    supernode.add_flags(add("supernode", supernode.run, "a hospital as a node of Flower's own", supernode.DESCRIPTION))
    return parser


def main() -> None:
    """Parse the subcommand and its flags, and run it."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _add_demo_flags(demo: argparse.ArgumentParser) -> None:
    help_text = "what is predicted (default: %(default)s)"
    demo.add_argument("--task", choices=tuple(SCENARIOS), default=DEFAULT_TASK, help=help_text)
    help_text = "folder of all files; an earlier demo in it is overwritten"
    help_text += f" (default: runs/demo, or runs/demo-TASK where the task is not {DEFAULT_TASK})"
    demo.add_argument("--out", type=Path, metavar="DIR", help=help_text)
    help_text = "rounds of training and averaging (at least 1; default: server.py's)"
    demo.add_argument("--rounds", type=parsing.whole, metavar="N", help=help_text)
    help_text = "with differential privacy of this epsilon over the whole run (0.01 to 100; default: without)"
    demo.add_argument("--dp-epsilon", type=parsing.epsilon, metavar="EPSILON", help=help_text)
    help_text = "the server averages ciphertexts that it cannot decrypt (default: no)"
    demo.add_argument("--encrypt", action="store_true", help=help_text)


def _run_demo(flags: argparse.Namespace) -> None:
    out = flags.out or Path("runs/demo" if flags.task == DEFAULT_TASK else f"runs/demo-{flags.task}")
    settings = {"rounds": flags.rounds, "dp-epsilon": flags.dp_epsilon}
    given = {name: value for name, value in settings.items() if value is not None}
    run_demo(out, flags.task, given, encrypt=flags.encrypt)
