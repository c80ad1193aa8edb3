"""`python -m federated_health VERB`: what is not for every day."""

from pathlib import Path

import utils
from federated_health.demo import run_demo


def main() -> None:
    """Parse the verb and its flags, and call it."""
    parser = utils.make_parser("What is not for every day.", prog="python -m federated_health")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="a server and four hospitals as processes on this machine")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default: %(default)s; overwritten")
    demo.add_argument("--rounds", type=int, help="rounds (default: the server's)")
    flags = parser.parse_args()
    run_demo(flags.out, ["--rounds", str(flags.rounds)] if flags.rounds is not None else [])


if __name__ == "__main__":
    utils.run_door(main)
