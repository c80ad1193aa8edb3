"""The flags of client.py, in groups."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from federated_health.cli import parsing
from federated_health.data.split import DEFAULT_SPLIT_SEED
from federated_health.data.tasks import TASKS
from federated_health.settings import Value


def add_flags(parser: argparse.ArgumentParser, defaults: Mapping[str, Value]) -> None:
    """Add every flag of client.py.

    Args:
        defaults: default settings of the project, for the server's address, the wait and the data folder.
    """
    _add_hospital(parser.add_argument_group("which hospital this is"), defaults)
    _add_connection(parser.add_argument_group("connection"), defaults)
    add_privacy(parser)
    results = parser.add_argument_group("results")
    results.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="keep a log here, and at the end the final model and this hospital's report (default: keep none)",
    )
    results.add_argument(
        "--verbose",
        action="store_true",
        help="show debug messages, and the logs of Flower and TensorFlow (default: no)",
    )
    _add_inspection(parser.add_argument_group("inspect and exit"))


def add_privacy(parser: argparse.ArgumentParser) -> None:
    """Add a hospital's conditions for joining a run, which a Flower SuperNode takes, too."""
    privacy = parser.add_argument_group("privacy")
    privacy.add_argument(
        "--dp-budget",
        type=parsing.epsilon,
        metavar="EPSILON",
        help="total epsilon that all runs together may ever spend; the hospital then joins no run without "
        "differential privacy (above 0, at most 1000; default: the epsilon of the first such run)",
    )
    privacy.add_argument(
        "--encrypted-only",
        action="store_true",
        help="join encrypted runs only, see server.py --encrypt (default: any run)",
    )


def _add_hospital(group: "argparse._ArgumentGroup", defaults: Mapping[str, Value]) -> None:
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
    """Add the seed of a hospital's test split, which a Flower SuperNode takes, too."""
    group.add_argument(
        "--split-seed",
        type=parsing.seed,
        default=DEFAULT_SPLIT_SEED,
        metavar="SEED",
        help="seed of the split into training and test rows; the server cannot set it (from 0; default: %(default)s)",
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
        help="how long to wait for a server that cannot be reached (above 0, at most 10,000,000; default: %(default)s)",
    )
    group.add_argument(
        "--tls",
        metavar="DIR",
        help="folder of this hospital's key and certificate, which `python -m federated_health certificates` makes; "
        "without it messages are not encrypted and peers are not authenticated (default: none)",
    )
    group.add_argument(
        "--insecure", action="store_true", help="allow a --server beyond this machine without --tls (default: no)"
    )


def _add_inspection(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--check",
        action="store_true",
        help="show the content of the CSV and whether the hospital may join; nothing is sent (default: no)",
    )
    shown = group.add_mutually_exclusive_group()
    shown.add_argument(
        "--show-egress", type=Path, metavar="FILE", help="show what a ledger says has left a hospital (default: none)"
    )
    shown.add_argument(
        "--show-privacy", type=Path, metavar="FILE", help="show what a privacy account holds (default: none)"
    )
