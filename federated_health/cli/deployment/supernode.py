"""The subcommand `supernode`: checks a hospital's CSV, and keeps Flower's SuperNode running with it."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federated_health.cli import parsing
from federated_health.cli.client import (
    add_mapping,
    add_network,
    add_privacy,
    add_split_seed,
    check_libraries,
    node_config,
    prepare_ledger_folder,
)
from federated_health.cli.console import say
from federated_health.cli.deployment import flower_commands
from federated_health.data.hospital import load_hospital
from federated_health.data.manifest import OwnHospital, find_own_hospital
from federated_health.data.task_files import DEFAULT_TASK, TASKS, task_name
from federated_health.errors import JoinError, RunError, SettingsError
from federated_health.files import PRIVATE, write_bytes
from federated_health.hospital.policy import Policy
from federated_health.hospital.policy_file import read_policy
from federated_health.hospital.policy_rules import find_server_refusal
from federated_health.names import DEFAULT_WAIT
from federated_health.processes import free_port, process
from federated_health.security.certificates import read_key
from federated_health.security.handshake import find_server_key
from federated_health.security.identity import KEY, Identity, load_identity
from federated_health.security.parties import Role
from federated_health.transport.channels import proxy_of, split_address
from federated_health.transport.obstacles import PREFLIGHT_SECONDS, find_obstacle

DESCRIPTION = (
    "Checks this hospital's CSV, and keeps Flower's SuperNode running with it, for one run after another. The node "
    "authenticates with the key in the hospital's TLS folder."
)

EXAMPLES = (
    "--tls cleveland-tls --data patients.csv --policy policy.toml --superlink fl.example.org:9092",
    "--tls cleveland-tls --data patients.csv --policy policy.toml --dp-budget 4",
)

NODE_KEY = "supernode.key"
"""File in a hospital's TLS folder: its key.pem in OpenSSH's form, the only one that a SuperNode reads."""

MIN_DELAY, MAX_DELAY = 2.0, 30.0
"""Smallest and largest delay between two attempts, in seconds; each is twice the one before."""

ADMITTED_SECONDS = 30.0
"""Seconds after which a running node counts as admitted."""


def node_command(flags: argparse.Namespace, own: OwnHospital, identity: Identity) -> list[str]:
    """Flower's command for one hospital; also writes the hospital's key in the form that Flower reads.

    The node listens on loopback only, for the processes that it starts per message.
    """
    folder = identity.folder.absolute()  # a ClientApp runs in another folder
    program = flower_commands.executable("flower-supernode")
    config = flower_commands.format_config(node_config(flags, _make_absolute(own), folder))
    key = read_key(folder / KEY).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_bytes(folder / NODE_KEY, key, PRIVATE)  # the same key as key.pem, so not a second secret
    return [
        program,
        *("--superlink", flags.superlink),
        *("--root-certificates", str(flower_commands.authority_file(identity))),
        *("--auth-supernode-private-key", str(folder / NODE_KEY)),
        *("--node-config", config),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]


def _make_absolute(own: OwnHospital) -> OwnHospital:
    """The same hospital with absolute paths, for a process in another folder."""
    return replace(
        own,
        data=own.data.absolute(),
        task_file=own.task_file and own.task_file.absolute(),
        mapping=own.mapping and own.mapping.absolute(),
    )


def keep_running(
    make_command: Callable[[], Sequence[str]], address: str, identity: Identity, wait: float, policy: Policy
) -> NoReturn:
    """Run a SuperNode until this process is stopped, and restart it whenever it ends.

    Flower's node ends when the SuperLink does not admit it: before `superlink` has registered the hospital, after a
    SuperLink was restarted, and for up to a minute after a node was killed, while the SuperLink still counts the
    earlier process as present. Its exit code does not tell these apart, and may be 0.

    Args:
        make_command: makes Flower's command for each start.
        wait: seconds to wait until the SuperLink admits the hospital; they start again after each admission.
        policy: the hospital's, whose `servers` are checked before each start.

    Raises:
        JoinError: the SuperLink did not admit the hospital in time, waiting does not help, or its key is not allowed.
        RunError: Flower rejects the command.
    """
    deadline, delay = time.monotonic() + wait, MIN_DELAY
    while True:
        _wait_for_superlink(address, identity, deadline, wait)
        if policy.servers and (refusal := find_server_refusal(policy, _key_of_superlink(address, identity))):
            raise JoinError(f"{address}: {refusal}")
        start = time.monotonic()
        with process(make_command(), env=flower_commands.environment(), own_group=False) as running:
            code = running.wait()
        if code == 2:  # the command rejects its flags
            raise RunError("flower-supernode rejects its flags; its output is above")
        now = time.monotonic()
        if now - start > ADMITTED_SECONDS:
            deadline, delay = now + wait, MIN_DELAY
        if (left := deadline - now) <= 0:
            raise JoinError(
                f"{address}: the SuperLink did not admit {identity.name} within {wait:g} s; check that its certificate "
                "is among --hospitals there, and that no other node runs with its key"
            )
        reason = f"{identity.name} is not registered at the SuperLink yet, or its earlier node still counts as present"
        say(f"flower-supernode ended; usually {reason}; trying again for {left:.0f} s")
        time.sleep(min(delay, left))
        delay = min(2 * delay, MAX_DELAY)


def _wait_for_superlink(address: str, identity: Identity, deadline: float, wait: float) -> None:
    """Wait until a server there shows the certificate of the federation's server; JoinError if none does in time."""
    is_announced = False
    while reason := find_obstacle(address, identity, max(0.0, deadline - time.monotonic())):
        if (left := deadline - time.monotonic()) <= 0:
            raise JoinError(f"{address}: no SuperLink within {wait:g} s{reason}")
        if not is_announced:
            say(f"waiting up to {left:.0f} s for the SuperLink at {address}{reason}")
            is_announced = True
        time.sleep(min(MIN_DELAY, left))


def _key_of_superlink(address: str, identity: Identity) -> str:
    host, port = split_address(address)
    connect = proxy.connect if (proxy := proxy_of(address)) else None
    return find_server_key(host, port, identity, PREFLIGHT_SECONDS, connect)


def make_parser() -> parsing.CommandParser:
    """The parser of `supernode`; flags that client.py has, too, have the same help texts."""
    parser = parsing.CommandParser(DESCRIPTION, examples=EXAMPLES)
    hospital = parser.add_argument_group("which hospital this is")
    hospital.add_argument("--data", type=parsing.path, required=True, metavar="FILE", help="this hospital's own CSV")
    help_text = f"what to predict: {', '.join(TASKS)}; the CSV must have its columns "
    help_text += "(default: the task in the manifest beside the CSV, else "
    help_text += f"{DEFAULT_TASK})"
    hospital.add_argument("--task", type=task_name, choices=tuple(TASKS), metavar="TASK", help=help_text)
    help_text = "task file of your own, instead of --task (default: the one in the manifest beside the CSV, if any)"
    hospital.add_argument("--task-file", type=parsing.path, metavar="FILE", help=help_text)
    add_mapping(hospital)
    add_network(hospital)
    add_split_seed(hospital)
    connection = parser.add_argument_group("connection")
    help_text = "folder of this hospital's key and certificate, which names the hospital"
    connection.add_argument("--tls", type=parsing.path, required=True, metavar="DIR", help=help_text)
    help_text = "address of the SuperLink (default: %(default)s)"
    connection.add_argument("--superlink", default=flower_commands.DEFAULT_ADDRESS, metavar="HOST:PORT", help=help_text)
    help_text = "seconds to wait until the SuperLink admits this hospital, at the start and after each lost connection"
    help_text += " (above 0, at most 10,000,000; default: %(default)s)"
    connection.add_argument("--wait", type=parsing.seconds, default=DEFAULT_WAIT, metavar="SECONDS", help=help_text)
    add_privacy(parser)
    return parser


def main() -> None:
    """The command `supernode`: parse the flags, and run a SuperNode."""
    run(make_parser().parse_args())


def run(flags: argparse.Namespace) -> None:
    """Check the policy and the CSV, and keep Flower's SuperNode running with them."""
    if flags.policy is None:
        raise SettingsError(
            "--policy: expected a policy file, since nobody is asked before each run; propose one with "
            "federated-health policy draft"
        )
    policy = read_policy(flags.policy)
    check_libraries(flags)
    identity = load_identity(flags.tls, Role.HOSPITAL)
    split_address(flags.superlink)
    prepare_ledger_folder(flags)
    own = find_own_hospital(
        Path(),
        None,
        flags.data,
        identity.name,
        task=flags.task,
        task_file=flags.task_file,
        mapping=flags.mapping,
    )
    for line in load_hospital(own.data, own.task, own.name, flags.split_seed, own.mapping).remarks():
        say(line)
    if flags.network is not None:
        from federated_health.ml.network_file import check_network, read_network  # noqa: PLC0415  # only with a file

        check_network(own.task, read_network(flags.network), seed=0)
    make_command = partial(node_command, flags, own, identity)
    say(flower_commands.shell_line(make_command()))
    if warning := identity.expiry_warning():
        say(warning)
    keep_running(make_command, flags.superlink, identity, flags.wait, policy)
