"""`python -m federated_health VERB`: what is not for every day."""

from pathlib import Path

import utils
from federated_health.demo import SCENARIOS, run_demo


def main() -> None:
    """Parse the verb and its flags, and call it."""
    parser = utils.make_parser("What is not for every day.", prog="python -m federated_health")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="a server and its hospitals as processes on this machine")
    demo.add_argument("--task", choices=tuple(SCENARIOS), default=next(iter(SCENARIOS)), help="default: %(default)s")
    demo.add_argument("--out", type=Path, help="default: runs/demo, or runs/demo-TASK; overwritten")
    demo.add_argument("--rounds", type=int, help="rounds (default: the server's)")
    flags = parser.parse_args()
    usual = Path("runs/demo" if flags.task == next(iter(SCENARIOS)) else f"runs/demo-{flags.task}")
    extra = ["--rounds", str(flags.rounds)] if flags.rounds is not None else []
    run_demo(flags.out or usual, flags.task, extra)


if __name__ == "__main__":
    utils.run_door(main)
