"""The verbs `superlink` and `supernode`: Flower's deployment, started by one command a party."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federated_health.cli import client_flags, console, parsing
from federated_health.data.tasks import TASKS, get_task
from federated_health.errors import RunError
from federated_health.processes import process
from federated_health.security.identity import load_identity
from federated_health.security.parties import Role
from federated_health.settings import read_defaults
from federated_health.transport.deployment.flower import announce, environment
from federated_health.transport.deployment.superlink import SuperLink, accepted_hospitals
from federated_health.transport.deployment.supernode import SuperNode
from federated_health.transport.deployment.watch import keep_running

FLEET = "127.0.0.1:9092"

SUPERLINK_WORDS = (
    "Starts Flower's SuperLink with this server's certificate, lets in the nodes of the hospitals whose certificates "
    "its authority signed, and tells `flwr run . NAME` where it is. A run's folder is below where this is started."
)

SUPERNODE_WORDS = (
    "Checks this hospital's CSV, and starts Flower's SuperNode with it: the node proves itself with the key of the "
    "hospital's TLS folder, and starts a process for every message."
)

Say = Callable[[str], None]


def add_superlink_flags(parser: Any) -> None:
    """The flags of `superlink`."""
    who = parser.add_argument_group("who takes part")
    words = "folder of the server's key and certificate, which `python -m federated_health certificates` makes"
    who.add_argument("--tls", type=Path, required=True, metavar="DIR", help=words)
    words = "certificates of the hospitals to let in, or a folder of them, such as the authority's issued/"
    who.add_argument("--hospitals", type=Path, nargs="+", required=True, metavar="PATH", help=words)
    connection = parser.add_argument_group("connection")
    words = "where hospitals' nodes call; 0.0.0.0:9092 to be reached from other machines (default: %(default)s)"
    connection.add_argument("--address", default=FLEET, metavar="HOST:PORT", help=words)
    words = "port of this machine alone, where `flwr run` calls (1 to 65535; default: %(default)s)"
    connection.add_argument("--control-port", type=parsing.port, default=8000, metavar="PORT", help=words)
    words = "what `flwr run . NAME` calls it (default: %(default)s)"
    connection.add_argument("--name", default="hospitals", metavar="NAME", help=words)


def run_superlink(flags: argparse.Namespace, say: Say = console.say) -> None:
    """Start a SuperLink, let the hospitals in, and wait until it ends.

    Raises:
        UserError: what was given cannot be used, or Flower does not start.
    """
    identity = load_identity(flags.tls, Role.SERVER)
    hospitals = accepted_hospitals(identity, flags.hospitals)
    link = SuperLink(identity=identity, address=flags.address, control=flags.control_port, name=flags.name)
    command, env = link.command(), environment()
    say(announce(command))
    with process(command, env=env) as running:
        link.wait_until_up(running)
        say(f"wrote superlink.{link.name} in {link.connect()}")
        link.register(hospitals, env, say)
        say(f"ready: flwr run . {link.name} --stream --run-config hospitals={len(hospitals)}")
        if running.wait() not in (0, -15):
            raise RunError(f"flower-superlink ended with code {running.returncode}; its words are above")


def add_supernode_flags(parser: Any) -> None:
    """The flags of `supernode`, in the words of client.py where they are its own."""
    defaults = read_defaults()
    which = parser.add_argument_group("which hospital this is")
    which.add_argument("--data", type=Path, required=True, metavar="FILE", help="this hospital's own CSV")
    words = "what is predicted; the CSV is checked against it (default: %(default)s)"
    which.add_argument("--task", choices=tuple(TASKS), default=defaults["task"], help=words)
    client_flags.add_split_seed(which)
    connection = parser.add_argument_group("connection")
    words = "folder of this hospital's key and certificate, from which it takes its name"
    connection.add_argument("--tls", type=Path, required=True, metavar="DIR", help=words)
    words = "where the SuperLink listens for nodes (default: %(default)s)"
    connection.add_argument("--superlink", default=FLEET, metavar="HOST:PORT", help=words)
    range_and_default = "above 0, at most 10,000,000; default: %(default)s"
    words = f"seconds to wait for the SuperLink, and to be let in, anew each time ({range_and_default})"
    connection.add_argument("--wait", type=parsing.seconds, default=defaults["wait"], metavar="SECONDS", help=words)
    client_flags.add_privacy(parser)


def run_supernode(flags: argparse.Namespace, say: Say = console.say) -> None:
    """Check the CSV, and keep Flower's SuperNode running with it.

    Raises:
        UserError: what was given cannot be used, Flower is not there, or the SuperLink does not let the hospital in.
    """
    node = SuperNode(
        data=flags.data,
        identity=load_identity(flags.tls, Role.HOSPITAL),
        superlink=flags.superlink,
        split_seed=flags.split_seed,
        budget=flags.dp_budget,
        encrypted_only=flags.encrypted_only,
    )
    for line in node.load(get_task(flags.task)).remarks():
        say(line)
    say(announce(node.command()))
    if remark := node.identity.remark():
        say(remark)
    keep_running(node.command, environment(), node.superlink, node.identity, flags.wait, say)
