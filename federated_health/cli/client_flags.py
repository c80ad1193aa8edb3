"""The flags of client.py, in groups."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from federated_health.cli import parsing
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import TASKS
from federated_health.settings import Value


def add_flags(parser: argparse.ArgumentParser, defaults: Mapping[str, Value]) -> None:
    """Every flag of a hospital.

    Args:
        defaults: of the project's settings, of which the server's address, the wait and the folder of data are shared.
    """
    _add_whose(parser.add_argument_group("which hospital this is"), defaults)
    _add_connection(parser.add_argument_group("connection"), defaults)
    add_privacy(parser)
    kept = parser.add_argument_group("results")
    kept.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="keep a log here, and at the end the final model and this hospital's report (default: keep none)",
    )
    kept.add_argument(
        "--verbose",
        action="store_true",
        help="show what Flower and TensorFlow say, and what is debugged (default: no)",
    )
    _add_looks(parser.add_argument_group("to look at something, and do no more"))


def add_privacy(parser: argparse.ArgumentParser) -> None:
    """What a hospital demands of any run; a node of Flower's own has these, too."""
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument(
        "--dp-budget",
        type=parsing.epsilon,
        metavar="EPSILON",
        help="epsilon that may be spent in all, over all runs, for good; the hospital then joins no run without "
        "differential privacy (above 0, at most 1000; default: the epsilon of the first such run)",
    )
    privacy.add_argument(
        "--encrypted-only",
        action="store_true",
        help="take part in encrypted runs alone, see server.py --encrypt (default: in all)",
    )


def _add_whose(group: "argparse._ArgumentGroup", defaults: Mapping[str, Value]) -> None:
    group.add_argument(
        "--hospital",
        type=parsing.whole,
        metavar="N",
        help=f"the N-th hospital that create_dataset.py wrote: {defaults['data']}/client_N.csv (from 1; default: none, "
        "which takes --data)",
    )
    group.add_argument(
        "--data", type=Path, metavar="FILE", help="this hospital's own CSV, with --name or --tls (default: none)"
    )
    group.add_argument(
        "--name",
        metavar="NAME",
        help="this hospital's name: lower-case letters, digits and hyphens (default: of --hospital the data's; with "
        "--tls the certificate's)",
    )
    group.add_argument(
        "--task",
        choices=tuple(TASKS),
        help=f"what is predicted; must be the server's (default: of --hospital the data's, else {defaults['task']})",
    )
    add_split_seed(group)


def add_split_seed(group: "argparse._ArgumentGroup") -> None:
    """Which patients a hospital holds out; a node of Flower's own has it, too."""
    group.add_argument(
        "--split-seed",
        type=parsing.seed,
        default=DEFAULT_SPLIT_SEED,
        metavar="SEED",
        help="which patients are held out, for good; no setting of the server moves it (from 0; default: %(default)s)",
    )


def _add_connection(group: "argparse._ArgumentGroup", defaults: Mapping[str, Value]) -> None:
    group.add_argument(
        "--server",
        default=defaults["address"],
        metavar="HOST:PORT",
        help="where the server listens (default: %(default)s)",
    )
    group.add_argument(
        "--wait",
        type=parsing.seconds,
        default=defaults["wait"],
        metavar="SECONDS",
        help="how long to wait for a server that is not there yet, or has gone (above 0, at most "
        "10,000,000; default: %(default)s)",
    )
    group.add_argument(
        "--tls",
        metavar="DIR",
        help="folder of this hospital's key and certificate, which `python -m federated_health certificates` makes; "
        "without it nothing is encrypted and nobody proves who he is (default: none)",
    )
    group.add_argument(
        "--insecure", action="store_true", help="allow a --server beyond this machine without --tls (default: no)"
    )


def _add_looks(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--check",
        action="store_true",
        help="show what is in the CSV and whether it may join; nothing is sent (default: no)",
    )
    shown = group.add_mutually_exclusive_group()
    shown.add_argument(
        "--show-egress", type=Path, metavar="FILE", help="show what a ledger says has left a hospital (default: none)"
    )
    shown.add_argument(
        "--show-privacy", type=Path, metavar="FILE", help="show what a privacy account holds (default: none)"
    )
