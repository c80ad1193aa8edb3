"""The command `python -m federated_health`: one parser with a subcommand for each task beside the four scripts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federated_health.cli import certificates, parsing, studies
from federated_health.cli.console import print_lines
from federated_health.cli.demo import SCENARIOS, run_demo
from federated_health.cli.deployment import superlink, supernode

EXAMPLES = {
    "demo": (
        "python -m federated_health demo",
        "python -m federated_health demo --task readmission --rounds 10",
        "python -m federated_health demo --encrypt --dp-epsilon 2",
    ),
    "evidence": (
        "python -m federated_health evidence",
        "python -m federated_health evidence --strategies fedavg,fedprox,fedyogi",
        "python -m federated_health evidence --folds 3 --repeats 1 --no-tune --rounds 10 --out runs/quick",
    ),
    "audit": (
        "python -m federated_health audit",
        "python -m federated_health audit --shadows 8 --epsilons 2,8 --out runs/quick-audit",
    ),
    "superlink": (
        "python -m federated_health superlink --tls server-tls --hospitals authority/issued --address 0.0.0.0:9092",
        "python -m federated_health superlink --tls server-tls --hospitals cleveland.pem hungary.pem --name heart",
    ),
    "supernode": (
        "python -m federated_health supernode --tls cleveland-tls --data patients.csv --superlink fl.example.org:9092",
        "python -m federated_health supernode --tls cleveland-tls --data patients.csv --dp-budget 4",
    ),
    "certificates": (
        'python -m federated_health certificates init --authority authority --name "Heart federation"',
        "python -m federated_health certificates request --tls cleveland-tls --name cleveland",
        "python -m federated_health certificates sign cleveland-tls/request.pem --authority authority",
    ),
}
"""Examples by subcommand."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of `python -m federated_health`; a subcommand's function is its `run`."""
    parser = parsing.make_parser(
        "Subcommands beside the four scripts. Each has its own --help.",
        prog="python -m federated_health",
        examples=(
            "python -m federated_health demo",
            "python -m federated_health evidence --jobs 2",
            "python -m federated_health certificates show server-tls",
        ),
    )
    subcommands = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")

    def add(name: str, help: str, description: str, run: Callable[[argparse.Namespace], None]) -> Any:
        subcommand = subcommands.add_parser(name, help=help, description=description, examples=EXAMPLES[name])
        subcommand.set_defaults(run=run)
        return subcommand

    description = "A server and its hospitals, as processes on this machine, train one model over mutual TLS."
    _add_demo_flags(add("demo", "a server and its hospitals as processes on this machine", description, _run_demo))
    description = _sentence(studies.EVIDENCE_HELP)
    studies.add_evidence_flags(add("evidence", studies.EVIDENCE_HELP, description, studies.run_evidence))
    description = _sentence(studies.AUDIT_HELP)
    studies.add_audit_flags(add("audit", studies.AUDIT_HELP, description, studies.run_audit))
    help = "mutual TLS: create an authority, make keys, sign, revoke, renew and show"
    certificates.add_subcommands(add("certificates", help, certificates.DESCRIPTION, _run_certificates))
    help = "Flower's server for long-lived nodes, with this project's certificates"
    superlink.add_flags(add("superlink", help, superlink.DESCRIPTION, superlink.run))
    help = "a hospital as a node of Flower's own"
    supernode.add_flags(add("supernode", help, supernode.DESCRIPTION, supernode.run))
    return parser


def main() -> None:
    """Parse the subcommand and its flags, and run it."""
    flags = make_parser().parse_args()
    flags.run(flags)


def _add_demo_flags(demo: argparse.ArgumentParser) -> None:
    default = next(iter(SCENARIOS))
    demo.add_argument(
        "--task", choices=tuple(SCENARIOS), default=default, help="what is predicted (default: %(default)s)"
    )
    demo.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of all files; an earlier demo in it is overwritten (default: runs/demo, or runs/demo-TASK where "
        f"the task is not {default})",
    )
    demo.add_argument(
        "--rounds",
        type=parsing.whole,
        metavar="N",
        help="rounds of training and averaging (at least 1; default: server.py's)",
    )
    demo.add_argument(
        "--dp-epsilon",
        type=parsing.epsilon,
        metavar="EPSILON",
        help="with differential privacy of this epsilon over the whole run (0.01 to 100; default: without)",
    )
    demo.add_argument(
        "--encrypt", action="store_true", help="the server averages ciphertexts that it cannot decrypt (default: no)"
    )


def _run_demo(flags: argparse.Namespace) -> None:
    default = Path("runs/demo" if flags.task == next(iter(SCENARIOS)) else f"runs/demo-{flags.task}")
    settings = {"rounds": flags.rounds, "dp-epsilon": flags.dp_epsilon}
    given = {name: value for name, value in settings.items() if value is not None}
    run_demo(flags.out or default, flags.task, given, encrypt=flags.encrypt)


def _run_certificates(flags: argparse.Namespace) -> None:
    for title, lines in flags.sections(flags):
        print_lines(title, lines)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
