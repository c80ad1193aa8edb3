"""`python -m federated_health VERB`: what is not for every day."""

import argparse
from pathlib import Path
from typing import Any

import utils
from federated_health.cli import certificates as certificates
from federated_health.cli import deployment as deployment
from federated_health.cli import parsing, studies
from federated_health.cli.demo import SCENARIOS, check_demo, run_demo
from federated_health.cli.examples import EXAMPLES

CLIENT_APP = "client:app"
"""Where Flower's own runtimes find it, too."""


def add_demo(verbs: Any) -> None:
    """The verb demo."""
    words = "A server and its hospitals, as processes on this machine, train one model over mutual TLS."
    demo = verbs.add_parser(
        "demo",
        help="a server and its hospitals as processes on this machine",
        description=words,
        examples=EXAMPLES["demo"],
    )
    usual = next(iter(SCENARIOS))
    demo.add_argument(
        "--task", choices=tuple(SCENARIOS), default=usual, help="what is predicted (default: %(default)s)"
    )
    demo.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of everything; an earlier demo in it is overwritten (default: runs/demo, or runs/demo-TASK where "
        f"the task is not {usual})",
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
        help="with differential privacy of so much in all (0.01 to 100; default: without)",
    )
    demo.add_argument("--encrypt", action="store_true", help="the server averages what it cannot read (default: no)")
    demo.set_defaults(run=start_demo)


def start_demo(flags: argparse.Namespace) -> None:
    """A server and its hospitals as processes."""
    usual = Path("runs/demo" if flags.task == next(iter(SCENARIOS)) else f"runs/demo-{flags.task}")
    asked = {"rounds": flags.rounds, "dp-epsilon": flags.dp_epsilon}
    given = {name: value for name, value in asked.items() if value is not None}
    check_demo(flags.task, encrypt=flags.encrypt, given=given)
    extra = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    run_demo(flags.out or usual, flags.task, extra, encrypt=flags.encrypt)


def sentence(words: str) -> str:
    """What stands beside a verb, as a sentence above its flags."""
    return f"{words[0].upper()}{words[1:]}."


def add_evidence(verbs: Any) -> None:
    """The verb evidence."""
    words = studies.EVIDENCE_HELP
    parser = verbs.add_parser("evidence", help=words, description=sentence(words), examples=EXAMPLES["evidence"])
    studies.add_evidence_flags(parser)
    parser.set_defaults(run=lambda flags: studies.run_evidence(flags, CLIENT_APP))


def add_audit(verbs: Any) -> None:
    """The verb audit."""
    words = studies.AUDIT_HELP
    parser = verbs.add_parser("audit", help=words, description=sentence(words), examples=EXAMPLES["audit"])
    studies.add_audit_flags(parser)
    parser.set_defaults(run=lambda flags: studies.run_audit(flags, CLIENT_APP))


def add_certificates(verbs: Any) -> None:
    """The verb certificates, with verbs of its own."""
    words = "who is who: found an authority, make keys, sign, revoke, renew and show"
    examples = EXAMPLES["certificates"]
    parser = verbs.add_parser("certificates", help=words, description=certificates.WORDS, examples=examples)
    certificates.add_verbs(parser)
    parser.set_defaults(run=show_certificates)


def show_certificates(flags: argparse.Namespace) -> None:
    """Do what the verb says, and show what it answers."""
    for title, lines in flags.pages(flags):
        utils.print_lines(title, lines)


def add_deployment(verbs: Any) -> None:
    """The verbs superlink and supernode, of Flower's own deployment."""
    words = "Flower's server for long-lived nodes, with this project's certificates"
    superlink = verbs.add_parser(
        "superlink", help=words, description=deployment.SUPERLINK_WORDS, examples=EXAMPLES["superlink"]
    )
    deployment.add_superlink_flags(superlink)
    superlink.set_defaults(run=deployment.run_superlink)
    words = "a hospital as a node of Flower's own"
    supernode = verbs.add_parser(
        "supernode", help=words, description=deployment.SUPERNODE_WORDS, examples=EXAMPLES["supernode"]
    )
    deployment.add_supernode_flags(supernode)
    supernode.set_defaults(run=deployment.run_supernode)


def main() -> None:
    """Parse the verb and its flags, and call it."""
    parser = parsing.make_parser(
        "What is not for every day. Each verb has a --help of its own.",
        prog="python -m federated_health",
        examples=EXAMPLES["verbs"],
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_demo(verbs)
    add_evidence(verbs)
    add_audit(verbs)
    add_certificates(verbs)
    add_deployment(verbs)
    flags = parser.parse_args()
    flags.run(flags)


if __name__ == "__main__":
    utils.run_script(main)
